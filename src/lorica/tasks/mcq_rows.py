"""Rows of multiple choice: the tables that hold them, and how their cells become a question with options."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from lorica.errors import CellError
from lorica.records import BuildRow, Problem, Row, RowSchema
from lorica.tasks.base import is_missing, needed_text, text_value
from lorica.tasks.literals import literal_cell
from lorica.tasks.option_cells import OptionSet, column_options, parse_options
from lorica.tasks.options import (
    LETTERS,
    NamedAnswer,
    Numbering,
    UndecidedNumberError,
    option_names,
    parse_option,
    shown_letters,
)

_OPTIONAL = ("answer", "passage", "subject", "country", "group")
_ALIASES = {
    "question": ("prompt", "stem"),
    "options": ("choices",),
    "answer": ("answerKey", "answer_key", "answer_idx", "correct_answer", "correct_option", "cop"),
    "passage": ("context",),
}
_GOLD = ("answer", "answer_idx", "answerKey")
# A column of its own for each option: A, b, option_a, "Option B", opc, choice1, ending0, "3".
_COLUMN = re.compile(
    r"((?:(?:option|choice|opt|op|answer|ans|alternative|ending|sol)[ _-]?)?)([a-z]|[0-9]{1,2})",
    re.IGNORECASE,
)
_COUNTED_IN_TWO_WAYS = (
    "its answer is a number that may be counted from 0 or from 1, and was not read; "
    "task.answer_numbers=from_0, from_1 or text says what is meant"
)

Cells = Callable[[Mapping[str, Any]], "McqRow"]
FindNumbering = Callable[[Callable[[], Iterable[NamedAnswer]]], Numbering | None]


class McqCase(msgspec.Struct, frozen=True):
    """A question and its options. listed: the question's own text lists the options already. keys: what the file calls
    the options, where it is not A, B, C ...; unset then, so that digests of such rows stay what passports say."""

    question: str
    options: tuple[str, ...]
    passage: str = ""
    country: str = ""
    option_countries: tuple[str, ...] = ()
    listed: bool = False
    keys: tuple[str, ...] | UnsetType = UNSET

    @property
    def names(self) -> tuple[str, ...]:
        """What an answer calls each option: the file's keys, or letters."""
        return option_names(self.keys or (), len(self.options))

    @property
    def letters(self) -> tuple[str, ...]:
        """What a prompt calls each option."""
        return shown_letters(self.keys or (), len(self.options))


def mcq_schemas(find: FindNumbering) -> tuple[RowSchema, ...]:
    """The tables of multiple choice. find: what numbers mean among the answers of a table."""
    table = _schema(
        "multiple choice with MCQID",
        ("MCQID", "prompt", "choices"),
        ("ID", "country", "choice_countries", "answer_idx", "subject", "group"),
        _table_row,
        find,
        id_column="MCQID",
    )
    columns = _of_columns("", list(LETTERS), find)
    return (
        table,
        _schema("question and options", ("question", "options"), ("id", *_OPTIONAL), _question_row, find),
        msgspec.structs.replace(columns, of_columns=lambda names: _option_columns(names, find)),
        _schema("question with its choices", ("question", "answerKey"), ("id", *_OPTIONAL[1:]), _stem_row, find),
    )


def _schema(
    name: str,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    read: Cells,
    find: FindNumbering,
    *,
    id_column: str = "id",
) -> RowSchema:
    """A table of which `read` makes rows; what its numbers mean as answers is for the whole table to say."""

    def of_table(again: Callable[[], Iterator[Mapping[str, Any]]]) -> BuildRow:
        return partial(_build, read, functools.cache(lambda: find(lambda: _answers(read, again()))))

    build = of_table(lambda: iter(()))
    gold_column = next((column for column in (*required, *optional) if column in _GOLD), "")
    return RowSchema(
        name,
        required,
        optional,
        id_column,
        build,
        aliases=_ALIASES,
        of_table=of_table,
        gold=gold_column,
        fillers={column: list(LETTERS) for column in ("options", "choices") if column in required},
    )


def _of_columns(prefix: str, ends: Sequence[str], find: FindNumbering) -> RowSchema:
    """The table with the columns prefix + end. Letters are keys themselves; numbers may be counted in two ways, so that
    there the whole name is the key."""
    columns = [prefix + end for end in ends]
    keys = list(ends) if ends[0].isalpha() else columns
    return _schema(
        "question and a column for each option",
        ("question", *columns[:2]),
        ("id", *columns[2:], *_OPTIONAL),
        partial(_columns_row, columns=columns, keys=keys),
        find,
    )


def _option_columns(names: Sequence[str], find: FindNumbering) -> RowSchema | None:
    """The schema of a table by the names that its columns of options have; of several kinds the largest."""
    kinds: dict[tuple[str, str], dict[int, str]] = {}
    for match in filter(None, map(_COLUMN.fullmatch, names)):
        prefix, end = match.groups()
        alphabet = "number" if end.isdigit() else "upper" if end.isupper() else "lower"
        kinds.setdefault((prefix, alphabet), {})[int(end) if end.isdigit() else ord(end.upper()) - ord("A")] = end
    series = [
        (prefix, alphabet, ends)
        for (prefix, alphabet), ends in kinds.items()
        if 1 in ends and (0 in ends or (alphabet == "number" and 2 in ends))
    ]
    if not series:
        return None
    prefix, alphabet, ends = max(series, key=lambda entry: len(entry[2]))
    letters = {"upper": LETTERS, "lower": LETTERS.lower(), "number": ""}[alphabet]
    further = letters[max(ends) + 1 :]  # which later records of JSON may have
    return _of_columns(prefix, [*(ends[index] for index in sorted(ends)), *further], find)


class McqRow(msgspec.Struct, frozen=True):
    """What the cells of one record say, before its answer is read."""

    case: McqCase
    options: OptionSet
    answer: object
    group: str


def _build(
    read: Callable[[Mapping[str, Any]], McqRow],
    numbering: Callable[[], Numbering | None],
    values: Mapping[str, Any],
    row_id: str,
    line: int,
) -> Row:
    row = read(values)
    gold, problem = None, None
    try:
        gold = _gold(row, numbering)
    except UndecidedNumberError as error:
        # Answering needs no gold; training and evaluation refuse the row by this problem.
        problem = Problem(str(error), error.fix)
    notes = [_COUNTED_IN_TWO_WAYS] if problem else []
    if len(set(row.options.texts)) < len(row.options.texts):
        notes.append("two options have the same text")
    return Row(
        id=row_id,
        case=row.case,
        subject=text_value(values, "subject"),
        gold=gold,
        group=row.group,
        line=line,
        gold_problem=problem,
        notes=tuple(notes),
    )


def _gold(row: McqRow, numbering: Callable[[], Numbering | None]) -> int | None:
    own = row.options.numbering
    return parse_option(
        row.answer,
        row.case.options,
        row.options.keys,
        numbering=numbering if own is None else lambda: own,
        counted=row.options.counted,
    )


def _answers(read: Callable[[Mapping[str, Any]], McqRow], table: Iterator[Mapping[str, Any]]) -> Iterator[NamedAnswer]:
    """The answers of a table for `find_numbering`. A row that cannot be read is left out: reading it later says why."""
    for values in table:
        try:
            row = read(values)
        except ValueError:
            continue
        yield row.answer, row.case.options, row.options.keys, row.options.counted and not row.options.numbering


def _table_row(values: Mapping[str, Any]) -> McqRow:
    options = parse_options(values["choices"], "choices")
    countries = _countries(values.get("choice_countries"), options)
    group = text_value(values, "group") or text_value(values, "ID")
    question = needed_text(values, "prompt")
    return McqRow(_case_of(values, question, options, countries), options, values.get("answer_idx"), group)


def _question_row(values: Mapping[str, Any]) -> McqRow:
    return _row_of(values, parse_options(values["options"], "options"))


def _columns_row(values: Mapping[str, Any], *, columns: Sequence[str], keys: Sequence[str]) -> McqRow:
    row = _row_of(values, column_options(values, columns, keys))
    named = dict(zip(columns, keys, strict=False))  # an answer may name the column, too
    answer = named.get(row.answer.strip(), row.answer) if isinstance(row.answer, str) else row.answer
    return msgspec.structs.replace(row, answer=answer)


def _row_of(values: Mapping[str, Any], options: OptionSet) -> McqRow:
    case = _case_of(values, needed_text(values, "question"), options, ())
    return McqRow(case, options, values.get("answer"), text_value(values, "group"))


def _case_of(values: Mapping[str, Any], question: str, options: OptionSet, countries: tuple[str, ...]) -> McqCase:
    return McqCase(
        question=question,
        options=options.texts,
        passage=text_value(values, "passage"),
        country=text_value(values, "country"),
        option_countries=countries,
        listed=_lists_options(question, options.texts, shown_letters(options.keys, len(options.texts))),
        keys=UNSET if options.keys in ((), tuple(LETTERS[: len(options.keys)])) else options.keys,
    )


def _countries(value: object, options: OptionSet) -> tuple[str, ...]:
    """The country of each option: by its key, or by its place."""
    if is_missing(value):
        return ()
    cell = literal_cell(value, "choice_countries")
    if isinstance(cell, dict):
        named = {str(key).strip(): str(country) for key, country in cell.items()}
        names = option_names(options.keys, len(options.texts))
        if named.keys() & set(names):
            return tuple(named.get(name, "") for name in names)
        cell = list(named.values())
    countries = [str(country) for country in cell]
    return tuple(countries[index] for index in options.order if index < len(countries))


def _stem_row(values: Mapping[str, Any]) -> McqRow:
    """ARC's own files: the question is an object of its stem and its choices."""
    try:
        cell = literal_cell(values["question"], "question")
    except CellError as error:
        raise CellError("the question has no options", fix="add a column 'options' with a list of them") from error
    if not isinstance(cell, dict) or not {"stem", "choices"} <= cell.keys():
        raise CellError("'question' is no object of 'stem' and 'choices'", fix="write question and options apart")
    options = parse_options(cell["choices"], "choices")
    case = _case_of(values, needed_text(cell, "stem"), options, ())
    return McqRow(case, options, values["answerKey"], text_value(values, "group"))


def _lists_options(prompt: str, options: Sequence[str], letters: Sequence[str]) -> bool:
    lines = {line.strip() for line in prompt.splitlines()}
    return all(not lines.isdisjoint(listed_as(letter, text)) for letter, text in zip(letters, options, strict=True))


def listed_as(letter: str, option: str) -> list[str]:
    """The lines by which a question may list an option itself."""
    return [f"{letter}{mark}{option}" for mark in (". ", ".", ") ", ")", ": ")]
