"""`mcq`: which option is right? Scored by the letters, or by the options' length-normalised likelihood.

A prompt shows letters; an answer comes back as the file's own key of the option, or as the letter where the options
are a list. How an answer in a file is read: `options.parse_option`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec

from lorica.errors import CellError
from lorica.records import Message, Row, RowSchema
from lorica.tasks.base import (
    AnswerType,
    ParsedAnswer,
    ProbeSet,
    TaskSettings,
    check_lengths,
    check_setting,
    choice_mass,
    invalid,
    softmax,
)
from lorica.tasks.mcq_rows import McqCase as McqCase
from lorica.tasks.mcq_rows import listed_as, mcq_schemas
from lorica.tasks.message_builder import MessageBuilder
from lorica.tasks.option_cells import label_numbering
from lorica.tasks.options import NamedAnswer, Numbering, find_numbering, parse_option
from lorica.tasks.probe_texts import labelled_records, question_canaries


class McqTask:
    """The task `mcq`. Gold is the index of the right option."""

    name = "mcq"
    methods = ("choice", "likelihood")
    styles = ("",)
    row_examples = None
    answer_type: AnswerType = "option"
    generated_choices = ()
    metric_names = ("accuracy",)
    probes = ProbeSet("mcq", partial(labelled_records, "mcq"), partial(question_canaries, with_options=True))

    def __init__(self, settings: TaskSettings) -> None:
        """Raises ConfigError for an unknown method or style."""
        self.settings = msgspec.structs.replace(
            settings,
            method=check_setting("method", settings.method, self.methods, task=self.name),
            style=check_setting("style", settings.style, self.styles, task=self.name),
        )
        self.schemas: tuple[RowSchema, ...] = mcq_schemas(self._numbering)

    def _numbering(self, answers: Callable[[], Iterable[NamedAnswer]]) -> Numbering | None:
        """What numbers mean in a file with these answers."""
        if self.settings.answer_numbers != "auto":
            return self.settings.answer_numbers
        return find_numbering(answers())

    def render(self, row: Row) -> tuple[Message, ...]:
        """One user message: instruction, passage if any, question, options as lines "A. text"."""
        case = _case(row)
        letters = self.settings.method == "choice"
        builder = MessageBuilder().add(
            "Answer with the letter of the right option.\n" if letters else "Answer the question.\n"
        )
        if case.passage:
            builder.add("Passage: ").add_truncatable(case.passage).add("\n")
        end = _end_of_question(case)
        builder.add("Question: ").add_protected(case.question[:end]).add(case.question[end:])
        if letters and not case.listed:
            for letter, option in zip(case.letters, case.options, strict=True):
                builder.add(f"\n{letter}. ").add_protected(option)
        return (builder.build("user"),)

    def choices(self, row: Row) -> tuple[str, ...] | None:
        """The letters, or for method=likelihood the options' texts."""
        case = _case(row)
        return case.letters if self.settings.method == "choice" else case.options

    def options(self, row: Row) -> dict[str, str]:
        """The file's own keys of the options, or letters -> the options' texts."""
        return dict(zip(_case(row).names, _case(row).options, strict=True))

    def gold_choice(self, row: Row) -> int | None:
        """Gold is the index of the right option."""
        return row.gold if isinstance(row.gold, int) else None

    def target(self, row: Row) -> str:
        """The right letter (method=likelihood: the right text). Raises ValueError for an unlabelled row."""
        choices = self.choices(row)
        if row.gold_problem is not None:
            raise CellError(row.gold_problem.message, fix=row.gold_problem.fix)
        if not isinstance(row.gold, int) or choices is None:
            raise ValueError(f"row {row.id!r} has no right answer, so there is nothing to train on")
        return choices[row.gold]

    def parse_logprobs(self, row: Row, logprobs: Sequence[float], lengths: Sequence[int]) -> ParsedAnswer:
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
        return ParsedAnswer(
            answer=names[best],
            stage="choice",
            valid=True,
            scores=dict(zip(names, probabilities, strict=True)),
            # Of whole options the mass says little: a right one is long, and improbable word for word.
            choice_mass=choice_mass(logprobs) if self.settings.method == "choice" else None,
        )

    def parse_text(self, row: Row, text: str, *, cut_off: bool = True) -> ParsedAnswer:
        """Both methods score choices; a generated text is not read."""
        return invalid(f"the task mcq answers by scoring its options, and got the text {text[:40]!r}")

    def answer_parser(self, answers: Sequence[tuple[Row, str]]) -> Callable[[Row, str], int | str]:
        """To the index of the option, by `parse_option`; numbers mean what all numbers of the file allow."""
        of_file = self._numbering(
            lambda: ((answer, *_named(row), _own_numbering(row) is None) for row, answer in answers)
        )

        def read(row: Row, answer: str) -> int | str:
            options, keys = _named(row)
            own = _own_numbering(row)
            index = parse_option(answer, options, keys, numbering=lambda: own or of_file)
            if index is None:
                raise ValueError("the answer is empty")
            return index

        return read

    def text(self, row: Row) -> str:
        """The question and its options."""
        case = _case(row)
        return case.question if case.listed else "\n".join((case.question, *case.options))

    def baseline_text(self, row: Row) -> str:
        """The question."""
        return _case(row).question

    def with_text_of(self, row: Row, donor: Row) -> Row:
        """Another question and passage above the row's own options."""
        text = _case(donor)
        case = msgspec.structs.replace(_case(row), question=text.question, passage=text.passage, listed=False)
        return msgspec.structs.replace(row, case=case)


def _end_of_question(case: McqCase) -> int:
    """Where the options begin in a question that lists them: from there on nothing may be cut."""
    at = 0
    options = {line for pair in zip(case.letters, case.options, strict=True) for line in listed_as(*pair)}
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
