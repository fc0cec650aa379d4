"""The tasks: what a row is, how it is asked and how the answer is read, one file each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lorica.errors import ConfigError
from lorica.names import closest

if TYPE_CHECKING:
    from lorica.tasks.base import Task, TaskSettings

TASKS = {
    "rules": "lorica.tasks.rules:RulesTask",
    "mcq": "lorica.tasks.mcq:McqTask",
    "saq": "lorica.tasks.saq:saq_task",
    "qa": "lorica.tasks.qa:qa_task",
}


def load_task(name: str, settings: TaskSettings) -> Task:
    """The task called `name`. Raises ConfigError for an unknown name, method or style, or clashing labels."""
    if name not in TASKS:
        close = closest(name, TASKS)
        hint = f"did you mean {close!r}? " if close else ""
        raise ConfigError(f"task.name={name!r} is not a task", fix=f"{hint}tasks: {', '.join(TASKS)}")
    module, attribute = TASKS[name].split(":")
    task: Task = getattr(importlib.import_module(module), attribute)(settings)
    return task
