"""The page of `lorica adapt --html`: was a gain to be expected, what was trained on, and what the guards saw."""

from __future__ import annotations

from lorica.commands.adapt_result import AdaptResult, disk, gain_table, outcome, rounds_table
from lorica.commands.pages.page_parts import MAX_ROWS, MAX_TEXT, estimates_plot, facts_section, whole_page
from lorica.names import count_of
from lorica.reports.page import Cell, Line, LineChart, Report, ReportTable, Section


def adapt_page(result: AdaptResult) -> Report:
    """The whole page."""
    summary = [outcome(result)]
    if result.estimate is not None:
        summary.append(result.estimate.verdict)
    if result.measured is not None:
        summary.append(
            f"Measured on the input's own gold, on unseen rules: ROC-AUC {result.measured} over the unadapted model."
        )
    sections = [_gains(result), _rounds(result), _contradictions(result), _own_rows(result)]
    facts: list[tuple[str, Cell]] = [
        ("adapter", str(result.adapter)),
        ("digest of its files", result.digest),
        ("examples trained on", result.examples),
        ("duplicates", result.duplicates),
        ("canary rows", result.canary_rows),
        ("rows of train", result.train_rows),
        ("seconds", result.seconds),
        ("disk", disk(result)),
    ]
    return whole_page(f"Adapted to {count_of(result.rows, 'row')}", summary, [*sections, facts_section(facts)])


def _gains(result: AdaptResult) -> Section:
    estimate = result.estimate
    if estimate is None:
        return Section("Expected gain")
    estimates = [
        *((stratum, rule.gain) for stratum, rule in estimate.rules.items()),
        ("mean of the rules", estimate.gain),
        ("shuffled labels", estimate.control),
        ("the same, over chance", estimate.above_chance),
        ("by the labels alone", estimate.by_labels),
    ]
    if result.measured is not None:
        estimates.append(("measured on the input", result.measured))
    return Section(
        "Expected gain",
        "Each rule was left out of training in its turn, and its examples learned; the interval is that of its rows. "
        f"The control learned them {estimate.shuffles} times under shuffled labels; over the better of the unadapted "
        "model and chance it must show no gain. All this was computed before anything was learned from the input.",
        tables=(gain_table(estimate),),
        charts=(estimates_plot("gain in ROC-AUC", estimates, zero="nothing"),),
    )


def _rounds(result: AdaptResult) -> Section:
    if not result.rounds:
        return Section("Rounds of pseudo-labels")
    readings: dict[str, list[tuple[float, float]]] = {}
    for report in result.rounds:
        for reading in report.readings:
            if reading.value is not None:
                readings.setdefault(reading.guard, []).append((float(report.number), reading.value))
    lines = tuple(Line(guard, tuple(points)) for guard, points in readings.items())
    return Section(
        "Rounds of pseudo-labels",
        "Confident scores became labels. A round whose model fails a guard is rolled back, and the run stops.",
        tables=(rounds_table(result.rounds),),
        charts=(LineChart("what the guards measured", lines, "round", "value"),) if len(result.rounds) > 1 else (),
    )


def _contradictions(result: AdaptResult) -> Section:
    rows = tuple(
        (entry.text[:MAX_TEXT], entry.stratum, ", ".join(entry.positive), ", ".join(entry.negative))
        for entry in result.contradictions[:MAX_ROWS]
    )
    table = ReportTable(("text", "rule", "1 in rows", "0 in rows"), rows, total=len(result.contradictions))
    return Section(
        "Texts with both labels", "Nothing was trained on them.", tables=(table,) if rows else (), folded=len(rows) > 20
    )


def _own_rows(result: AdaptResult) -> Section:
    table = ReportTable(("row",), tuple((row_id,) for row_id in result.own_rows[:MAX_ROWS]), total=len(result.own_rows))
    return Section(
        "Rows whose own labels were trained on",
        "They stand among the examples of other rows. Their scores prove nothing, and `lorica eval` refuses them.",
        tables=(table,) if result.own_rows else (),
        folded=True,
    )
