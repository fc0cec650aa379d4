"""`lorica frontier`: which settings are worth their time on the user's own rows, within a time limit."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorica.calibration.saved import calibration_digests
from lorica.commands import build
from lorica.commands.arguments import Overrides, emit, going_on, inform, parser, required, resolve
from lorica.commands.build_retrieval import index_digests
from lorica.commands.frontier_grid import ADAPTERS, Point, make_grid, point_command
from lorica.commands.frontier_search import POINTS_NAME, Measurement, PointMeter, PointStore, most_measurements, search
from lorica.commands.gold_file import read_gold
from lorica.commands.row_progress import row_progress
from lorica.commands.run_log import logged_messages, recorded_configuration, refuse_without_record, run_file
from lorica.commands.score_result import run_figures
from lorica.commands.trained_rows import refuse_training_rows
from lorica.config.compose import Resolved
from lorica.config.decisive import decides_measurement
from lorica.data.digest import file_digest
from lorica.data.journal import check_same_run
from lorica.data.write import atomic_file
from lorica.errors import AdapterError, DataError, ResumeError, UsageError
from lorica.metrics.base import Column
from lorica.metrics.run_scores import RunScore, ScoreRules, on_front, score_runs
from lorica.names import count_of, json_values, visible_values
from lorica.pipeline.judged_answers import bootstrap_clusters, correctness_metric
from lorica.process_start import command_started
from lorica.records import Row
from lorica.reports.page import Cell, ReportTable
from lorica.reports.text_table import plain_table
from lorica.runs.run_clock import CLOCK_NAME, RunClock
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RunRecord, read_record
from lorica.runs.select_runs import flatten
from lorica.tasks.base import Task
from lorica.version import __version__

RESULT_NAME = "frontier.json"

_MAX_LINES = 8  # of points that are not on the front
_EXAMPLES = """  lorica frontier task=rules input=examples/rules/test.csv adapters.dir=runs/rules minutes=2
  lorica frontier task=mcq input=validation.jsonl model=smollm2_135m minutes=30 run_dir=runs/front
  lorica frontier task=rules input=rows.csv --vary task.style=plain,structured --vary model.dtype=int8,float32
  lorica frontier task=saq input=rows.jsonl --vary retrieval.top_k=1,3,5 --json"""


@dataclass(frozen=True)
class FrontierResult:
    """points: measured on `rows` rows, the best score first. sampled: point -> on how many rows alone it was measured.
    invalid: point -> why the combination cannot be. unmeasured: for which no time was left. commands: point on the
    front -> the `lorica infer` that answers the file so. total_rows: of the file. seconds: that the search took in all.
    """

    folder: Path
    metric: str
    rows: int
    total_rows: int
    seconds: float
    minutes: float
    points: tuple[RunScore, ...]
    sampled: Mapping[str, int]
    invalid: Mapping[str, str]
    unmeasured: tuple[str, ...]
    commands: Mapping[str, str]

    @property
    def front(self) -> tuple[RunScore, ...]:
        """The points that no other one matches in accuracy and latency, the fastest first."""
        return on_front(self.points)

    @property
    def tried(self) -> int:
        """How many points were measured at all."""
        return len(self.points) + len(self.sampled)


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
    vary_help = "values of a key to try, in place of its default ones, or of a further key"
    command.add_argument("--vary", action="append", default=[], metavar="KEY=VALUE,...", help=vary_help)
    options = command.parse_args(list(arguments))
    resume_command = going_on("frontier", arguments, "inference.resume=true")
    result = find_frontier(
        options.overrides, parse_vary(options.vary), words=arguments, resume_command=resume_command, started=started
    )
    emit(_frontier_dict(result), as_json=options.json, text=_frontier_text(result))
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
    folders = build.adapter_folders(config)
    refuse_training_rows(gold.task, plan.input_path, folders, rows, _answering_adapters(plan, gold.task, folders))
    random.Random(0).shuffle(rows)  # a sample is the beginning, and files are often sorted
    inputs = [run_file("rows", plan.input_path, rows=len(rows))]
    recorded = recorded_configuration(plan.resolved)
    record = RunRecord(command="frontier", **recorded, manifest=plan.manifest, inputs=inputs)
    resume = _check_former(plan)
    with (
        RunFolder.create(plan.folder, record, words=words, resume=resume) as run_log,
        logged_messages(run_log),
        row_progress(most_measurements(len(plan.points), len(rows)), "measurements") as advance,
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


def _answering_adapters(plan: _SearchPlan, task: Task, folders: Mapping[str, Path]) -> Callable[[Row], set[str | None]]:
    """Row -> the adapters that answer it at some point."""
    single = {value for point in plan.points for key, value in point.settings if key in (ADAPTERS, "adapters.use")}

    def answering(row: Row) -> set[str | None]:
        with suppress(AdapterError):  # points that may not answer the row say so
            return {*single, build.routed_adapter(plan.resolved.config, task, row, folders)}
        return {*single}

    return answering


def _prepare(resolved: Resolved, vary: Mapping[str, Sequence[str]]) -> _SearchPlan:
    config = resolved.config
    input_path = required(config.input, "input", "rows.csv")
    folder = Path(config.run_dir) if config.run_dir else Path("runs") / f"frontier-{config.task.name}"
    base = build.base_folder(config)
    points = make_grid(resolved, base, vary)
    adapters = build.open_adapters(build.adapter_folders(config))
    varied = [dict(point.settings) for point in points]
    calibrates = config.adapters.calibration != "off" or any("adapters.calibration" in values for values in varied)
    calibrated = {name: adapter.path for name, adapter in adapters.items() if calibrates}
    varied_indexes = (values["retrieval.dir"] for values in varied if "retrieval.dir" in values)
    indexes = dict.fromkeys((config.retrieval.dir, *varied_indexes))
    settings = flatten(resolved.as_dict())
    manifest = {
        "lorica": __version__,
        "input": file_digest(input_path),
        "base": base.digest,
        **{f"adapter.{name}": adapter.digest for name, adapter in adapters.items()},
        **{f"calibration.{name}": digest for name, digest in calibration_digests(calibrated).items()},
        **{
            f"index.{number}.{subject}": digest
            for number, folder_name in enumerate(indexes)
            for subject, digest in index_digests(replace(config.retrieval, dir=folder_name)).items()
        },
        **{f"point.{number}": point.name for number, point in enumerate(points, 1)},
        **{key: str(settings[key]) for key in settings if decides_measurement(key)},
    }
    return _SearchPlan(resolved, input_path, folder, tuple(points), visible_values(manifest))


def _check_former(plan: _SearchPlan) -> bool:
    """Whether to go on with the search that is in the folder. Raises ResumeError where there is another one, or one
    that did not finish and is not to be resumed; DataError for one without its record."""
    if not (plan.folder / POINTS_NAME).exists():
        return False
    refuse_without_record(plan.folder, "frontier", otherwise="name another run_dir")
    former = read_record(plan.folder)
    start_anew = f"start anew: delete {plan.folder / POINTS_NAME}"
    if plan.resolved.config.inference.resume:
        check_same_run(plan.folder, former.manifest, plan.manifest, otherwise=start_anew)
        return True
    if former.status != "finished":
        fix = f"go on with it: inference.resume=true; or {start_anew}"
        raise ResumeError(f"{plan.folder} holds a search that did not finish", fix=fix)
    return False


def _result(
    plan: _SearchPlan,
    overrides: Overrides,
    store: PointStore,
    clock: RunClock,
    rows: Sequence[Row],
    unmeasured: Sequence[str],
) -> FrontierResult:
    row_count, points = _scored_points(store, bootstrap_clusters(rows))
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
        result_file.write(json.dumps(json_values(_frontier_dict(result)), indent=2, ensure_ascii=False).encode())
    metrics = {f"accuracy.{point.name}": point.accuracy for point in result.front}
    metrics |= {f"latency.{point.name}": point.latency for point in result.front}
    best = result.points[0].name
    run_log.write_metrics(metrics, main=f"accuracy.{best}" if f"accuracy.{best}" in metrics else "")
    run_log.update(rows=result.rows)


def _scored_points(store: PointStore, clusters: Sequence[str] | None) -> tuple[int, tuple[RunScore, ...]]:
    """The points to compare, scored on the most rows that two points or more were measured on, and on how many.
    clusters: [rows] of the search's order, what is drawn together."""
    row_counts = sorted({point.rows for point in store.usable().values()}, reverse=True)
    for row_count in row_counts:
        measured = store.on_rows(row_count)
        if len(measured) > 1 or row_count == row_counts[-1]:
            groups: Column | None = clusters[:row_count] if clusters is not None else None
            columns = {name: point.columns() for name, point in measured.items()}
            return row_count, score_runs(columns, ScoreRules(), groups=groups, front_only=True)[0]
    return 0, ()


def _frontier_dict(result: FrontierResult) -> dict[str, Any]:
    """The result as values of JSON."""
    return {
        "folder": result.folder,
        "metric": result.metric,
        "rows": result.rows,
        "total_rows": result.total_rows,
        "seconds": round(result.seconds, 3),
        "minutes": result.minutes,
        "tried": result.tried,
        "front": [_point_dict(point) | {"command": result.commands[point.name]} for point in result.front],
        "points": [_point_dict(point) for point in result.points],
        "sampled": result.sampled,
        "invalid": result.invalid,
        "unmeasured": result.unmeasured,
    }


def _point_dict(point: RunScore) -> dict[str, Any]:
    return {"point": point.name, **run_figures(point)}


def _frontier_text(result: FrontierResult) -> str:
    """The front with its commands, then what else was tried."""
    blocks = [
        f"{count_of(result.tried, 'point')} measured in {result.seconds:.0f} s, {len(result.points)} of them on "
        f"{result.rows} of {count_of(result.total_rows, 'row')}; "
        f"{len(result.front)} on the front (accuracy against the engine's seconds)",
        plain_table(_front_table(result), max_cell=90),
        "\n".join(f"# {point.name}\n{result.commands[point.name]}" for point in result.front),
    ]
    dominated = [point for point in result.points if point.dominated_by]
    if dominated:
        blocks.append("dominated:\n" + _some([f"  {_line(point, result)}" for point in dominated], result))
    lines = [f"  {name}: measured on {count_of(row_count, 'row')} alone" for name, row_count in result.sampled.items()]
    lines += [f"  {name}: no time was left" for name in result.unmeasured]
    lines += [f"  {name}: cannot be: {problem.splitlines()[0]}" for name, problem in result.invalid.items()]
    if lines:
        blocks.append("not on the list:\n" + _some(lines, result))
    blocks.append(
        "The front was chosen on these rows: its best accuracy is a little too good for others. All points: "
        f"{result.folder}"
    )
    return "\n\n".join(blocks)


def _some(lines: Sequence[str], result: FrontierResult) -> str:
    """The first lines, and where the others are."""
    if len(lines) <= _MAX_LINES + 1:
        return "\n".join(lines)
    hidden = f"  ... and {len(lines) - _MAX_LINES} more, in {result.folder / RESULT_NAME}"
    return "\n".join([*lines[:_MAX_LINES], hidden])


def _front_table(result: FrontierResult) -> ReportTable:
    rows: list[tuple[Cell, ...]] = [
        (
            point.name,
            str(point.accuracy),
            _milliseconds(point.latency.value),
            str(point.score),
            "-" if point.rank is None else str(point.rank),
        )
        for point in result.front
    ]
    return ReportTable(("point", result.metric, "ms per row", "score", "rank"), tuple(rows))


def _line(point: RunScore, result: FrontierResult) -> str:
    measured = f"{result.metric} {point.accuracy.value:.3f}, {_milliseconds(point.latency.value)} ms per row"
    return f"{point.name}: {measured}; by {point.dominated_by[0]}"


def _milliseconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{1000 * seconds:.3g}"
