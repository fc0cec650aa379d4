"""`run.json`: what a run was given, on which machine it ran, and how it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from lorica.adapters.json_document import read_capped, read_json, short_text
from lorica.errors import DataError
from lorica.metrics.bootstrap import Estimate
from lorica.names import json_values

RECORD_NAME = "run.json"
METRICS_NAME = "metrics.json"
LOG_NAME = "log.jsonl"
TIMINGS_NAME = "timings.jsonl"
REPORT_NAME, REPORT_ROWS_NAME = "report.html", "report.csv"
RUN_SUFFIX = ".run"
"""`infer` keeps the run of `answers.csv` in `answers.csv.run/`."""

FORMER_RECORD_SUFFIX = ".run.json"
"""Of the single file that Lorica kept beside an output before there were run folders."""

SCHEMA = "lorica.run/1"
_MAX_BYTES = 32 * 1024 * 1024

_Content = TypeVar("_Content")

Status = Literal["running", "finished", "interrupted", "failed"]


def run_folder_of(output_path: Path) -> Path:
    """Where `infer` keeps the run of this output."""
    return output_path.with_name(output_path.name + RUN_SUFFIX)


def output_of(run_folder: Path) -> Path:
    """The output of `infer` that this run folder is of, wherever both were moved."""
    return run_folder.with_name(run_folder.name.removesuffix(RUN_SUFFIX))


class RunFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that a run read or wrote. role: "rows", "answers", "gold", ... digest: "sha256:...". rows: in it, and how
    many of them have a gold answer; None where nobody counted."""

    role: str
    path: str
    digest: str
    rows: int | None = None
    gold: int | None = None


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The machine of a run. digest: of all that decides how fast it can be, without what the run set (threads, kernels)
    and without memory, of which a container's limit leaves now more, now less. No host and no user is named."""

    digest: str
    system: str
    processor: str
    architecture: str
    cores: int
    memory_bytes: int
    instruction_sets: tuple[str, ...] = ()
    limits: dict[str, str] = {}
    accelerator: str = ""
    accelerator_memory_bytes: int = 0
    threads: int = 0
    kernels: str = ""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `run.json` holds. command: "infer". command_line: as it was typed, without secrets. config, origins: every
    key's value, and who set it. manifest: all that decides the result, as a resume compares it. base, tokenizer:
    digests; adapters: name -> digest. started: ISO 8601, UTC, of the first call. calls: 1 and how often the run was
    resumed. seconds: wall time of the last call. error: why it did not finish. main_metric: the name in `metrics.json`
    that stands for the run. summary: counts of the command's own."""

    schema: str = SCHEMA
    command: str
    command_line: str = ""
    task: str = ""
    status: Status = "running"
    error: str = ""
    started: str = ""
    seconds: float = 0.0
    calls: int = 1
    rows: int | None = None
    main_metric: str = ""
    config: dict[str, Any] = {}
    origins: dict[str, str] = {}
    manifest: dict[str, str] = {}
    inputs: list[RunFile] = []
    outputs: list[RunFile] = []
    base: str = ""
    tokenizer: str = ""
    adapters: dict[str, str] = {}
    versions: dict[str, str] = {}
    machine: MachineFacts | None = None
    summary: dict[str, Any] = {}

    def __post_init__(self) -> None:
        _require_finite(self.seconds)


class RunMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `metrics.json`; None where it is undefined or has no interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        for number in (self.value, self.low, self.high):
            _require_finite(number)


def to_metric(measured: Estimate | RunMetric | float) -> RunMetric:
    """An estimate, or a plain number, as an entry of `metrics.json`."""
    if isinstance(measured, RunMetric):
        return measured
    if isinstance(measured, Estimate):
        return RunMetric(
            value=_finite(measured.value), low=_finite(measured.low), high=_finite(measured.high), n=measured.n
        )
    return RunMetric(value=_finite(measured))


def record_json(content: object) -> bytes:
    """A record, or metrics by name, as the bytes of its file."""
    return json.dumps(json_values(content), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_record(folder: Path) -> RunRecord:
    """`run.json` of a run folder. Raises DataError saying why it cannot be used: missing, damaged, another program's,
    of a later version."""
    record_path = folder / RECORD_NAME
    values = _read_object(record_path)
    schema = values.get("schema")
    if not isinstance(schema, str) or not schema.startswith("lorica.run/"):
        raise DataError("not a record of Lorica", path=record_path, fix="it is another program's")
    if schema != SCHEMA:
        raise DataError(
            f"its format is {short_text(schema, quoted=True)}, and this version reads {SCHEMA}",
            path=record_path,
            fix="a later version of Lorica wrote it: read it with that one",
        )
    return _converted(record_path, values, RunRecord)


def read_metrics(folder: Path) -> dict[str, RunMetric]:
    """`metrics.json` of a run folder; {} where there is none. Raises DataError for a damaged one."""
    metrics_path = folder / METRICS_NAME
    if not metrics_path.exists():
        return {}
    return _converted(metrics_path, _read_object(metrics_path), dict[str, RunMetric])


def _read_object(json_path: Path) -> Mapping[str, Any]:
    try:
        values, problems = read_json(read_capped(json_path, _MAX_BYTES + 1), _MAX_BYTES)
    except FileNotFoundError:
        raise DataError("there is no such file", path=json_path, fix="a run was killed at its start") from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=json_path, fix="look at it") from error
    if problems:
        raise DataError(problems[0].message, path=json_path, fix="it is damaged: run the command again")
    if not isinstance(values, dict):
        raise DataError("holds no JSON object", path=json_path, fix="it is damaged: run the command again")
    return values


def _converted(json_path: Path, values: Mapping[str, Any], content_type: type[_Content]) -> _Content:
    try:
        return msgspec.convert(values, content_type)
    except msgspec.ValidationError as error:
        raise DataError(f"damaged: {error}", path=json_path, fix="run the command again") from error


def _require_finite(number: float | None) -> None:
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{number} is no finite number")


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
