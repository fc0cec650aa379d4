"""The health of a column of scores, wherever it came from: Lorica's answers, a submission, another tool's table.

Light: neither torch nor the configuration is needed, and memory holds the scores and ids only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.data.formats import open_unconfigured
from lorica.errors import DataError
from lorica.names import did_you_mean
from lorica.vetting.score_findings import ScoreColumn

# How columns of scores are called, the surest first; compared without case, spaces and underscores.
_SCORE_NAMES = (
    "score", "pyes", "prob", "probability", "p", "prediction", "predictedprobability", "pred", "predicted", "yscore",
    "yprob", "yhat", "proba", "confidence", "ruleviolation", "output", "value", "target", "label",
)  # fmt: skip
_ID_NAMES = ("id", "rowid", "mcqid", "questionid", "key", "index", "name")
_GOLD_NAMES = ("gold", "truth", "ytrue")
_EMPTY = frozenset({"", "null", "none", "na", "n/a"})
# A column with more text than this share is a column of texts, not of scores.
_TEXT_SHARE = 0.5
_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")


def read_scores(
    path: Path, *, column: str = "", gold_column: str = "", gold: Mapping[str, int] | None = None
) -> ScoreColumn:
    """Read a column of scores of a CSV, TSV, JSONL, JSON or Parquet file. A column `scores` of choices gives the best
    one's probability.

    column, gold_column: names in the file; "" looks for the scores (gold is used only when it is named). gold: id -> 0
    or 1, where the labels are in another file. Raises DataError for a file that cannot be read or has no such column,
    naming those it has, and MissingExtraError for Parquet without pyarrow.
    """
    table = open_unconfigured(path)
    column_names = table.names
    score_name = _existing_column(path, column_names, column) if column else _score_column(path, column_names)
    id_name = _first_present(column_names, _ID_NAMES)
    id_name = "" if id_name == score_name else id_name
    gold_name = _existing_column(path, column_names, gold_column) if gold_column else ""
    # Columns of Lorica's own answers, where they are there.
    of_answers = ("stage", "flags", "choice_mass") if "stage" in column_names else ()
    lorica_columns = [name for name in of_answers if name in column_names and name != score_name]
    scores = ScoreColumn(path, score_name, id_name)
    wanted = list(dict.fromkeys([score_name, *lorica_columns, *filter(None, (id_name, gold_name))]))
    for line_number, record in table.whole_records(wanted):
        row_id = str(record.get(id_name, "")) if id_name else ""
        score_value, bad_text = _number(record.get(score_name))
        scores.broken += [(line_number, bad_text)] if bad_text else []
        scores.ids.append(row_id)
        scores.values.append(score_value)
        row_flags = _words(record.get("flags"))
        scores.fallback.append(record.get("stage") == "fallback" or "parse_fallback" in row_flags)
        scores.flags.update(row_flags)
        scores.masses.append(_number(record.get("choice_mass"))[0])
        gold_value = record.get(gold_name) if gold_name else (gold or {}).get(row_id)
        scores.gold.append(_label(gold_value, path, line_number, row_id))
    _require_scores(scores)
    return scores


def _require_scores(scores: ScoreColumn) -> None:
    """Raises DataError for a column of texts, and for a file without rows."""
    if not scores.values:
        raise DataError("the file has a header and no rows", path=scores.path, line=1, fix="check how it was made")
    broken_texts = [cell_text for _, cell_text in scores.broken if cell_text.lower() not in _NOT_FINITE]
    if len(broken_texts) > _TEXT_SHARE * len(scores.values):
        with_comma = sum(_COMMA.fullmatch(cell_text) is not None for cell_text in broken_texts)
        commas = with_comma > _TEXT_SHARE * len(broken_texts)
        raise DataError(
            f"the column {scores.name!r} holds texts such as {broken_texts[0][:40]!a}, not scores",
            path=scores.path,
            line=scores.broken[0][0],
            fix="write decimals with a point (0.5), not a comma" if commas else "name the column of scores",
        )


def _label(gold_value: Any, path: Path, line_number: int, row_id: str) -> int | None:
    number, bad_text = _number(gold_value)
    if bad_text or number not in (None, 0.0, 1.0):
        message = f"the gold label {str(gold_value)[:40]!a} is neither 0 nor 1"
        raise DataError(message, path=path, line=line_number, row_id=row_id)
    return None if number is None else int(number)


_NOT_FINITE = frozenset({"nan", "inf", "-inf", "+inf", "infinity", "-infinity"})


def _number(cell: Any) -> tuple[float | None, str]:
    """(a finite number or None, the text of what is no number)."""
    if isinstance(cell, Mapping):  # the probabilities of Lorica's choices
        cell = max(cell.values(), default=None)
    elif isinstance(cell, list):  # the same, as Parquet has it
        cell = max((pair[1] for pair in cell if isinstance(pair, (list, tuple)) and len(pair) == 2), default=None)
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _EMPTY):
        return None, ""
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        try:
            return _number(msgspec.json.decode(cell, type=dict[str, float]))
        except (msgspec.DecodeError, RecursionError):
            return None, cell
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None, str(cell)
    return (number, "") if math.isfinite(number) else (None, str(cell).strip())


def _words(cell: Any) -> list[str]:
    return cell.split() if isinstance(cell, str) else [str(cell_word) for cell_word in cell or ()]


def _score_column(path: Path, column_names: Sequence[str]) -> str:
    """The column that looks like scores, by its name; in a table of two, the one that is no id."""
    if score_name := _first_present(column_names, _SCORE_NAMES):
        return score_name
    candidates = [name for name in column_names if _normalized(name) not in (*_ID_NAMES, *_GOLD_NAMES)]
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"no column looks like scores; the file has {', '.join(map(ascii, column_names[:12]))}",
        path=path,
        fix="name the column of scores",
    )


def _first_present(column_names: Sequence[str], wanted_names: Sequence[str]) -> str:
    by_plain = {_normalized(column_name): column_name for column_name in reversed(column_names)}
    return next((by_plain[candidate] for candidate in wanted_names if candidate in by_plain), "")


def _normalized(column_name: str) -> str:
    return "".join(character for character in column_name.lower() if character.isalnum())


def _existing_column(path: Path, column_names: Sequence[str], wanted: str) -> str:
    if wanted in column_names:
        return wanted
    raise DataError(
        f"no column {wanted!r}; the file has {', '.join(map(ascii, column_names[:12]))}",
        path=path,
        fix=did_you_mean(wanted, column_names, otherwise="name one of these"),
    )
