"""What `lorica runs` prints: tables for people, plain values for programs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.reports.page import Cell, ReportTable, cell_text
from lorica.reports.text_table import plain_table
from lorica.runs.compare_runs import RunComparison
from lorica.runs.run_record import MachineFacts, RunFile, RunMetric
from lorica.runs.select_runs import RunValue
from lorica.runs.stored_run import StoredRun, UnusableRun

_COLUMNS = ("run", "command", "task", "status", "started (UTC)", "seconds", "n", "metric", "machine")
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")
_SHOWN_MESSAGES = 10


def metric_text(metric: RunMetric | None) -> str:
    """`0.912 [0.881, 0.940]`, or a plain number."""
    if metric is None or metric.value is None:
        return "-"
    if metric.low is None or metric.high is None:
        return f"{metric.value:,.0f}" if metric.value == int(metric.value) else f"{metric.value:.4g}"
    return f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"


def list_text(runs: Sequence[StoredRun], unusable: Sequence[UnusableRun], read_count: int) -> str:
    """The table, and below it what could not be read. read_count: runs before filters."""
    blocks = []
    if runs:
        rows = tuple(_list_row(run) for run in runs)
        blocks.append(plain_table(ReportTable(_COLUMNS, rows), max_cell=48, names=("run",)))
    hidden = read_count - len(runs)
    blocks.append(f"runs: {len(runs)}" + (f"; that do not match: {hidden}" if hidden else ""))
    if unusable:
        reasons = "\n".join(f"  {line}" for run in unusable for line in _safe_lines(f"{run.name}: {run.reason}"))
        blocks.append(f"{len(unusable)} cannot be read:\n{reasons}")
    return "\n\n".join(blocks)


def run_dict(run: StoredRun) -> dict[str, Any]:
    """A run as plain values: the record, its metrics and the status that its process tells."""
    record: dict[str, Any] = msgspec.to_builtins(run.record)
    return {"run": run.name, **record, "status": run.status, "metrics": run.metrics}


def show_text(run: StoredRun, messages: Sequence[str], file_states: dict[str, str]) -> str:
    """One run. messages: what was said in it. file_states: path -> whether the file is still the one that was used."""
    record = run.record
    facts = [
        ("run", run.name),
        ("command", record.command_line or record.command),
        ("status", f"{run.status}: {_reason(run)}" if _reason(run) else run.status),
        ("started", f"{record.started}, {_seconds_text(run)} s" + _calls_text(record.calls)),
        ("machine", _machine_text(record.machine)),
        ("versions", ", ".join(f"{package} {version}" for package, version in record.versions.items())),
        ("base", _shorter(record.base)),
        ("adapters", ", ".join(f"{name} {_shorter(digest)}" for name, digest in record.adapters.items())),
    ]
    width = max(len(name) for name, _ in facts) + 2
    indent = "\n" + " " * width
    blocks = ["\n".join(f"{name:<{width}}{indent.join(_safe_lines(text))}" for name, text in facts if text)]
    rows = tuple(
        _file_row(direction, file, file_states)
        for direction, files in (("in", record.inputs), ("out", record.outputs))
        for file in files
    )
    if rows:
        blocks.append(plain_table(ReportTable(("", "role", "file", "rows", "gold", "digest", "now"), rows)))
    if run.metrics:
        metric_rows = tuple((name, metric_text(metric), metric.n) for name, metric in run.metrics.items())
        blocks.append(plain_table(ReportTable(("metric", "value [95%]", "n"), metric_rows)))
    settings = tuple(
        (key, _cell(_setting(record.config, key)), origin)
        for key, origin in record.origins.items()
        if origin != "schema default" and not origin.startswith("preset")
    )
    if settings:
        blocks.append(plain_table(ReportTable(("configuration", "value", "set by"), settings)))
    if messages:
        last_messages = [f"  {line}" for message in messages[-_SHOWN_MESSAGES:] for line in _safe_lines(message)]
        blocks.append("\n".join(["last messages:", *last_messages]))
    return "\n\n".join(blocks)


def comparison_text(comparison: RunComparison) -> str:
    """Differences first, then what they mean for the metrics, then the metrics."""
    columns = tuple(f"{letter} " for letter in _letters(len(comparison.names)))
    blocks = ["\n".join(f"{column}= {cell_text(name)}" for column, name in zip(columns, comparison.names, strict=True))]
    if comparison.differences:
        rows = tuple(
            (difference.group, difference.key, *map(_cell, difference.values)) for difference in comparison.differences
        )
        blocks.append("what differs\n" + plain_table(ReportTable(("", "key", *columns), rows), max_cell=40))
    else:
        blocks.append("nothing differs in configuration, inputs, base, adapters, versions and machine")
    if comparison.notes:
        blocks.append("\n".join(map(cell_text, comparison.notes)))
    if comparison.metrics:
        metric_rows = tuple((name, *map(metric_text, metrics)) for name, metrics in comparison.metrics.items())
        blocks.append(plain_table(ReportTable(("metric", *columns), metric_rows), max_cell=40))
    if comparison.commands:
        commands = "\n".join(f"  {line}" for command in comparison.commands for line in _safe_lines(command))
        blocks.append(f"row by row, with paired tests:\n{commands}")
    return "\n\n".join(blocks)


def comparison_dict(comparison: RunComparison) -> dict[str, Any]:
    """The comparison as values of JSON."""
    return {
        "runs": comparison.names,
        "differences": comparison.differences,
        "notes": comparison.notes,
        "metrics": comparison.metrics,
        "commands": comparison.commands,
    }


def _list_row(run: StoredRun) -> tuple[Cell, ...]:
    record = run.record
    main_metric = f"{record.main_metric} {metric_text(run.main_metric)}" if run.main_metric is not None else "-"
    rows = record.rows if record.rows is not None else "-"
    started = record.started[:16].replace("T", " ")
    return (
        *(run.name, record.command, record.task or "-", run.status, started, _seconds_text(run), rows),
        *(main_metric, _machine_text(record.machine, short=True)),
    )


def _machine_text(machine: MachineFacts | None, *, short: bool = False) -> str:
    if machine is None:
        return ""
    name = machine.accelerator or machine.processor
    if short:
        return f"{name} x{machine.cores}"
    accelerator = f", {machine.accelerator}" if machine.accelerator else ""
    memory = f", {machine.memory_bytes / 2**30:.0f} GiB" if machine.memory_bytes else ""
    kernels = f", kernels {machine.kernels}" if machine.kernels else ""
    return f"{machine.processor}, {machine.cores} cores{memory}{accelerator}, {machine.threads} threads{kernels}"


def _file_row(direction: str, file: RunFile, file_states: dict[str, str]) -> tuple[Cell, ...]:
    state = file_states.get(file.path) or ("" if Path(file.path).exists() else "missing")
    return (direction, file.role, file.path, file.rows, file.gold, _shorter(file.digest), state)


def _safe_lines(text: str) -> list[str]:
    """Lines that a terminal shows and does not obey, whoever wrote the record."""
    return [cell_text(line) for line in text.splitlines()]


def _shorter(text: str) -> str:
    """A text in which digests show their beginnings."""
    return _DIGEST.sub(r"\1…", text)


def _seconds_text(run: StoredRun) -> str:
    """ "-" where the run has not said how long it took."""
    return "-" if run.record.status == "running" else f"{run.record.seconds:.1f}"


def _reason(run: StoredRun) -> str:
    return "its process is gone without a word" if run.status != run.record.status else run.record.error


def _calls_text(calls: int) -> str:
    return f" (the last of {calls} calls)" if calls > 1 else ""


def _setting(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _cell(value: RunValue) -> Cell:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _shorter(value)
    return value if isinstance(value, int | float | None) else str(value)


def _letters(count: int) -> list[str]:
    return [chr(ord("A") + index) if index < 26 else f"#{index + 1}" for index in range(count)]
