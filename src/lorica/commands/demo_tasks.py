"""The tasks of `lorica demo`, and the shipped examples they use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoTask:
    """One of the demo's tasks: what it asks, where its rows are, and what differs from the common settings."""

    name: str
    question: str
    file: str
    overrides: tuple[str, ...] = ()
    per_subject: bool = False


TASKS = (
    DemoTask("rules", "Does this post break this community rule?", "rules/posts.csv"),
    DemoTask("mcq", "Which of A to D is right?", "mcq/questions.jsonl"),
    DemoTask(
        "saq", "Answer in a few words.", "saq/questions.jsonl", overrides=("training.epochs=10",), per_subject=True
    ),
)
