"""What several pages are made of: differences in words, estimates as points, pairs as a table, facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from lorica.metrics.bootstrap import Estimate
from lorica.pipeline.compare import PairComparison
from lorica.reports.page import Cell, IntervalPlot, IntervalPoint, Report, ReportTable, Section
from lorica.reports.page_size import MAX_PAGE
from lorica.version import __version__

_OFFLINE = "One file that opens from a disk and asks for nothing from a network."
MAX_TEXT = 1500
"""Characters of a text of the user's that a page shows."""

MAX_ROWS = 2000
"""Rows to read that a page lists; more are sampled, and the page says so."""

# What guessing gives, where a metric has such a value.
_CHANCE = {"roc_auc": 0.5, "balanced_accuracy": 0.5, "mcc": 0.0}


def difference_text(difference: Estimate, *, sign: int = 1) -> str:
    """+0.012 (0.004 to 0.020); with sign=-1 of the second minus the first."""
    if math.isnan(difference.value):
        return str(difference)
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{sign * difference.value:+.3f} ({low:.3f} to {high:.3f})"


def pair_sentence(pair: PairComparison, metric: str, names: Mapping[str, str]) -> str:
    """Which of two files of answers is better, and by how much; or that nothing tells them apart."""
    first, second = names[pair.first], names[pair.second]
    if pair.better:
        sign = 1 if pair.better == pair.first else -1
        better, worse = (first, second) if sign > 0 else (second, first)
        difference = difference_text(pair.test.difference, sign=sign)
        return f"{better} is better than {worse}: {metric} {difference}, p {p_text(pair.p_corrected)}."
    apart = f"Nothing tells {first} and {second} apart: {metric} {difference_text(pair.test.difference)}"
    if math.isnan(pair.test.detectable):
        return f"{apart}."
    return f"{apart}; so many rows show a difference of {pair.test.detectable:.3f} four times in five."


def p_text(p_value: float) -> str:
    """A p-value in four digits."""
    if math.isnan(p_value):
        return "undefined"
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.4f}"


PAIRS_NOTE = (
    "First minus second, with the 95% interval of the paired bootstrap. `detectable` is the smallest difference that "
    "so many rows show four times in five. McNemar's test takes rows for independent; the bootstrap draws whole groups."
)


def pairs_table(pairs: Iterable[PairComparison], names: Mapping[str, str]) -> ReportTable:
    """Pairs of files of answers, first minus second."""
    rows = tuple(
        (
            names[pair.first],
            names[pair.second],
            difference_text(pair.test.difference),
            p_text(pair.p_corrected),
            pair.test.detectable,
            pair.mcnemar.only_first,
            pair.mcnemar.only_second,
            p_text(pair.mcnemar.p_value),
            names.get(pair.better, "neither"),
        )
        for pair in pairs
    )
    columns = ("first", "second", "difference", "p (Holm)", "detectable", "right only in first", "right only in second")
    return ReportTable((*columns, "p (McNemar)", "better"), rows, interactive=len(rows) > 1)


def sample_text(estimates: Sequence[Estimate]) -> str:
    """How many rows estimates are of, and from how many groups their intervals draw: 1,923 in 15 groups."""

    def range_text(counts: set[int]) -> str:
        return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))

    rows = range_text({estimate.n for estimate in estimates})
    groups = {estimate.groups for estimate in estimates}
    return f"{rows} in {range_text(groups)} groups" if max(groups) else rows


def estimates_plot(title: str, estimates: Iterable[tuple[str, Estimate]], *, zero: str = "") -> IntervalPlot:
    """Estimates with their labels below one another, and what guessing gives of a metric of this name, or 0 under the
    name `zero`."""
    points = tuple(IntervalPoint(label, value.value, value.low, value.high) for label, value in estimates)
    reference = 0.0 if zero else _CHANCE.get(title)
    return IntervalPlot(
        title, points, reference=reference, reference_label=zero or ("" if reference is None else "guessing")
    )


def whole_page(title: str, summary: Iterable[str], sections: Iterable[Section]) -> Report:
    """A page of the sections that have something to show, as large as mail still takes. summary: its paragraphs."""
    shown = tuple(section for section in sections if section.tables or section.charts)
    return Report(title, "\n\n".join(summary), shown, _OFFLINE, MAX_PAGE)


def facts_section(facts: Sequence[tuple[str, Cell]]) -> Section:
    """Where a page comes from: versions, files and their digests."""
    table = ReportTable(("fact", "value"), (("lorica", __version__), *facts))
    return Section("Where it comes from", tables=(table,), folded=True)
