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
    paths = [_path_in_run(member.user_path) for member in members]
    by_path: dict[str, list[int]] = {}
    for number, path in enumerate(paths):
        by_path.setdefault(path.run, []).append(number)
    logs: dict[tuple[Point, ...], list[list[int]]] = {}
    for group in by_path.values():
        for log in {members[i].logged[:_TELLING] for i in group if len(members[i].logged) >= _TELLING}:
            logs.setdefault(log, []).append(group)
    runs = UnionFind(len(members))
    for group in by_path.values():
        runs.join_all(group)
    for groups in logs.values():
        # The adapter that came furthest is the run's own; what else bears a name of its own is measured by it.
        groups.sort(key=lambda group: -max(_step(members[i], paths[i]) or 0 for i in group))
        run = groups[0]
        for group in groups[1:]:
            if _agree(members, run, group) and not _is_renamed_copy(members, paths, run, group):
                run = [*run, *group]
        runs.join_all(run)
    return list(map(runs.find, range(len(members))))


def named_steps(members: Sequence[RunMember]) -> list[int | None]:
    """The step that each member's own path gives it."""
    return [_path_in_run(member.user_path).step for member in members]


def _agree(members: Sequence[RunMember], run: Sequence[int], group: Sequence[int]) -> bool:
    """Whether the logs say the same as far as both go."""
    logs = [members[i].logged for i in (*run, *group) if members[i].logged]
    longest = max(logs, key=len)
    return all(log == longest[: len(log)] for log in logs)


def _is_renamed_copy(
    members: Sequence[RunMember], paths: Sequence[_PathInRun], run: Sequence[int], group: Sequence[int]
) -> bool:
    """Whether a group of equal logs is not more of the run but a copy of it: both stand at one step, or say none."""
    steps = [{_step(members[i], paths[i]) for i in indices} for indices in (run, group)]
    if None in steps[0] | steps[1]:
        return True
    shared = steps[0] & steps[1]
    named = [any(paths[i].own for i in indices) for indices in (run, group)]
    last = max(step for step in steps[0] | steps[1] if step is not None)
    return bool(shared) and not (shared == {last} and named[0] != named[1])


def _step(member: RunMember, path: _PathInRun) -> int | None:
    return member.step if path.step is None else path.step


def _path_in_run(user_path: Path) -> _PathInRun:
    path = os.path.abspath(user_path)
    folder, name = os.path.split(path)
    lower = name.lower()
    suffix = ""
    if lower.startswith(("adapter_model.", "adapter_config.")):
        folder, name = os.path.split(folder)
    else:
        suffix = next((end for end in (*_WEIGHTS, *SUFFIXES) if lower.endswith(end)), "")
        name = name[: len(name) - len(suffix)]
    own_path, step = os.path.join(folder, name), None
    while name:
        if match := _MARK.search(name):
            number = match["after"] or match["before"] or match["ranked"]
            step = int(number) if step is None and number else step
            name = name[: match.start()]
        elif _PLAIN.fullmatch(name) and not suffix:  # of loose files in one folder each has a name of its own
            name = ""
        else:
            break
        if not name:
            (folder, name), suffix = os.path.split(folder), ""
    run = os.path.join(folder, name)
    return _PathInRun(run, own=run == own_path, step=step)


def check_runs(members: Sequence[RunMember], names: Sequence[str]) -> dict[str, list[Finding]]:
    """A note for each adapter that has others of its run beside it, with the run's order. names: of the members."""
    findings: dict[str, list[Finding]] = {}
    groups: dict[tuple[int, str], list[int]] = {}
    for i, run in enumerate(find_runs(members)):
        groups.setdefault((run, members[i].signature), []).append(i)
    for group in groups.values():
        if len(group) < 2:
            continue
        paths = {i: _path_in_run(members[i].user_path) for i in group}
        order = sorted(group, key=lambda i: _order(members[i], paths[i], names[i]))
        steps = [_step(members[i], paths[i]) for i in order]
        common = paths[order[-1]].run
        title = os.path.basename(common) or common
        for position, i in enumerate(order):
            at = "" if steps[position] is None else f", step {steps[position]}"
            actual = f"number {position + 1} of {len(order)} of the run {shown(title, 60)}{at}"
            facts = {"run": title, "members": [names[j] for j in order], "steps": steps, "position": position + 1}
            findings[names[i]] = [finding("L256", actual, facts=facts)]
    return findings


def _order(member: RunMember, path: _PathInRun, name: str) -> tuple[bool, int, bool, str]:
    """By step; the model that the run published comes after its checkpoints."""
    step = _step(member, path)
    return path.own and path.step is None and step is None, step if step is not None else 1 << 62, path.own, name
