"""`qa`: an answer in a sentence, per subject."""

from __future__ import annotations

from lorica.records import Message, Row
from lorica.tasks.base import TaskSettings
from lorica.tasks.generation_task import WrittenTask
from lorica.tasks.message_builder import Draft
from lorica.tasks.questions import QUESTION_SHAPES, question_case


def qa_task(settings: TaskSettings) -> WrittenTask:
    """The task `qa`. Raises ConfigError for an unknown method or style."""
    return WrittenTask(
        "qa",
        settings,
        prompt=_prompt,
        shapes=QUESTION_SHAPES,
        metric_names=("token_f1", "exact_match"),
    )


def _prompt(row: Row) -> tuple[Message, ...]:
    """A system message with the subject, and the question as the user's message, behind its passage if it has one."""
    about = f"questions about {row.subject}" if row.subject else "questions"
    system = Message("system", f"You answer {about}. Reply in one sentence.")
    case, draft = question_case(row), Draft()
    if case.passage:
        draft.add("Passage: ").add_long(case.passage).add("\nQuestion: ")
    return (system, draft.add_whole(case.question).message("user"))
