"""Runs side by side: what differs between them, and whether their metrics can be held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lorica.names import shell_line
from lorica.runs.run_record import RunFile, RunMetric, output_of
from lorica.runs.select_runs import RunValue, flatten
from lorica.runs.stored_run import StoredRun

# What is measured is only comparable on equal files of these roles; answers and models are what is compared.
_MEASURED_ON = ("rows", "gold")
_PLAIN_FIELDS = ("command", "task", "base", "tokenizer")
_IN_OTHER_GROUPS = ("input", "output", "base", "tokenizer", "model")
_PREFIXES_IN_OTHER_GROUPS = ("adapter.", "version.", "task.", "data.", "inference.")
# Configuration that differs between any two runs and decides nothing.
_PLACES = ("input", "output", "run_dir")


@dataclass(frozen=True)
class Difference:
    """One fact in which runs differ. group: "configuration", "inputs", ... values: of each run; None where it has
    none."""

    group: str
    key: str
    values: tuple[RunValue, ...]


@dataclass(frozen=True)
class RunComparison:
    """names: of the runs. differences: by group. metrics: name -> of each run. notes: why metrics are not comparable.
    commands: what compares the answers row by row, where that is possible."""

    names: tuple[str, ...]
    differences: tuple[Difference, ...]
    metrics: Mapping[str, tuple[RunMetric | None, ...]]
    notes: tuple[str, ...]
    commands: tuple[str, ...]


def compare_runs(runs: Sequence[StoredRun]) -> RunComparison:
    """Two runs or more, in their order."""
    metric_names = dict.fromkeys(name for run in runs for name in run.metrics)
    return RunComparison(
        tuple(run.name for run in runs),
        tuple(_differences(runs)),
        {name: tuple(run.metrics.get(name) for run in runs) for name in metric_names},
        tuple(_notes(runs)),
        tuple(_commands(runs)),
    )


def _differences(runs: Sequence[StoredRun]) -> list[Difference]:
    groups: dict[str, list[dict[str, RunValue]]] = {
        "run": [{name: getattr(run.record, name) for name in _PLAIN_FIELDS} for run in runs],
        "configuration": [
            {key: value for key, value in flatten(run.record.config).items() if key not in _PLACES} for run in runs
        ],
        "computation": [_computation(run) for run in runs],
        "inputs": [_file_digests(run.record.inputs) for run in runs],
        "adapters": [dict(run.record.adapters) for run in runs],
        "versions": [dict(run.record.versions) for run in runs],
        "machine": [_machine(run) for run in runs],
    }
    return [
        Difference(group, key, values)
        for group, tables in groups.items()
        for key in dict.fromkeys(key for table in tables for key in table)
        if len(set(values := tuple(table.get(key) for table in tables))) > 1
    ]


def _file_digests(files: Sequence[RunFile]) -> dict[str, RunValue]:
    """Role, numbered where there are several, -> name and digest: equal names may hold different rows."""
    digests: dict[str, RunValue] = {}
    for file in files:
        earlier = sum(key.split(" ")[0] == file.role for key in digests)
        digests[f"{file.role} {earlier + 1}" if earlier else file.role] = f"{file.digest} ({Path(file.path).name})"
    return digests


def _computation(run: StoredRun) -> dict[str, RunValue]:
    """What of a manifest no other group has: template, engine, attention, indexes of knowledge bases, ..."""
    return {
        key: value
        for key, value in run.record.manifest.items()
        if key not in _IN_OTHER_GROUPS and not key.startswith(_PREFIXES_IN_OTHER_GROUPS)
    }


def _machine(run: StoredRun) -> dict[str, RunValue]:
    if run.record.machine is None:
        return {}
    facts = flatten(msgspec.to_builtins(run.record.machine))
    return {key: value for key, value in facts.items() if key != "digest"}


def _notes(runs: Sequence[StoredRun]) -> list[str]:
    notes = []
    if len({run.record.command for run in runs}) > 1:
        notes.append("The runs are of different commands: their metrics measure different things.")
    if len({_measured_on(run) for run in runs}) > 1:
        notes.append("The runs were measured on different rows: their metrics are not comparable.")
    machines = {run.record.machine.digest if run.record.machine is not None else "" for run in runs}
    if len(machines) > 1 or "" in machines:
        notes.append("The machines differ: seconds are not comparable.")
    notes += [f"{run.name} is {run.status}: its metrics may be missing." for run in runs if run.status != "finished"]
    return notes


def _measured_on(run: StoredRun) -> tuple[str, ...]:
    return tuple(sorted(file.digest for file in run.record.inputs if file.role in _MEASURED_ON))


def _commands(runs: Sequence[StoredRun]) -> list[str]:
    """`lorica eval A B GOLD` for answers to the same rows with gold."""
    sources = [_answers_and_gold(run) for run in runs]
    complete = [source for source in sources if source is not None]
    if len(complete) < len(runs) or len({gold.digest for _, gold in complete}) > 1:
        return []
    answer_files = list(dict.fromkeys(path for answers, _ in complete for path in answers))
    if len(answer_files) < 2 or len({run.record.task for run in runs}) > 1:
        return []
    words = [*answer_files, complete[0][1].path, f"task={runs[0].record.task}", *_reading_overrides(runs[0])]
    return [shell_line("lorica", "eval", *words)]


def _answers_and_gold(run: StoredRun) -> tuple[list[str], RunFile] | None:
    """The paths of the answers that a run wrote or measured, and the rows with gold that they answer."""
    record = run.record
    answers = [file.path for file in (*record.outputs, *record.inputs) if file.role == "answers"]
    beside = output_of(run.path)
    if record.command == "infer" and beside != run.path and beside.is_file():
        answers = [str(beside)]  # wherever the run was started, and whereto its files were moved since
    gold = [file for file in record.inputs if file.role == "gold" or (file.role == "rows" and file.gold)]
    return (answers, gold[0]) if answers and gold else None


def _reading_overrides(run: StoredRun) -> list[str]:
    """How the rows were read, where the user said so: mapped columns, constants, quoting."""
    values = flatten(run.record.config)
    return [
        f"{key}={values[key]}"
        for key, origin in run.record.origins.items()
        if key.startswith(("task.", "data.")) and origin == "command line" and key in values and key != "task.name"
    ]
