"""Do the labels of a classifier mean what the task asks for? Whoever swaps them answers the contrary."""

from __future__ import annotations

from collections.abc import Mapping

from lorica.adapters.classifier_folder import ClassifierFolder
from lorica.adapters.member import Member
from lorica.adapters.shallow_folder import ShallowFolder
from lorica.data.read import rows_from_memory
from lorica.errors import AdapterError
from lorica.tasks.base import Task


def check_label_names(task: Task, members: Mapping[str, Member]) -> None:
    """Hold the names that classifiers give their labels against the task's; labels without names are taken in the usual
    order, label 1 for the positive one.

    Raises AdapterError for a name that the task does not know, for labels the other way round, and for a member that
    says itself that it was trained for another task.
    """
    for name, member in members.items():
        if isinstance(member, ShallowFolder) and member.config.task != task.name:
            raise AdapterError(
                f"member {name!r} ({member.path}) was trained for task={member.config.task}, and is asked "
                f"task={task.name}",
                fix=f"train one with task={task.name}, or leave it out",
            )
    named = {name: member for name, member in members.items() if isinstance(member, ClassifierFolder) and member.labels}
    if not named:
        return
    row = next(iter(rows_from_memory([task.probes.canaries()[0].record], task.schemas)))
    read = task.answer_parser(())
    for name, classifier in named.items():
        numbers = (0, 1)[-classifier.logits :]  # one logit is label 1
        for number, label in zip(numbers, classifier.labels, strict=True):
            try:
                meaning = read(row, label)
            except ValueError as error:
                raise AdapterError(
                    f"classifier {name!r} ({classifier.path}) has the label {label!r}: {error}",
                    fix=getattr(error, "fix", "") or "use a classifier that was trained for the task",
                ) from error
            if meaning != number:
                raise AdapterError(
                    f"classifier {name!r} ({classifier.path}): its label {number} is {label!r}, which the task reads "
                    f"as label {meaning}",
                    fix="it answers the contrary of the task: exchange the two in id2label and in the rows of its head",
                )
