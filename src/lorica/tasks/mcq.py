"""`mcq`: which option is right? Scored by the letters, or by the options' length-normalised likelihood.

A prompt shows letters; an answer comes back as the file's own key of the option, or as the letter where the options
are a list. How an answer in a file is read: `options.read_option`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from lorica.errors import CellError
from lorica.records import Build, Message, Problem, Row, RowShape
from lorica.tasks.base import (
    Reading,
    TaskSettings,
    check_lengths,
    choice_mass,
    invalid,
    is_missing,
    needed_text,
    pick,
    softmax,
    text_value,
)
from lorica.tasks.drafts import Draft
from lorica.tasks.literals import literal_cell
from lorica.tasks.option_cells import OptionSet, column_options, label_numbering, read_options
from lorica.tasks.options import (
    LETTERS,
    NamedAnswer,
    Numbering,
    UndecidedNumberError,
    find_numbering,
    option_names,
    read_option,
    shown_letters,
)

METHODS = ("choice", "likelihood")
_OPTIONAL = ("answer", "passage", "subject", "country", "group")
_ALIASES = {
    "question": ("prompt", "stem"),
    "options": ("choices",),
    "answer": ("answerKey", "answer_key", "answer_idx", "correct_answer", "correct_option", "cop"),
    "passage": ("context",),
}
# How tables name a column for each option; {l} is a letter from a on, {z} a number from 0 on, {n} one from 1 on.
_COLUMNS = (
    *("{L}", "{l}", "option_{l}", "option_{L}", "option{L}", "choice_{l}", "choice_{L}", "choice{L}"),
    *("op{l}", "opt_{l}", "option{z}", "option_{z}", "choice{z}", "choice_{z}", "ending{z}"),
    *("option{n}", "option_{n}", "choice{n}", "choice_{n}", "ending{n}", "sol{n}"),
)


_COUNTED_IN_TWO_WAYS = (
    "its answer is a number that may be counted from 0 or from 1, and was not read; "
    "task.answer_numbers=from_0, from_1 or text says what is meant"
)


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


class McqTask:
    """The task `mcq`. Gold is the index of the right option."""

    name = "mcq"
    metric_names = ("accuracy",)

    def __init__(self, settings: TaskSettings) -> None:
        """Raises ConfigError for an unknown method or style."""
        self.settings = msgspec.structs.replace(
            settings,
            method=pick("method", settings.method, METHODS, task=self.name),
            style=pick("style", settings.style, ("",), task=self.name),
        )
        self.shapes: tuple[RowShape, ...] = (
            self._shape(
                "multiple choice with MCQID",
                ("MCQID", "prompt", "choices"),
                ("ID", "country", "choice_countries", "answer_idx", "subject", "group"),
                _table_row,
                id_column="MCQID",
            ),
            self._shape("question and options", ("question", "options"), ("id", *_OPTIONAL), _question_row),
            *(self._shape_of_columns(pattern) for pattern in _COLUMNS),
        )

    def _shape_of_columns(self, pattern: str) -> RowShape:
        columns = [pattern.format(L=letter, l=letter.lower(), n=i + 1, z=i) for i, letter in enumerate(LETTERS)]
        keys = [column[-1] for column in columns] if "l}" in pattern.lower() else columns
        return self._shape(
            f"question and columns {columns[0]}, {columns[1]}",
            ("question", *columns[:2]),
            ("id", *columns[2:], *_OPTIONAL),
            partial(_columns_row, columns=columns, keys=keys),
        )

    def _shape(
        self,
        name: str,
        required: tuple[str, ...],
        optional: tuple[str, ...],
        read: Callable[[Mapping[str, Any]], McqRow],
        *,
        id_column: str = "id",
    ) -> RowShape:
        """A table of which `read` makes rows; what its numbers mean as answers is for the whole table to say."""

        def of_table(again: Callable[[], Iterator[Mapping[str, Any]]]) -> Build:
            return partial(_build, read, functools.cache(lambda: self._numbering(read, again())))

        return RowShape(
            name, required, optional, id_column, of_table(lambda: iter(())), aliases=_ALIASES, of_table=of_table
        )

    def _numbering(
        self, read: Callable[[Mapping[str, Any]], McqRow], table: Iterator[Mapping[str, Any]]
    ) -> Numbering | None:
        return self._told(lambda: _answers(read, table))

    def _told(self, answers: Callable[[], Iterable[NamedAnswer]]) -> Numbering | None:
        """What numbers mean in a file with these answers."""
        if self.settings.answer_numbers != "auto":
            return self.settings.answer_numbers
        return find_numbering(answers())

    def render(self, row: Row) -> tuple[Message, ...]:
        """One user message: instruction, passage if any, question, options as lines "A. text"."""
        case = _case(row)
        letters = self.settings.method == "choice"
        draft = Draft().add("Answer with the letter of the right option.\n" if letters else "Answer the question.\n")
        if case.passage:
            draft.add("Passage: ").add_long(case.passage).add("\n")
        end = _end_of_question(case)
        draft.add("Question: ").add_whole(case.question[:end]).add(case.question[end:])
        if letters and not case.listed:
            for letter, option in zip(case.letters, case.options, strict=True):
                draft.add(f"\n{letter}. ").add_whole(option)
        return (draft.message("user"),)

    def choices(self, row: Row) -> tuple[str, ...] | None:
        """The letters, or for method=likelihood the options' texts."""
        case = _case(row)
        return case.letters if self.settings.method == "choice" else case.options

    def target(self, row: Row) -> str:
        """The right letter (method=likelihood: the right text). Raises ValueError for an unlabelled row."""
        choices = self.choices(row)
        if row.gold_problem is not None:
            raise CellError(row.gold_problem.message, fix=row.gold_problem.fix)
        if not isinstance(row.gold, int) or choices is None:
            raise ValueError(f"row {row.id!r} has no right answer, so there is nothing to train on")
        return choices[row.gold]

    def read_choices(self, row: Row, logprobs: Sequence[float], lengths: Sequence[int]) -> Reading:
        """The file's name of the most probable option. scores: softmax over the letters' log-probabilities, or over the
        options' log-probabilities per token (method=likelihood). Ties go to the first."""
        names = _case(row).names
        check_lengths(names, logprobs, lengths)
        values = list(logprobs)
        if self.settings.method == "likelihood":
            values = [value / max(length, 1) for value, length in zip(logprobs, lengths, strict=True)]
        probabilities = softmax(values)
        if probabilities is None:
            return invalid("the log-probabilities of the options are not numbers")
        best = max(range(len(names)), key=probabilities.__getitem__)
        return Reading(
            answer=names[best],
            stage="choice",
            valid=True,
            scores=dict(zip(names, probabilities, strict=True)),
            # Of whole options the mass says little: a right one is long, and improbable word for word.
            choice_mass=choice_mass(logprobs) if self.settings.method == "choice" else None,
        )

    def read_text(self, row: Row, text: str, *, cut_off: bool = True) -> Reading:
        """Both methods score choices; a generated text is not read."""
        return invalid(f"the task mcq answers by scoring its options, and got the text {text[:40]!r}")

    def answer_reader(self, answers: Sequence[tuple[Row, str]]) -> Callable[[Row, str], int | str]:
        """To the index of the option, by `read_option`; numbers mean what all numbers of the file allow."""
        told = self._told(lambda: ((answer, *_named(row), _own_numbering(row) is None) for row, answer in answers))

        def read(row: Row, answer: str) -> int | str:
            options, keys = _named(row)
            own = _own_numbering(row)
            index = read_option(answer, options, keys, numbering=lambda: own or told)
            if index is None:
                raise ValueError("the answer is empty")
            return index

        return read

    def text(self, row: Row) -> str:
        """The question and its options."""
        case = _case(row)
        return case.question if case.listed else "\n".join((case.question, *case.options))


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
        # Whoever asks for an answer needs none; whoever trains or measures is told.
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
    told = row.options.numbering
    return read_option(
        row.answer,
        row.case.options,
        row.options.keys,
        numbering=numbering if told is None else lambda: told,
        counted=row.options.counted,
    )


def _answers(read: Callable[[Mapping[str, Any]], McqRow], table: Iterator[Mapping[str, Any]]) -> Iterator[NamedAnswer]:
    """What `find_numbering` asks of a table; a row that cannot be read is told when it is met."""
    for values in table:
        try:
            row = read(values)
        except ValueError:
            continue
        yield row.answer, row.case.options, row.options.keys, row.options.counted and not row.options.numbering


def _table_row(values: Mapping[str, Any]) -> McqRow:
    options = read_options(values["choices"], "choices")
    countries = _countries(values.get("choice_countries"), options)
    group = text_value(values, "group") or text_value(values, "ID")
    question = needed_text(values, "prompt")
    return McqRow(_case_of(values, question, options, countries), options, values.get("answer_idx"), group)


def _question_row(values: Mapping[str, Any]) -> McqRow:
    return _row_of(values, read_options(values["options"], "options"))


def _columns_row(values: Mapping[str, Any], *, columns: Sequence[str], keys: Sequence[str]) -> McqRow:
    return _row_of(values, column_options(values, columns, keys))


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
    return tuple(countries[place] for place in options.order if place < len(countries))


def _lists_options(prompt: str, options: Sequence[str], letters: Sequence[str]) -> bool:
    lines = {line.strip() for line in prompt.splitlines()}
    return all(not lines.isdisjoint(_spellings(letter, text)) for letter, text in zip(letters, options, strict=True))


def _spellings(letter: str, option: str) -> list[str]:
    return [f"{letter}{mark}{option}" for mark in (". ", ".", ") ", ")", ": ")]


def _end_of_question(case: McqCase) -> int:
    """Where the options begin in a question that lists them: from there on nothing may be cut."""
    at = 0
    options = {line for pair in zip(case.letters, case.options, strict=True) for line in _spellings(*pair)}
    for line in case.question.splitlines(keepends=True) if case.listed else ():
        if line.strip() in options:
            return at
        at += len(line)
    return len(case.question)


def _named(row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of a row's options, and the file's keys for them."""
    case = _case(row)
    return case.options, case.keys or ()


def _own_numbering(row: Row) -> Numbering | None:
    """What numbers mean for this row alone, by the labels of its options."""
    options, keys = _named(row)
    return None if keys else label_numbering(options)


def _case(row: Row) -> McqCase:
    if not isinstance(row.case, McqCase):
        raise TypeError(f"row {row.id!r} is not a row of the task mcq: {type(row.case).__name__}")
    return row.case
