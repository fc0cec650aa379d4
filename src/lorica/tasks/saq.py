"""`saq`: a short answer in a few words, generated, cleaned and judged."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lorica.records import Message, Row, RowShape
from lorica.tasks.base import Reading, TaskSettings, invalid, pick
from lorica.tasks.drafts import Draft
from lorica.tasks.questions import ANNOTATED, BY_SUBJECT, QUESTIONS, gold_text, question_case, read_answer


class SaqTask:
    """The task `saq`. Gold is the tuple of accepted answers, the preferred one first."""

    name = "saq"
    metric_names = ("exact_match", "token_f1")
    shapes: tuple[RowShape, ...] = (ANNOTATED, BY_SUBJECT, QUESTIONS)

    def __init__(self, settings: TaskSettings) -> None:
        """Raises ConfigError for an unknown method or style."""
        self.settings = msgspec.structs.replace(
            settings,
            method=pick("method", settings.method, ("generate",), task=self.name),
            style=pick("style", settings.style, ("",), task=self.name),
        )

    def render(self, row: Row) -> tuple[Message, ...]:
        """One user message: the instruction and the question."""
        return (Draft().add(f"Answer in a few words.\nQuestion: {question_case(row).question}").message("user"),)

    def choices(self, row: Row) -> tuple[str, ...] | None:
        """None: the answer is generated."""
        return None

    def target(self, row: Row) -> str:
        """The preferred answer. Raises ValueError for a row without one."""
        return gold_text(row)

    def read_choices(self, row: Row, logprobs: Sequence[float], lengths: Sequence[int]) -> Reading:
        """The task generates; log-probabilities are not read."""
        return invalid("the task saq answers in words and got log-probabilities")

    def read_text(self, row: Row, text: str) -> Reading:
        """The cleaned answer; what is no answer has its problem named."""
        return read_answer(row, text)

    def text(self, row: Row) -> str:
        """The question."""
        return question_case(row).question
