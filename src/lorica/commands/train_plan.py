"""Which adapters a training makes, from which rows, in which folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lorica.adapters.registry import BASE, BEST, CHECKPOINTS, is_adapter
from lorica.commands.arguments import inform
from lorica.commands.rows import open_rows
from lorica.config.paths import local_path
from lorica.config.schema import Config
from lorica.data.read_log import ReadLog
from lorica.errors import ConfigError, DataError
from lorica.names import subject_key, visible
from lorica.pipeline.train import TrainJob
from lorica.records import Row
from lorica.routing import GENERAL
from lorica.tasks import TASKS
from lorica.tasks.base import Task

LAST = "last"
# Folders are written under longer names first.
_LONGEST = 255 - len(".") - len(".12345678.tmp")  # bytes


def plan_jobs(config: Config, task: Task, log: ReadLog) -> list[TrainJob]:
    """Which adapters to train from which rows; `log` takes what is not read.

    Raises ConfigError without a training file, with both `input` and `data`, and for a name that no folder can have.
    """
    root = Path(config.run_dir or f"runs/{task.name}")
    if root.exists() and not root.is_dir():
        raise ConfigError(f"run_dir={root} is a file", fix="name a folder")
    if config.engine.name != "native":
        raise ConfigError(
            f"engine={config.engine.name} cannot train", fix="leave engine=native; the adapters run on every engine"
        )
    if bool(config.input) == bool(config.data):
        got = "both input and data.* are set" if config.input else "no training file is set"
        raise ConfigError(got, fix="give input=FILE for one adapter, or data.SUBJECT=FILE for one per subject")
    if config.input:
        rows = _read(config, task, config.input, log)
        if config.training.per_subject:
            return by_subject(rows, config.input, root)
        return [TrainJob(task.name, rows, config.input, root / task.name)]
    jobs = []
    everything: list[Row] = []
    for subject, file in sorted(config.data.items()):
        folder = (
            _unused_folder(root, GENERAL) if subject == GENERAL else _adapter_folder(root, subject, f"data.{subject}")
        )
        rows = [_of_subject(row, subject, file) for row in _read(config, task, file, log)]
        jobs.append(TrainJob(subject, rows, file, folder))
        everything += rows
    if len(jobs) > 1 and GENERAL not in config.data:
        jobs.append(TrainJob(GENERAL, everything, ", ".join(config.data.values()), _unused_folder(root, GENERAL)))
    return jobs


def by_subject(rows: Sequence[Row], source: str, root: Path) -> list[TrainJob]:
    """One adapter for each subject of the rows, and `general` over all.

    A subject in several spellings is one: its adapter has the commonest (of equals the first), and a note names them on
    standard error. Raises ConfigError without subjects, and for one that cannot be an adapter's name.
    """
    counts: dict[str, Counter[str]] = {}
    members: dict[str, list[Row]] = {}
    for row in rows:
        if row.subject:
            key = subject_key(row.subject)
            counts.setdefault(key, Counter())[row.subject] += 1
            members.setdefault(key, []).append(row)
    if not counts:
        raise ConfigError(
            f"training.per_subject is set, and {source} has no subjects",
            fix="add a `subject` column, or map one with task.columns.subject=NAME",
        )
    names = {key: same.most_common(1)[0][0] for key, same in counts.items()}
    jobs = [TrainJob(name, members[key], source, _adapter_folder(root, name, source)) for key, name in names.items()]
    for key, name in sorted(names.items()):
        if len(counts[key]) > 1:
            rows_of = ", ".join(f"{spelling!r} {count}" for spelling, count in counts[key].most_common())
            inform(f"{len(counts[key])} spellings are one subject, {name!r}; rows: {rows_of}")
    return [*sorted(jobs, key=lambda job: job.name), TrainJob(GENERAL, rows, source, _unused_folder(root, GENERAL))]


def _adapter_folder(root: Path, name: str, origin: str) -> Path:
    """The folder of a subject's adapter. A name from a file or a command line must not lead anywhere else, nor stand
    for anything else."""
    taken = {GENERAL: "the adapter on all rows", BASE: "the base model alone", **dict.fromkeys(TASKS, "a task")}
    taken |= dict.fromkeys((BEST, LAST, CHECKPOINTS), "a part of a training run")
    if meaning := taken.get(subject_key(name)):
        raise ConfigError(
            f"{origin}: the subject {name!r} cannot be the name of an adapter, for it means {meaning}",
            fix=f"rename the subject, such as '{name} (subject)'",
        )
    strange = name != name.strip() or name.startswith(".") or any(mark in name for mark in "/\\\0\n\r\t")
    if strange or visible(name) != name or len(name.encode()) > _LONGEST:
        raise ConfigError(
            f"{origin}: the subject {name!r} cannot be the name of an adapter's folder",
            fix=f"rename it: at most {_LONGEST} bytes, no slash or line break, no dot or space at its beginning",
        )
    local_path(f"./{name}", f"{origin}: the subject")  # some locales cannot write every name
    return _unused_folder(root, name)


def _unused_folder(root: Path, name: str) -> Path:
    """The folder of an adapter, unless another spelling of its name is there: where capitals do not count they are one
    folder, and rows could mean either. Raises ConfigError."""
    for entry in root.iterdir() if root.is_dir() else ():
        if entry.name != name and subject_key(entry.name) == subject_key(name) and is_adapter(entry):
            raise ConfigError(
                f"{root} holds the adapter {entry.name!r} already, another spelling of {name!r}",
                fix="train into another run_dir, or remove that folder",
            )
    return root / name


def _of_subject(row: Row, subject: str, file: str) -> Row:
    """The row with its subject set: prompts may name it, and must be the same as in inference."""
    if subject == GENERAL or subject_key(row.subject) == subject_key(subject):
        return row
    if row.subject:
        raise DataError(
            f"its subject is {row.subject!r}, and the file is given as data.{subject}",
            path=file,
            line=row.line or None,
            row_id=row.id,
            fix="give the file as input=FILE with training.per_subject=true",
        )
    return msgspec.structs.replace(row, subject=subject)


def _read(config: Config, task: Task, file: str, log: ReadLog) -> list[Row]:
    return list(open_rows(config, task, Path(file), log=log, check=task.target))
