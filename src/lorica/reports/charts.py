"""Charts as inline SVG: no scripts, no fonts of their own, readable without colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from lorica.reports.page import IntervalPlot, Line, LineChart, clean, interval_text
from lorica.reports.style import DASHES, SERIES

WIDTH = 760
ROW = 34
# Points drawn of one curve; more cannot be told apart on WIDTH.
MAX_DRAWN = 600


def interval_svg(plot: IntervalPlot) -> str:
    """Dots with error bars, one row per point, the numbers beside them."""
    margin_left, margin_right, top = 220, 180, 14
    bottom = top + ROW * len(plot.points)
    numbers = [number for point in plot.points for number in (point.value, point.low, point.high)]
    marks = [] if plot.reference is None else [plot.reference]
    ticks, low, high = nice_axis([*numbers, *marks])
    scale = _Scale(low, high, margin_left, WIDTH - margin_right)
    elements = [
        f'<line class="grid" x1="{scale(tick)}" x2="{scale(tick)}" y1="{top}" y2="{bottom}"/>'
        f'<text class="quiet" x="{scale(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
        for tick in ticks
    ]
    if plot.reference is not None:
        at = scale(plot.reference)
        elements.append(f'<line class="reference" x1="{at}" x2="{at}" y1="{top - 6}" y2="{bottom}"/>')
        elements.append(_text(at, bottom + 36, plot.reference_label, anchor="middle", quiet=True))
    for number, point in enumerate(plot.points):
        y = top + ROW * number + ROW // 2
        elements.append(_text(margin_left - 14, y + 4, _cut(point.label, 30), anchor="end", title=point.label))
        elements.append(_text(WIDTH - margin_right + 14, y + 4, interval_text(point)))
        if math.isfinite(point.low) and math.isfinite(point.high):
            a, b = scale(point.low), scale(point.high)
            elements.append(f'<path class="bar" d="M{a} {y}H{b}M{a} {y - 5}v10M{b} {y - 5}v10" fill="none"/>')
        if math.isfinite(point.value):
            elements.append(f'<circle class="dot" cx="{scale(point.value)}" cy="{y}" r="5"/>')
    elements.append(_text(WIDTH - margin_right + 14, bottom + 18, _cut(plot.axis, 24), quiet=True))
    description = "; ".join(f"{point.label}: {interval_text(point)}" for point in plot.points)
    return _svg(bottom + (46 if plot.reference_label else 28), plot.title, description, elements)


def line_svg(chart: LineChart) -> str:
    """Curves with a legend below; each has its own dashes as well as its own colour."""
    margin_left, top, bottom = 64, 14, 270
    x_ticks, x_low, x_high = nice_axis([x for line in chart.lines for x, _ in line.points], tight=True)
    y_ticks, y_low, y_high = nice_axis([y for line in chart.lines for _, y in line.points])
    x_scale, y_scale = _Scale(x_low, x_high, margin_left, WIDTH - 20), _Scale(y_low, y_high, bottom, top)
    elements = [
        f'<line class="grid" x1="{margin_left}" x2="{WIDTH - 20}" y1="{y_scale(tick)}" y2="{y_scale(tick)}"/>'
        f'<text class="quiet" x="{margin_left - 8}" y="{y_scale(tick) + 4}" text-anchor="end">{tick:g}</text>'
        for tick in y_ticks
    ]
    elements += [
        f'<text class="quiet" x="{x_scale(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
        for tick in x_ticks
    ]
    elements.append(_text(margin_left, bottom + 38, f"{chart.y_label} over {chart.x_label}".strip(), quiet=True))
    for number, line in enumerate(chart.lines):
        look = f'class="curve s{number % SERIES + 1}" stroke-dasharray="{DASHES[number % SERIES]}"'
        elements.append(f'<path {look} d="{_path(line, x_scale, y_scale)}"/>')
        y = bottom + 60 + 20 * number
        elements.append(
            f'<path {look} d="M{margin_left} {y - 4}h36"/>' + _text(margin_left + 46, y, _cut(line.label, 80))
        )
    description = "; ".join(f"{line.label}: {_ends(line)}" for line in chart.lines)
    return _svg(bottom + 52 + 20 * len(chart.lines), chart.title, description, elements)


def nice_axis(values: Sequence[float], *, tight: bool = False) -> tuple[list[float], float, float]:
    """Round ticks and the ends of an axis that holds all finite values; tight: the axis ends with the
    values."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-100):
        margin = abs(low) * 0.1 if abs(low) > 1e-90 else 1.0
        low, high = low - margin, high + margin
        tight = False
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    ticks = [float(f"{number * step:.10g}") for number in range(first, last + 1)]
    if tight:
        return [tick for tick in ticks if low - step * 1e-6 <= tick <= high + step * 1e-6], low, high
    return ticks, ticks[0], ticks[-1]


class _Scale:
    """Values low..high -> positions start..stop, rounded to a tenth of a pixel."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self.low, self.factor, self.start = low, (stop - start) / (high - low), start

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) * self.factor, 1)


def _path(line: Line, x_scale: _Scale, y_scale: _Scale) -> str:
    step = max(1, len(line.points) // MAX_DRAWN)
    drawn, pen = [], "M"
    for number, (x, y) in enumerate(line.points):
        if number % step and number != len(line.points) - 1:
            continue
        if math.isfinite(x) and math.isfinite(y):
            drawn.append(f"{pen}{x_scale(x)} {y_scale(y)}")
            pen = "L"
        else:
            pen = "M"
    return "".join(drawn)


def _ends(line: Line) -> str:
    if not line.points:
        return "no points"
    return f"from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}"


def _text(x: float, y: float, text: str, *, anchor: str = "start", quiet: bool = False, title: str = "") -> str:
    look = ' class="quiet"' if quiet else ""
    tip = f"<title>{escape(clean(title))}</title>" if title else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{look}>{tip}{escape(clean(text))}</text>'


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _svg(height: int, title: str, description: str, elements: list[str]) -> str:
    label = escape(clean(f"{title}. {description}"))
    inside = "\n".join(elements)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">\n{inside}\n</svg>'
