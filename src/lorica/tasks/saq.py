"""`saq`: a short answer in a few words."""

from __future__ import annotations

from lorica.records import Message, Row
from lorica.tasks.base import TaskSettings
from lorica.tasks.generation_task import GenerationTask
from lorica.tasks.message_builder import MessageBuilder
from lorica.tasks.questions import ANNOTATED, QUESTION_SCHEMAS, question_case


def saq_task(settings: TaskSettings) -> GenerationTask:
    """The task `saq`. Raises ConfigError for an unknown method or style."""
    return GenerationTask(
        "saq",
        settings,
        prompt=_prompt,
        schemas=(ANNOTATED, *QUESTION_SCHEMAS),
        metric_names=("exact_match", "token_f1"),
    )


def _prompt(row: Row) -> tuple[Message, ...]:
    """One user message: the instruction, the passage if there is one, and the question."""
    case = question_case(row)
    builder = MessageBuilder().add("Answer in a few words.\n")
    if case.passage:
        builder.add("Passage: ").add_truncatable(case.passage).add("\n")
    return (builder.add("Question: ").add_protected(case.question).build("user"),)
