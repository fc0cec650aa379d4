"""The tasks of `lorica demo`, and the shipped examples they use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoTask:
    """One of the demo's tasks: what it asks, the file it trains on, the file its figures come from, and what differs
    from the common settings."""

    name: str
    question: str
    file: str
    test_file: str
    overrides: tuple[str, ...] = ()
    per_subject: bool = False


# Chosen on rows of the training files and of the validation files; the test files had no say (examples/README.md).
TASKS = (
    DemoTask(
        "rules",
        "Does this post break this community rule?",
        "rules/posts.csv",
        "rules/test.csv",
        overrides=("training.epochs=6",),
    ),
    DemoTask(
        "mcq",
        "Which form of the verb is right?",
        "mcq/questions.jsonl",
        "mcq/test.jsonl",
        overrides=("task.method=likelihood", "training.batch_size=8"),
    ),
    DemoTask(
        "saq",
        "What does the message say? Answer in a word.",
        "saq/questions.jsonl",
        "saq/test.jsonl",
        overrides=("training.batch_size=8", "training.learning_rate=2e-3"),
        per_subject=True,
    ),
)
