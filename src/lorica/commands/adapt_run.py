"""One run of `lorica adapt`, stage by stage: estimate, unadapted model, examples, rounds of pseudo-labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lorica.adaptation.expected_gain import ExpectedGain
from lorica.adaptation.harvest import Harvest, LabelledText, balanced, by_stratum, training_rows
from lorica.adaptation.ledger import (
    CANARY,
    CONTRADICTORY,
    LedgerEntry,
    Origin,
    make_entries,
    trained_digests,
    write_ledger,
)
from lorica.commands.adapt_estimate import estimate_gain
from lorica.commands.adapt_plan import AdaptPlan
from lorica.commands.adapt_result import AdaptResult
from lorica.commands.adapt_rounds import Rounds
from lorica.commands.adapt_stages import StageRunner, TrainedStage, folder_digest, publish_stage
from lorica.commands.arguments import inform, warn
from lorica.data.split import split
from lorica.errors import DataError, NoGainError, TrainingError
from lorica.metrics.bootstrap import Estimate, averaged_over, paired_difference
from lorica.metrics.metric_table import find_metric
from lorica.names import count_of
from lorica.records import Row
from lorica.runs.run_folder import RunFolder

_UNADAPTED, _EXAMPLES = "unadapted", "examples"
_FEWEST_CANARIES = 10

Weighed = list[tuple[LabelledText, int]]


class AdaptRun:
    """The stages of one run, and what they have in common."""

    def __init__(self, plan: AdaptPlan, run_log: RunFolder) -> None:
        """Takes the labels out of the rows; nothing is trained yet. Raises DataError where there is no label."""
        self.plan = plan
        self.settings = plan.resolved.config.adapt
        self._run_log = run_log
        self._runner = StageRunner(plan.resolved.config, plan.task, plan.folder)
        self.target = plan.folder / plan.task.name
        labelled = plan.texts.of_rows(plan.train_rows)
        self.harvest = plan.texts.harvest(plan.rows if self.settings.examples else [], labelled)
        self.labelled = [item for item in labelled if item.digest not in self.harvest.contradictory]
        self.canary_items: list[LabelledText] = []
        self.ledger: list[LedgerEntry] = []
        self.published: TrainedStage | None = None
        self._digest = ""  # over the files of the published model
        self._check_labels()

    def _check_labels(self) -> None:
        harvest, plan = self.harvest, self.plan
        inform(
            f"{count_of(len(harvest.examples), 'labelled example')} in {count_of(len(plan.rows), 'row')} "
            f"({harvest.duplicates} duplicates more), {count_of(len(self.labelled), 'labelled row')} in train"
        )
        if harvest.contradictions:
            first = harvest.contradictions[0]
            warn(
                f"bearing both labels, and left out: {count_of(len(harvest.contradictions), 'text')}, first "
                f"{first.text[:80]!r}: 1 in row {first.positive[0]!r}, 0 in row {first.negative[0]!r}"
            )
        if self.settings.examples and not harvest.examples:
            warn("no row of the input brings an example that is new; the columns are positive_example_1, ...")
        if not harvest.examples and not self.labelled:
            brought = "all labelled examples bear both labels" if harvest.contradictions else "no row brings an example"
            source = "train teaches nothing else" if plan.train_rows else "there is no train"
            raise DataError(
                f"nothing to learn from: {brought}, and {source}",
                path=plan.resolved.config.input,
                fix="name the columns of examples (task.columns.positive_example_1=...), or add train=FILE",
            )
        self._require_both([*harvest.examples, *self.labelled])

    def _require_both(self, items: Sequence[LabelledText]) -> None:
        """Raises DataError unless something can be told apart."""
        labels = {item.label for item in items}
        if len(labels) < 2:
            raise DataError(
                f"nothing to tell apart: all {len(items)} labelled texts have the label {''.join(map(str, labels))}",
                path=self.plan.resolved.config.input,
                fix="name the columns of the other examples (task.columns.negative_example_1=...), or add train=FILE "
                "with rows of both labels",
            )

    def run(self) -> AdaptResult:
        """All stages. Raises what training raises, and TrainingError where no gain is expected and one is required."""
        unseen = self._unseen_rules()
        estimate, no_estimate = self._estimate(len(unseen))
        canaries, examples = self._canaries()
        held_out = {item.row.id for item in self.canary_items}
        labelled: Weighed = [(item, 1) for item in self.labelled if item.row.id not in held_out]
        self._require_both([*examples, *(item for item, _ in labelled)])
        unadapted = None
        if len({item.label for item, _ in labelled}) == 2:
            unadapted = self._train(_UNADAPTED, labelled)
        elif labelled:
            inform("there is no unadapted model: all rows of train have one label")
        weighed = balanced(examples, self.settings.repeat)
        stage = unadapted
        if weighed:
            stage = self._train(_EXAMPLES, [*labelled, *weighed])
        assert stage is not None
        if stage.result.outcome == "diverged" and not stage.result.useful:
            raise TrainingError(f"{stage.name}: {stage.result.advice}", fix="lower training.learning_rate")
        self._publish(stage, [("train", labelled), ("example", weighed)])
        rounds = self._rounds(stage, canaries, labelled, weighed)
        stopped = rounds.run() if self.settings.rounds else ""
        if rounds.rolled_back:
            self._check_unchanged()
            warn(f"round {rounds.reports[-1].number} is rolled back: {stopped}")
        return self._result(unseen, (estimate, no_estimate), rounds, stopped, unadapted)

    def _drilled(self, rounds: Rounds) -> bool:
        """Whether the drill that was wanted took place."""
        if self.settings.drill == "off":
            return False
        took_place = bool(rounds.reports) and rounds.reports[-1].number == self.settings.rounds
        if not took_place:
            warn("the drill did not take place: the rounds ended before the last one")
        return took_place

    def _check_unchanged(self) -> None:
        """A round that is rolled back must have left the published model alone."""
        if folder_digest(self.target) != self._digest:
            raise TrainingError(
                f"{self.target} is not the last good model any more: the disk or another program changed it",
                fix="the same command with training.resume=true makes it again",
            )

    def _unseen_rules(self) -> tuple[str, ...]:
        trained = {item.stratum for item in self.labelled}
        return tuple(name for name in by_stratum(self.plan.rows, self.plan.texts.stratum) if name not in trained)

    def _estimate(self, unseen: int) -> tuple[ExpectedGain | None, str]:
        """Before anything is learned from the input."""
        if self.settings.estimate == "off":
            return None, "adapt.estimate=off"
        if not self.labelled or not self.settings.examples:
            return None, "there is no train to leave rules out of" if not self.labelled else "adapt.examples=false"
        estimate, problem = estimate_gain(
            self.plan.resolved.config, self.plan.texts, self._runner, self.labelled, unseen
        )
        if self.settings.estimate == "require" and (estimate is None or not estimate.expected):
            raise NoGainError(
                f"adapt.estimate=require: {problem if estimate is None else estimate.verdict}",
                fix="answer with the model of `lorica train`; or adapt all the same, with adapt.estimate=auto "
                "training.resume=true in place of it",
            )
        if estimate is not None:
            inform(estimate.verdict)
            self._run_log.log("estimate", {"gain": estimate.gain.value, "control": estimate.control.value})
        return estimate, problem

    def _canaries(self) -> tuple[list[Row], list[LabelledText]]:
        """The labelled rows that guards measure on, and the examples that are left to train on."""
        examples = list(self.harvest.examples)
        config, share = self.plan.resolved.config, self.settings.canary_share
        if self.plan.canaries is not None:
            own = {self.plan.texts.digest(row) for row in self.plan.canaries}
            row_count = len(self.labelled)
            self.labelled = [item for item in self.labelled if item.digest not in own]
            self.canary_items = [item for item in examples if item.digest in own]
            if canary_count := row_count - len(self.labelled) + len(self.canary_items):
                inform(
                    f"{count_of(canary_count, 'labelled text is a canary row', 'labelled texts are canary rows')}, and "
                    "nothing is trained on them"
                )
            return self.plan.canaries, [item for item in examples if item.digest not in own]
        pool = examples or self.labelled
        if not self.settings.rounds or not share or len(pool) * share < _FEWEST_CANARIES:
            if self.settings.rounds:
                inform(
                    f"no canary rows: {share:g} of {len(pool)} labelled rows (adapt.canary_share) are fewer than "
                    f"{_FEWEST_CANARIES}; adapt.canaries=FILE names others"
                )
            return [], examples
        rows, seed = [item.row for item in pool], config.training.seed
        try:
            _, canaries = split(rows, ratio=share, seed=seed, text=self.plan.texts.text, source=config.input)
        except DataError as error:
            inform(f"no canary rows: {error.message}")
            return [], examples
        held_out = {row.id for row in canaries}
        self.canary_items = [item for item in pool if item.row.id in held_out]
        return canaries, [item for item in examples if item.row.id not in held_out]

    def _train(self, name: str, weighed: Weighed) -> TrainedStage:
        self._run_log.log("stage", {"name": name, "rows": sum(copies for _, copies in weighed)})
        return self._runner.train(name, training_rows(weighed))

    def _rounds(self, stage: TrainedStage, canaries: list[Row], labelled: Weighed, weighed: Weighed) -> Rounds:
        def accept(accepted: TrainedStage, items: Sequence[LabelledText], scores: Mapping[str, float]) -> None:
            pseudo: Weighed = [(item, 1) for item in items]
            self._publish(accepted, [("train", labelled), ("example", weighed), ("pseudo", pseudo)], scores)

        stated = {item.digest for item in (*self.labelled, *self.harvest.examples)} | self.harvest.contradictory
        return Rounds(
            self.settings,
            self.plan.texts,
            self._runner,
            self.plan.rows,
            canaries,
            training_rows([*labelled, *weighed]),
            frozenset(stated | {self.plan.texts.digest(row) for row in canaries}),
            stage,
            self._prior(),
            accept,
        )

    def _prior(self) -> float:
        if self.settings.prior:
            return self.settings.prior
        return float(np.mean([item.label for item in self.labelled])) if self.labelled else 0.5

    def _publish(
        self,
        stage: TrainedStage,
        origins: Sequence[tuple[Origin, Weighed]],
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """The stage's model with its ledger becomes the run's."""
        self.ledger = [
            entry
            for origin, weighed in origins
            for entry in make_entries(
                weighed,
                origin,
                self.plan.texts.text,
                trained_ids=stage.trained_ids,
                passes=stage.passes,
                scores=scores if origin == "pseudo" else None,
            )
        ]
        self.ledger += _unused(self.harvest, self.canary_items, self.plan)
        write_ledger(stage.folder, self.ledger)
        publish_stage(stage, self.target)
        self.published, self._digest = stage, folder_digest(self.target)

    def _result(
        self,
        unseen: tuple[str, ...],
        estimate: tuple[ExpectedGain | None, str],
        rounds: Rounds,
        stopped: str,
        unadapted: TrainedStage | None,
    ) -> AdaptResult:
        assert self.published is not None
        own_digests = trained_digests(self.ledger)
        own_rows = tuple(row.id for row in self.plan.rows if self.plan.texts.digest(row) in own_digests)
        return AdaptResult(
            folder=self.plan.folder,
            adapter=self.target,
            digest=self._digest,
            stage=self.published.name,
            rows=len(self.plan.rows),
            train_rows=len(self.labelled),
            examples=sum(entry.origin == "example" and entry.copies > 0 for entry in self.ledger),
            duplicates=self.harvest.duplicates,
            contradictions=self.harvest.contradictions,
            canary_rows=len(rounds.canaries),
            unseen=unseen,
            estimate=estimate[0],
            no_estimate=estimate[1],
            rounds=tuple(rounds.reports),
            stopped=stopped,
            rolled_back=rounds.rolled_back,
            own_rows=own_rows,
            measured=self._measured(unadapted, unseen, set(own_rows)),
            drill=self._drilled(rounds),
        )

    def _measured(self, unadapted: TrainedStage | None, unseen: Sequence[str], own_rows: set[str]) -> Estimate | None:
        """The gain on rows with gold of unseen rules, whose own labels nothing was trained on."""
        assert self.published is not None
        groups = by_stratum(
            [row for row in self.plan.rows if row.gold is not None and row.id not in own_rows],
            self.plan.texts.stratum,
        )
        rows = [row for name in unseen if len({row.gold for row in groups.get(name, [])}) == 2 for row in groups[name]]
        if unadapted is None or unadapted is self.published or not rows:
            return None
        columns = []
        for stage in (self.published, unadapted):
            scores = self._runner.score(stage, self.plan.rows, f"{stage.name}-rows")
            columns.append([scores[row.id] for row in rows])
        averaged = averaged_over(find_metric("roc_auc"), [self.plan.texts.stratum(row) for row in rows])
        return paired_difference(averaged, [int(row.gold == 1) for row in rows], *columns)


def _unused(harvest: Harvest, canary_items: Sequence[LabelledText], plan: AdaptPlan) -> list[LedgerEntry]:
    """Entries of texts that nothing is trained on: with both labels, and canary rows."""
    example_digests = {item.digest for item in harvest.examples}
    entries = [
        LedgerEntry(
            digest=item.digest,
            stratum=item.stratum,
            text=plan.texts.text(item.row),
            label=item.label,
            origin="example" if item.digest in example_digests else "train",
            sources=item.sources,
            unused=CANARY,
        )
        for item in canary_items
    ]
    for contradiction in harvest.contradictions:
        entries.append(
            LedgerEntry(
                digest=contradiction.digest,
                stratum=contradiction.stratum,
                text=contradiction.text,
                label=None,
                origin="example",
                sources=(*contradiction.positive, *contradiction.negative),
                unused=CONTRADICTORY,
            )
        )
    return entries
