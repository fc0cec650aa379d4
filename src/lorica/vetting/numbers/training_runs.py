"""Which adapters are of one training run: by their paths, and by what trainers log in each checkpoint.

A run leaves its checkpoints and its final model side by side. That they are alike, or equal, is no news; that an
adapter of another name is equal to one of them is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lorica.data.union_find import UnionFind
from lorica.vetting.files.archives import SUFFIXES
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import shown

Point = tuple[int, float]

_NUMBER = r"[-_=. ]?(?P<{0}>\d{{1,9}})"
_COUNTED = r"(?:checkpoint|chkpt|ckpt|(?:global[-_ ]?)?steps?|epochs?|ep|iter(?:ation)?s?)"
_RANKED = r"(?:best|last|latest|final)"
_THING = r"(?:lora|peft|adapter|model|weights|checkpoint)"
# What the end of a name says of a place in a run: "checkpoint-100", "run_step200", "500-steps", "final_model",
# "best-30".
_MARK = re.compile(
    rf"(?:^|[-_=. ])(?:{_COUNTED}{_NUMBER.format('after')}|(?P<before>\d{{1,9}})[-_ ]?{_COUNTED}"
    rf"|{_RANKED}(?:[-_ ]{_THING})?(?:{_NUMBER.format('ranked')})?)$",
    re.IGNORECASE,
)
# Names that say nothing but that an adapter, or checkpoints, are in them.
_PLAIN = re.compile(rf"(?:(?:{_THING}[-_ ]?){{1,2}}|checkpoints|ckpts)", re.IGNORECASE)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
# So many of the first logged losses, equal to the last digit, are one training's.
_TELLING = 2


class RunMember(msgspec.Struct, frozen=True):
    """What tells an adapter's run. user_path: as it was named. logged: the (step, loss) its trainer logged first.
    step: how far the training had come. signature: equal for adapters of the same modules and shapes."""

    user_path: Path
    logged: tuple[Point, ...] = ()
    step: int | None = None
    signature: str = ""


class _PathInRun(msgspec.Struct, frozen=True):
    """What a path tells. run: the folder, or the beginning of the paths, that its run has in common. own: whether the
    adapter bears that very name, and is no checkpoint by its path. step: the number in its name."""

    run: str
    own: bool
    step: int | None


def find_runs(members: Sequence[RunMember]) -> list[int]:
    """For each member the number of the first that is of the same run; its own where there is none before it.

    Paths tell first: `run/checkpoint-100`, `run/checkpoints/step-5`, `run-step200`, `run/best` and `run` itself are one
    run. Then equal logs, wherever they lie; but two adapters that stand at one step of a training are one and its copy
    under another name, unless the one is the last checkpoint and the other the model that the run published.
    """
    run_paths = [_path_in_run(member.user_path) for member in members]
    by_path: dict[str, list[int]] = {}
    for number, run_path in enumerate(run_paths):
        by_path.setdefault(run_path.run, []).append(number)
    groups_by_log: dict[tuple[Point, ...], list[list[int]]] = {}
    for member_indices in by_path.values():
        logs = {members[index].logged[:_TELLING] for index in member_indices}
        for log in logs:
            if len(log) == _TELLING:
                groups_by_log.setdefault(log, []).append(member_indices)
    joined_runs = UnionFind(len(members))
    for member_indices in by_path.values():
        joined_runs.join_all(member_indices)
    for groups in groups_by_log.values():
        # The adapter that came furthest is the run's own; what else bears a name of its own is measured by it.
        groups.sort(key=lambda indices: -max(_step(members[index], run_paths[index]) or 0 for index in indices))
        run_indices = groups[0]
        for member_indices in groups[1:]:
            agrees = _agree(members, run_indices, member_indices)
            if agrees and not _is_renamed_copy(members, run_paths, run_indices, member_indices):
                run_indices = [*run_indices, *member_indices]
        joined_runs.join_all(run_indices)
    return list(map(joined_runs.find, range(len(members))))


def named_steps(members: Sequence[RunMember]) -> list[int | None]:
    """The step that each member's own path gives it."""
    return [_path_in_run(member.user_path).step for member in members]


def _agree(members: Sequence[RunMember], run_indices: Sequence[int], group_indices: Sequence[int]) -> bool:
    """Whether the logs say the same as far as both go."""
    logs = [members[index].logged for index in (*run_indices, *group_indices) if members[index].logged]
    longest = max(logs, key=len)
    return all(log == longest[: len(log)] for log in logs)


def _is_renamed_copy(
    members: Sequence[RunMember],
    run_paths: Sequence[_PathInRun],
    run_indices: Sequence[int],
    group_indices: Sequence[int],
) -> bool:
    """Whether a group of equal logs is not more of the run but a copy of it: both stand at one step, or say none."""
    run_steps, group_steps = (
        {_step(members[index], run_paths[index]) for index in indices} for indices in (run_indices, group_indices)
    )
    steps = {step for step in run_steps | group_steps if step is not None}
    if len(steps) < len(run_steps | group_steps):
        return True
    run_named, group_named = (
        any(run_paths[index].own for index in indices) for indices in (run_indices, group_indices)
    )
    shared = run_steps & group_steps
    return bool(shared) and not (shared == {max(steps)} and run_named != group_named)


def _step(member: RunMember, run_path: _PathInRun) -> int | None:
    return member.step if run_path.step is None else run_path.step


def _path_in_run(user_path: Path) -> _PathInRun:
    absolute_path = os.path.abspath(user_path)
    folder, base_name = os.path.split(absolute_path)
    lower_name = base_name.lower()
    suffix = ""
    if lower_name.startswith(("adapter_model.", "adapter_config.")):
        folder, base_name = os.path.split(folder)
    else:
        suffix = next((extension for extension in (*_WEIGHTS, *SUFFIXES) if lower_name.endswith(extension)), "")
        base_name = base_name[: len(base_name) - len(suffix)]
    own_path, step = os.path.join(folder, base_name), None
    while base_name:
        if step_mark := _MARK.search(base_name):
            number = step_mark["after"] or step_mark["before"] or step_mark["ranked"]
            step = int(number) if step is None and number else step
            base_name = base_name[: step_mark.start()]
        elif _PLAIN.fullmatch(base_name) and not suffix:  # of loose files in one folder each has a name of its own
            base_name = ""
        else:
            break
        if not base_name:
            (folder, base_name), suffix = os.path.split(folder), ""
    run_folder = os.path.join(folder, base_name)
    return _PathInRun(run_folder, own=run_folder == own_path, step=step)


def check_runs(members: Sequence[RunMember], adapter_names: Sequence[str]) -> dict[str, list[Finding]]:
    """A note for each adapter that has others of its run beside it, with the run's order.

    adapter_names: of the members.
    """
    findings: dict[str, list[Finding]] = {}
    groups: dict[tuple[int, str], list[int]] = {}
    for index, run_number in enumerate(find_runs(members)):
        groups.setdefault((run_number, members[index].signature), []).append(index)
    for member_indices in groups.values():
        if len(member_indices) < 2:
            continue
        run_paths = {index: _path_in_run(members[index].user_path) for index in member_indices}
        orders = {index: _order(members[index], run_paths[index], adapter_names[index]) for index in member_indices}
        ordered_members = sorted(orders, key=lambda index: orders[index])
        steps = [_step(members[index], run_paths[index]) for index in ordered_members]
        common = run_paths[ordered_members[-1]].run
        run_title, names = os.path.basename(common) or common, [adapter_names[index] for index in ordered_members]
        for position, index in enumerate(ordered_members):
            step_text = "" if steps[position] is None else f", step {steps[position]}"
            actual = f"number {position + 1} of {len(ordered_members)} of the run {shown(run_title, 60)}{step_text}"
            facts = {"run": run_title, "members": names, "steps": steps, "position": position + 1}
            findings[adapter_names[index]] = [finding("L256", actual, facts=facts)]
    return findings


def _order(member: RunMember, run_path: _PathInRun, adapter_name: str) -> tuple[bool, int, bool, str]:
    """By step; the model that the run published comes after its checkpoints."""
    step = _step(member, run_path)
    return (
        run_path.own and run_path.step is None and step is None,
        step if step is not None else 1 << 62,
        run_path.own,
        adapter_name,
    )
