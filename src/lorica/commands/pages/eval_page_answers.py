"""What the page of an evaluation shows of answers: by adapter, by parse stage and flag, confusion, truncation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from lorica.commands.evaluated_file import EvaluatedFile, row_kinds
from lorica.commands.pages.eval_page_scores import best_files
from lorica.pipeline.judged_answers import JudgedAnswer
from lorica.reports.page import Cell, ReportTable, Section
from lorica.reports.short_names import short_names

# Options of a question that a table of confusion holds.
_MOST_OPTIONS = 10
_LETTERS = "ABCDEFGHIJ"


def adapters_section(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> Section:
    """What each adapter answered, and how well."""
    rows: list[tuple[Cell, ...]] = []
    for file in files:
        members: dict[str, list[int]] = defaultdict(list)
        for index, judged in enumerate(file.judged):
            members[judged.answer.adapter].append(index)
        shown = short_names(members, 60)
        for adapter, indexes in members.items():
            right = float(np.mean([file.right[index] for index in indexes]))
            medians = [_median_score([file.judged[index] for index in indexes], label) for label in (1, 0)]
            rows.append((names[file.name], shown[adapter] or "(none)", len(indexes), right, *medians))
    heads = ["answers", "adapter", "rows", "share right", "median score of Yes", "median score of No"]
    if all(row[4] is None and row[5] is None for row in rows):
        heads, rows = heads[:4], [row[:4] for row in rows]
    has_adapters = any(judged.answer.adapter for file in files for judged in file.judged[:1])
    table = ReportTable(tuple(heads), tuple(rows), interactive=True, choose=("answers", "adapter"))
    return Section("By adapter", tables=(table,) if has_adapters else ())


def _median_score(answered: Sequence[JudgedAnswer], label: int) -> float | None:
    scores = [
        judged.answer.score for judged in answered if judged.row.gold == label and judged.answer.score is not None
    ]
    return float(np.median(scores)) if scores else None


def answers_section(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> Section:
    """Rows by parse stage and flag with the share that is right, truncation, abstentions, and confusion."""
    drawn = best_files(files)
    tables = [_kinds_table(files, names)]
    truncation = [_truncation(file) for file in files]
    if any(row[0] for row in truncation):
        rows: tuple[tuple[Cell, ...], ...] = tuple(
            (names[file.name], *cells) for file, cells in zip(files, truncation, strict=True)
        )
        heads = ("answers", "truncated rows", "tokens cut, median", "most", "share right", "share right of the others")
        tables.append(ReportTable(heads, rows, caption="Prompts that were truncated"))
    abstentions = [file.evaluation.abstentions for file in files]
    if any(counts is not None and (counts.answers or counts.unanswerable) for counts in abstentions):
        tables.append(
            ReportTable(
                ("answers", "say that they do not know", "of them right", "rows that gold calls not answerable"),
                tuple(
                    (names[file.name], counts.answers, counts.right, counts.unanswerable)
                    for file, counts in zip(files, abstentions, strict=True)
                    if counts is not None
                ),
                caption="Answers that say they do not know",
            )
        )
    confusions = (_confusion(file, f"Confusion of {names[file.name]}") for file in drawn)
    tables += [table for table in confusions if table is not None]
    which = "" if len(drawn) == len(files) else f"Confusion is shown of the {len(drawn)} best of {len(files)} files."
    return Section("Answers", which, tables=tuple(tables))


def _kinds_table(files: Sequence[EvaluatedFile], names: Mapping[str, str]) -> ReportTable:
    counts = [Counter[str]() for _ in files]
    right = [Counter[str]() for _ in files]
    for index, file in enumerate(files):
        for judged, is_right in zip(file.judged, file.right, strict=True):
            kinds = row_kinds(judged)
            counts[index].update(kinds)
            right[index].update(kinds if is_right else ())
    kinds = list(dict.fromkeys(kind for count in counts for kind in count))
    rows: list[tuple[Cell, ...]] = []
    for kind in kinds:
        cells: list[Cell] = [kind]
        for count, right_count in zip(counts, right, strict=True):
            cells += [count[kind], right_count[kind] / count[kind] if count[kind] else None]
        rows.append(tuple(cells))
    heads = [f"{names[file.name]}: {head}" if len(files) > 1 else head for file in files for head in ("rows", "right")]
    return ReportTable(
        ("parse stage or flag", *heads), tuple(rows), caption="Rows, and the share of them that is right"
    )


def _truncation(file: EvaluatedFile) -> tuple[int, float | None, int | None, float | None, float | None]:
    dropped = np.array([judged.answer.dropped_tokens for judged in file.judged])
    right, is_cut = np.array(file.right, dtype=float), dropped > 0
    if not is_cut.any():
        return 0, None, None, None, float(right.mean())
    others = float(right[~is_cut].mean()) if not is_cut.all() else None
    return int(is_cut.sum()), float(np.median(dropped[is_cut])), int(dropped.max()), float(right[is_cut].mean()), others


def _confusion(file: EvaluatedFile, caption: str) -> ReportTable | None:
    """Gold against answered: Yes and No, or the letters of options; None for texts."""
    pairs = Counter((judged.row.gold, judged.value) for judged in file.judged)
    gold_values = sorted({gold for gold, _ in pairs if isinstance(gold, int)})
    if not gold_values:
        return None
    if "f1" in file.evaluation.metrics:
        titles = {1: "Yes", 0: "No"}
    else:
        answered = {value for _, value in pairs if isinstance(value, int)}
        titles = {index: _LETTERS[index] for index in sorted(answered.union(gold_values)) if index < _MOST_OPTIONS}
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (f"gold: {title}", *(pairs[gold, value] for value in titles), pairs[gold, None])
        for gold, title in titles.items()
    )
    heads = ("", *(f"answered {title}" for title in titles.values()), "no answer")
    return ReportTable(heads, rows, caption=caption)
