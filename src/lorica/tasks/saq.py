"""`saq`: a short answer in a few words."""

from __future__ import annotations

from lorica.records import Message, Row
from lorica.tasks.base import TaskSettings
from lorica.tasks.drafts import Draft
from lorica.tasks.questions import ANNOTATED, BY_SUBJECT, QUESTIONS, question_case
from lorica.tasks.written import WrittenTask


def saq_task(settings: TaskSettings) -> WrittenTask:
    """The task `saq`. Raises ConfigError for an unknown method or style."""
    return WrittenTask(
        "saq",
        settings,
        prompt=_prompt,
        shapes=(ANNOTATED, BY_SUBJECT, QUESTIONS),
        metric_names=("exact_match", "token_f1"),
    )


def _prompt(row: Row) -> tuple[Message, ...]:
    """One user message: the instruction and the question."""
    return (Draft().add("Answer in a few words.\nQuestion: ").add_whole(question_case(row).question).message("user"),)
