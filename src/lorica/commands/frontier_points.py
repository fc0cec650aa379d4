"""What `lorica frontier` has measured so far, on disk at every moment: a killed search goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from lorica.data.record_log import RecordLog
from lorica.errors import DataError
from lorica.metrics.run_scores import RunColumns, dominates

POINTS_NAME = "points.jsonl"


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
        """How many rows were answered."""
        return len(self.right)

    @property
    def accuracy(self) -> float:
        """Share of right rows."""
        return self.right.count("1") / max(self.rows, 1)

    @property
    def latency(self) -> float:
        """The engine's seconds for a row."""
        return sum(self.seconds) / max(self.rows, 1)

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
                raise DataError(
                    f"{measurement.rows} rows and {len(measurement.seconds)} seconds",
                    path=self._log.path,
                    line=number,
                    fix=self._log.start_anew,
                )
            self._count(measurement)

    def add(self, measurement: Measurement) -> None:
        """Append, synced. Raises DataError when the disk refuses."""
        self._log.append(measurement)
        self._count(measurement)

    def _count(self, measurement: Measurement) -> None:
        earlier = self.best.get(measurement.point)
        if earlier is None or measurement.rows >= earlier.rows:
            self.best[measurement.point] = measurement

    @property
    def problems(self) -> Mapping[str, str]:
        """Point -> why it cannot be."""
        return {name: measured.problem for name, measured in self.best.items() if measured.problem}

    def usable(self) -> dict[str, Measurement]:
        """The points that could be measured."""
        return {name: measured for name, measured in self.best.items() if not measured.problem}

    def on_rows(self, row_count: int) -> dict[str, Measurement]:
        """The points whose last measurement is on so many rows."""
        return {name: measured for name, measured in self.best.items() if measured.rows == row_count}


def promising(measured: Mapping[str, Measurement]) -> list[str]:
    """Names, the most promising first: by layers of accuracy and latency (those on the front, on the front without
    these, ...), the fastest first within each."""
    remaining, ordered = dict(measured), list[str]()
    while remaining:
        front = [name for name, point in remaining.items() if not _is_dominated(point, remaining)]
        ordered += sorted(front, key=lambda name: (remaining[name].latency, name))
        for name in front:
            del remaining[name]
    return ordered


def _is_dominated(point: Measurement, others: Mapping[str, Measurement]) -> bool:
    return any(dominates((other.accuracy, other.latency), (point.accuracy, point.latency)) for other in others.values())
