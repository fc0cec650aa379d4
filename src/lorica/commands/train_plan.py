"""Which adapters a training makes, from which rows, in which folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lorica.adapters.registry import BASE, BEST, CHECKPOINTS, is_adapter
from lorica.commands.arguments import inform
from lorica.commands.rows import open_rows, table_options
from lorica.commands.trainers import check_trainable
from lorica.config.paths import local_path
from lorica.config.schema import Config
from lorica.data.group_columns import EMPTY, GroupColumns
from lorica.data.read_log import ReadLog
from lorica.errors import ConfigError, DataError
from lorica.names import subject_key, visible
from lorica.pipeline.train import TrainJob, all_rows
from lorica.records import Row
from lorica.routing import GENERAL
from lorica.tasks import TASKS
from lorica.tasks.base import Task

LAST = "last"
# Folders are written under longer names first.
_LONGEST = 255 - len(".") - len(".12345678.tmp")  # bytes


def training_root(config: Config, task: Task) -> Path:
    """The folder of all that is trained. Raises ConfigError for a file, and for an engine that trains nothing."""
    root = Path(config.run_dir or f"runs/{task.name}")
    if root.exists() and not root.is_dir():
        raise ConfigError(f"run_dir={root} is a file", fix="name a folder")
    check_trainable(config)
    return root


def plan_jobs(config: Config, task: Task, read_log: ReadLog) -> list[TrainJob]:
    """Which adapters to train from which rows; `read_log` takes what is not read.

    Raises ConfigError without a training file, with both `input` and `data`, and for a name that no folder can have.
    """
    root = training_root(config, task)
    if bool(config.input) == bool(config.data):
        complaint = "both input and data.* are set" if config.input else "no training file is set"
        raise ConfigError(complaint, fix="give input=FILE for one adapter, or data.SUBJECT=FILE for one per subject")
    if config.input:
        training_rows, _ = read_training_rows(config, task, config.input, read_log)
        if config.training.per_subject:
            return by_subject(training_rows, config.input, root)
        return [TrainJob(task.name, training_rows, config.input, root / task.name)]
    jobs: list[TrainJob] = []
    for subject, data_file in sorted(config.data.items()):
        adapter_folder = (
            _unused_folder(root, GENERAL) if subject == GENERAL else _adapter_folder(root, subject, f"data.{subject}")
        )
        file_rows, _ = read_training_rows(config, task, data_file, read_log)
        training_rows = [_of_subject(row, subject, data_file) for row in file_rows]
        jobs.append(TrainJob(subject, training_rows, data_file, adapter_folder))
    if len(jobs) > 1 and GENERAL not in config.data:
        jobs.append(TrainJob(GENERAL, all_rows(jobs), ", ".join(config.data.values()), _unused_folder(root, GENERAL)))
    return jobs


def by_subject(training_rows: Sequence[Row], source: str, root: Path) -> list[TrainJob]:
    """One adapter for each subject of the rows, and `general` over all.

    A subject in several spellings is one: its adapter has the commonest (of equals the first), and a note names them on
    standard error. Raises ConfigError without subjects, and for one that cannot be an adapter's name.
    """
    counts: dict[str, Counter[str]] = {}
    rows_by_subject: dict[str, list[Row]] = {}
    for row in training_rows:
        if row.subject:
            key = subject_key(row.subject)
            counts.setdefault(key, Counter())[row.subject] += 1
            rows_by_subject.setdefault(key, []).append(row)
    if not counts:
        fix = "add a `subject` column, or map one with task.columns.subject=NAME"
        raise ConfigError(f"training.per_subject is set, and {source} has no subjects", fix=fix)
    adapter_names = {key: spellings.most_common(1)[0][0] for key, spellings in counts.items()}
    jobs = [
        TrainJob(adapter_name, rows_by_subject[key], source, _adapter_folder(root, adapter_name, source))
        for key, adapter_name in adapter_names.items()
    ]
    for key, adapter_name in sorted(adapter_names.items()):
        if len(counts[key]) > 1:
            rows_of = ", ".join(f"{spelling!r} {count}" for spelling, count in counts[key].most_common())
            inform(f"{len(counts[key])} spellings are one subject, {adapter_name!r}; rows: {rows_of}")
    return [
        *sorted(jobs, key=lambda job: job.name),
        TrainJob(GENERAL, training_rows, source, _unused_folder(root, GENERAL)),
    ]


def _adapter_folder(root: Path, name: str, name_origin: str) -> Path:
    """The folder of a subject's adapter. A name from a file or a command line must not lead anywhere else, nor stand
    for anything else."""
    taken_names = {GENERAL: "the adapter on all rows", BASE: "the base model alone", **dict.fromkeys(TASKS, "a task")}
    taken_names |= dict.fromkeys((BEST, LAST, CHECKPOINTS), "a part of a training run")
    if meaning := taken_names.get(subject_key(name)):
        raise ConfigError(
            f"{name_origin}: the subject {name!r} cannot be the name of an adapter, for it means {meaning}",
            fix=f"rename the subject, such as '{name} (subject)'",
        )
    is_strange = name != name.strip() or name.startswith(".") or any(character in name for character in "/\\\0\n\r\t")
    if is_strange or visible(name) != name or len(name.encode()) > _LONGEST:
        fix = f"rename it: at most {_LONGEST} bytes, no slash or line break, no dot or space at its beginning"
        raise ConfigError(f"{name_origin}: the subject {name!r} cannot be the name of an adapter's folder", fix=fix)
    local_path(f"./{name}", f"{name_origin}: the subject")  # some locales cannot write every name
    return _unused_folder(root, name)


def _unused_folder(root: Path, name: str) -> Path:
    """The folder of an adapter, unless another spelling of its name is there: where capitals do not count they are one
    folder, and rows could mean either. Raises ConfigError."""
    for entry in root.iterdir() if root.is_dir() else ():
        if entry.name != name and subject_key(entry.name) == subject_key(name) and is_adapter(entry):
            fix = "train into another run_dir, or remove that folder"
            raise ConfigError(f"{root} holds the adapter {entry.name!r} already, another spelling of {name!r}", fix=fix)
    return root / name


def _of_subject(row: Row, subject: str, data_file: str) -> Row:
    """The row with its subject set: prompts may name it, and must be the same as in inference."""
    if subject == GENERAL or subject_key(row.subject) == subject_key(subject):
        return row
    if row.subject:
        problem = f"its subject is {row.subject!r}, and the file is given as data.{subject}"
        fix = "give the file as input=FILE with training.per_subject=true"
        raise DataError(problem, path=data_file, line=row.line or None, row_id=row.id, fix=fix)
    return msgspec.structs.replace(row, subject=subject)


def read_training_rows(
    config: Config, task: Task, data_file: str, read_log: ReadLog, columns: Sequence[str] = ()
) -> tuple[list[Row], Mapping[str, Mapping[str, str]]]:
    """The rows of a training file, with their documents where passages are trained with; and further `columns` of it:
    name -> row id -> text, EMPTY for none. Raises what reading raises, and DataError for a column that is not there."""
    rows_file, retrieval = Path(data_file), config.retrieval
    document_columns = [retrieval.source_column] if retrieval.train and retrieval.source_column else []
    columns_to_read = GroupColumns(task.schemas, list(dict.fromkeys((*document_columns, *columns))))
    rows = list(
        open_rows(config, task, rows_file, schemas=columns_to_read.schemas, read_log=read_log, check_row=task.target)
    )
    columns_to_read.check(rows_file, table_options(config))
    for column_name in document_columns:
        documents = columns_to_read.values[column_name]
        rows = [
            msgspec.structs.replace(row, document="" if documents[row.id] == EMPTY else documents[row.id])
            for row in rows
        ]
    return rows, columns_to_read.values
