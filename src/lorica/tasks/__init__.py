"""The tasks: what a row is, how it is asked and how the answer is read."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from lorica.errors import ConfigError
from lorica.names import did_you_mean
from lorica.tasks.base import Task, TaskSettings

TASKS = {
    "rules": "lorica.tasks.rules:RulesTask",
    "mcq": "lorica.tasks.mcq:McqTask",
    "saq": "lorica.tasks.generation_task:saq_task",
    "qa": "lorica.tasks.generation_task:qa_task",
}


# What an adapter is asked of which nobody knows the task.
DEFAULT_TASK = "rules"


def load_task(task_name: str, settings: TaskSettings = TaskSettings()) -> Task:  # noqa: B008 (immutable)
    """The task called `task_name`. Raises ConfigError for an unknown name, method or style, or clashing labels."""
    if task_name not in TASKS:
        raise ConfigError(
            f"task.name={task_name!r} is not a task",
            fix=did_you_mean(task_name, TASKS, then=f"tasks: {', '.join(TASKS)}"),
        )
    module_name, attribute_name = TASKS[task_name].split(":")
    loaded_task: Task = getattr(importlib.import_module(module_name), attribute_name)(settings)
    return loaded_task


def tasks_with_other_probes(own_task: Task) -> Iterator[Task]:
    """A task, in its default settings, for each set of shipped prompts but this task's own."""
    probe_set_names = {own_task.probes.name}
    for task_name in TASKS:
        candidate = load_task(task_name)
        if candidate.probes.name not in probe_set_names:
            probe_set_names.add(candidate.probes.name)
            yield candidate
