"""The pages of `lorica tune`: are the best settings better than the defaults, what was tried, and what mattered."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lorica.commands.pages.page_parts import (
    PAIRS_NOTE,
    difference_text,
    estimates_plot,
    facts_section,
    p_text,
    pairs_table,
    whole_page,
)
from lorica.commands.tune_result import ENDINGS, AttemptsResult, TuneResult, trials_table, value_text
from lorica.commands.tune_study import DEFAULTS, trial_name
from lorica.config.parse_values import show
from lorica.names import count_of
from lorica.reports.charts import log_axis, nice_axis
from lorica.reports.page import (
    Cell,
    IntervalPlot,
    IntervalPoint,
    Line,
    LineChart,
    ParallelAxis,
    ParallelLine,
    ParallelPlot,
    Report,
    ReportTable,
    Section,
)
from lorica.tuning.dimensions import Dimension, settings_name
from lorica.tuning.trial_store import Trial


def tune_page(result: TuneResult) -> Report:
    """The page of a study."""
    sections = [_best(result), _importance(result), _parallel(result), _progress(result), _trials(result)]
    return whole_page(
        f"Settings for {result.metric}: {count_of(len(result.trials), 'trial')}",
        [result.verdict, f"Next: {result.command}"],
        [*sections, _facts(result)],
    )


def _best(result: TuneResult) -> Section:
    points = [
        IntervalPoint(label, trial.value, *(math.nan if bound is None else bound for bound in (trial.low, trial.high)))
        for label, trial in ((DEFAULTS, result.defaults), ("best", result.best))
        if trial is not None and trial.value is not None
    ]
    charts = (IntervalPlot(f"{result.metric} on {result.validation_rows:,} validation rows", tuple(points)),)
    pair = result.comparison
    if pair is None:
        return Section("The best and the defaults", charts=charts if points else ())
    names = {name: name for name in (pair.first, pair.second)}
    return Section(
        "The best and the defaults",
        f"The table compares them on {pair.n:,} of {result.compared_rows:,} rows that no trial learned from or was "
        f"chosen by. {PAIRS_NOTE}",
        tables=(pairs_table([pair], names),),
        charts=charts,
    )


def _importance(result: TuneResult) -> Section:
    points = tuple(IntervalPoint(key.rpartition(".")[2], share) for key, share in result.importance.items())
    return Section(
        "What mattered",
        "The share of the variance of the values that a setting explains, over the whole of what was tried (fANOVA).",
        charts=(IntervalPlot("Importance", points, reference=0.0, reference_label="none"),) if points else (),
    )


def _parallel(result: TuneResult) -> Section:
    """Parallel coordinates: an axis for each setting, the last for the metric."""
    finished = [trial for trial in result.ordered if trial.value is not None]
    if len(finished) < 2 or not result.dimensions:
        return Section("Settings and values")
    placed = [_place_settings(dimension, finished) for dimension in result.dimensions]
    value_axis, value_places = _place_numbers(
        result.metric, [trial.value or 0.0 for trial in finished], logarithmic=False
    )
    lines = tuple(
        ParallelLine(
            trial_name(trial.number),
            (*(places[index] for _, places in placed), value_places[index]),
            (*(_shown(trial, dimension) for dimension in result.dimensions), f"{trial.value:.3f}"),
            strength=1 - index / len(finished),
            marked=result.best is not None and trial.number == result.best.number,
        )
        for index, trial in enumerate(finished)
    )
    return Section(
        "Settings and values",
        "A line for each finished trial: the darker, the better; the best one stands out. A line passes over an axis "
        "that decides nothing with its other settings.",
        charts=(ParallelPlot("Parallel coordinates", (*(axis for axis, _ in placed), value_axis), lines),),
    )


def _place_settings(dimension: Dimension, trials: Sequence[Trial]) -> tuple[ParallelAxis, list[float]]:
    """The axis of a setting, and the place of each trial on it."""
    label = dimension.key.rpartition(".")[2]
    if not dimension.values:
        numbers = [trial.settings.get(dimension.key, math.nan) for trial in trials]
        return _place_numbers(label, numbers, logarithmic=dimension.logarithmic)
    settings = [trial.settings[dimension.key] for trial in trials if dimension.key in trial.settings]
    texts = list(dict.fromkeys(map(show, (*dimension.values, *settings))))
    places = {text: index / max(1, len(texts) - 1) for index, text in enumerate(texts)}
    ticks = tuple(zip(places.values(), places, strict=True))
    return ParallelAxis(label, ticks), [places.get(_shown(trial, dimension), math.nan) for trial in trials]


def _shown(trial: Trial, dimension: Dimension) -> str:
    return show(trial.settings[dimension.key]) if dimension.key in trial.settings else ""


def _place_numbers(label: str, numbers: Sequence[float], *, logarithmic: bool) -> tuple[ParallelAxis, list[float]]:
    """nan stays."""
    present = [number for number in numbers if math.isfinite(number)]
    ticks, start, end = log_axis(present) if logarithmic else nice_axis(present)
    scale = math.log if logarithmic else float

    def place(number: float) -> float:
        return (scale(number) - scale(start)) / (scale(end) - scale(start))

    return ParallelAxis(label, tuple((place(tick), f"{tick:g}") for tick in ticks)), [
        place(number) for number in numbers
    ]


def _progress(result: TuneResult) -> Section:
    """The best value over the time that was used."""
    points, best = list[tuple[float, float]](), math.nan
    for trial in result.trials:
        if trial.value is not None:
            is_better = not trial.value <= best if result.higher_is_better else not trial.value >= best
            points += [] if math.isnan(best) else [(trial.used / 60, best)]
            best = trial.value if is_better else best
            points.append((trial.used / 60, best))
    line = Line("the best so far", tuple(points))
    chart = LineChart("The best value so far", (line,), "minutes used", f"{result.metric} on the validation rows")
    return Section("Over time", charts=(chart,) if len(points) > 1 else ())


def _trials(result: TuneResult) -> Section:
    return Section(
        "All trials",
        "Pruned trials were worse on the validation rows than half of the finished ones at the same share of their "
        "updates; one that was cut goes on when there are more minutes.",
        tables=(trials_table(result, result.ordered, interactive=True),) if result.trials else (),
    )


def _facts(result: TuneResult) -> Section:
    facts: list[tuple[str, Cell]] = [
        ("folder", str(result.folder)),
        ("best adapter", str(result.adapter)),
        ("minutes used", f"{result.seconds / 60:.1f} of {result.minutes:g}"),
        ("ended because", ENDINGS[result.ended_by]),
        *((f"tried for {dimension.key}", dimension.describe()) for dimension in result.dimensions),
        ("with the best settings", result.commands["best"]),
        ("with the defaults", result.commands["defaults"]),
    ]
    return facts_section(facts)


def attempts_page(decision: AttemptsResult) -> Report:
    """The page of the decision."""
    compared = [
        (f"attempt {number}", result.comparison.test.difference)
        for number, result in enumerate(decision.attempts, 1)
        if result.comparison is not None
    ]
    metric = decision.attempts[0].metric
    plot = estimates_plot(f"{metric}: the best settings minus {DEFAULTS}", compared, zero="no difference")
    sections = [
        Section(
            "What was tried and found",
            "Each attempt divides the rows into training and validation anew, and tries the best settings of those "
            "before it first. The differences are on rows that no trial of any attempt saw, with 95% intervals of the "
            "paired bootstrap; the p-values are corrected for the number of attempts (Holm).",
            tables=(attempts_table(decision),),
            charts=(plot,) if compared else (),
        )
    ]
    for number, result in enumerate(decision.attempts, 1):
        heading = f"Attempt {number}"
        text = f"{result.verdict}\n\nAll of it: {result.folder}"
        sections.append(Section(heading, text, tables=(trials_table(result, result.ordered),)))
    return whole_page(
        f"Decision: {decision.decision}",
        [decision.verdict, f"Next: {decision.command}"],
        [*sections, facts_section([("folder", str(decision.folder))])],
    )


def attempts_table(decision: AttemptsResult) -> ReportTable:
    """The attempts below one another."""
    rows: list[tuple[Cell, ...]] = []
    for number, (result, p_value) in enumerate(zip(decision.attempts, decision.p_corrected, strict=True), 1):
        pair, best = result.comparison, result.best
        rows.append(
            (
                number,
                len(result.trials),
                f"{result.seconds / 60:.1f}",
                "" if best is None else settings_name(best.settings) if best.number else DEFAULTS,
                "" if best is None else value_text(best),
                "" if pair is None else difference_text(pair.test.difference),
                "" if pair is None else p_text(p_value),
            )
        )
    heads = ("attempt", "trials", "minutes", "best settings", "on validation", f"minus {DEFAULTS}", "p (Holm)")
    return ReportTable(heads, tuple(rows))
