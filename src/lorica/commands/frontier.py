"""`lorica frontier`: which settings are worth their time on the user's own rows, within a time limit."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorica.commands import build
from lorica.commands.arguments import Overrides, emit, going_on, inform, parser, required, resolve
from lorica.commands.frontier_grid import Point, make_grid, point_command
from lorica.commands.frontier_points import POINTS_NAME, Measurement, PointStore
from lorica.commands.frontier_result import RESULT_NAME, FrontierResult, frontier_dict, frontier_text, scored_points
from lorica.commands.frontier_search import PointMeter, rungs, search
from lorica.commands.gold_file import read_gold
from lorica.commands.row_progress import row_progress
from lorica.commands.run_log import logged_messages, recorded_configuration, run_file
from lorica.config.compose import Resolved
from lorica.data.digest import file_digest
from lorica.data.journal import check_same_run
from lorica.data.write import atomic_file
from lorica.errors import DataError, ResumeError, UsageError
from lorica.names import count_of, json_values, visible_values
from lorica.pipeline.judged_answers import bootstrap_clusters, correctness_metric
from lorica.process_start import command_started
from lorica.records import Row
from lorica.runs.run_clock import CLOCK_NAME, RunClock
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RECORD_NAME, RunRecord, read_record
from lorica.version import __version__

_EXAMPLES = """  lorica frontier task=rules input=examples/rules/test.csv adapters.dir=runs/rules minutes=2
  lorica frontier task=mcq input=validation.jsonl model=smollm2_135m minutes=30 run_dir=runs/front
  lorica frontier task=rules input=rows.csv --vary task.style=plain,structured --vary model.dtype=int8,float32
  lorica frontier task=saq input=rows.jsonl --vary retrieval.top_k=1,3,5 --json"""


def run(arguments: Sequence[str]) -> int:
    """Search, print the front and the commands of its points."""
    started = command_started()
    command = parser(
        "frontier",
        "Measure combinations of adapters, precision, batch size and prompt style on rows with gold answers, and show\n"
        "the accuracy-latency front with the exact command of each point on it. Combinations are tried on a sample,\n"
        "the best on more rows, until `minutes` are over. What was measured is on disk at every moment: after Ctrl-C\n"
        "or a kill, inference.resume=true goes on. A key that you set is not varied.",
        _EXAMPLES,
    )
    command.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="values of a key to try, in place of its default ones, or of a further key",
    )
    options = command.parse_args(list(arguments))
    resume_command = going_on("frontier", arguments, "inference.resume=true")
    result = find_frontier(
        options.overrides, parse_vary(options.vary), words=arguments, resume_command=resume_command, started=started
    )
    emit(frontier_dict(result), as_json=options.json, text=frontier_text(result))
    return 0


def parse_vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """Key -> values. Raises UsageError."""
    varied: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        varied[key] = [value.strip() for value in values.split(",")]
        if not key or not equals or not all(varied[key]) or len(set(varied[key])) < len(varied[key]):
            raise UsageError(
                f"--vary {text}; needed: a key and different values", fix="--vary model.dtype=int8,float32"
            )
    if len(varied) < len(texts):
        raise UsageError("--vary names a key twice", fix="give all values of a key at once, separated by commas")
    return varied


@dataclass(frozen=True)
class _SearchPlan:
    """What a search is given, and where it is kept."""

    resolved: Resolved
    input_path: Path
    folder: Path
    points: tuple[Point, ...]
    manifest: dict[str, str]


def find_frontier(
    overrides: Overrides,
    vary: Mapping[str, Sequence[str]],
    *,
    words: Sequence[str],
    resume_command: str,
    started: float | None = None,
) -> FrontierResult:
    """Search the grid within the minutes of the configuration.

    resume_command: what goes on after an interruption. started: when the call began, by `time.monotonic`. Raises
    DataError for rows without gold and where no point can be measured, ResumeError for an unfinished search that is not
    resumed, ConfigError for settings.
    """
    plan = _prepare(resolve(overrides), vary)
    config = plan.resolved.config
    gold = read_gold(config, plan.input_path, [])
    rows = list(gold.rows)
    if not rows:
        raise DataError("there are no rows", path=plan.input_path, fix="name a file with rows and gold answers")
    random.Random(0).shuffle(rows)  # a sample is the beginning, and files are often sorted
    record = RunRecord(
        command="frontier",
        **recorded_configuration(plan.resolved),
        manifest=plan.manifest,
        inputs=[run_file("rows", plan.input_path, rows=len(rows))],
    )
    resume = _check_former(plan)
    with (
        RunFolder.create(plan.folder, record, words=words, resume=resume) as run_log,
        logged_messages(run_log),
        row_progress(sum(count for count, _ in rungs(len(plan.points), len(rows))), "points") as advance,
    ):
        if not resume:
            for file_name in (POINTS_NAME, CLOCK_NAME):
                (plan.folder / file_name).unlink(missing_ok=True)
        store, meter = PointStore(plan.folder), PointMeter(overrides, rows)
        clock = RunClock(plan.folder, limit=60 * config.minutes, started=started)

        def on_measured(measured: Measurement) -> None:
            advance(1)
            facts = {"point": measured.point, "rows": measured.rows, "accuracy": measured.accuracy}
            run_log.log("measured", facts | {"latency": measured.latency, "problem": measured.problem})

        try:
            unmeasured = search(plan.points, len(rows), store, meter, clock, on_measured=on_measured)
        except BaseException as error:
            error.add_note(
                f"{count_of(len(store.best), 'point is', 'points are')} kept in {plan.folder}; go on: {resume_command}"
            )
            raise
        result = _result(plan, overrides, store, clock, rows, unmeasured)
        _write(run_log, result)
    inform(f"run: {plan.folder}")
    return result


def _prepare(resolved: Resolved, vary: Mapping[str, Sequence[str]]) -> _SearchPlan:
    config = resolved.config
    input_path = required(config.input, "input", "rows.csv")
    folder = Path(config.run_dir) if config.run_dir else Path("runs") / f"frontier-{config.task.name}"
    base = build.base_folder(config)
    points = make_grid(resolved, base, vary)
    adapters = build.open_adapters(build.adapter_folders(config))
    manifest = {
        "lorica": __version__,
        "task": config.task.name,
        "input": file_digest(input_path),
        "base": base.digest,
        "engine": config.engine.name,
        **{f"adapter.{name}": adapter.digest for name, adapter in adapters.items()},
        **{f"point.{number}": point.name for number, point in enumerate(points, 1)},
    }
    return _SearchPlan(resolved, input_path, folder, tuple(points), visible_values(manifest))


def _check_former(plan: _SearchPlan) -> bool:
    """Whether to go on with the search that is in the folder. Raises ResumeError where there is another one, or one
    that did not finish and is not to be resumed."""
    if not (plan.folder / RECORD_NAME).exists() or not (plan.folder / POINTS_NAME).exists():
        return False
    former = read_record(plan.folder)
    start_anew = f"start anew: delete {plan.folder / POINTS_NAME}"
    if plan.resolved.config.inference.resume:
        check_same_run(plan.folder, former.manifest, plan.manifest, otherwise=start_anew)
        return True
    if former.status != "finished":
        raise ResumeError(
            f"{plan.folder} holds a search that did not finish",
            fix=f"go on with it: inference.resume=true; or {start_anew}",
        )
    return False


def _result(
    plan: _SearchPlan,
    overrides: Overrides,
    store: PointStore,
    clock: RunClock,
    rows: Sequence[Row],
    unmeasured: Sequence[str],
) -> FrontierResult:
    row_count, points = scored_points(store, bootstrap_clusters(rows))
    if not points:
        first = next(iter(store.problems.values()), f"{plan.resolved.config.minutes:g} minutes are too short for one")
        raise DataError(f"no point could be measured: {first}", path=plan.input_path, fix="raise minutes, or see above")
    by_name = {point.name: point for point in plan.points}
    front = [point.name for point in points if not point.dominated_by]
    compared = {point.name for point in points}
    return FrontierResult(
        folder=plan.folder,
        metric=correctness_metric(build.build_task(plan.resolved.config)).name,
        rows=row_count,
        total_rows=len(rows),
        seconds=clock.used,
        minutes=plan.resolved.config.minutes,
        points=points,
        sampled={
            name: measured.rows
            for name, measured in store.best.items()
            if name not in compared and not measured.problem
        },
        invalid=store.problems,
        unmeasured=tuple(unmeasured),
        commands={
            name: point_command(overrides, by_name[name], plan.folder / f"answers-{number}.csv")
            for number, name in enumerate(front, 1)
        },
    )


def _write(run_log: RunFolder, result: FrontierResult) -> None:
    with atomic_file(run_log.path / RESULT_NAME) as result_file:
        result_file.write(json.dumps(json_values(frontier_dict(result)), indent=2, ensure_ascii=False).encode())
    metrics = {f"accuracy.{point.name}": point.accuracy for point in result.front}
    metrics |= {f"latency.{point.name}": point.latency for point in result.front}
    best = result.points[0].name
    run_log.write_metrics(metrics, main=f"accuracy.{best}" if f"accuracy.{best}" in metrics else "")
    run_log.update(rows=result.rows)
