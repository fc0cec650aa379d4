"""The rows that the page of an evaluation lists to be read, and the table of all rows beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np

from lorica.commands.evaluated_file import EvaluatedFile
from lorica.commands.pages.page_parts import MAX_ROWS, MAX_TEXT
from lorica.pipeline.judged_answers import certainty, row_kinds
from lorica.records import Row
from lorica.reports.interactive import VALUE_SEPARATOR
from lorica.reports.page import Cell, ReportTable, Section
from lorica.reports.page_size import shorten
from lorica.reports.write_report import write_csv
from lorica.tasks.base import Task

_SURE_MISTAKES, _UNCERTAIN, _SLOWEST = 800, 300, 100
# Files whose answers stand in columns of their own.
_FEW_FILES = 3


def rows_section(files: Sequence[EvaluatedFile], task: Task, by: Mapping[str, Mapping[str, str]]) -> Section:
    """The rows that are worth reading first: wrong with the surest answer, then the most uncertain, then others."""
    uncertain = _uncertain(files)
    seconds = [max(file.seconds.get(judged.row.id, 0.0) for file in files) for judged in files[0].judged]
    slowest = {index for index in np.argsort(seconds, kind="stable")[::-1][:_SLOWEST].tolist() if seconds[index] > 0}
    order = _listed(files, uncertain, slowest)
    columns = _row_columns(files, task, by, order) | _answer_columns(files, order)
    columns = {head: cells for head, cells in columns.items() if any(cell not in ("", None) for cell in cells)}
    always = ("id", "row", "gold", "outcome")
    constant = {
        head: str(cells[0])
        for head, cells in columns.items()
        if head not in always and len(order) > 1 and isinstance(cells[0], str) and len(set(cells)) == 1
    }
    columns = {head: cells for head, cells in columns.items() if head not in constant}
    visible = {*always, "seconds", *(head for head in columns if head.endswith((": answer", ": score")))}
    visible |= {"answer", "score", "group", *by}
    chosen = ("gold", "group", "adapter", "stage", "flags", "outcome", *by)
    table = ReportTable(
        tuple(columns),
        tuple(zip(*columns.values(), strict=True)),
        interactive=True,
        choose=tuple(head for head in columns if head.split(": ")[-1] in chosen),
        narrow=("id", "row", "gold", "outcome"),
        opens=True,
        detail=tuple(head for head in columns if head not in visible),
        marks=tuple(_marks(files, index, uncertain, slowest) for index in order),
        total=len(files[0].judged),
        sampling="the surest mistakes, the most uncertain and the slowest, and a sample of the others, seed 0",
    )
    note = "The surest mistakes first, then the most uncertain rows. All rows stand in the CSV file beside this page."
    same = "; ".join(f"{head}: {value}" for head, value in constant.items())
    return Section("Rows to read", f"{note}\n\nAlike in all rows listed: {same}." if same else note, tables=(table,))


def _row_columns(
    files: Sequence[EvaluatedFile], task: Task, by: Mapping[str, Mapping[str, str]], order: Sequence[int]
) -> dict[str, list[Cell]]:
    rows = [files[0].judged[index].row for index in order]
    columns: dict[str, list[Cell]] = {
        "id": [shorten(row.id, MAX_TEXT) for row in rows],
        "row": [shorten(row_text(task, row), MAX_TEXT) for row in rows],
        "gold": [shorten(gold_text(task, row), MAX_TEXT) for row in rows],
        "group": [row.group or row.subject for row in rows],
    }
    return columns | {column: [values[row.id] for row in rows] for column, values in by.items()}


def _answer_columns(files: Sequence[EvaluatedFile], order: Sequence[int]) -> dict[str, list[Cell]]:
    """Of few files each one's answers with all that is known of them, of many each answer in one cell."""
    columns: dict[str, list[Cell]] = {}
    for file in files:
        judged_rows = [file.judged[index] for index in order]
        answers = [judged.answer for judged in judged_rows]
        texts = [shorten(answer.answer or "", MAX_TEXT) for answer in answers]
        scores = [None if answer.score is None else round(answer.score, 4) for answer in answers]
        if len(files) > _FEW_FILES:
            columns[file.shown] = [
                " ".join(filter(None, (text, f"{score}" if score is not None else "")))
                for text, score in zip(texts, scores, strict=True)
            ]
            continue
        own: dict[str, list[Cell]] = {
            "answer": list(texts),
            "score": list(scores),
            "seconds": [file.seconds.get(answer.id) for answer in answers],
            "adapter": [answer.adapter for answer in answers],
            "stage": [answer.stage for answer in answers],
            "flags": [VALUE_SEPARATOR.join(row_kinds(judged)[1:]) for judged in judged_rows],
            "problem": [shorten(judged.problem or judged.answer.problem or "", MAX_TEXT) for judged in judged_rows],
            "passages": [
                VALUE_SEPARATOR.join(f"{passage.id} ({passage.score:.3g})" for passage in answer.passages or ())
                for answer in answers
            ],
            "tokens cut": [answer.dropped_tokens or None for answer in answers],
            "the model's words": [shorten(answer.raw or "", MAX_TEXT) for answer in answers],
        }
        columns |= {f"{file.shown}: {head}" if len(files) > 1 else head: cells for head, cells in own.items()}
    if len(files) > _FEW_FILES:
        kinds = [{kind for file in files for kind in row_kinds(file.judged[index])} for index in order]
        columns["flags"] = [VALUE_SEPARATOR.join(sorted(row)) for row in kinds]
    columns["outcome"] = [_outcome(files, index) for index in order]
    return columns


def _outcome(files: Sequence[EvaluatedFile], index: int) -> str:
    right = [file.right[index] for file in files]
    if len(right) == 1:
        return "right" if right[0] else "wrong"
    if all(right) or not any(right):
        return "all right" if all(right) else "all wrong"
    if len(right) > _FEW_FILES:
        return f"wrong in {len(right) - sum(right)} of {len(right)}"
    return "wrong: " + ", ".join(file.shown for file in files if not file.right[index])


def _marks(files: Sequence[EvaluatedFile], index: int, uncertain: set[int], slowest: set[int]) -> tuple[str, ...]:
    right = [file.right[index] for file in files]
    conditions = {
        "wrong": not all(right),
        "disagreements": any(right) and not all(right),
        "the most uncertain": index in uncertain,
        "the slowest": index in slowest,
    }
    return tuple(name for name, applies in conditions.items() if applies)


def _uncertain(files: Sequence[EvaluatedFile]) -> set[int]:
    """The rows of which some file was least certain."""
    certainties = [
        min((value for file in files if (value := certainty(file.judged[index].answer)) is not None), default=np.inf)
        for index in range(len(files[0].judged))
    ]
    lowest = np.argsort(certainties, kind="stable")[:_UNCERTAIN].tolist()
    return {index for index in lowest if np.isfinite(certainties[index]) and certainties[index] < 1}


def _listed(files: Sequence[EvaluatedFile], uncertain: set[int], slowest: set[int]) -> list[int]:
    """Positions of the rows to list, in the order to read them."""
    order = sorted(range(len(files[0].judged)), key=lambda index: _interest(files, index))
    if len(order) <= MAX_ROWS:
        return order
    wrong = (index for index in order if not all(file.right[index] for file in files))
    chosen = {*(index for _, index in zip(range(_SURE_MISTAKES), wrong, strict=False)), *uncertain, *slowest}
    others = sorted(set(order) - chosen)
    chosen.update(Random(0).sample(others, MAX_ROWS - len(chosen)))
    return [index for index in order if index in chosen]


def _interest(files: Sequence[EvaluatedFile], index: int) -> tuple[bool, float]:
    """Wrong rows first, the surest before others; then right rows, the least certain before others."""
    all_right = all(file.right[index] for file in files)
    certainties = [certainty(file.judged[index].answer) or 0.0 for file in files if all_right or not file.right[index]]
    return all_right, min(certainties) if all_right else -max(certainties)


def row_text(task: Task, row: Row) -> str:
    """A row as people read it: a question below its passage, with its options and their letters; or its own text."""
    if task.answer_type == "score":
        return task.text(row)
    passage = getattr(row.case, "passage", "")
    lines = [passage] if isinstance(passage, str) and passage else []
    options = task.options(row) if task.answer_type == "option" else {}
    lines += [task.baseline_text(row), *(f"{letter}: {option_text}" for letter, option_text in options.items())]
    return "\n".join(lines)


def gold_text(task: Task, row: Row) -> str:
    """The gold answer of a row as people read it: an option's letter with its text, Yes or No, accepted texts."""
    if isinstance(row.gold, tuple):
        return " / ".join(row.gold)
    options = list(task.options(row).items())
    if isinstance(row.gold, int) and row.gold < len(options) and task.answer_type == "option":
        letter, option_text = options[row.gold]
        return f"{letter}: {option_text}"
    return "Yes" if row.gold == 1 else "No"


def write_rows(files: Sequence[EvaluatedFile], task: Task, path: Path) -> None:
    """All rows, with every file's answer, score, stage, flags and whether it is right, as CSV. Raises DataError."""
    own = ("answer", "score", "adapter", "stage", "flags", "seconds", "right")
    heads = [f"{file.name}: {column}" for file in files for column in own]

    def cells(index: int, row: Row) -> Iterator[Cell]:
        yield from (row.id, row_text(task, row), gold_text(task, row))
        for file in files:
            answer = file.judged[index].answer
            kinds = VALUE_SEPARATOR.join(row_kinds(file.judged[index])[1:])
            yield from (answer.answer, answer.score, answer.adapter, answer.stage, kinds)
            yield from (file.seconds.get(answer.id), "yes" if file.right[index] else "no")

    rows = (tuple(cells(index, judged.row)) for index, judged in enumerate(files[0].judged))
    write_csv(path, ("id", "row", "gold", *heads), rows)
