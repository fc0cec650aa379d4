"""What `lorica score` found, as data, text, plain values and a table of its leaderboard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lorica.metrics.bootstrap import Estimate
from lorica.metrics.run_scores import RunScore, ScorePair, ScoreRules, on_front
from lorica.names import count_of
from lorica.reports.page import Cell, ReportTable
from lorica.reports.text_table import plain_table
from lorica.reports.write_report import write_csv

Unit = Literal["row", "token"]


@dataclass(frozen=True)
class RunFacts:
    """What was counted of one run. seconds: of the engine, over all rows. parts: processes that it took. warmup_rows:
    computed beforehand and not counted; 0 for a cold run. settings: what sets it apart from the others, key -> value.
    """

    seconds: float
    prompt_tokens: int
    generated_tokens: int
    parts: int
    warmup_rows: int
    settings: Mapping[str, str]

    @property
    def seconds_per_token(self) -> float:
        """Of the engine, for each generated token; nan where none was generated."""
        return self.seconds / self.generated_tokens if self.generated_tokens else math.nan


@dataclass(frozen=True)
class ScoreResult:
    """runs: the best first. pairs: every two that are ranked. metric: what accuracy is, `accuracy` or `exact_match`.
    unit: what latency is stated for. rows: n. machine: in words. gold: the file. subjects: subject -> the runs on its
    rows alone, where rows have subjects. facts: of each run by name."""

    task: str
    metric: str
    unit: Unit
    rows: int
    machine: str
    gold: str
    rules: ScoreRules
    runs: tuple[RunScore, ...]
    pairs: tuple[ScorePair, ...]
    facts: Mapping[str, RunFacts]
    subjects: Mapping[str, tuple[RunScore, ...]]

    @property
    def front(self) -> tuple[RunScore, ...]:
        """The runs that no other one dominates, the fastest first."""
        return on_front(self.runs)

    @property
    def verdict(self) -> str:
        """Who leads, in a sentence."""
        ranked = [run for run in self.runs if run.rank is not None]
        if not ranked:
            return f"No run reaches the minimum accuracy of {self.rules.minimum_accuracy:.0%}: none is ranked."
        first = [run.name for run in ranked if run.rank == 1]
        if len(self.runs) == 1:
            return f"{first[0]}: score {ranked[0].score}; latency is normalised by the run itself, name others to rank."
        if len(first) == 1:
            return f"{first[0]} leads by more than chance: score {ranked[0].score}."
        rows = count_of(self.rows, "row")
        return f"{', '.join(first)} share the first rank: nothing tells their scores apart on {rows}."


def score_dict(result: ScoreResult) -> dict[str, Any]:
    """The result as values of JSON."""
    rules = result.rules
    return {
        "task": result.task,
        "metric": result.metric,
        "n": result.rows,
        "latency_per": result.unit,
        "weights": {"accuracy": rules.accuracy_weight, "latency": rules.latency_weight},
        "minimum_accuracy": rules.minimum_accuracy,
        "run_noise": rules.run_noise,
        "machine": result.machine,
        "gold": result.gold,
        "verdict": result.verdict,
        "runs": [{"run": run.name, **run_figures(run), **_facts_dict(result.facts[run.name])} for run in result.runs],
        "pairs": [{**asdict(pair), "better": pair.better or None} for pair in result.pairs],
        "front": [run.name for run in result.front],
        "subjects": {
            subject: [{"run": run.name, **run_figures(run)} for run in runs]
            for subject, runs in result.subjects.items()
        },
    }


def run_figures(run: RunScore) -> dict[str, Any]:
    """All of a score but whose it is."""
    return {field.name: getattr(run, field.name) for field in fields(run) if field.name != "name"}


def _facts_dict(facts: RunFacts) -> dict[str, Any]:
    return {**vars(facts), "seconds_per_token": facts.seconds_per_token}


def write_leaderboard(path: Path, result: ScoreResult) -> None:
    """The leaderboard with all intervals as CSV. Raises DataError."""
    measured = ("score", "accuracy", "latency", "latency_score")
    bounds = [f"{name}{suffix}" for name in measured for suffix in ("", "_low", "_high")]
    rows: list[tuple[Cell, ...]] = []
    for run in result.runs:
        estimates: list[Estimate] = [getattr(run, name) for name in measured]
        numbers = [bound for estimate in estimates for bound in (estimate.value, estimate.low, estimate.high)]
        facts = result.facts[run.name]
        counts = (facts.seconds, facts.prompt_tokens, facts.generated_tokens, facts.parts)
        rows.append((run.name, run.rank, *numbers, int(not run.dominated_by), *counts))
    columns = ("run", "rank", *bounds, "on_front", "seconds", "prompt_tokens", "generated_tokens", "parts")
    write_csv(path, columns, rows)


def score_text(result: ScoreResult) -> str:
    """The leaderboard, the front and what to know of both."""
    lines = ["accuracy-latency front, the fastest first:"]
    lines += [
        f"  {run.name}: {result.metric} {run.accuracy.value:.3f}, {1000 * run.latency.value:.3g} ms per {result.unit}"
        for run in result.front
    ]
    lines += [f"  {run.name} is dominated by {', '.join(run.dominated_by)}" for run in result.runs if run.dominated_by]
    blocks = [result.verdict, plain_table(leaderboard(result), names=("run",)), "\n".join(lines)]
    if result.subjects:
        blocks.append(plain_table(subject_table(result), names=("run",)))
    return "\n\n".join([*blocks, "\n".join(notes(result))])


def leaderboard(result: ScoreResult) -> ReportTable:
    """Runs, the best first, with their intervals."""
    columns = ("rank", "run", "score", result.metric, f"ms per {result.unit}", "latency score", "front")
    rows: list[tuple[Cell, ...]] = [
        (
            "-" if run.rank is None else str(run.rank),
            run.name,
            str(run.score),
            str(run.accuracy),
            _milliseconds(run.latency),
            str(run.latency_score),
            "dominated" if run.dominated_by else "yes",
        )
        for run in result.runs
    ]
    return ReportTable(columns, tuple(rows))


def subject_table(result: ScoreResult) -> ReportTable:
    """Accuracy and latency of each run within each subject."""
    rows: list[tuple[Cell, ...]] = [
        (subject, run.name, str(run.accuracy.n), str(run.accuracy), _milliseconds(run.latency))
        for subject, runs in result.subjects.items()
        for run in runs
    ]
    return ReportTable(("subject", "run", "n", result.metric, f"ms per {result.unit}"), tuple(rows))


def notes(result: ScoreResult) -> list[str]:
    """How the numbers are meant, and what of the runs a person should know."""
    rules = result.rules
    lines = [
        f"score = {rules.accuracy_weight:g} x {result.metric} + {rules.latency_weight:g} x (fastest latency / latency) "
        f"over {count_of(result.rows, 'row')} of {result.gold}; 95% intervals; ranks differ where a paired bootstrap "
        "tells them apart",
        "latency: the engine's own seconds, without loading, reading, tokenising and writing; "
        f"{rules.run_noise:.0%} variation from run to run is allowed for (--run-noise, or what runs of one command "
        "show)",
        f"machine: {result.machine}",
    ]
    for name, facts in result.facts.items():
        if not facts.warmup_rows:
            lines.append(
                f"{name}: a cold run, its first batches count (inference.warmup=true computes some beforehand)"
            )
        if facts.parts > 1:
            lines.append(f"{name}: interrupted and resumed, its seconds are those of {facts.parts} processes")
    return lines


def _milliseconds(latency: Estimate) -> str:
    if math.isnan(latency.value):
        return str(latency)
    return f"{1000 * latency.value:.3g} [{1000 * latency.low:.3g}, {1000 * latency.high:.3g}]"
