"""`qa`: an answer in a sentence, per subject, generated, cleaned and judged."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lorica.records import Message, Row, RowShape
from lorica.tasks.base import Reading, TaskSettings, invalid, pick
from lorica.tasks.questions import BY_SUBJECT, QUESTIONS, gold_text, question_case, read_answer


class QaTask:
    """The task `qa`. Gold is the tuple of accepted answers, the preferred one first."""

    name = "qa"
    metric_names = ("token_f1", "exact_match")
    shapes: tuple[RowShape, ...] = (BY_SUBJECT, QUESTIONS)

    def __init__(self, settings: TaskSettings) -> None:
        """Raises ConfigError for an unknown method or style."""
        self.settings = msgspec.structs.replace(
            settings,
            method=pick("method", settings.method, ("generate",), task=self.name),
            style=pick("style", settings.style, ("",), task=self.name),
        )

    def render(self, row: Row) -> tuple[Message, ...]:
        """A system message with the subject, and the question as the user's message."""
        about = f"questions about {row.subject}" if row.subject else "questions"
        system = Message("system", f"You answer {about}. Reply in one sentence.")
        return (system, Message("user", question_case(row).question))

    def choices(self, row: Row) -> tuple[str, ...] | None:
        """None: the answer is generated."""
        return None

    def target(self, row: Row) -> str:
        """The preferred answer. Raises ValueError for a row without one."""
        return gold_text(row)

    def read_choices(self, row: Row, logprobs: Sequence[float], lengths: Sequence[int]) -> Reading:
        """The task generates; log-probabilities are not read."""
        return invalid("the task qa answers in words and got log-probabilities")

    def read_text(self, row: Row, text: str) -> Reading:
        """The cleaned answer; what is no answer has its problem named."""
        return read_answer(row, text)

    def text(self, row: Row) -> str:
        """The question."""
        return question_case(row).question
