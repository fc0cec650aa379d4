"""Charts as inline SVG: no scripts, no fonts of their own, readable without colour."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from html import escape

from lorica.reports.page import IntervalPlot, Line, LineChart, ParallelPlot, ScatterPlot, clean, interval_text
from lorica.reports.style import DASHES, SERIES

WIDTH, NARROW = 760, 350
"""Of a drawing on a screen, and on that of a telephone, where what stands beside each other stands below."""

# Points drawn of one curve; more cannot be told apart on WIDTH.
MAX_DRAWN = 600
# The ratio of an axis's ends up to which there is room for ticks between powers of ten.
_FEW_DECADES = 1e3
_MOST_POWERS = 12


def interval_svg(plot: IntervalPlot, width: int = WIDTH) -> str:
    """Dots with error bars, one row per point, the numbers beside them; names and numbers above them where narrow."""
    is_narrow = width < WIDTH
    margin_left, margin_right, row_height = (12, 12, 50) if is_narrow else (220, 180, 34)
    top, bottom = 14, 14 + row_height * len(plot.points)
    plotted_values = [number for point in plot.points for number in (point.value, point.low, point.high)]
    reference_values = [] if plot.reference is None else [plot.reference]
    tick_values, axis_start, axis_end = nice_axis([*plotted_values, *reference_values])
    x_scale = _Scale(axis_start, axis_end, margin_left, width - margin_right)
    elements = [
        f'<line class="grid" x1="{x_scale(tick)}" x2="{x_scale(tick)}" y1="{top}" y2="{bottom}"/>'
        + _centred(x_scale(tick), bottom + 18, f"{tick:g}", width)
        for tick in tick_values
    ]
    below = bottom + 18
    if plot.reference is not None:
        reference_x, below = x_scale(plot.reference), below + 18
        elements.append(f'<line class="reference" x1="{reference_x}" x2="{reference_x}" y1="{top - 6}" y2="{bottom}"/>')
        elements.append(_centred(reference_x, below, plot.reference_label, width))
    for number, point in enumerate(plot.points):
        y = top + row_height * number + row_height // 2 + (10 if is_narrow else 0)
        if is_narrow:
            elements.append(_text(0, y - 18, _cut(point.label, 26), tooltip=point.label))
            elements.append(_text(width, y - 18, interval_text(point), anchor="end"))
        else:
            elements.append(_text(margin_left - 14, y + 4, _cut(point.label, 26), anchor="end", tooltip=point.label))
            elements.append(_text(width - margin_right + 14, y + 4, interval_text(point)))
        if math.isfinite(point.low) and math.isfinite(point.high):
            low_x, high_x = x_scale(point.low), x_scale(point.high)
            elements.append(
                f'<path class="bar" d="M{low_x} {y}H{high_x}M{low_x} {y - 5}v10M{high_x} {y - 5}v10" fill="none"/>'
            )
        if math.isfinite(point.value):
            elements.append(f'<circle class="dot" cx="{x_scale(point.value)}" cy="{y}" r="5"/>')
    if is_narrow:
        below += 18 if plot.axis else 0
        elements.append(_text(0, below, _cut(plot.axis, 48), quiet=True))
    else:
        elements.append(_text(width - margin_right + 14, bottom + 18, _cut(plot.axis, 24), quiet=True))
    description = "; ".join(f"{point.label}: {interval_text(point)}" for point in plot.points)
    return _svg(width, below + 10, plot.title, description, elements)


def line_svg(chart: LineChart, width: int = WIDTH) -> str:
    """Curves with a legend below; each has its own dashes as well as its own colour."""
    margin_left, top, bottom = 64 if width == WIDTH else 48, 14, 270
    x_ticks, x_start, x_end = nice_axis([x_value for curve in chart.lines for x_value, _ in curve.points], tight=True)
    y_values = [y_value for curve in chart.lines for _, y_value in curve.points]
    y_values += [end for curve in chart.lines for _, low, high in curve.band for end in (low, high)]
    y_ticks, y_start, y_end = nice_axis(y_values)
    x_scale, y_scale = _Scale(x_start, x_end, margin_left, width - 20), _Scale(y_start, y_end, bottom, top)
    elements = [
        f'<line class="grid" x1="{margin_left}" x2="{width - 20}" y1="{y_scale(tick)}" y2="{y_scale(tick)}"/>'
        f'<text class="quiet" x="{margin_left - 8}" y="{y_scale(tick) + 4}" text-anchor="end">{tick:g}</text>'
        for tick in y_ticks
    ]
    elements += [
        f'<text class="quiet" x="{x_scale(tick)}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>'
        for tick in x_ticks
    ]
    elements.append(_axes_text(chart, margin_left, bottom + 38, width))
    for curve_index, curve in enumerate(chart.lines):
        curve_style = f'class="curve s{curve_index % SERIES + 1}" stroke-dasharray="{DASHES[curve_index % SERIES]}"'
        if curve.band:
            fill_class = f"area f{curve_index % SERIES + 1}"
            elements.append(f'<path class="{fill_class}" d="{_area(curve, x_scale, y_scale)}"/>')
        elements.append(f'<path {curve_style} d="{_path(curve, x_scale, y_scale)}"/>')
        legend_y = bottom + 60 + 20 * curve_index
        elements.append(
            f'<path {curve_style} d="M{margin_left} {legend_y - 4}h36"/>'
            + _text(margin_left + 46, legend_y, _cut(curve.label, width // 9 - 4), tooltip=curve.label)
        )
    description = "; ".join(f"{curve.label}: {_ends(curve)}" for curve in chart.lines)
    return _svg(width, bottom + 52 + 20 * len(chart.lines), chart.title, description, elements)


def scatter_svg(chart: ScatterPlot, width: int = WIDTH) -> str:
    """Numbered points with bars of their intervals, the joined ones connected, and a legend of all numbers below."""
    margin_left, top, bottom = 64 if width == WIDTH else 48, 14, 330
    points = [point for point in chart.points if _has_logarithm(point.x) and math.isfinite(point.y)]
    x_values = [value for point in points for value in (point.x, *point.x_interval) if _has_logarithm(value)]
    x_ticks, x_start, x_end = log_axis(x_values)
    y_ticks, y_start, y_end = nice_axis([value for point in points for value in (point.y, *point.y_interval)])
    y_scale, x_scale = _Scale(y_start, y_end, bottom, top), _LogScale(x_start, x_end, margin_left, width - 20)
    elements = [
        f'<line class="grid" x1="{margin_left}" x2="{width - 20}" y1="{y_scale(tick)}" y2="{y_scale(tick)}"/>'
        + _text(margin_left - 8, y_scale(tick) + 4, f"{tick:g}", anchor="end", quiet=True)
        for tick in y_ticks
    ]
    elements += [_text(x_scale(tick), bottom + 18, f"{tick:g}", anchor="middle", quiet=True) for tick in x_ticks]
    elements.append(_axes_text(chart, margin_left, bottom + 38, width))
    joined = sorted((point for point in points if point.joined), key=lambda point: point.x)
    if len(joined) > 1:
        path = "L".join(f"{x_scale(point.x)} {y_scale(point.y)}" for point in joined)
        elements.append(f'<path class="curve s2" stroke-dasharray="7 4" d="M{path}"/>')
    for number, point in enumerate(points, 1):
        x, y = x_scale(point.x), y_scale(point.y)
        if all(map(math.isfinite, point.y_interval)):
            low, high = (y_scale(end) for end in point.y_interval)
            elements.append(f'<path class="bar thin" d="M{x} {low}V{high}" fill="none"/>')
        if all(map(_has_logarithm, point.x_interval)):
            low, high = (x_scale(end) for end in point.x_interval)
            elements.append(f'<path class="bar thin" d="M{low} {y}H{high}" fill="none"/>')
        elements.append(f'<circle class="dot{"" if point.joined else " hollow"}" cx="{x}" cy="{y}" r="5"/>')
        elements.append(_text(x + 8, y - 8, str(number), tooltip=point.label))
        label = f"{number}  {_cut(point.label, (width - 220) // 9)}: {point.y:.3f}, {point.x:.4g}"
        elements.append(_text(margin_left, bottom + 40 + 20 * number, label, tooltip=point.label))
    legend_end = bottom + 46 + 20 * len(points)
    if chart.line and len(joined) > 1:
        elements.append(f'<path class="curve s2" stroke-dasharray="7 4" d="M{margin_left} {legend_end + 10}h36"/>')
        elements.append(_text(margin_left + 46, legend_end + 14, chart.line))
    description = "; ".join(f"{point.label}: {point.y:.4g} at {point.x:.4g}" for point in points)
    return _svg(width, legend_end + 24, chart.title, description, elements)


def parallel_svg(chart: ParallelPlot, width: int = WIDTH) -> str:
    """Upright axes with a line across them for each thing; the marked one is thick, and drawn last. Where narrow the
    axes lie below one another."""
    if width < WIDTH:
        return _lying_parallel_svg(chart, width)
    margin, top, bottom = 70, 40, 300
    step = (width - 2 * margin) / max(1, len(chart.axes) - 1)
    y_scale = _Scale(0.0, 1.0, bottom, top)
    elements = _parallel_lines(chart, lambda axis, place: f"{round(margin + step * axis, 1)} {y_scale(place)}")
    for number, axis in enumerate(chart.axes):
        x = round(margin + step * number, 1)
        elements.append(f'<line class="reference" stroke-dasharray="none" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
        # Two heights, so that long names beside each other do not meet.
        label_y = top - 12 if number % 2 == 0 else bottom + 24
        elements.append(_text(x, label_y, _cut(axis.label, 20), anchor="middle", tooltip=axis.label))
        elements += [
            _text(x + 5, y_scale(place) + 4, _cut(text, 14), quiet=True, tooltip=text) for place, text in axis.ticks
        ]
    return _parallel(chart, elements, width, margin, bottom + 46)


def _lying_parallel_svg(chart: ParallelPlot, width: int) -> str:
    margin, top, step = 14, 34, 64
    x_scale = _Scale(0.0, 1.0, margin, width - margin)
    elements = _parallel_lines(chart, lambda axis, place: f"{x_scale(place)} {top + step * axis}")
    for number, axis in enumerate(chart.axes):
        y = top + step * number
        elements.append(
            f'<line class="reference" stroke-dasharray="none" x1="{margin}" x2="{width - margin}" y1="{y}" y2="{y}"/>'
        )
        elements.append(_text(0, y - 12, _cut(axis.label, 40), tooltip=axis.label))
        max_characters = max(4, width // (8 * max(1, len(axis.ticks))))
        for place, text in axis.ticks:
            anchor = "start" if place < 0.1 else "end" if place > 0.9 else "middle"
            x = 0 if place < 0.1 else width if place > 0.9 else x_scale(place)
            elements.append(_text(x, y + 16, _cut(text, max_characters), anchor=anchor, quiet=True, tooltip=text))
    return _parallel(chart, elements, width, 0, top + step * len(chart.axes))


def _parallel_lines(chart: ParallelPlot, at: Callable[[int, float], str]) -> list[str]:
    """at: number of an axis, and a place on it -> "x y"."""
    elements = []
    for line in sorted(chart.lines, key=lambda line: (line.marked, line.strength)):
        path = "L".join(at(axis, place) for axis, place in enumerate(line.places) if math.isfinite(place))
        line_style = "curve s2" if line.marked else "curve s1 thin"
        opacity = 1.0 if line.marked else round(0.15 + 0.75 * line.strength, 2)
        tip = f"<title>{escape(clean(f'{line.label}: ' + ', '.join(line.texts)))}</title>"
        elements.append(f'<g>{tip}<path class="{line_style}" stroke-opacity="{opacity}" d="M{path}"/></g>')
    return elements


def _parallel(chart: ParallelPlot, elements: list[str], width: int, x: int, legend_y: int) -> str:
    """The drawing with its legend."""
    marked = [line.label for line in chart.lines if line.marked]
    if marked:
        elements.append(f'<path class="curve s2" d="M{x} {legend_y}h36"/>')
        elements.append(_text(x + 46, legend_y + 4, _cut(", ".join(marked), width // 9 - 6)))
    axis_names = ", ".join(axis.label for axis in chart.axes)
    return _svg(width, legend_y + 18, chart.title, f"{len(chart.lines)} lines over {axis_names}", elements)


def _has_logarithm(value: float) -> bool:
    """Whether a value is drawn on a logarithmic axis: below the smallest normal number, ends of an axis coincide."""
    return sys.float_info.min <= value < math.inf


def log_axis(values: Sequence[float]) -> tuple[list[float], float, float]:
    """Round ticks of a logarithmic axis (1, 2 and 5 times powers of ten, powers alone where many), and ends that hold
    all values, which are positive."""
    start, end = min(values, default=1.0) / 1.15, max(values, default=1.0) * 1.15
    first_power, last_power = math.floor(math.log10(start)), math.ceil(math.log10(end))
    powers = range(first_power, last_power + 1, max(1, (last_power - first_power) // _MOST_POWERS))
    factors = (1, 2, 5) if end / start <= _FEW_DECADES else (1,)
    round_ticks = [float(f"{factor * 10.0**power:.6g}") for power in powers for factor in factors]
    ticks = [tick for tick in round_ticks if start <= tick <= end]
    even_ticks = [tick for tick in nice_axis([start, end], tight=True)[0] if start <= tick <= end]
    return ticks if len(ticks) > 2 else even_ticks, start, end


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


class _LogScale(_Scale):
    """As _Scale, of logarithms: low and high are positive."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        super().__init__(math.log(low), math.log(high), start, stop)

    def __call__(self, value: float) -> float:
        return super().__call__(math.log(value))


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


def _axes_text(chart: LineChart | ScatterPlot, x: float, y: float, width: int) -> str:
    label = f"{chart.y_label} over {chart.x_label}".strip()
    return _text(x, y, _cut(label, width // 9 - 4), quiet=True, tooltip=label)


def _centred(x: float, y: float, label: str, width: int) -> str:
    """A quiet text below a place, within the drawing."""
    half = 4 * len(label)
    return _text(min(max(x, half), width - half), y, label, anchor="middle", quiet=True)


def _text(x: float, y: float, label: str, *, anchor: str = "start", quiet: bool = False, tooltip: str = "") -> str:
    css_class = ' class="quiet"' if quiet else ""
    tip = f"<title>{escape(clean(tooltip))}</title>" if tooltip else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{css_class}>{tip}{escape(clean(label))}</text>'


def _cut(label_text: str, max_characters: int) -> str:
    return label_text if len(label_text) <= max_characters else label_text[: max_characters - 1] + "…"


def _svg(width: int, height: int, chart_title: str, description: str, elements: list[str]) -> str:
    aria_label = escape(clean(f"{chart_title}. {description}"))
    drawing = "\n".join(elements)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{aria_label}">\n{drawing}\n</svg>'
