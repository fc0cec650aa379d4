"""A task that Lorica does not ship: does a sentence follow from another? Three labels, asked by their words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from lorica.records import Message, Row, RowSchema
from lorica.tasks.base import (
    AnswerType,
    CanaryRecord,
    ParsedAnswer,
    ProbeSet,
    TaskSettings,
    check_lengths,
    check_setting,
    choice_mass,
    invalid,
    needed_text,
    softmax,
    text_value,
)

LABELS = ("yes", "maybe", "no")
_PROBES = (
    ("The cat sleeps on the chair.", "An animal sleeps."),
    ("The cat sleeps on the chair.", "The cat is black."),
    ("The cat sleeps on the chair.", "The cat runs outside."),
)


class NliCase(msgspec.Struct, frozen=True):
    """Two sentences."""

    premise: str
    hypothesis: str


class NliTask:
    """The task `nli`. Gold is the index of the label."""

    name = "nli"
    methods = ("choice",)
    styles = ("",)
    row_examples = None
    variants: Mapping[str, Callable[[Row], Row | None]] = {}
    answer_type: AnswerType = "option"
    generated_choices = ()
    metric_names = ("accuracy",)

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = msgspec.structs.replace(
            settings, method=check_setting("method", settings.method, self.methods, task_name=self.name)
        )
        self.schemas = (
            RowSchema("sentence pairs", ("premise", "hypothesis"), ("id", "label"), "id", self._build, gold="label"),
        )
        self.probes = ProbeSet("nli", _records, lambda: [CanaryRecord(record) for record in _records()])

    def render(self, row: Row) -> tuple[Message, ...]:
        case = _case(row)
        return (Message("user", f"{case.premise}\nDoes it follow? {case.hypothesis}"),)

    def choices(self, row: Row) -> tuple[str, ...]:
        return LABELS

    def options(self, row: Row) -> dict[str, str]:
        return {label: label for label in LABELS}

    def gold_choice(self, row: Row) -> int | None:
        return row.gold if isinstance(row.gold, int) else None

    def target(self, row: Row) -> str:
        return LABELS[int(str(row.gold))]

    def parse_logprobs(self, row: Row, logprobs: Sequence[float], lengths: Sequence[int]) -> ParsedAnswer:
        check_lengths(LABELS, logprobs, lengths)
        probabilities = softmax(logprobs)
        if probabilities is None:
            return invalid("the log-probabilities are not numbers")
        best = LABELS[probabilities.index(max(probabilities))]
        scores = dict(zip(LABELS, probabilities, strict=True))
        return ParsedAnswer(best, "choice", valid=True, scores=scores, choice_mass=choice_mass(logprobs))

    def parse_text(self, row: Row, text: str, *, cut_off: bool = True) -> ParsedAnswer:
        return invalid("the task scores its labels")

    def answer_parser(self, answers: Sequence[tuple[Row, str]]) -> Callable[[Row, str], int | str]:
        return lambda row, answer: LABELS.index(answer)

    def text(self, row: Row) -> str:
        return f"{_case(row).premise}\n{_case(row).hypothesis}"

    def stratum(self, row: Row) -> str:
        return row.subject

    def retrieval_query(self, row: Row) -> str:
        return _case(row).hypothesis

    def baseline_text(self, row: Row) -> str:
        return self.text(row)

    def with_text_of(self, row: Row, donor: Row) -> Row:
        return msgspec.structs.replace(row, case=donor.case)

    def _build(self, values: Mapping[str, Any], row_id: str, line: int) -> Row:
        label = text_value(values, "label")
        case = NliCase(needed_text(values, "premise"), needed_text(values, "hypothesis"))
        return Row(row_id, case, gold=LABELS.index(label) if label else None, line=line)


def _records() -> list[dict[str, Any]]:
    return [
        {"id": f"nli-{number}-{label}", "premise": premise, "hypothesis": hypothesis, "label": label}
        for number in range(3)
        for label, (premise, hypothesis) in zip(LABELS, _PROBES, strict=True)
    ]


def _case(row: Row) -> NliCase:
    assert isinstance(row.case, NliCase)
    return row.case
