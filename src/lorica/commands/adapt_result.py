"""What `lorica adapt` did, as data, text and plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.adaptation.expected_gain import ExpectedGain
from lorica.adaptation.guards import GuardReading
from lorica.adaptation.harvest import Contradiction
from lorica.commands.next_command import after_adapting
from lorica.metrics.bootstrap import Estimate
from lorica.names import count_of, json_values, listed
from lorica.reports.page import Cell, ReportTable
from lorica.reports.text_table import plain_table

_SHOWN = 5  # contradictions in the text; all are in the result


@dataclass(frozen=True)
class RoundReport:
    """One round of pseudo-labels. positive, negative: how many rows got each. readings: of the guards. accepted:
    whether its adapter is used; else `reason` says why not."""

    number: int
    positive: int
    negative: int
    readings: tuple[GuardReading, ...] = ()
    accepted: bool = False
    reason: str = ""


@dataclass(frozen=True)
class AdaptResult:
    """folder: of the run. adapter: the model that came of it, "" in none; digest: over its files' bytes. stage: which
    training it is. rows, train_rows: of the files. examples: distinct ones that were trained on; duplicates: that were
    there already; canary_rows: labelled rows that were held out for the guards. unseen: strata of the input that
    `train` has not. estimate: made before anything was learned from the input; no_estimate: why there is none. stopped:
    why the rounds ended before their number; rolled_back: whether by a guard. measured: on those rows of the input with
    gold whose own labels nothing was trained on, the gain in ROC-AUC over the unadapted model, in the mean of the
    unseen strata. drill: whether labels were turned around. own_rows: ids of rows of the input whose own labels were
    trained on: no evaluation may use them. disk_bytes: of all that is in `folder`; stages_bytes: of them in its stages,
    which only going on with the run needs."""

    folder: Path
    adapter: Path
    digest: str
    stage: str
    rows: int
    train_rows: int
    examples: int
    duplicates: int
    contradictions: tuple[Contradiction, ...]
    canary_rows: int
    unseen: tuple[str, ...]
    estimate: ExpectedGain | None
    no_estimate: str
    rounds: tuple[RoundReport, ...]
    stopped: str
    rolled_back: bool
    own_rows: tuple[str, ...]
    measured: Estimate | None = None
    drill: bool = False
    output: Path | None = None
    seconds: float = 0.0
    disk_bytes: int = 0
    stages_bytes: int = 0


def adapt_dict(result: AdaptResult) -> dict[str, Any]:
    """The result as values of JSON."""
    plain_values: dict[str, Any] = json_values(result)
    estimate = result.estimate
    if estimate is not None:
        verdict = {"expected": estimate.expected, "control_gains": estimate.control_gains, "verdict": estimate.verdict}
        plain_values["estimate"] |= verdict
    return plain_values


def adapt_text(result: AdaptResult, overrides: Sequence[str]) -> str:
    """Sentences, a table and the next commands for a terminal."""
    verdict = result.estimate.verdict if result.estimate else f"No estimate: {result.no_estimate}."
    paragraphs = [*_labels(result), verdict]
    if result.estimate is not None:
        paragraphs.append(plain_table(gain_table(result.estimate)))
    if result.rounds:
        paragraphs.append(plain_table(rounds_table(result.rounds)))
    paragraphs += [outcome(result)]
    if result.measured is not None:
        paragraphs.append(
            f"Measured on rows of the input with gold, whose own labels were not trained on: ROC-AUC "
            f"{result.measured.value:+.3f} [{result.measured.low:+.3f}, {result.measured.high:+.3f}] over the "
            "unadapted model, in the mean of the unseen rules."
        )
    if result.own_rows:
        paragraphs.append(
            f"of the input, {count_of(len(result.own_rows), 'row bears', 'rows bear')} a label that was trained on "
            f"({listed(result.own_rows, 3)}): `lorica eval` refuses their scores."
        )
    answers = f"\nanswers: {result.output}" if result.output else ""
    paragraphs.append(f"model: {result.adapter}{answers}\ndisk: {disk(result)}")
    paragraphs.append(after_adapting(result.folder, result.output, overrides))
    return "\n\n".join(paragraphs)


def _labels(result: AdaptResult) -> list[str]:
    contradictions = result.contradictions
    beside = f", beside {count_of(result.train_rows, 'row')} of train" if result.train_rows else ""
    sentences = [
        f"{count_of(result.examples, 'labelled example')} of {count_of(result.rows, 'row')} "
        f"{'was' if result.examples == 1 else 'were'} trained on{beside} (duplicates left out: {result.duplicates:,}; "
        f"held out as canary rows: {result.canary_rows})."
    ]
    if contradictions:
        lines = [
            f"  {entry.text[:80]!r} under {entry.stratum[:60]!r}: 1 in {listed(entry.positive, 3)}; 0 in "
            f"{listed(entry.negative, 3)}"
            for entry in contradictions[:_SHOWN]
        ]
        if len(contradictions) > _SHOWN:
            lines.append(f"  ... and {len(contradictions) - _SHOWN} more, in the ledger")
        bearing = count_of(len(contradictions), "text bears", "texts bear")
        sentences.append(f"{bearing} both labels, and nothing is learned from that:\n" + "\n".join(lines))
    return sentences


def outcome(result: AdaptResult) -> str:
    """What model came of it, and why the rounds ended."""
    drill = "This was a drill: the pseudo-labels of one class were turned around in the last round. " * result.drill
    if result.rolled_back:
        kept_stage = f"The round was rolled back; the model of the stage {result.stage} stays as it was, to the byte"
        return f"{drill}Stopped by a guard: {result.stopped}. {kept_stage} ({result.digest[:19]}...)."
    ending = f" The rounds ended: {result.stopped}." if result.stopped else ""
    if result.drill:
        drill += "NO GUARD STOPPED IT: they are too lax for this input, or too few labels were turned. "
    return f"{drill}The model is that of the stage {result.stage}.{ending}"


def disk(result: AdaptResult) -> str:
    """What the run holds on disk."""
    megabytes, of_stages = (count / 1e6 for count in (result.disk_bytes, result.stages_bytes))
    stages = result.folder / "stages"
    return f"{megabytes:,.1f} MB in {result.folder}, {of_stages:,.1f} of them in {stages}, which only a resume needs"


def gain_table(estimate: ExpectedGain) -> ReportTable:
    """Each rule that was left out."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            stratum,
            f"{rule.unadapted:.3f}",
            f"{rule.adapted:.3f}",
            " ".join(f"{value:.3f}" for value in rule.shuffled),
            str(rule.gain),
            rule.gain.n,
        )
        for stratum, rule in estimate.rules.items()
    )
    return ReportTable(("rule left out", "unadapted", "adapted", "labels shuffled", "gain in ROC-AUC", "rows"), rows)


def rounds_table(rounds: Sequence[RoundReport]) -> ReportTable:
    """Each round, with what the guards measured."""
    rows: list[tuple[Cell, ...]] = []
    for report in rounds:
        readings: Sequence[GuardReading | None] = report.readings or (None,)
        for index, reading in enumerate(readings):
            first: tuple[Cell, ...] = ("", "", "")
            if index == 0:
                first = (str(report.number), str(report.positive), str(report.negative))
            rows.append((*first, *_reading_cells(reading, report)))
    return ReportTable(("round", "labels 1", "labels 0", "guard", "measured", "limit", "verdict"), tuple(rows))


def _reading_cells(reading: GuardReading | None, report: RoundReport) -> tuple[Cell, ...]:
    if reading is None:
        return ("", "", "", report.reason)
    measured = "-" if reading.value is None else f"{reading.value:.3f}"
    verdict = f"STOP: {reading.reason}" if not reading.passed else reading.reason or "passed"
    return (reading.guard, measured, f"{reading.limit:.3f}", verdict)
