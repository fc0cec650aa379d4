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
    plotted_values = [number for point in plot.points for number in (point.value, point.low, point.high)]
    reference_values = [] if plot.reference is None else [plot.reference]
    tick_values, axis_start, axis_end = nice_axis([*plotted_values, *reference_values])
    x_scale = _Scale(axis_start, axis_end, margin_left, WIDTH - margin_right)
    elements = [
        f'<line class="grid" x1="{x_scale(tick)}" x2="{x_scale(tick)}" y1="{top}" y2="{bottom}"/>'
        f'<text class="quiet" x="{x_scale(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
        for tick in tick_values
    ]
    if plot.reference is not None:
        reference_x = x_scale(plot.reference)
        elements.append(f'<line class="reference" x1="{reference_x}" x2="{reference_x}" y1="{top - 6}" y2="{bottom}"/>')
        elements.append(_text(reference_x, bottom + 36, plot.reference_label, anchor="middle", quiet=True))
    for number, point in enumerate(plot.points):
        y = top + ROW * number + ROW // 2
        elements.append(_text(margin_left - 14, y + 4, _cut(point.label, 30), anchor="end", tooltip=point.label))
        elements.append(_text(WIDTH - margin_right + 14, y + 4, interval_text(point)))
        if math.isfinite(point.low) and math.isfinite(point.high):
            low_x, high_x = x_scale(point.low), x_scale(point.high)
            elements.append(
                f'<path class="bar" d="M{low_x} {y}H{high_x}M{low_x} {y - 5}v10M{high_x} {y - 5}v10" fill="none"/>'
            )
        if math.isfinite(point.value):
            elements.append(f'<circle class="dot" cx="{x_scale(point.value)}" cy="{y}" r="5"/>')
    elements.append(_text(WIDTH - margin_right + 14, bottom + 18, _cut(plot.axis, 24), quiet=True))
    description = "; ".join(f"{point.label}: {interval_text(point)}" for point in plot.points)
    return _svg(bottom + (46 if plot.reference_label else 28), plot.title, description, elements)


def line_svg(chart: LineChart) -> str:
    """Curves with a legend below; each has its own dashes as well as its own colour."""
    margin_left, top, bottom = 64, 14, 270
    x_ticks, x_start, x_end = nice_axis([x_value for curve in chart.lines for x_value, _ in curve.points], tight=True)
    y_values = [y_value for curve in chart.lines for _, y_value in curve.points]
    y_values += [end for curve in chart.lines for _, low, high in curve.band for end in (low, high)]
    y_ticks, y_start, y_end = nice_axis(y_values)
    x_scale, y_scale = _Scale(x_start, x_end, margin_left, WIDTH - 20), _Scale(y_start, y_end, bottom, top)
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
    for curve_index, curve in enumerate(chart.lines):
        curve_style = f'class="curve s{curve_index % SERIES + 1}" stroke-dasharray="{DASHES[curve_index % SERIES]}"'
        if curve.band:
            fill_class = f"area f{curve_index % SERIES + 1}"
            elements.append(f'<path class="{fill_class}" d="{_area(curve, x_scale, y_scale)}"/>')
        elements.append(f'<path {curve_style} d="{_path(curve, x_scale, y_scale)}"/>')
        legend_y = bottom + 60 + 20 * curve_index
        elements.append(
            f'<path {curve_style} d="M{margin_left} {legend_y - 4}h36"/>'
            + _text(margin_left + 46, legend_y, _cut(curve.label, 80))
        )
    description = "; ".join(f"{curve.label}: {_ends(curve)}" for curve in chart.lines)
    return _svg(bottom + 52 + 20 * len(chart.lines), chart.title, description, elements)


def nice_axis(values: Sequence[float], *, tight: bool = False) -> tuple[list[float], float, float]:
    """Round ticks and the ends of an axis that holds all finite values; tight: the axis ends with the
    values."""
    finite_values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    axis_start, axis_end = min(finite_values), max(finite_values)
    if axis_end - axis_start <= max(1e-9 * max(abs(axis_start), abs(axis_end)), 1e-100):
        margin = abs(axis_start) * 0.1 if abs(axis_start) > 1e-90 else 1.0
        axis_start, axis_end = axis_start - margin, axis_end + margin
        tight = False
    rough_step = (axis_end - axis_start) / 5
    magnitude = 10.0 ** math.floor(math.log10(rough_step))
    tick_step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough_step * 0.999)
    first_tick, last_tick = math.floor(axis_start / tick_step + 1e-6), math.ceil(axis_end / tick_step - 1e-6)
    tick_values = [float(f"{multiple * tick_step:.10g}") for multiple in range(first_tick, last_tick + 1)]
    if tight:
        return (
            [tick for tick in tick_values if axis_start - tick_step * 1e-6 <= tick <= axis_end + tick_step * 1e-6],
            axis_start,
            axis_end,
        )
    return tick_values, tick_values[0], tick_values[-1]


class _Scale:
    """Values low..high -> positions start..stop, rounded to a tenth of a pixel."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self.low, self.factor, self.start = low, (stop - start) / (high - low), start

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) * self.factor, 1)


def _path(curve: Line, x_scale: _Scale, y_scale: _Scale) -> str:
    point_step = max(1, len(curve.points) // MAX_DRAWN)
    path_commands, pen_command = [], "M"
    for point_index, (x_value, y_value) in enumerate(curve.points):
        if point_index % point_step and point_index != len(curve.points) - 1:
            continue
        if math.isfinite(x_value) and math.isfinite(y_value):
            path_commands.append(f"{pen_command}{x_scale(x_value)} {y_scale(y_value)}")
            pen_command = "L"
        else:
            pen_command = "M"
    return "".join(path_commands)


def _area(curve: Line, x_scale: _Scale, y_scale: _Scale) -> str:
    finite = [point for point in curve.band if all(map(math.isfinite, point))]
    outline = [(x_value, low) for x_value, low, _ in finite] + [(x_value, high) for x_value, _, high in finite[::-1]]
    return "M" + "L".join(f"{x_scale(x_value)} {y_scale(y_value)}" for x_value, y_value in outline) + "Z"


def _ends(curve: Line) -> str:
    if not curve.points:
        return "no points"
    return f"from {curve.points[0][1]:.4g} to {curve.points[-1][1]:.4g}"


def _text(x: float, y: float, label: str, *, anchor: str = "start", quiet: bool = False, tooltip: str = "") -> str:
    css_class = ' class="quiet"' if quiet else ""
    tip = f"<title>{escape(clean(tooltip))}</title>" if tooltip else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{css_class}>{tip}{escape(clean(label))}</text>'


def _cut(label_text: str, max_characters: int) -> str:
    return label_text if len(label_text) <= max_characters else label_text[: max_characters - 1] + "…"


def _svg(height: int, chart_title: str, description: str, elements: list[str]) -> str:
    aria_label = escape(clean(f"{chart_title}. {description}"))
    drawing = "\n".join(elements)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{aria_label}">\n{drawing}\n</svg>'
