"""Which of many runs are meant: conditions on what they were given and what they measured."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, get_args

import msgspec

from lorica.errors import UsageError
from lorica.names import did_you_mean
from lorica.runs.run_record import Status
from lorica.runs.stored_run import StoredRun

RunValue = str | int | float | bool | None

_CONDITION = re.compile(r"\s*(?P<key>[^=<>!]+?)\s*(?P<operator>!=|<=|>=|==|=|<|>)\s*(?P<wanted>.*?)\s*", re.DOTALL)
_ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_AGO = re.compile(r"(\d+)([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
# Of the record, what is no list and no table, in the order of `lorica runs`.
_PLAIN_FIELDS = ("command", "task", "started", "seconds", "calls", "rows", "base", "tokenizer", "main_metric", "error")
_TABLES = ("adapters", "versions", "summary")


@dataclass(frozen=True)
class Condition:
    """`key operator wanted`, as in lora.r=8, roc_auc>0.9, model.path=*qwen*. key: of `run_values`."""

    key: str
    operator: str
    wanted: str

    def holds(self, run_value: RunValue) -> bool:
        """Whether a run's value meets it. Numbers are compared as numbers, texts as texts, `*` and `?` in a wanted text
        stand for anything. A run without the value never does. Raises UsageError for a text held against a number."""
        if run_value is None:
            return False
        number, wanted_number = _as_number(run_value), _as_number(self.wanted)
        if self.operator in ("=", "==", "!="):
            if number is not None and wanted_number is not None:
                equal = number == wanted_number
            else:
                text, wanted_text = _as_text(run_value).lower(), self.wanted.lower()
                equal = text == wanted_text or fnmatchcase(text, wanted_text)
            return equal != (self.operator == "!=")
        if number is not None and wanted_number is None:
            raise UsageError(
                f"{self.key}{self.operator}{self.wanted}: {self.key} is a number, here {number:g}",
                fix=f"--where '{self.key}{self.operator}0.5'",
            )
        if number is not None and wanted_number is not None:
            return bool(_ORDERS[self.operator](number, wanted_number))
        return bool(_ORDERS[self.operator](_as_text(run_value), self.wanted))


def parse_condition(condition_text: str) -> Condition:
    """`lora.r=8`, `roc_auc>0.9`, `seconds<=60`, `model.path!=*tiny*`. Raises UsageError for anything else."""
    match = _CONDITION.fullmatch(condition_text)
    if match is None:
        raise UsageError(
            f"--where {condition_text}: no condition; allowed: KEY=VALUE, !=, <, <=, >, >=",
            fix="as in --where lora.r=8 or --where 'roc_auc>0.9'",
        )
    return Condition(match["key"], match["operator"], match["wanted"])


def parse_since(since_text: str, *, now: datetime) -> datetime:
    """`2026-11-30`, `2026-11-30T06:00`, or `2d`, `3h`, `30m` ago; UTC where no zone is named. Raises UsageError."""
    if (match := _AGO.fullmatch(since_text)) is not None:
        try:
            return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        return _in_utc(since_text)
    except ValueError as error:
        raise UsageError(
            f"--since {since_text}: {error}", fix="a date or time as 2026-11-30T06:00, or 2d, 3h, 30m ago"
        ) from error


def run_values(run: StoredRun) -> dict[str, RunValue]:
    """Every plain value of a run by a dotted key: of the record, `machine.cores`, `versions.torch`, the configuration's
    `lora.r`, and the metrics by their names. What two of them call alike is the record's, then the metric's."""
    record = run.record
    values: dict[str, RunValue] = {"run": run.name, "status": run.status}
    values |= {name: getattr(record, name) for name in _PLAIN_FIELDS}
    metrics = {name: metric.value for name, metric in run.metrics.items()}
    tables = {name: getattr(record, name) for name in _TABLES}
    tables["machine"] = msgspec.to_builtins(record.machine) if record.machine is not None else {}
    return {**flatten(record.config), **flatten(tables), **metrics, **values}


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, RunValue]:
    """Nested tables by dotted keys; lists as a command line writes them, `[a,b]`."""
    values: dict[str, RunValue] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            values |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            values[prefix + key] = f"[{','.join(map(_as_text, value))}]"
        else:
            values[prefix + key] = value
    return values


def select_runs(
    runs: Sequence[StoredRun],
    *,
    commands: Sequence[str] = (),
    tasks: Sequence[str] = (),
    statuses: Sequence[str] = (),
    since: datetime | None = None,
    conditions: Sequence[Condition] = (),
) -> list[StoredRun]:
    """The runs that meet everything that is asked. commands, tasks, statuses: one of these; () any.

    Raises UsageError for a key that no run has, with the nearest that one has, for a command or task that no run has
    and one nearly has, and for a status that there is not.
    """
    for status in statuses:
        if status not in (allowed := get_args(Status)):
            raise UsageError(f"status {status!r}; allowed: {', '.join(allowed)}", fix=did_you_mean(status, allowed))
    _refuse_misspelt("--command", commands, {run.record.command for run in runs})
    _refuse_misspelt("--task", tasks, {run.record.task for run in runs})
    values_by_run = [run_values(run) for run in runs]
    for condition in conditions:
        check_key(condition.key, values_by_run, option="--where")
    return [
        run
        for run, values in zip(runs, values_by_run, strict=True)
        if (not commands or run.record.command in commands)
        and (not tasks or run.record.task in tasks)
        and (not statuses or run.status in statuses)
        and (since is None or _started(run) >= since)
        and all(condition.holds(values.get(condition.key)) for condition in conditions)
    ]


def sort_runs(runs: Sequence[StoredRun], key: str, *, descending: bool = False) -> list[StoredRun]:
    """The runs by a key of `run_values`, those without it last. Raises UsageError as `select_runs`."""
    values_by_run = [run_values(run) for run in runs]
    check_key(key, values_by_run, option="--sort")
    with_value = [index for index in range(len(runs)) if values_by_run[index].get(key) is not None]
    without = [run for index, run in enumerate(runs) if values_by_run[index].get(key) is None]
    with_value.sort(key=lambda index: _sort_key(values_by_run[index][key]), reverse=descending)
    return [*(runs[index] for index in with_value), *without]


def check_key(key: str, values_by_run: Sequence[Mapping[str, RunValue]], *, option: str) -> None:
    """Raises UsageError for a key that no run has; without any run every key is as good as another."""
    if not values_by_run or any(key in values for values in values_by_run):
        return
    keys = sorted({name for values in values_by_run for name in values})
    raise UsageError(
        f"{option} {key}: no run has such a key or metric",
        fix=did_you_mean(key, keys, otherwise="`lorica runs show RUN --json` prints what a run has"),
    )


def _refuse_misspelt(option: str, wanted_names: Sequence[str], names: Collection[str]) -> None:
    for name in wanted_names:
        if name not in names and (fix := did_you_mean(name, sorted(names))):
            raise UsageError(f"{option} {name}: no run has it", fix=fix)


def _started(run: StoredRun) -> datetime:
    try:
        return _in_utc(run.record.started)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _in_utc(time_text: str) -> datetime:
    """A time as ISO 8601 has it; UTC where no zone is named. Raises ValueError."""
    time = datetime.fromisoformat(time_text)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _as_number(value: RunValue) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sort_key(value: RunValue) -> tuple[int, float, str]:
    number = _as_number(value)
    return (0, number, "") if number is not None else (1, 0.0, _as_text(value))
