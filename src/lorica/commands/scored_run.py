"""The runs that `lorica score` ranks: their records, answers and timings, held against each other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lorica.commands.arguments import resolve
from lorica.commands.gold_file import GoldFile, read_gold
from lorica.data.row_timings import read_timings
from lorica.errors import DataError, UsageError
from lorica.records import RowTiming
from lorica.runs.run_record import RECORD_NAME, TIMINGS_NAME, RunFile, RunRecord, output_of, run_folder_of
from lorica.runs.stored_run import check_unchanged, file_of_role, load_run

# How the file of rows is read that was answered: what a gold file is read by, too.
_READING_KEYS = ("columns", "constants", "positive_labels", "negative_labels", "answer_numbers")
# Keys that decide neither answers nor speed.
_NAMES_ALONE = ("output", "run_dir", "minutes")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of `lorica infer`. name: as it was given. timings: of its rows by id; warmup_rows: of the file,
    whose timings are not among them."""

    name: str
    folder: Path
    record: RunRecord
    answers_path: Path
    timings: Mapping[str, RowTiming]
    warmup_rows: int

    @property
    def rows_file(self) -> RunFile:
        """The file that was answered."""
        return file_of_role(self.record.inputs, "rows", self.folder)


def is_run(path: Path) -> bool:
    """Whether a word of the command line names a run: its folder, or the output beside it."""
    return (path / RECORD_NAME).exists() or (run_folder_of(path) / RECORD_NAME).exists()


def open_run(path: Path) -> FinishedRun:
    """A run by its folder or its output. Raises DataError for one that is not there, did not finish, measured nothing,
    or whose files were changed since."""
    stored = load_run(path)
    folder, record = stored.path, stored.record
    if record.command != "infer":
        raise DataError(
            f"a run of `lorica {record.command}` has no latency", path=folder, fix="name a run of `lorica infer`"
        )
    if stored.status != "finished":
        problem = f"the run is not finished ({stored.status}{': ' + record.error if record.error else ''})"
        fix = "finish it: the same command with inference.resume=true"
        raise DataError(problem, path=folder, fix=fix)
    answers_file = file_of_role(record.outputs, "answers", folder)
    answers_path = output_of(folder)
    check_unchanged(answers_path, answers_file)
    timings_path = folder / TIMINGS_NAME
    if not timings_path.exists():
        raise DataError(
            "the run has no timings", path=folder, fix="answer the rows again: a former version measured none"
        )
    check_unchanged(timings_path, file_of_role(record.outputs, "timings", folder))
    timings = read_timings(timings_path)
    by_id = {timing.id: timing for timing in timings if not timing.warmup}
    if not by_id:
        raise DataError("the run has no rows", path=folder, fix="answer a file with rows")
    if not any(timing.seconds for timing in by_id.values()):
        raise DataError(
            "all its rows took 0 seconds: the engine measured nothing", path=timings_path, fix="use engine=native"
        )
    return FinishedRun(str(path), folder, record, answers_path, by_id, len(timings) - len(by_id))


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Raise UsageError for a run that is there twice, DataError naming what differs where runs cannot be put on one
    scale: task, rows or machine."""
    folders: dict[Path, str] = {}
    for run in runs:
        if (twin := folders.setdefault(run.folder.resolve(), run.name)) != run.name or runs.count(run) > 1:
            raise UsageError(f"{run.name} and {twin} are one run", fix="name each run once")
    first = runs[0]
    for run in runs[1:]:
        if run.record.task != first.record.task:
            raise _incomparable(first, run, f"tasks: {first.record.task} and {run.record.task}")
        if run.rows_file.digest != first.rows_file.digest:
            raise _incomparable(first, run, f"rows: {first.rows_file.path} and {run.rows_file.path} differ in bytes")
        if differing := _machine_differences(first.record, run.record):
            raise _incomparable(first, run, f"machines: {differing}")
        if run.timings.keys() != first.timings.keys():
            row_id = min(run.timings.keys() ^ first.timings.keys())
            raise _incomparable(first, run, f"rows: only one of them has {row_id!r}")


def _incomparable(first: FinishedRun, second: FinishedRun, difference: str) -> DataError:
    return DataError(
        f"cannot be put on one scale with {first.name}: they are of different {difference}",
        path=second.name,
        fix="answer the same rows on the same machine; a latency says nothing on another",
    )


def _machine_differences(first: RunRecord, second: RunRecord) -> str:
    """What differs of two machines, as text; "" where they are one."""
    if first.machine is None or second.machine is None:
        return "" if first.machine is second.machine else "one record names no machine"
    if first.machine.digest == second.machine.digest:
        return ""
    facts, other_facts = (msgspec.to_builtins(record.machine) for record in (first, second))
    differing = [
        f"{name} {facts[name]} and {other_facts[name]}"
        for name in facts
        if name not in ("digest", "memory_bytes", "threads", "kernels") and facts[name] != other_facts[name]
    ]
    return "; ".join(differing) or "their digests differ"


def measured_noise(runs: Sequence[FinishedRun]) -> float:
    """How much the latency of one command varies from run to run: the pooled standard deviation of its logarithm over
    runs that differ in nothing that decides their speed; 0 where no command was run twice."""
    repeats: dict[str, list[float]] = {}
    for run in runs:
        seconds = sum(timing.seconds for timing in run.timings.values())
        repeats.setdefault(_command_of(run.record), []).append(math.log(seconds / len(run.timings)))
    freedom = sum(len(logs) - 1 for logs in repeats.values())
    squares = sum((value - sum(logs) / len(logs)) ** 2 for logs in repeats.values() for value in logs)
    return math.sqrt(squares / freedom) if freedom else 0.0


def _command_of(record: RunRecord) -> str:
    """All that decides answers and speed, as text: equal for runs of one command."""
    settings = {key: value for key, value in record.config.items() if key not in _NAMES_ALONE}
    settings["inference"] = {
        key: value for key, value in settings.get("inference", {}).items() if key not in ("resume", "warmup")
    }
    manifest = {key: value for key, value in record.manifest.items() if key != "output"}
    return json.dumps([settings, manifest], sort_keys=True)


def read_runs_gold(runs: Sequence[FinishedRun], gold_path: Path | None) -> GoldFile:
    """The rows with gold that all runs answered: a file of them, or the one that was answered itself.

    Raises DataError where that was changed since, has no gold, or where a run has a row of it not, or one more.
    """
    first = runs[0]
    if gold_path is None:
        gold_path = Path(first.rows_file.path)
        if not gold_path.exists():
            raise DataError("the rows that were answered are gone", path=gold_path, fix="name the file with gold last")
        check_unchanged(gold_path, first.rows_file)
    task_values = first.record.config.get("task", {})
    settings: dict[str, Any] = {f"task.{key}": task_values[key] for key in _READING_KEYS if task_values.get(key)}
    settings |= {
        f"data.{key}": value
        for key, value in first.record.config.get("data", {}).items()
        if key in ("quoting", "delimiter", "sheet", "bad_rows") and value
    }
    gold = read_gold(resolve({"task": first.record.task, **settings}).config, gold_path, [])
    if not gold.rows:
        raise DataError("there are no rows to score", path=gold_path, fix="name a file with rows and gold answers")
    for run in runs:
        missing = [row.id for row in gold.rows if row.id not in run.timings]
        if missing:
            problem = f"{len(missing)} of {len(gold.rows)} rows of {gold_path} have no timing"
            fix = "score against the file that was answered"
            raise DataError(problem, path=run.folder / TIMINGS_NAME, row_id=missing[0], fix=fix)
    return gold
