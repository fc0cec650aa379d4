"""What a report consists of. All text is plain text: markup in it is shown, never interpreted."""

from __future__ import annotations

import math
import re

import msgspec

from lorica.names import visible

Cell = str | int | float | None


class ReportTable(msgspec.Struct, frozen=True):
    """columns: their headings. rows: as many cells each. caption: one line above. ValueError for ragged
    rows.

    interactive: the reader may sort and filter it. sections: for each row the number, from 1, of the report's section
    about it; () where there are none. choose: columns of few values, to filter by. narrow: columns that a narrow screen
    shows. opens: whether a row opens to show all its columns; detail: those that show only there. marks: for each row
    the names of what a reader may want alone ("wrong"); () where there are none. total: rows that there are, where the
    table lists only the first of them or a sample, and sampling: how they were chosen.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    interactive: bool = False
    sections: tuple[int, ...] = ()
    choose: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()
    opens: bool = False
    detail: tuple[str, ...] = ()
    marks: tuple[tuple[str, ...], ...] = ()
    total: int = 0
    sampling: str = ""

    def __post_init__(self) -> None:
        for row_number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(f"row {row_number} has {len(row)} cells, the table has {len(self.columns)} columns")

    @property
    def heading(self) -> str:
        """The caption, and how many of how many rows are listed where not all are."""
        if self.total <= len(self.rows):
            return self.caption
        listed = f"{len(self.rows):,} of {self.total:,} rows listed: {self.sampling or 'the first'}"
        return f"{self.caption} ({listed})" if self.caption else listed


class IntervalPoint(msgspec.Struct, frozen=True):
    """One line of an interval plot; nan where something is undefined."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan


class IntervalPlot(msgspec.Struct, frozen=True):
    """Values with their intervals below one another. reference: a value to mark, such as chance, with its
    name."""

    title: str
    points: tuple[IntervalPoint, ...]
    axis: str = ""
    reference: float | None = None
    reference_label: str = ""


class Line(msgspec.Struct, frozen=True):
    """One curve: points (x, y) in the order of x; points that are not finite leave a gap. band: (x, low, high) of an
    interval around it, drawn as a shade."""

    label: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()


class LineChart(msgspec.Struct, frozen=True):
    """Curves over one axis, such as a loss over steps."""

    title: str
    lines: tuple[Line, ...]
    x_label: str = ""
    y_label: str = ""


class ScatterPoint(msgspec.Struct, frozen=True):
    """x and y, with the ends of their intervals (nan where undefined). joined: whether the chart's line, such as a
    front, goes through it."""

    label: str
    x: float
    y: float
    x_interval: tuple[float, float] = (math.nan, math.nan)
    y_interval: tuple[float, float] = (math.nan, math.nan)
    joined: bool = False


class ScatterPlot(msgspec.Struct, frozen=True):
    """Points by two values, x on a logarithmic scale; the joined ones are connected in the order of x. line: what the
    connection is."""

    title: str
    points: tuple[ScatterPoint, ...]
    x_label: str
    y_label: str
    line: str = ""


class ParallelAxis(msgspec.Struct, frozen=True):
    """One upright axis. ticks: (place, text), places from 0 at the bottom to 1 at the top."""

    label: str
    ticks: tuple[tuple[float, str], ...]


class ParallelLine(msgspec.Struct, frozen=True):
    """One line across all axes: its place on each (nan where it has none: it goes on to the next), and what is there as
    text. strength: how dark it is, from 0 to 1. marked: whether it is drawn to stand out."""

    label: str
    places: tuple[float, ...]
    texts: tuple[str, ...]
    strength: float = 1.0
    marked: bool = False


class ParallelPlot(msgspec.Struct, frozen=True):
    """Parallel coordinates: a line for each of many things, an axis for each of their properties. ValueError for a line
    without a place on every axis."""

    title: str
    axes: tuple[ParallelAxis, ...]
    lines: tuple[ParallelLine, ...]

    def __post_init__(self) -> None:
        for line in self.lines:
            if len(line.places) != len(self.axes) or len(line.texts) != len(self.axes):
                raise ValueError(f"{line.label} has {len(line.places)} places on {len(self.axes)} axes")


Chart = IntervalPlot | LineChart | ScatterPlot | ParallelPlot


class Section(msgspec.Struct, frozen=True):
    """text: paragraphs, separated by empty lines. notes: short remarks, one per bullet, below everything
    else. folded: shown when the reader asks for it, and not listed at the top."""

    heading: str
    text: str = ""
    tables: tuple[ReportTable, ...] = ()
    charts: tuple[Chart, ...] = ()
    notes: tuple[str, ...] = ()
    folded: bool = False


class Report(msgspec.Struct, frozen=True):
    """summary: what a reader who reads nothing else must know; paragraphs as in a section. max_bytes: of its HTML;
    where it would be larger, long cells are cut and fewer rows listed, which the page says. 0: as large as it is."""

    title: str
    summary: str = ""
    sections: tuple[Section, ...] = ()
    footer: str = ""
    max_bytes: int = 0


def cell_text(cell: Cell) -> str:
    """A cell as people read it: 1,234 for whole numbers, four significant digits for others, n/a for None and
    nan."""
    if isinstance(cell, str):
        return clean(cell)
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "n/a"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"


def interval_text(interval_point: IntervalPoint) -> str:
    """0.953 [0.940, 0.965], as far as it is defined."""
    if math.isnan(interval_point.value):
        return "undefined"
    if math.isnan(interval_point.low) or math.isnan(interval_point.high):
        return f"{interval_point.value:.3f}"
    return f"{interval_point.value:.3f} [{interval_point.low:.3f}, {interval_point.high:.3f}]"


def right_aligned(table: ReportTable) -> list[bool]:
    """For each column whether it holds only numbers, or texts such as "12%", "0.71 [0.68, 0.74]" and "+0.01 (-0.02 to
    0.04)"."""
    return [
        bool(table.rows) and all(_NUMBER.fullmatch(cell_text(row[column])) for row in table.rows)
        for column in range(len(table.columns))
    ]


_NUMBER = re.compile(r"[-+−±]?[\d.](?:[\d.,\s%\[\]()±–e+−-]| to )*|n/a|undefined|[–-]|")


def paragraphs(raw_text: str) -> list[str]:
    """Split at empty lines."""
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", clean(raw_text)) if paragraph.strip()]


def clean(raw_text: str) -> str:
    """Text from anywhere without what would disturb a terminal or break a file: control and direction
    characters become U+FFFD, what is no text becomes `visible`, line breaks and tabs stay."""
    return _DISTURBING.sub("\ufffd", visible(raw_text).replace("\r\n", "\n"))


# Control characters, and the overrides and isolates that can make a line read differently from what it is.
_DISTURBING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
