"""The search of `lorica frontier`: successive halving over a grid, within a deadline.

Points are measured on a sample; the best third of them on three times as many rows, and so on, up to all rows. Every
rung may take its share of the time that is left, so that the last one is reached; what remains goes to points that had
no turn, then to the next most promising ones. (Jamieson and Talwalkar 2016, proceedings.mlr.press/v51/jamieson16)
What was measured is on disk at every moment: a killed search goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from lorica.commands import build
from lorica.commands.arguments import Overrides
from lorica.commands.frontier_grid import Point, resolve_point
from lorica.commands.load_once import PipelineOpener
from lorica.data.record_log import RecordLog
from lorica.errors import DataError, LoricaError
from lorica.metrics.run_scores import RunColumns, dominates
from lorica.pipeline.answer import Pipeline
from lorica.pipeline.judged_answers import correctness_metric, is_right, judge_answers
from lorica.records import Row
from lorica.runs.run_clock import RunClock, TimeOver
from lorica.signals import Deferred

POINTS_NAME = "points.jsonl"

_FEWEST_ROWS = 24  # of a sample
_SHRINK = 3  # of points, and growth of rows, from rung to rung
_FEWEST_POINTS = 4  # that a rung keeps
_PROBE_ROWS = 4  # answered beforehand: a warm-up that says how long a point takes
_MARGIN = 1.25  # of an estimate that a deadline is kept by


class Measurement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of `points.jsonl`: a point, by its name, on the first rows of the search's order.

    right: "1" or "0" for each row. seconds: of the engine, for each row. problem: why the combination cannot be; then
    nothing else is there.
    """

    point: str
    right: str = ""
    seconds: tuple[float, ...] = ()
    problem: str = ""

    @property
    def rows(self) -> int:
        return len(self.right)

    @property
    def accuracy(self) -> float:
        return self.right.count("1") / max(self.rows, 1)

    @property
    def latency(self) -> float:
        """The engine's seconds for a row."""
        return sum(self.seconds) / max(self.rows, 1)

    def first(self, row_count: int) -> Measurement:
        """What was measured on the first rows."""
        return msgspec.structs.replace(self, right=self.right[:row_count], seconds=self.seconds[:row_count])

    def columns(self) -> RunColumns:
        """The measurement as columns of a run to score."""
        right = np.array([mark == "1" for mark in self.right], dtype=np.float64)
        return RunColumns(right, np.array(self.seconds), np.ones(self.rows))


class PointStore:
    """The measurements of a search: of each point the one on most rows."""

    def __init__(self, folder: Path) -> None:
        """Reads those of an interrupted search. Raises DataError for lines that are none."""
        self._log = RecordLog(folder / POINTS_NAME, Measurement, noun="measurement")
        self.best: dict[str, Measurement] = {}
        for number, measurement in enumerate(self._log.records, 1):
            if len(measurement.seconds) != measurement.rows or set(measurement.right) - {"0", "1"}:
                problem = f"{measurement.rows} rows and {len(measurement.seconds)} seconds"
                fix = self._log.start_anew
                raise DataError(problem, path=self._log.path, line=number, fix=fix)
            self._count(measurement)

    def add(self, measurement: Measurement) -> None:
        """Append, synced, and count it before a signal ends the search. Raises DataError when the disk refuses."""
        with Deferred() as signals:
            self._log.append(measurement)
            self._count(measurement)
        if signals.received:
            raise signals.stop()

    def _count(self, measurement: Measurement) -> None:
        earlier = self.best.get(measurement.point)
        if earlier is None or measurement.problem or measurement.rows >= earlier.rows:
            self.best[measurement.point] = measurement

    @property
    def problems(self) -> Mapping[str, str]:
        return {name: measured.problem for name, measured in self.best.items() if measured.problem}

    def usable(self) -> dict[str, Measurement]:
        return {name: measured for name, measured in self.best.items() if not measured.problem}

    def on_rows(self, row_count: int) -> dict[str, Measurement]:
        """The points that were measured on so many rows, as they were on these: of more rows they are the first."""
        return {name: measured.first(row_count) for name, measured in self.best.items() if measured.rows >= row_count}


def promising(measured: Mapping[str, Measurement]) -> list[str]:
    """Names, the most promising first: by layers of accuracy and latency (those on the front, on the front without
    these, ...), the fastest first within each."""
    remaining, ordered = dict(measured), list[str]()
    while remaining:
        points = [(point.accuracy, point.latency) for point in remaining.values()]
        front = [
            name
            for name, point in zip(remaining, points, strict=True)
            if not any(dominates(other, point) for other in points)
        ]
        ordered += sorted(front, key=lambda name: (remaining[name].latency, name))
        for name in front:
            del remaining[name]
    return ordered


class PointMeter:
    """Measures points, with one model loaded at a time."""

    def __init__(self, overrides: Overrides, rows: Sequence[Row]) -> None:
        self._overrides, self._rows = overrides, rows
        self._opener = PipelineOpener()
        self._loading = 0.0  # seconds that the slowest load took
        self._row_seconds: dict[str, float] = {}  # of points that were warmed up

    def measure(self, point: Point, row_count: int, seconds_left: float) -> Measurement | None:
        """The point on the first rows; None where the time that is left is too short for that. A combination that
        cannot be, or may not answer one of all rows, is measured as that before anything is loaded."""
        started = time.perf_counter()
        expected = self._loading + self._row_seconds.get(point.name, 0.0) * row_count
        if _MARGIN * expected >= seconds_left:
            return None
        try:
            config = resolve_point(self._overrides, point)
            folders = build.adapter_folders(config)
            build.answered_rows(config, build.build_task(config), build.base_folder(config), self._rows, folders)
            pipeline = self._opener.open(config, folders)
            self._loading = max(self._loading, time.perf_counter() - started)
            a_row = self._warm_up(pipeline, started + seconds_left)
            if a_row is None:
                return None
            self._row_seconds[point.name] = a_row
            if _MARGIN * a_row * row_count > seconds_left - (time.perf_counter() - started):
                return None
            rows = self._rows[:row_count]
            answers, timings = pipeline.answer_timed(rows)
            judged = judge_answers(pipeline.task, rows, {answer.id: answer for answer in answers})
            right = is_right(correctness_metric(pipeline.task), judged)
        except LoricaError as error:
            return Measurement(point=point.name, problem=str(error))
        seconds = tuple(timing.seconds for timing in timings)
        if not any(seconds):
            problem = "the engine measures no seconds"
            return Measurement(point=point.name, problem=problem)
        marks = "".join("01"[row_is_right] for row_is_right in right)
        return Measurement(point=point.name, right=marks, seconds=seconds)

    def _warm_up(self, pipeline: Pipeline, deadline: float) -> float | None:
        """Seconds that a row takes. One row first, so that a slow base shows before more are begun; None where they do
        not fit."""
        a_row = 0.0
        for probe in (self._rows[:1], self._rows[:_PROBE_ROWS]):
            started = time.perf_counter()
            if started + a_row * len(probe) >= deadline:
                return None
            pipeline.warm_up(probe)
            a_row = (time.perf_counter() - started) / len(probe)
        return a_row


def rungs(point_count: int, row_count: int) -> list[tuple[int, int]]:
    """(points, rows) of each rung: all points on a sample first, a few on all rows at last."""
    sizes = [row_count]
    while sizes[0] // _SHRINK >= _FEWEST_ROWS and len(sizes) <= math.log(max(point_count, 1), _SHRINK):
        sizes.insert(0, sizes[0] // _SHRINK)
    counts = [point_count]
    for _ in sizes[1:]:
        counts.append(min(point_count, max(_FEWEST_POINTS, -(-counts[-1] // _SHRINK))))
    return list(zip(counts, sizes, strict=True))


def most_measurements(point_count: int, row_count: int) -> int:
    """How many measurements `search` makes at most: after the rungs the other points are measured on all rows, too."""
    counts = [rung_points for rung_points, _ in rungs(point_count, row_count)]
    return sum(counts[:-1]) + point_count


def search(
    points: Sequence[Point],
    row_count: int,
    store: PointStore,
    meter: PointMeter,
    clock: RunClock,
    *,
    on_measured: Callable[[Measurement], None],
) -> list[str]:
    """Measure points into the store until all are measured, or the time is over. Returns the names of those for which
    no time was left.
    """
    by_name = {point.name: point for point in points}

    def by_base(names: Sequence[str]) -> list[str]:
        """So ordered that each base is loaded once."""
        bases = list(dict.fromkeys(by_name[name].base_settings for name in names))
        return sorted(names, key=lambda name: bases.index(by_name[name].base_settings))

    def measure_all(names: Sequence[str], rows: int, until: float) -> None:
        for name in names:
            earlier = store.best.get(name)
            if earlier is not None and (earlier.problem or earlier.rows >= rows):
                continue
            measured = None
            with suppress(TimeOver), clock.interrupting(reserve=0.0):
                measured = meter.measure(by_name[name], rows, until - clock.used)
            clock.save(force=True)
            if measured is not None:
                store.add(measured)
                on_measured(measured)

    planned = rungs(len(points), row_count)
    for rung, (rung_points, rung_rows) in enumerate(planned):
        now = clock.used
        names = list(by_name) if rung == 0 else promising(store.usable())[:rung_points]
        measure_all(by_base(names), rung_rows, now + (clock.limit - now) / (len(planned) - rung))
    measure_all(by_base([name for name in by_name if name not in store.best]), planned[0][1], clock.limit)
    measure_all(promising(store.usable()), row_count, clock.limit)
    return [name for name in by_name if name not in store.best]
