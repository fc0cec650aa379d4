"""The task interface: rows in, messages and choices out, answers parsed from log-probabilities or generated text."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from lorica.errors import CellError, ConfigError
from lorica.records import Message, Row, RowSchema

DEFAULT_POSITIVE = ("1", "true", "yes", "violation")
DEFAULT_NEGATIVE = ("0", "false", "no", "no violation")


class ParsedAnswer(msgspec.Struct, frozen=True):
    """What was read from one output of a model.

    answer: the text a person reads, None when there is none. stage: how it was read (see `Answer.stage`). valid: False
    asks for a retry. score: P(Yes), for `rules`. scores: normalised probability of each choice. problem: why it is not
    valid. choice_mass: see `Answer.choice_mass`; None where the choices' probabilities are not compared as they are.
    """

    answer: str | None
    stage: str
    valid: bool
    score: float | None = None
    scores: dict[str, float] | None = None
    problem: str = ""
    choice_mass: float | None = None


class TaskSettings(msgspec.Struct, frozen=True):
    """How a task asks and reads. Empty strings and empty tuples stand for the task's defaults.

    fallback_score: the probability given to a `rules` row whose generated text cannot be read, 0 to 1.
    answer_numbers: what a number in the answer column of `mcq` means; "auto" reads it off the whole table.
    """

    method: str = ""
    style: str = ""
    positive_labels: tuple[str, ...] = DEFAULT_POSITIVE
    negative_labels: tuple[str, ...] = DEFAULT_NEGATIVE
    fallback_score: float = 0.5
    answer_numbers: Literal["auto", "from_0", "from_1", "text"] = "auto"


AnswerType = Literal["score", "option", "text"]
"""What answers a row: the probability of label 1 (`score`), one of its choices (`option`), written words (`text`)."""


class CanaryRecord(msgspec.Struct, frozen=True):
    """A neutral record for a passport's canaries. candidates: the texts that are scored where the task generates its
    answer. group: what it has in common with other canaries, so that a selection can be diverse."""

    record: dict[str, Any]
    candidates: tuple[str, ...] = ()
    group: str = ""


class RowExamples(msgspec.Struct, frozen=True):
    """Labelled examples that rows bring along. styles: those whose prompts show them. swap: the row with its positive
    and negative examples exchanged; None where it has none of either. unused: the note of a row whose prompt leaves
    them out, of no concern where nothing is asked. as_rows: each example as a row with gold, of the
    row's stratum and with the row's other examples."""

    styles: tuple[str, ...]
    swap: Callable[[Row], Row | None]
    unused: str
    as_rows: Callable[[Row], tuple[Row, ...]]


class ProbeSet(msgspec.Struct, frozen=True):
    """The shipped prompts of a task. name: tasks that share a set share its name. records: with gold, for the behaviour
    checks, as a file of the task would hold them. canaries: for passports."""

    name: str
    records: Callable[[], list[dict[str, Any]]]
    canaries: Callable[[], list[CanaryRecord]]


class Task(Protocol):
    """One task: how its rows are asked, how the answers are read, and what the checks of an adapter ask of it.

    Nothing outside this package depends on a task's name; a new task implements this protocol.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> TaskSettings: ...

    @property
    def methods(self) -> tuple[str, ...]:
        """The values of `task.method`, the default first."""
        ...

    @property
    def styles(self) -> tuple[str, ...]:
        """The values of `task.style`, the default first; ("",) for a task without styles."""
        ...

    @property
    def answer_type(self) -> AnswerType: ...

    @property
    def probes(self) -> ProbeSet: ...

    @property
    def row_examples(self) -> RowExamples | None:
        """How the labelled examples of its rows are shown; None for a task whose rows bring none."""
        ...

    @property
    def variants(self) -> Mapping[str, Callable[[Row], Row | None]]:
        """How a check may ask its rows otherwise, in words ("without the post") -> the row so; None where that changes
        nothing. The first one is without the text that the row is about."""
        ...

    @property
    def generated_choices(self) -> tuple[str, ...]:
        """The texts that are scored in place of `choices` where the answer is generated, the one for label 1 first; ()
        where any text may be right."""
        ...

    @property
    def schemas(self) -> tuple[RowSchema, ...]:
        """The tables it reads, the most specific first."""
        ...

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that judge it, the main one first."""
        ...

    def render(self, row: Row) -> tuple[Message, ...]:
        """The prompt. `Message.trim` marks the texts that truncation may cut."""
        ...

    def choices(self, row: Row) -> tuple[str, ...] | None:
        """The texts whose log-probabilities answer the row; None asks for generated text."""
        ...

    def options(self, row: Row) -> dict[str, str]:
        """What an answer calls each choice -> its text, whatever the method; empty where answers are written."""
        ...

    def gold_choice(self, row: Row) -> int | None:
        """The index of the right choice; None for a row without gold, and where answers are written."""
        ...

    def target(self, row: Row) -> str:
        """The answer text to train on. Raises ValueError for a row without a gold answer."""
        ...

    def parse_logprobs(self, row: Row, logprobs: Sequence[float], lengths: Sequence[int]) -> ParsedAnswer:
        """logprobs: summed natural-log probability of each choice. lengths: tokens of each choice."""
        ...

    def parse_text(self, row: Row, generated_text: str, *, cut_off: bool = True) -> ParsedAnswer:
        """Read what the model generated; never invents an answer.

        cut_off: whether the length limit may have ended it.
        """
        ...

    def answer_parser(self, answers: Sequence[tuple[Row, str]]) -> Callable[[Row, str], int | str]:
        """How answers of a result file are read: as gold is, to 0/1, an index or the text itself.

        answers: all of the file, none of them blank; what a number means may depend on the others. What is returned
        raises ValueError for an answer that the reader of gold would refuse."""
        ...

    def text(self, row: Row) -> str:
        """The row's own text, for near-duplicate search."""
        ...

    def stratum(self, row: Row) -> str:
        """What the row's text is asked about, over whose values folds are spread evenly: its rule, its subject; "" for
        none."""
        ...

    def retrieval_query(self, row: Row) -> str:
        """What passages of a knowledge base are looked up by."""
        ...

    def baseline_text(self, row: Row) -> str:
        """What a word-count baseline learns from, besides the options."""
        ...

    def with_text_of(self, row: Row, donor_row: Row) -> Row:
        """The row with the text of `donor_row`; gold, and what is no text of the row's own (options, rule), stay."""
        ...


def check_setting(setting_name: str, setting_value: str, values: Sequence[str], *, task_name: str) -> str:
    """`setting_value`, or the first of `values` when it is empty. Raises ConfigError for anything else."""
    if not setting_value:
        return values[0]
    if setting_value not in values:
        raise ConfigError(
            f"task.{setting_name}={setting_value!r} is not known to the task {task_name!r}",
            fix=f"use {' or '.join(map(repr, values))}" if any(values) else f"leave task.{setting_name} empty",
        )
    return setting_value


def choose_defaults(
    settings: TaskSettings, methods: Sequence[str], styles: Sequence[str], *, task_name: str
) -> TaskSettings:
    """The settings with a method and a style of the task. Raises ConfigError for those that it does not have."""
    return msgspec.structs.replace(
        settings,
        method=check_setting("method", settings.method, methods, task_name=task_name),
        style=check_setting("style", settings.style, styles, task_name=task_name),
    )


def softmax(logits: Sequence[float]) -> list[float] | None:
    """Probabilities that sum to 1; None when no value is finite or any is NaN or +inf."""
    if not logits or any(math.isnan(logit) or logit == math.inf for logit in logits):
        return None
    max_logit = max(logits)
    if max_logit == -math.inf:
        return None
    exponentials = [math.exp(logit - max_logit) for logit in logits]
    exponential_sum = sum(exponentials)
    return [exponential / exponential_sum for exponential in exponentials]


def choice_mass(logprobs: Sequence[float]) -> float:
    """The probability of any of these choices: the sum of theirs, of which none begins with another."""
    return min(1.0, sum(map(math.exp, logprobs)))


def invalid(problem: str) -> ParsedAnswer:
    """The reading of an output that holds no answer."""
    return ParsedAnswer(answer=None, stage="invalid", valid=False, problem=problem)


def is_missing(cell_value: object) -> bool:
    """None, and NaN, which is how pandas holds a value that is not there."""
    return cell_value is None or (isinstance(cell_value, float) and math.isnan(cell_value))


def text_value(cell_values: Mapping[str, Any], column_name: str) -> str:
    """A text cell without outer white space, "" when the row has none.

    Numbers count as text, as a CSV file would have it, and NaN as nothing. Raises ValueError for lists, objects and
    true/false.
    """
    cell_value = cell_values.get(column_name)
    if is_missing(cell_value):
        return ""
    if isinstance(cell_value, bool) or not isinstance(cell_value, (str, int, float)):
        raise CellError(f"{column_name!r} is {_kind(cell_value)}, and must be text", fix="write it as text")
    return str(cell_value).strip()


def needed_text(cell_values: Mapping[str, Any], column_name: str) -> str:
    """As `text_value`. Raises ValueError when it is missing or blank."""
    cell_text = text_value(cell_values, column_name)
    if not cell_text:
        raise CellError(f"{column_name!r} is empty, and every row needs it", fix="fill it, or leave the row out")
    return cell_text


def check_lengths(choices: Collection[object], logprobs: Sequence[float], lengths: Sequence[int]) -> None:
    """Raises ValueError unless there is one log-probability and one length for each choice."""
    if not len(choices) == len(logprobs) == len(lengths):
        raise ValueError(f"{len(choices)} choices have {len(logprobs)} log-probabilities and {len(lengths)} lengths")


def _kind(cell_value: object) -> str:
    return {bool: "true/false", list: "a list", dict: "an object"}.get(type(cell_value), type(cell_value).__name__)
