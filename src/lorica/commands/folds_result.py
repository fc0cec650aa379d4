"""What `lorica folds` found: average, ensemble and best fold side by side, as text and as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.commands.average import AverageResult
from lorica.commands.eval_report import comparison_dict, comparison_text, evaluation_dict
from lorica.commands.next_command import infer_command, next_settings
from lorica.metrics.metric_table import find_metric
from lorica.names import count_of, shell_line
from lorica.pipeline.compare import FileComparison
from lorica.pipeline.evaluate import Evaluation

AVERAGE, ENSEMBLE = "average", "ensemble"


@dataclass(frozen=True)
class FoldsComparison:
    """The average of the folds, their ensemble and the best fold on the same rows.

    run_dir: of the folds. task: its name. best: the fold whose own held-out rows were answered best: the test rows did
    not choose it. average: None where the folds have none, and `no_average` says why. files: name -> answers, those of
    every fold among them. trained_on: ids of test rows that were left out, since folds were trained on their texts.
    metric_names: the task's, the main one first. pooling: what pooling the out-of-fold scores costs, in a sentence.
    """

    run_dir: Path
    task: str
    best: str
    average: AverageResult | None
    no_average: str
    files: Mapping[str, Path]
    trained_on: tuple[str, ...]
    evaluations: Mapping[str, Evaluation]
    comparison: FileComparison
    metric_names: tuple[str, ...]
    pooling: str

    @property
    def choice(self) -> str:
        """What to use: `AVERAGE`, `ENSEMBLE` or the best fold's name."""
        return self._decision[0]

    @property
    def verdict(self) -> str:
        """What to use, in a sentence."""
        return self._decision[1]

    @property
    def _decision(self) -> tuple[str, str]:
        if all(math.isnan(pair.test.difference.value) for pair in self.comparison.pairs):
            difference = self.comparison.pairs[0].test.difference
            return self.best, (
                f"What is better cannot be told on these rows: {self.comparison.metric} {difference}. {self.best}, the "
                "best fold, was answered best out of fold."
            )
        better = {frozenset((pair.first, pair.second)): pair.better for pair in self.comparison.pairs}
        ensemble_over_best = better[frozenset((ENSEMBLE, self.best))]
        if self.average is not None:
            average_over_best = better[frozenset((AVERAGE, self.best))]
            if better[frozenset((AVERAGE, ENSEMBLE))] == ENSEMBLE:
                return ENSEMBLE, (
                    "The ensemble beats the average by more than the choice of rows explains: answer with all folds."
                )
            if average_over_best == AVERAGE:
                return AVERAGE, (
                    "The average beats the best fold, and the ensemble is not shown to beat it: use the average."
                )
            if average_over_best == self.best:
                return self.best, (
                    f"The average is WORSE than {self.best} alone: answer with that, or with the ensemble."
                )
        if ensemble_over_best == ENSEMBLE:
            return ENSEMBLE, f"The ensemble beats {self.best}, the best fold: answer with all folds."
        return self.best, (
            f"Nothing here is shown to beat {self.best}, the best fold: answer with one adapter, or judge on more rows."
        )


def folds_comparison_dict(result: FoldsComparison) -> dict[str, Any]:
    """The result as values of JSON (`names.json_values`)."""
    average = result.average
    return {
        "best_fold": result.best,
        "average": None
        if average is None
        else {"path": average.output, "rank": average.rank, "error": average.error, "digests": average.digests},
        "no_average": result.no_average or None,
        "files": {name: evaluation_dict(evaluation) for name, evaluation in result.evaluations.items()},
        **comparison_dict(result.comparison),
        "answers": result.files,
        "left_out": result.trained_on,
        "verdict": result.verdict,
    }


def folds_comparison_text(result: FoldsComparison, test: Path, overrides: Sequence[str]) -> str:
    """Tables, what was compared, the verdict and the commands that follow it. test: the file of rows. overrides: those
    of the command."""
    average = result.average
    cost = "" if average is None else f"{average.error:.2%} of the update is lost" if average.error else "exact"
    fold_count = sum(name not in (AVERAGE, ENSEMBLE) for name in result.files)
    notes = [
        f"{AVERAGE}: none: {result.no_average}"
        if average is None
        else f"{AVERAGE}: {average.output}, rank {average.rank}, {cost}; one pass for a row",
        f"{ENSEMBLE}: of {fold_count} folds, {fold_count} passes for a row",
        f"{result.best}: the fold whose own held-out rows were answered best; {test} did not choose it",
    ]
    if result.trained_on:
        notes.append(f"left out: {count_of(len(result.trained_on), 'row')} whose texts folds were trained on")
    if result.pooling:
        notes.append(f"out of fold, {result.pooling}")
    return "\n\n".join(
        [
            comparison_text(result.comparison, result.evaluations, result.metric_names),
            "\n".join(notes),
            f"{result.verdict}\n{_next_commands(result, overrides)}",
        ]
    )


def _next_commands(result: FoldsComparison, overrides: Sequence[str]) -> str:
    """How rows to come are answered by what the verdict says."""
    run_dir, task = result.run_dir, result.task
    if result.choice != ENSEMBLE:
        average = result.average if result.choice == AVERAGE else None
        adapter = run_dir / result.choice if average is None else average.output
        return f"-> {infer_command(f'adapters.paths.{task}={adapter}', overrides)}"
    names = [name for name in result.files if name not in (AVERAGE, ENSEMBLE)]
    lines = [infer_command(f"adapters.paths.{task}={run_dir / name}", overrides, f"{name}.csv") for name in names]
    method = "mean" if find_metric(result.comparison.metric).takes_scores else "vote"
    files = shell_line(*(f"{name}.csv" for name in names))
    lines.append(f"lorica ensemble {files} --method {method} --output answers.csv {next_settings(overrides)}")
    return "\n".join(f"-> {line}" for line in lines)
