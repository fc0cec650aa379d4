"""What `lorica ensemble` shows: the blend beside its members, as text and as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorica.commands.eval_report import pair_dict
from lorica.commands.next_command import next_settings
from lorica.metrics.bootstrap import Estimate
from lorica.names import count_of, shell_line
from lorica.pipeline.compare import PairComparison
from lorica.reports.page import Cell, ReportTable
from lorica.reports.short_names import short_paths
from lorica.reports.text_table import plain_table


@dataclass(frozen=True)
class EnsembleResult:
    """correlations: Spearman's, of every two members. left_out: file -> why it is no member. weights: member -> its
    share. With gold: metric, estimates (of the blend and of each member), best (member), over_best: the blend against
    it; over_without: member -> the blend against the blend without it."""

    method: str
    members: tuple[str, ...]
    correlations: tuple[tuple[float, ...], ...]
    left_out: Mapping[str, str]
    weights: Mapping[str, float]
    metric: str = ""
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    best: str = ""
    over_best: PairComparison | None = None
    over_without: Mapping[str, PairComparison] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Whether blending helped, in a sentence; "" without gold."""
        if self.over_best is None:
            return ""
        difference = self.over_best.test.difference
        if math.isnan(difference.value):
            return f"Whether the blend beats its best member cannot be told: {self.metric} {difference}."
        if len(self.members) == 1 and self.left_out and difference.low == difference.high == 0:
            return f"Only {self.best} is left, and there is nothing to blend it with: use that file."
        if len(self.members) == 1:
            return self._ranked_alone(f"{self.metric} {difference}")
        if self.over_best.better == self.over_best.first:
            return f"The blend beats its best member, {self.best}: {self.metric} {difference}."
        if self.over_best.better:
            return f"The blend is WORSE than {self.best} alone: {self.metric} {difference}. Use that file."
        return (
            f"The blend does not beat its best member, {self.best}, by more than the choice of rows explains: "
            f"{self.metric} {difference}. Use that file, or judge on more rows."
        )

    def _ranked_alone(self, change: str) -> str:
        """What ranking one file within groups does to it. change: the metric's, in words."""
        assert self.over_best is not None
        if self.over_best.better == self.over_best.first:
            return f"Ranked within its groups, {self.best} is better than as it is: {change}."
        if self.over_best.better:
            return f"Ranked within its groups, {self.best} is WORSE than as it is: {change}. Use that file."
        return (
            f"Ranking {self.best} within its groups changes nothing that the choice of rows does not explain: {change}."
        )


def ensemble_dict(result: EnsembleResult) -> dict[str, Any]:
    """The result as values of JSON."""
    return {
        "method": result.method,
        "members": [
            {
                "file": name,
                "weight": result.weights.get(name),
                "estimate": result.estimates.get(name),
                "adds": pair_dict(result.over_without[name]) if name in result.over_without else None,
            }
            for name in result.members
        ],
        "left_out": result.left_out,
        "correlations": result.correlations,
        "metric": result.metric or None,
        "blend": next(iter(result.estimates.values()), None),
        "best": result.best or None,
        "over_best": None if result.over_best is None else pair_dict(result.over_best),
        "verdict": result.verdict or None,
    }


def ensemble_text(result: EnsembleResult) -> str:
    """Tables and sentences for a terminal."""
    names = short_paths(result.members)
    paragraphs = [f"left out: {name}: {reason}" for name, reason in result.left_out.items()]
    if result.estimates:
        blend_estimate = next(iter(result.estimates.values()))
        rows: list[tuple[Cell, ...]] = [(f"the blend ({result.method})", "", str(blend_estimate), "")]
        rows += [
            (
                names[name],
                f"{result.weights[name]:.3f}" if result.method != "stack" else "fitted",
                str(result.estimates[name]),
                str(result.over_without[name].test.difference) if name in result.over_without else "",
            )
            for name in result.members
        ]
        paragraphs.append(
            plain_table(ReportTable(("answers", "weight", result.metric, "adds to the blend"), tuple(rows)))
        )
    if len(result.members) > 1 and result.correlations:
        paragraphs.append(plain_table(correlation_table(result, names)))
    blended = f"{count_of(len(result.members), 'file was', 'files were')} blended"
    paragraphs.append(result.verdict or f"{blended}; --gold says whether that helps.")
    return "\n\n".join(paragraphs)


def correlation_table(result: EnsembleResult, names: Mapping[str, str]) -> ReportTable:
    """How alike every two members rank. names: member -> how it is shown."""
    heads = tuple(f"({number})" for number in range(1, len(result.members) + 1))
    rows = tuple(
        (f"{head} {names[name]}", *(f"{value:.3f}" for value in values))
        for head, name, values in zip(heads, result.members, result.correlations, strict=True)
    )
    return ReportTable(("rank correlation", *heads), rows)


def serving_text(result: EnsembleResult, model_file: Path, overrides: Sequence[str]) -> str:
    """The command that blends answers to rows to come. model_file: what `--save` wrote. overrides: of the command."""
    new_files = [f"NEW-{number}.csv" for number in range(1, len(result.members) + 1)]
    command = shell_line("lorica", "ensemble", *new_files, "--model", str(model_file), "--output", "blend.csv")
    members = "; ".join(f"{file}: of {name}" for file, name in zip(new_files, result.members, strict=True))
    return f"{model_file} serves rows to come:\n-> {command} {next_settings(overrides)}".rstrip() + (
        f"\n   (answers to them by the members in this order; {members})"
    )
