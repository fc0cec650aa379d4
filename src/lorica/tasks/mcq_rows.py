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


def mcq_schemas(find_table_numbering: FindNumbering) -> tuple[RowSchema, ...]:
    """The tables of multiple choice. find_table_numbering: what numbers mean among the answers of a table."""
    table_schema = _schema(
        "multiple choice with MCQID",
        ("MCQID", "prompt", "choices"),
        ("ID", "country", "choice_countries", "answer_idx", "subject", "group"),
        _table_row,
        find_table_numbering,
        id_column="MCQID",
    )
    columns_schema = _of_columns("", list(LETTERS), find_table_numbering)
    return (
        table_schema,
        _schema(
            "question and options",
            ("question", "options"),
            ("id", *_OPTIONAL),
            lambda cells: _row_of(cells, parse_options(cells["options"], "options")),
            find_table_numbering,
        ),
        msgspec.structs.replace(
            columns_schema, of_columns=lambda column_names: _option_columns(column_names, find_table_numbering)
        ),
        _schema(
            "question with its choices",
            ("question", "answerKey"),
            ("id", *_OPTIONAL[1:]),
            _stem_row,
            find_table_numbering,
        ),
    )


def _schema(
    schema_name: str,
    required: tuple[str, ...],
    optional: tuple[str, ...],
    read_cells: Cells,
    find_table_numbering: FindNumbering,
    *,
    id_column: str = "id",
) -> RowSchema:
    """A table of which `read_cells` makes rows; what its numbers mean as answers is for the whole table to say."""

    def of_table(reread_table: Callable[[], Iterator[Mapping[str, Any]]]) -> BuildRow:
        return partial(
            _build,
            read_cells,
            functools.cache(lambda: find_table_numbering(lambda: _answers(read_cells, reread_table()))),
        )

    build_row = of_table(lambda: iter(()))
    gold_column = next((column for column in (*required, *optional) if column in _GOLD), "")
    return RowSchema(
        schema_name,
        required,
        optional,
        id_column,
        build_row,
        aliases=_ALIASES,
        of_table=of_table,
        gold=gold_column,
        fillers={column: list(LETTERS) for column in ("options", "choices") if column in required},
    )


def _of_columns(prefix: str, column_suffixes: Sequence[str], find_table_numbering: FindNumbering) -> RowSchema:
    """The table with the columns prefix + end. Letters are keys themselves; numbers may be counted in two ways, so that
    there the whole name is the key."""
    column_names = [prefix + column_suffix for column_suffix in column_suffixes]
    option_keys = list(column_suffixes) if column_suffixes[0].isalpha() else column_names
    return _schema(
        "question and a column for each option",
        ("question", *column_names[:2]),
        ("id", *column_names[2:], *_OPTIONAL),
        partial(_columns_row, column_names=column_names, option_keys=option_keys),
        find_table_numbering,
    )


def _option_columns(column_names: Sequence[str], find_table_numbering: FindNumbering) -> RowSchema | None:
    """The schema of a table by the names that its columns of options have; of several kinds the largest."""
    series_by_form: dict[tuple[str, str], dict[int, str]] = {}
    for column_match in filter(None, map(_COLUMN.fullmatch, column_names)):
        prefix, column_suffix = column_match.groups()
        alphabet = "number" if column_suffix.isdigit() else "upper" if column_suffix.isupper() else "lower"
        series_by_form.setdefault((prefix, alphabet), {})[
            int(column_suffix) if column_suffix.isdigit() else ord(column_suffix.upper()) - ord("A")
        ] = column_suffix
    series = [
        (prefix, alphabet, suffix_by_index)
        for (prefix, alphabet), suffix_by_index in series_by_form.items()
        if 1 in suffix_by_index and (0 in suffix_by_index or (alphabet == "number" and 2 in suffix_by_index))
    ]
    if not series:
        return None
    prefix, alphabet, suffix_by_index = max(series, key=lambda numbered_series: len(numbered_series[2]))
    letters = {"upper": LETTERS, "lower": LETTERS.lower(), "number": ""}[alphabet]
    further_suffixes = letters[max(suffix_by_index) + 1 :]  # which later records of JSON may have
    return _of_columns(
        prefix,
        [*(suffix_by_index[suffix_index] for suffix_index in sorted(suffix_by_index)), *further_suffixes],
        find_table_numbering,
    )


class McqRow(msgspec.Struct, frozen=True):
    """What the cells of one record say, before its answer is read."""

    case: McqCase
    options: OptionSet
    answer: object
    group: str


def _build(
    read_cells: Cells,
    numbering: Callable[[], Numbering | None],
    cell_values: Mapping[str, Any],
    row_id: str,
    line_number: int,
) -> Row:
    row = read_cells(cell_values)
    gold_index, problem = None, None
    try:
        gold_index = _gold(row, numbering)
    except UndecidedNumberError as error:
        # Answering needs no gold; training and evaluation refuse the row by this problem.
        problem = Problem(str(error), error.fix)
    row_notes = [_COUNTED_IN_TWO_WAYS] if problem else []
    if len(set(row.options.texts)) < len(row.options.texts):
        row_notes.append("two options have the same text")
    return Row(
        id=row_id,
        case=row.case,
        subject=text_value(cell_values, "subject"),
        gold=gold_index,
        group=row.group,
        line=line_number,
        gold_problem=problem,
        notes=tuple(row_notes),
    )


def _gold(row: McqRow, numbering: Callable[[], Numbering | None]) -> int | None:
    own_numbering = row.options.numbering
    return parse_option(
        row.answer,
        row.case.options,
        row.options.keys,
        numbering=numbering if own_numbering is None else lambda: own_numbering,
        counted=row.options.counted,
    )


def _answers(read_cells: Cells, record_stream: Iterator[Mapping[str, Any]]) -> Iterator[NamedAnswer]:
    """The answers of a table for `find_numbering`. A row that cannot be read is left out: reading it later says why."""
    for cell_values in record_stream:
        try:
            row = read_cells(cell_values)
        except ValueError:
            continue
        yield row.answer, row.case.options, row.options.keys, row.options.counted and not row.options.numbering


def _table_row(values: Mapping[str, Any]) -> McqRow:
    option_set = parse_options(values["choices"], "choices")
    countries = _countries(values.get("choice_countries"), option_set)
    group_name = text_value(values, "group") or text_value(values, "ID")
    question = needed_text(values, "prompt")
    return McqRow(_case_of(values, question, option_set, countries), option_set, values.get("answer_idx"), group_name)


def _columns_row(cell_values: Mapping[str, Any], *, column_names: Sequence[str], option_keys: Sequence[str]) -> McqRow:
    row = _row_of(cell_values, column_options(cell_values, column_names, option_keys))
    key_by_column = dict(zip(column_names, option_keys, strict=False))  # an answer may name the column, too
    answer = key_by_column.get(row.answer.strip(), row.answer) if isinstance(row.answer, str) else row.answer
    return msgspec.structs.replace(row, answer=answer)


def _row_of(cell_values: Mapping[str, Any], option_set: OptionSet) -> McqRow:
    mcq_case = _case_of(cell_values, needed_text(cell_values, "question"), option_set, ())
    return McqRow(mcq_case, option_set, cell_values.get("answer"), text_value(cell_values, "group"))


def _case_of(values: Mapping[str, Any], question: str, option_set: OptionSet, countries: tuple[str, ...]) -> McqCase:
    return McqCase(
        question=question,
        options=option_set.texts,
        passage=text_value(values, "passage"),
        country=text_value(values, "country"),
        option_countries=countries,
        listed=_lists_options(question, option_set.texts, shown_letters(option_set.keys, len(option_set.texts))),
        keys=UNSET if option_set.keys in ((), tuple(LETTERS[: len(option_set.keys)])) else option_set.keys,
    )


def _countries(cell_value: object, option_set: OptionSet) -> tuple[str, ...]:
    """The country of each option: by its key, or by its place."""
    if is_missing(cell_value):
        return ()
    parsed_cell = literal_cell(cell_value, "choice_countries")
    if isinstance(parsed_cell, dict):
        country_by_key = {str(country_key).strip(): str(country) for country_key, country in parsed_cell.items()}
        answer_names = option_names(option_set.keys, len(option_set.texts))
        if country_by_key.keys() & set(answer_names):
            return tuple(country_by_key.get(option_name, "") for option_name in answer_names)
        parsed_cell = list(country_by_key.values())
    countries = [str(country) for country in parsed_cell]
    return tuple(countries[option_index] for option_index in option_set.order if option_index < len(countries))


def _stem_row(cell_values: Mapping[str, Any]) -> McqRow:
    """ARC's own files: the question is an object of its stem and its choices."""
    try:
        question_object = literal_cell(cell_values["question"], "question")
    except CellError as error:
        raise CellError("the question has no options", fix="add a column 'options' with a list of them") from error
    if not isinstance(question_object, dict) or not {"stem", "choices"} <= question_object.keys():
        raise CellError("'question' is no object of 'stem' and 'choices'", fix="write question and options apart")
    option_set = parse_options(question_object["choices"], "choices")
    mcq_case = _case_of(cell_values, needed_text(question_object, "stem"), option_set, ())
    return McqRow(mcq_case, option_set, cell_values["answerKey"], text_value(cell_values, "group"))


def _lists_options(prompt: str, option_texts: Sequence[str], letters: Sequence[str]) -> bool:
    prompt_lines = {prompt_line.strip() for prompt_line in prompt.splitlines()}
    return all(
        not prompt_lines.isdisjoint(listed_as(letter, text)) for letter, text in zip(letters, option_texts, strict=True)
    )


def listed_as(letter: str, option: str) -> list[str]:
    """The lines by which a question may list an option itself."""
    return [f"{letter}{separator}{option}" for separator in (". ", ".", ") ", ")", ": ")]
