"""`lorica runs`: lists, shows and compares run folders, and mirrors them into trackio."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from lorica.commands.arguments import as_path, emit, parser
from lorica.commands.runs_report import (
    comparison_dict,
    comparison_text,
    list_text,
    run_dict,
    show_text,
)
from lorica.data.digest import file_digest
from lorica.errors import DataError, UsageError
from lorica.names import closest, count_of
from lorica.runs.compare_runs import compare_runs
from lorica.runs.run_record import LOG_NAME, Status
from lorica.runs.select_runs import parse_condition, parse_since, select_runs, sort_runs
from lorica.runs.stored_run import MAX_DEPTH, StoredRun, find_runs, load_run
from lorica.runs.trackio_mirror import mirror_runs

_LIST_EXAMPLES = """  lorica runs
  lorica runs results/ --command infer,eval --since 2d
  lorica runs --where lora.r=8 --where 'roc_auc>0.9' --sort roc_auc --descending
  lorica runs show answers.csv.run
  lorica runs compare runs/a runs/b
  lorica runs mirror --trackio my-project runs/a runs/b"""


def run(arguments: Sequence[str]) -> int:
    """List the runs, or do with some of them what the first word says."""
    subcommands: dict[str, Callable[[Sequence[str]], int]] = {"show": _show, "compare": _compare, "mirror": _mirror}
    if arguments and arguments[0] in subcommands:
        return subcommands[arguments[0]](arguments[1:])
    closest_name = closest(arguments[0], subcommands) if arguments else ""
    if closest_name and not Path(arguments[0]).exists():
        raise UsageError(
            f"lorica runs: no subcommand and no folder is called {arguments[0]!r}",
            fix=f"did you mean `lorica runs {closest_name}`? see `lorica runs --help`",
        )
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
        "runs": [run_dict(stored) for stored in selected],
        "unusable": [{"run": broken.name, "reason": broken.reason} for broken in unusable],
    }
    emit(result, as_json=options.json, text=list_text(selected, unusable, len(runs)))
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
    result = run_dict(stored) | {"messages": messages} | ({"files_now": states} if options.verify else {})
    emit(result, as_json=options.json, text=show_text(stored, messages, states))
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
    emit(comparison_dict(comparison), as_json=options.json, text=comparison_text(comparison))
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
