"""What `lorica frontier` found, as data, text and plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.commands.frontier_points import PointStore
from lorica.commands.score_result import run_figures
from lorica.metrics.base import Column
from lorica.metrics.run_scores import RunScore, ScoreRules, on_front, score_runs
from lorica.names import count_of
from lorica.reports.page import Cell, ReportTable
from lorica.reports.text_table import plain_table

RESULT_NAME = "frontier.json"

_MAX_LINES = 8  # of points that are not on the front


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


def scored_points(store: PointStore, clusters: Sequence[str] | None) -> tuple[int, tuple[RunScore, ...]]:
    """The points to compare, scored: those on the most rows that two points or more were measured on, and on how many.
    clusters: [rows] of the search's order, what is drawn together."""
    row_counts = sorted({point.rows for point in store.usable().values()}, reverse=True)
    for row_count in row_counts:
        measured = store.on_rows(row_count)
        if len(measured) > 1 or row_count == row_counts[-1]:
            groups: Column | None = clusters[:row_count] if clusters is not None else None
            columns = {name: point.columns() for name, point in measured.items()}
            return row_count, score_runs(columns, ScoreRules(), groups=groups)[0]
    return 0, ()


def frontier_dict(result: FrontierResult) -> dict[str, Any]:
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


def frontier_text(result: FrontierResult) -> str:
    """The front with its commands, then what else was tried."""
    blocks = [
        f"{count_of(result.tried, 'point')} measured in {result.seconds:.0f} s, {len(result.points)} of them on "
        f"{result.rows} of {count_of(result.total_rows, 'row')}; "
        f"{len(result.front)} on the front (accuracy against the engine's seconds)",
        plain_table(front_table(result), max_cell=90),
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


def front_table(result: FrontierResult) -> ReportTable:
    """The points on the front, the fastest first."""
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
