"""`mcq`: which option is right? Scored by the letters, or by the options' length-normalised likelihood.

A prompt shows letters; an answer comes back as the file's own key of the option, or as the letter where the options
are a list. How an answer in a file is read: `options.parse_option`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    choice_mass,
    choose_defaults,
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
    styles = ("", "segments")
    row_examples = None
    answer_type: AnswerType = "option"
    generated_choices = ()
    metric_names = ("accuracy",)
    probes = ProbeSet("mcq", partial(labelled_records, "mcq"), partial(question_canaries, with_options=True))

    def __init__(self, settings: TaskSettings) -> None:
        """Raises ConfigError for an unknown method or style."""
        self.settings = choose_defaults(settings, self.methods, self.styles, task_name=self.name)
        self.schemas: tuple[RowSchema, ...] = mcq_schemas(self._numbering)

    def _numbering(self, answers: Callable[[], Iterable[NamedAnswer]]) -> Numbering | None:
        """What numbers mean in a file with these answers."""
        if self.settings.answer_numbers != "auto":
            return self.settings.answer_numbers
        return find_numbering(answers())

    def render(self, row: Row) -> tuple[Message, ...]:
        """One user message: instruction, passage if any, question, options as lines "A. text". Style `segments`: a
        message for the question, and one for each option."""
        mcq_case = _case(row)
        if self.settings.style == "segments":
            question = MessageBuilder().add_truncatable(mcq_case.passage).add("\n" if mcq_case.passage else "")
            question.add_protected(mcq_case.question)
            options = [MessageBuilder().add_protected(option) for option in mcq_case.options]
            return tuple(segment.build("user") for segment in (question, *options))
        letters = self.settings.method == "choice"
        instruction = "Answer with the letter of the right option.\n" if letters else "Answer the question.\n"
        builder = MessageBuilder().add(instruction).mark_context()
        if mcq_case.passage:
            builder.add("Passage: ").add_truncatable(mcq_case.passage).add("\n")
        question_end = _end_of_question(mcq_case)
        builder.add("Question: ").add_protected(mcq_case.question[:question_end]).add(mcq_case.question[question_end:])
        if letters and not mcq_case.listed:
            for letter, option in zip(mcq_case.letters, mcq_case.options, strict=True):
                builder.add(f"\n{letter}. ").add_protected(option)
        return (builder.build("user"),)

    def choices(self, row: Row) -> tuple[str, ...] | None:
        """The letters, or for method=likelihood the options' texts."""
        mcq_case = _case(row)
        return mcq_case.letters if self.settings.method == "choice" else mcq_case.options

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

    def parse_logprobs(self, row: Row, logprobs: Sequence[float], token_counts: Sequence[int]) -> ParsedAnswer:
        """The file's name of the most probable option. scores: softmax over the letters' log-probabilities, or over the
        options' log-probabilities per token (method=likelihood). Ties go to the first."""
        answer_names = _case(row).names
        check_lengths(answer_names, logprobs, token_counts)
        mean_logprobs = list(logprobs)
        if self.settings.method == "likelihood":
            mean_logprobs = [
                logprob / max(token_count, 1) for logprob, token_count in zip(logprobs, token_counts, strict=True)
            ]
        probabilities = softmax(mean_logprobs)
        if probabilities is None:
            return invalid("the log-probabilities of the options are not numbers")
        best_index = max(range(len(answer_names)), key=probabilities.__getitem__)
        return ParsedAnswer(
            answer=answer_names[best_index],
            stage="choice",
            valid=True,
            scores=dict(zip(answer_names, probabilities, strict=True)),
            # Of whole options the mass says little: a right one is long, and improbable word for word.
            choice_mass=choice_mass(logprobs) if self.settings.method == "choice" else None,
        )

    def parse_text(self, row: Row, generated_text: str, *, cut_off: bool = True) -> ParsedAnswer:
        """Both methods score choices; a generated text is not read."""
        return invalid(f"the task mcq answers by scoring its options, and got the text {generated_text[:40]!r}")

    def answer_parser(self, answers: Sequence[tuple[Row, str]]) -> Callable[[Row, str], int | str]:
        """To the index of the option, by `parse_option`; numbers mean what all numbers of the file allow."""
        of_file = self._numbering(
            lambda: ((answer, *_named(row), _own_numbering(row) is None) for row, answer in answers)
        )

        def read(row: Row, answer: str) -> int | str:
            option_texts, option_keys = _named(row)
            own_numbering = _own_numbering(row)
            option_index = parse_option(answer, option_texts, option_keys, numbering=lambda: own_numbering or of_file)
            if option_index is None:
                raise ValueError("the answer is empty")
            return option_index

        return read

    def text(self, row: Row) -> str:
        """The question and its options."""
        mcq_case = _case(row)
        return mcq_case.question if mcq_case.listed else "\n".join((mcq_case.question, *mcq_case.options))

    def stratum(self, row: Row) -> str:
        """The subject."""
        return row.subject

    def retrieval_query(self, row: Row) -> str:
        """The question and its options."""
        return self.text(row)

    def baseline_text(self, row: Row) -> str:
        """The question."""
        return _case(row).question

    @property
    def variants(self) -> Mapping[str, Callable[[Row], Row | None]]:
        """The options alone."""
        return {"without the question": _without_question}

    def with_text_of(self, row: Row, donor_row: Row) -> Row:
        """Another question and passage above the row's own options."""
        donor_case = _case(donor_row)
        new_case = msgspec.structs.replace(
            _case(row), question=donor_case.question, passage=donor_case.passage, listed=False
        )
        return msgspec.structs.replace(row, case=new_case)


def _without_question(row: Row) -> Row:
    return msgspec.structs.replace(row, case=msgspec.structs.replace(_case(row), question="", passage="", listed=False))


def _end_of_question(mcq_case: McqCase) -> int:
    """Where the options begin in a question that lists them: from there on nothing may be cut."""
    search_start = 0
    option_lines = {line for pair in zip(mcq_case.letters, mcq_case.options, strict=True) for line in listed_as(*pair)}
    for option_line in mcq_case.question.splitlines(keepends=True) if mcq_case.listed else ():
        if option_line.strip() in option_lines:
            return search_start
        search_start += len(option_line)
    return len(mcq_case.question)


def _named(row: Row) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of a row's options, and the file's keys for them."""
    mcq_case = _case(row)
    return mcq_case.options, mcq_case.keys or ()


def _own_numbering(row: Row) -> Numbering | None:
    """What numbers mean for this row alone, by the labels of its options."""
    option_texts, option_keys = _named(row)
    return None if option_keys else label_numbering(option_texts)


def _case(row: Row) -> McqCase:
    if not isinstance(row.case, McqCase):
        raise TypeError(f"row {row.id!r} is not a row of the task mcq: {type(row.case).__name__}")
    return row.case
