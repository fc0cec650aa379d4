"""The rounds of pseudo-labels of `lorica adapt`: each is judged by guards before its model is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np

from lorica.adaptation.guards import (
    GuardReading,
    canary_rows,
    class_balance,
    pick_pseudo_labels,
    score_distance,
    teacher_agreement,
)
from lorica.adaptation.harvest import LabelledText, TextLabels, training_rows
from lorica.commands.adapt_result import RoundReport
from lorica.commands.adapt_stages import StageRunner, TrainedStage
from lorica.commands.arguments import inform
from lorica.config.adapt_section import AdaptConfig
from lorica.ensemble.members import Scores
from lorica.errors import CollapsedError, NotFiniteError
from lorica.names import count_of
from lorica.records import Row

Accept = Callable[[TrainedStage, Sequence[LabelledText], Mapping[str, float]], None]
"""Takes the stage of a round that passed, its pseudo-labels, and the scores by row id that gave them."""


@dataclass
class Rounds:
    """What the rounds start from. rows: of the input; canaries: labelled rows that nothing is trained on. weighed: the
    training rows with stated labels. stated: digests of texts that have a label, or both. teacher: the stage that was
    trained without pseudo-labels. accept: is given each round that passed."""

    settings: AdaptConfig
    texts: TextLabels
    runner: StageRunner
    rows: Sequence[Row]
    canaries: Sequence[Row]
    own_rows: Sequence[Row]
    stated: frozenset[str]
    teacher: TrainedStage
    prior: float
    accept: Accept
    reports: list[RoundReport] = field(default_factory=list)

    def run(self) -> str:
        """Go through the rounds; why they ended before their number, or ""."""
        teacher_scores = self._score(self.teacher)
        scores, former = teacher_scores, dict[str, int]()
        for number in range(1, self.settings.rounds + 1):
            picked = self._drilled(number, self._pick(scores[0]))
            if len(picked) < self.settings.min_pseudo_labels:
                confident, least = count_of(len(picked), "score is", "scores are"), self.settings.min_pseudo_labels
                return (
                    f"{confident} confident (below {self.settings.low:g} or above {self.settings.high:g}; "
                    f"adapt.low, adapt.high), and adapt.min_pseudo_labels={least} asks for more"
                )
            if picked == former:
                return "the pseudo-labels are those of the round before: there is nothing new to learn"
            former = picked
            report, scores = self._round(number, picked, scores, teacher_scores)
            self.reports.append(report)
            if not report.accepted:
                return report.reason
        return ""

    @property
    def rolled_back(self) -> bool:
        """Whether the last round failed."""
        return bool(self.reports) and not self.reports[-1].accepted

    def _score(self, stage: TrainedStage) -> tuple[dict[str, float], dict[str, float]]:
        """The scores of the rows and of the canary rows, by id."""
        rows_scores = self.runner.score(stage, self.rows, f"{stage.name}-rows")
        if not self.canaries:
            return rows_scores, {}
        return rows_scores, self.runner.score(stage, self.canaries, f"{stage.name}-canaries")

    def _pick(self, scores: Mapping[str, float]) -> dict[str, int]:
        """Pseudo-labels of texts that have no stated label."""
        unlabelled = {row.id for row in self.rows if self.texts.digest(row) not in self.stated}
        picked = pick_pseudo_labels(scores, self.settings)
        return {row_id: label for row_id, label in picked.items() if row_id in unlabelled}

    def _drilled(self, number: int, picked: Mapping[str, int]) -> dict[str, int]:
        if self.settings.drill == "off" or number < self.settings.rounds:
            return dict(picked)
        turned = int(self.settings.drill == "flip_1")
        inform(f"drill: the pseudo-labels {turned} of round {number} are turned around")
        return {row_id: 1 - label if label == turned else label for row_id, label in picked.items()}

    def _round(
        self,
        number: int,
        picked: Mapping[str, int],
        before: tuple[dict[str, float], dict[str, float]],
        teacher: tuple[dict[str, float], dict[str, float]],
    ) -> tuple[RoundReport, tuple[dict[str, float], dict[str, float]]]:
        """The report of a round, and the scores that the next one starts from."""
        positive = sum(picked.values())
        report = RoundReport(number, positive, len(picked) - positive)
        readings = [class_balance("balance of labels", positive / len(picked), self.prior, self.settings)]
        if not readings[0].passed:
            return _judged(report, readings), before
        name = f"round-{number}"
        inform(f"{name}: {len(picked)} pseudo-labels, {positive} of them 1")
        items = self._items(picked)
        try:
            stage = self.runner.train(name, [*self.own_rows, *training_rows((item, 1) for item in items)])
        except (NotFiniteError, CollapsedError) as error:
            return replace(report, reason=f"its training failed: {error.message}"), before
        if stage.result.outcome == "diverged":
            return replace(report, reason=f"its training diverged: {stage.result.advice}"), before
        after = self._score(stage)
        readings += self._read_guards(before, after, teacher)
        report = _judged(report, readings)
        if not report.accepted:
            return report, before
        self.accept(stage, items, before[0])
        return report, after

    def _items(self, picked: Mapping[str, int]) -> list[LabelledText]:
        items = []
        for row in self.rows:
            if row.id in picked:
                pseudo = msgspec.structs.replace(row, id=f"{row.id}/pseudo", gold=picked[row.id])
                items.append(LabelledText(self.texts.digest(row), self.texts.stratum(row), pseudo, (row.id,)))
        return items

    def _read_guards(
        self,
        before: tuple[dict[str, float], dict[str, float]],
        after: tuple[dict[str, float], dict[str, float]],
        teacher: tuple[dict[str, float], dict[str, float]],
    ) -> list[GuardReading]:
        scores, scores_before, scores_teacher = (
            self._column(source[0], self.rows) for source in (after, before, teacher)
        )
        canary_scores, canary_teacher = (self._column(source[1], self.canaries) for source in (after, teacher))
        labels = [int(row.gold == 1) for row in self.canaries]
        return [
            class_balance("balance of answers", float((scores >= 0.5).mean()), self.prior, self.settings),
            score_distance(scores, scores_before, self.settings),
            teacher_agreement(scores, scores_teacher, self.settings),
            canary_rows(canary_scores, canary_teacher, labels, self.settings),
        ]

    def _column(self, scores: Mapping[str, float], rows: Sequence[Row]) -> Scores:
        return np.array([scores[row.id] for row in rows], dtype=np.float64)


def _judged(report: RoundReport, readings: Sequence[GuardReading]) -> RoundReport:
    failed = [f"{reading.guard}: {reading.reason}" for reading in readings if not reading.passed]
    return replace(report, readings=tuple(readings), accepted=not failed, reason="; ".join(failed))
