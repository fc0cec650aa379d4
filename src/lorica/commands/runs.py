"""`lorica runs`: lists, shows and compares run folders, as tables for people and plain values for programs, and mirrors
them into trackio."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec

from lorica.commands.arguments import as_path, emit, parser
from lorica.data.digest import file_digest
from lorica.errors import DataError, UsageError
from lorica.names import closest, count_of
from lorica.reports.page import Cell, ReportTable, cell_text
from lorica.reports.text_table import plain_table
from lorica.runs.compare_runs import RunComparison, compare_runs
from lorica.runs.run_record import LOG_NAME, MachineFacts, RunFile, RunMetric, Status
from lorica.runs.select_runs import RunValue, parse_condition, parse_since, select_runs, sort_runs
from lorica.runs.stored_run import MAX_DEPTH, StoredRun, UnusableRun, find_runs, load_run
from lorica.runs.trackio_mirror import mirror_runs

_LIST_EXAMPLES = """  lorica runs
  lorica runs results/ --command infer,eval --since 2d
  lorica runs --where lora.r=8 --where 'roc_auc>0.9' --sort roc_auc --descending
  lorica runs show answers.csv.run
  lorica runs compare runs/a runs/b
  lorica runs mirror --trackio my-project runs/a runs/b"""
_COLUMNS = ("run", "command", "task", "status", "started (UTC)", "seconds", "rows", "metric", "machine")
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")
_SHOWN_MESSAGES = 10


def run(arguments: Sequence[str]) -> int:
    """List the runs, or do with some of them what the first word says."""
    subcommands: dict[str, Callable[[Sequence[str]], int]] = {"show": _show, "compare": _compare, "mirror": _mirror}
    if arguments and arguments[0] in subcommands:
        return subcommands[arguments[0]](arguments[1:])
    closest_name = closest(arguments[0], subcommands) if arguments else ""
    if closest_name and not Path(arguments[0]).exists():
        fix = f"did you mean `lorica runs {closest_name}`? see `lorica runs --help`"
        raise UsageError(f"lorica runs: no subcommand and no folder is called {arguments[0]!r}", fix=fix)
    return _list(arguments)


def _list(arguments: Sequence[str]) -> int:
    command = parser(
        "runs",
        "List the run folders below the current folder, or below those that are named: command, task, status, start,\n"
        "seconds, rows, main metric with its 95% interval, machine. Folders that cannot be read are listed with the\n"
        "reason. `lorica runs show RUN`, `compare RUN RUN ...` and `mirror` have their own --help. docs/runs.md\n"
        "says what a run folder holds.",
        _LIST_EXAMPLES,
        overrides=False,
    )
    command.add_argument(
        "folders", nargs="*", type=as_path, metavar="FOLDER", help="where to look (the current folder)"
    )
    command.add_argument("--command", action="append", default=[], metavar="NAME,...", help="runs of these commands")
    command.add_argument("--task", action="append", default=[], metavar="NAME,...", help="runs of these tasks")
    command.add_argument("--status", action="append", default=[], metavar="NAME,...", help=", ".join(get_args(Status)))
    command.add_argument("--since", metavar="TIME", help="started since: 2026-11-30T06:00 (UTC), or 2d, 3h, 30m ago")
    command.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a condition on a key of the configuration or record, or on a metric: lora.r=8, roc_auc>0.9, "
        "model.path=*qwen*, machine.cores>=8, versions.torch!=2.13.0; all must hold",
    )
    command.add_argument("--sort", metavar="KEY", default="started", help="what --where may name (%(default)s)")
    command.add_argument("--descending", action="store_true", help="the largest or latest first")
    command.add_argument("--depth", type=int, default=MAX_DEPTH, help="how many folders deep to look (%(default)s)")
    options = command.parse_args(list(arguments))
    if options.depth < 0:
        raise UsageError(f"--depth {options.depth}; allowed: 0 or more", fix=f"--depth {MAX_DEPTH}")
    runs, unusable = find_runs(options.folders or [Path()], max_depth=options.depth)
    selected = select_runs(
        runs,
        commands=_names(options.command),
        tasks=_names(options.task),
        statuses=_names(options.status),
        since=None if options.since is None else parse_since(options.since, now=datetime.now(UTC)),
        conditions=[parse_condition(condition_text) for condition_text in options.where],
    )
    selected = sort_runs(selected, options.sort, descending=options.descending)
    result = {
        "runs": [_run_dict(stored) for stored in selected],
        "unusable": [{"run": broken.name, "reason": broken.reason} for broken in unusable],
    }
    emit(result, as_json=options.json, text=_list_text(selected, unusable, len(runs)))
    return 0


def _show(arguments: Sequence[str]) -> int:
    command = parser(
        "runs show",
        "One run: its command, status, machine, versions, files, metrics, what of the configuration was set and by\n"
        "whom, and what was said. --json prints the whole record.",
        "  lorica runs show answers.csv\n  lorica runs show answers.csv.run --verify\n  lorica runs show runs/rules/a",
        overrides=False,
    )
    command.add_argument("run", type=as_path, metavar="RUN", help="a run folder, or an output of `infer`")
    command.add_argument(
        "--verify", action="store_true", help="read inputs and outputs: are they still the same files?"
    )
    options = command.parse_args(list(arguments))
    stored = load_run(options.run)
    states = _file_states(stored) if options.verify else {}
    messages = _messages(stored.path)
    result = _run_dict(stored) | {"messages": messages} | ({"files_now": states} if options.verify else {})
    emit(result, as_json=options.json, text=_show_text(stored, messages, states))
    return 0


def _compare(arguments: Sequence[str]) -> int:
    command = parser(
        "runs compare",
        "Runs side by side: what differs in configuration, inputs, base, adapters, versions and machine; whether\n"
        "their metrics can be held against each other; the metrics with their intervals; and the command that\n"
        "compares the answers row by row, where they answer the same rows.",
        "  lorica runs compare runs/a runs/b\n  lorica runs compare a.csv.run b.csv.run c.csv.run --json",
        overrides=False,
    )
    command.add_argument("runs", nargs="+", type=as_path, metavar="RUN", help="two run folders or more")
    options = command.parse_args(list(arguments))
    runs = _load_all(options.runs)
    if len(runs) < 2:
        raise UsageError(
            f"lorica runs compare needs two runs or more; got {len(runs)}", fix="lorica runs compare RUN RUN"
        )
    comparison = compare_runs(runs)
    values = {name: getattr(comparison, name) for name in ("differences", "notes", "metrics", "commands")}
    emit({"runs": comparison.names, **values}, as_json=options.json, text=_comparison_text(comparison))
    return 0


def _mirror(arguments: Sequence[str]) -> int:
    command = parser(
        "runs mirror",
        "Copy metrics and configuration of runs into a project of trackio's local store (TRACKIO_DIR), for its\n"
        "dashboard: `trackio show --project PROJECT`. Run folders stay what counts, nothing is sent anywhere, and a\n"
        "run that is there already is left alone. Needs the extra `trackio`.",
        "  lorica runs mirror --trackio my-project runs/a runs/b",
        overrides=False,
    )
    command.add_argument("--trackio", required=True, metavar="PROJECT", help="the project of trackio's")
    command.add_argument("runs", nargs="+", type=as_path, metavar="RUN", help="run folders")
    options = command.parse_args(list(arguments))
    runs = _load_all(options.runs)
    mirrored = mirror_runs(options.trackio, runs)
    earlier = len(runs) - len(mirrored)
    text = f"{count_of(len(mirrored), 'run')} copied to trackio's project {options.trackio}" + (
        f", {earlier} were there" if earlier else ""
    )
    emit({"project": options.trackio, "mirrored": mirrored, "there_before": earlier}, as_json=options.json, text=text)
    return 0


def _load_all(paths: Sequence[Path]) -> list[StoredRun]:
    runs = [load_run(path) for path in paths]
    for index, stored in enumerate(runs):
        if any(stored.path.samefile(earlier.path) for earlier in runs[:index]):
            raise UsageError(f"{stored.name} is named twice", fix="name each run once")
    return runs


def _file_states(stored: StoredRun) -> dict[str, str]:
    states = {}
    for file in (*stored.record.inputs, *stored.record.outputs):
        try:
            states[file.path] = "same" if file_digest(file.path) == file.digest else "changed"
        except DataError:
            states[file.path] = "missing"
    return states


def _messages(folder: Path) -> list[str]:
    """What was said in the last call of a run. A torn last line of a killed process is left out, and so is whatever is
    no line of a log."""
    try:
        log_lines = (folder / LOG_NAME).read_bytes().splitlines() if (folder / LOG_NAME).is_file() else []
    except OSError:
        return []
    messages: list[str] = []
    for log_line in log_lines:
        try:
            event = json.loads(log_line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(event, dict):
            continue
        if event.get("event") == "started":
            messages = []
        elif event.get("event") == "message":
            messages.append(str(event.get("text", "")))
    return messages


def _names(texts: Sequence[str]) -> list[str]:
    return [name for text in texts for name in map(str.strip, text.split(",")) if name]


def _metric_text(metric: RunMetric | None) -> str:
    """`0.912 [0.881, 0.940]`, or a plain number."""
    if metric is None or metric.value is None:
        return "-"
    if metric.low is None or metric.high is None:
        return f"{metric.value:,.0f}" if metric.value == int(metric.value) else f"{metric.value:.4g}"
    return f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"


def _list_text(runs: Sequence[StoredRun], unusable: Sequence[UnusableRun], read_count: int) -> str:
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


def _run_dict(run: StoredRun) -> dict[str, Any]:
    """A run as plain values: the record, its metrics and the status that its process tells."""
    record: dict[str, Any] = msgspec.to_builtins(run.record)
    return {"run": run.name, **record, "status": run.status, "metrics": run.metrics}


def _show_text(run: StoredRun, messages: Sequence[str], file_states: dict[str, str]) -> str:
    """One run. messages: what was said in it. file_states: path -> whether the file is still the one that was used."""
    record = run.record
    calls = f" (the last of {record.calls} calls)" if record.calls > 1 else ""
    facts = [
        ("run", run.name),
        ("command", record.command_line or record.command),
        ("status", f"{run.status}: {_reason(run)}" if _reason(run) else run.status),
        ("started", f"{record.started}, {_seconds_text(run)} s{calls}"),
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
        metric_rows = tuple((name, _metric_text(metric), metric.n) for name, metric in run.metrics.items())
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


def _comparison_text(comparison: RunComparison) -> str:
    """Differences first, then what they mean for the metrics, then the metrics."""
    letters = (chr(ord("A") + index) if index < 26 else f"#{index + 1}" for index in range(len(comparison.names)))
    columns = tuple(f"{letter} " for letter in letters)
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
        metric_rows = tuple((name, *map(_metric_text, metrics)) for name, metrics in comparison.metrics.items())
        blocks.append(plain_table(ReportTable(("metric", *columns), metric_rows), max_cell=40))
    if comparison.commands:
        commands = "\n".join(f"  {line}" for command in comparison.commands for line in _safe_lines(command))
        blocks.append(f"row by row, with paired tests:\n{commands}")
    return "\n\n".join(blocks)


def _list_row(run: StoredRun) -> tuple[Cell, ...]:
    record = run.record
    main_metric = f"{record.main_metric} {_metric_text(run.main_metric)}" if run.main_metric is not None else "-"
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
    threads = count_of(machine.threads, "thread") + (f", kernels {machine.kernels}" if machine.kernels else "")
    return f"{machine.processor}, {count_of(machine.cores, 'core')}{memory}{accelerator}, {threads}"


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
