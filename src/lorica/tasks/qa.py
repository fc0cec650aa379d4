"""`qa`: an answer in a sentence, per subject."""

from __future__ import annotations

from lorica.records import Message, Row
from lorica.tasks.base import TaskSettings
from lorica.tasks.drafts import Draft
from lorica.tasks.questions import BY_SUBJECT, QUESTIONS, question_case
from lorica.tasks.written import WrittenTask


def qa_task(settings: TaskSettings) -> WrittenTask:
    """The task `qa`. Raises ConfigError for an unknown method or style."""
    return WrittenTask(
        "qa",
        settings,
        prompt=_prompt,
        shapes=(BY_SUBJECT, QUESTIONS),
        metric_names=("token_f1", "exact_match"),
    )


def _prompt(row: Row) -> tuple[Message, ...]:
    """A system message with the subject, and the question as the user's message."""
    about = f"questions about {row.subject}" if row.subject else "questions"
    system = Message("system", f"You answer {about}. Reply in one sentence.")
    return (system, Draft().add_whole(question_case(row).question).message("user"))
