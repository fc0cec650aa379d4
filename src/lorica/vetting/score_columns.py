"""The health of a column of scores, wherever it came from: Lorica's answers, a submission, another tool's table.

Light: neither torch nor the configuration is needed, and memory holds the scores and ids only.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.data.formats import open_table
from lorica.errors import DataError
from lorica.metrics.health import ScoreHealth, mass_health, score_health
from lorica.names import did_you_mean
from lorica.vetting.findings import Finding
from lorica.vetting.score_findings import judge_scores

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


class ScoreColumn(msgspec.Struct, frozen=True):
    """A column of scores as it was read.

    ids: [n], "" without an id column. values: [n], None where nothing stands. broken: (line, text) of cells that are
    no finite number; their value is None. fallback: [n], whether a declared constant stands for an unread answer.
    flags: how many rows carry each flag of Lorica's answers. answers: how often each answer text occurs, "" excluded.
    gold: [n], 0 or 1, None where unknown. masses: [n], how much of the model's probability the choices had, None where
    unknown.
    """

    path: Path
    name: str
    id_name: str
    ids: tuple[str, ...]
    values: tuple[float | None, ...]
    broken: tuple[tuple[int, str], ...]
    fallback: tuple[bool, ...]
    flags: dict[str, int]
    answers: dict[str, int]
    gold: tuple[int | None, ...]
    masses: tuple[float | None, ...] = ()


def check_scores(
    path: Path | str,
    *,
    column: str = "",
    id_column: str = "",
    gold_column: str = "",
    gold: Mapping[str, int] | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[ScoreHealth, list[Finding]]:
    """Sum up and judge a column of scores of a CSV, TSV, JSONL, JSON or Parquet file.

    column, id_column, gold_column: names in the file; "" looks for them (gold is used only when it is named).
    gold: id -> 0 or 1, where the labels are in another file. low, high: where scores should lie.
    Raises DataError for a file that cannot be read or has no such column, naming those it has, and MissingExtraError
    for Parquet without pyarrow.
    """
    table = read_scores(path, column=column, id_column=id_column, gold_column=gold_column, gold=gold)
    labelled = [row for row, label in enumerate(table.gold) if label is not None and table.values[row] is not None]
    health = score_health(table.values, fallback=table.fallback, masses=table.masses, lower_bound=low, upper_bound=high)
    labels = [table.gold[row] or 0 for row in labelled]
    ranked = [table.values[row] or 0.0 for row in labelled]
    return health, judge_scores(
        health,
        values=table.values,
        ids=table.ids if table.id_name else (),
        broken=table.broken,
        flags=table.flags,
        gold=labels,
        ranked=ranked,
        mass=mass_health(table.masses),
        column=table.name,
        file=table.path.name,
        low=low,
        high=high,
    )


def read_scores(
    path: Path | str,
    *,
    column: str = "",
    id_column: str = "",
    gold_column: str = "",
    gold: Mapping[str, int] | None = None,
) -> ScoreColumn:
    """Read a column of scores; see `check_scores`. A column `scores` of choices gives the best one's probability."""
    path = Path(path)
    table = open_table(path)
    names = table.names
    name = _existing_column(path, names, column) if column else _score_column(path, names)
    id_name = _existing_column(path, names, id_column) if id_column else _first_present(names, _ID_NAMES)
    if id_name == name:
        id_name = ""
    gold_name = _existing_column(path, names, gold_column) if gold_column else ""
    # Columns of Lorica's own answers, where they are there.
    lorica_columns = (
        [
            column_name
            for column_name in ("stage", "flags", "answer", "choice_mass")
            if column_name in names and column_name != name
        ]
        if "stage" in names
        else []
    )
    reader = _ScoreReader(path, name, id_name, gold_name, gold)
    wanted = list(dict.fromkeys([name, *lorica_columns, *filter(None, (id_name, gold_name))]))
    for line, record in table.whole_records(wanted):
        reader.add_row(line, record)
    return reader.column()


class _ScoreReader:
    def __init__(self, path: Path, name: str, id_name: str, gold_name: str, gold: Mapping[str, int] | None) -> None:
        self._path, self._name, self._id_name, self._gold_name = path, name, id_name, gold_name
        self._given = gold or {}
        self._ids: list[str] = []
        self._values: list[float | None] = []
        self._broken: list[tuple[int, str]] = []
        self._fallback: list[bool] = []
        self._flags: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._gold: list[int | None] = []
        self._masses: list[float | None] = []

    def add_row(self, line: int, record: Mapping[str, Any]) -> None:
        """One row."""
        row_id = str(record.get(self._id_name, "")) if self._id_name else ""
        value, bad = _number(record.get(self._name))
        if bad:
            self._broken.append((line, bad))
        self._ids.append(row_id)
        self._values.append(value)
        flags = _words(record.get("flags"))
        self._fallback.append(record.get("stage") == "fallback" or "parse_fallback" in flags)
        self._flags.update(flags)
        if record.get("answer"):
            self._answers[str(record["answer"])] += 1
        self._masses.append(_number(record.get("choice_mass"))[0])
        label = record.get(self._gold_name) if self._gold_name else self._given.get(row_id)
        self._gold.append(self._label(label, line, row_id))

    def column(self) -> ScoreColumn:
        """All that was read. Raises DataError for a column of texts, and for a file without rows."""
        if not self._values:
            raise DataError("the file has a header and no rows", path=self._path, line=1, fix="check how it was made")
        texts = [text for _, text in self._broken if text.lower() not in _NOT_FINITE]
        if len(texts) > _TEXT_SHARE * len(self._values):
            commas = sum(_COMMA.fullmatch(text) is not None for text in texts) > _TEXT_SHARE * len(texts)
            raise DataError(
                f"the column {self._name!r} holds texts such as {texts[0][:40]!a}, not scores",
                path=self._path,
                line=self._broken[0][0],
                fix="write decimals with a point (0.5), not a comma" if commas else "name the column of scores",
            )
        return ScoreColumn(
            path=self._path,
            name=self._name,
            id_name=self._id_name,
            ids=tuple(self._ids),
            values=tuple(self._values),
            broken=tuple(self._broken),
            fallback=tuple(self._fallback),
            flags=dict(sorted(self._flags.items())),
            answers=dict(self._answers.most_common()),
            gold=tuple(self._gold),
            masses=tuple(self._masses),
        )

    def _label(self, value: Any, line: int, row_id: str) -> int | None:
        number, bad = _number(value)
        if bad or number not in (None, 0.0, 1.0):
            raise DataError(
                f"the gold label {str(value)[:40]!a} is neither 0 nor 1", path=self._path, line=line, row_id=row_id
            )
        return None if number is None else int(number)


_NOT_FINITE = frozenset({"nan", "inf", "-inf", "+inf", "infinity", "-infinity"})


def _number(value: Any) -> tuple[float | None, str]:
    """(a finite number or None, the text of what is no number)."""
    if isinstance(value, Mapping):  # the probabilities of Lorica's choices
        value = max(value.values(), default=None)
    elif isinstance(value, list):  # the same, as Parquet has it
        value = max((pair[1] for pair in value if isinstance(pair, (list, tuple)) and len(pair) == 2), default=None)
    if value is None or (isinstance(value, str) and value.strip().lower() in _EMPTY):
        return None, ""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return _number(msgspec.json.decode(value, type=dict[str, float]))
        except (msgspec.DecodeError, RecursionError):
            return None, value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None, str(value)
    return (number, "") if math.isfinite(number) else (None, str(value).strip())


def _words(value: Any) -> list[str]:
    return value.split() if isinstance(value, str) else [str(word) for word in value or ()]


def _score_column(path: Path, names: Sequence[str]) -> str:
    """The column that looks like scores, by its name; in a table of two, the one that is no id."""
    if named := _first_present(names, _SCORE_NAMES):
        return named
    candidates = [name for name in names if _normalized(name) not in (*_ID_NAMES, *_GOLD_NAMES)]
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"no column looks like scores; the file has {', '.join(map(ascii, names[:12]))}",
        path=path,
        fix="name the column of scores",
    )


def _first_present(names: Sequence[str], wanted: Sequence[str]) -> str:
    by_plain = {_normalized(name): name for name in reversed(names)}
    return next((by_plain[candidate] for candidate in wanted if candidate in by_plain), "")


def _normalized(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def _existing_column(path: Path, names: Sequence[str], wanted: str) -> str:
    if wanted in names:
        return wanted
    raise DataError(
        f"no column {wanted!r}; the file has {', '.join(map(ascii, names[:12]))}",
        path=path,
        fix=did_you_mean(wanted, names, otherwise="name one of these"),
    )
