"""`qa`: an answer in a sentence, per subject."""

from __future__ import annotations

from lorica.records import Message, Row
from lorica.tasks.base import TaskSettings
from lorica.tasks.generation_task import GenerationTask
from lorica.tasks.message_builder import MessageBuilder
from lorica.tasks.questions import QUESTION_SCHEMAS, question_case


def qa_task(settings: TaskSettings) -> GenerationTask:
    """The task `qa`. Raises ConfigError for an unknown method or style."""
    return GenerationTask(
        "qa",
        settings,
        prompt=_prompt,
        schemas=QUESTION_SCHEMAS,
        metric_names=("token_f1", "exact_match"),
    )


def _prompt(row: Row) -> tuple[Message, ...]:
    """A system message with the subject, and the question as the user's message, behind its passage if it has one."""
    about = f"questions about {row.subject}" if row.subject else "questions"
    system = Message("system", f"You answer {about}. Reply in one sentence.")
    case, builder = question_case(row), MessageBuilder()
    if case.passage:
        builder.add("Passage: ").add_truncatable(case.passage).add("\nQuestion: ")
    return (system, builder.add_protected(case.question).build("user"))
