"""What a judge found, over all rows: the mean with what failed beside it, and how far the judge can be believed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorica.judging.agreement import Agreement, Consistency, agreement, consistency
from lorica.judging.calls import JudgeCall
from lorica.judging.judge_run import JudgeRun
from lorica.judging.rubrics import JudgeItem
from lorica.judging.verdicts import RowVerdict, record_label
from lorica.metrics.base import Column, Evaluator, Metric, mean_of
from lorica.metrics.bootstrap import Estimate, estimate

_LOW_MASS = 0.5


@dataclass(frozen=True)
class JudgedMean:
    """The mean value of the labels over the rows with a verdict, `judged` of `n`; lowest and highest: over all n rows,
    if the others had the lowest, and the highest, value. score: the mean of values by probability, where scored so."""

    n: int
    judged: int
    mean: Estimate
    lowest: float
    highest: float
    score: Estimate | None


@dataclass(frozen=True)
class JudgeResult:
    """What `lorica judge` found.

    judge: identity of the judge, with `scoring`. rubric, rubric_digest: what it was asked. row_count: rows of the gold
    file; sampled: whether the n rows of `mean` are a sample of them. labels: label -> rows. failures: kind -> rows;
    no_answer: rows without an answer, which have their verdict by rule. letter_rate: share of calls that chose the
    first letter. label_mass: smallest and mean probability of the letters, of scores. calls, journaled, retried:
    requests of this run, of earlier ones, and repeated ones. control_tokens: ids of rows with text that a server may
    take for its own control tokens. over_budget, stopped: why not all rows were asked; see `EndpointJudge`. items:
    row id -> what was asked.
    """

    answer_files: tuple[str, ...]
    gold_file: str
    judge: Mapping[str, str]
    rubric: str
    rubric_digest: str
    row_count: int
    sampled: bool
    mean: JudgedMean
    labels: Mapping[str, int]
    failures: Mapping[str, int]
    no_answer: int
    swap: Consistency
    repetition: Consistency
    letter_rate: float
    label_mass: tuple[float, float] | None
    agreements: tuple[Agreement, ...]
    models: tuple[str, ...]
    calls: int
    journaled: int
    retried: int
    prompt_tokens: int
    completion_tokens: int
    control_tokens: tuple[str, ...]
    over_budget: bool
    stopped: str
    rows: tuple[RowVerdict, ...]
    items: Mapping[str, JudgeItem]

    @property
    def failed(self) -> int:
        """Rows without a verdict."""
        return self.mean.n - self.mean.judged

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the mean should not be believed, one sentence each."""
        warnings = [
            f"The judge agrees with {entry.reference} no more than chance would (kappa {entry.kappa}): "
            "its verdicts measure nothing here."
            for entry in self.agreements
            if entry.n and not math.isnan(entry.kappa.value) and not entry.is_beyond_chance
        ]
        if self.swap.n and self.swap.rate.value < 0.5:
            warnings.append(
                f"{self.swap.n - self.swap.same} of {self.swap.n} verdicts depend on the order of the choices."
            )
        if self.label_mass is not None and self.label_mass[1] < _LOW_MASS:
            warnings.append(
                f"The letters of the labels have {self.label_mass[1]:.1%} of the model's probability in the mean: it "
                "would rather say something else, and is no judge without training."
            )
        if self.failed:
            warnings.append(f"{self.failed} of {self.mean.n} rows have no verdict; the mean leaves them out.")
        if self.stopped:
            warnings.append(f"The endpoint was not asked any more: {self.stopped}. The same command goes on.")
        return tuple(warnings)


def mean_of_verdicts(verdicts: Sequence[RowVerdict], run: JudgeRun, groups: Sequence[str] | None) -> JudgedMean:
    """The mean over the rows with a verdict. groups: [n] names of what the bootstrap draws together."""
    judged = [index for index, verdict in enumerate(verdicts) if verdict.is_judged]
    values = [run.rubric.value_of(verdicts[index].label) for index in judged]
    judged_groups = None if groups is None else [groups[index] for index in judged]
    failed, n = len(verdicts) - len(judged), len(verdicts)
    total = sum(values)
    scores = [verdicts[index].score for index in judged]
    return JudgedMean(
        n,
        len(judged),
        _mean("mean", values, judged_groups),
        (total + failed * run.rubric.worst.value) / n,
        (total + failed * run.rubric.best.value) / n,
        _mean("score", scores, judged_groups) if run.scoring == "probability" else None,
    )


def order_consistency(verdicts: Sequence[RowVerdict], row_groups: Mapping[str, str]) -> Consistency:
    """Of the rows that were asked: whether both orders gave the same label. row_groups: row id -> name of its group;
    empty where rows stand for themselves."""
    unruled = [verdict for verdict in verdicts if verdict.is_judged and not verdict.by_rule]
    return consistency(
        [verdict.orders[0] for verdict in unruled],
        [verdict.orders[1] for verdict in unruled],
        changes=(),
        groups=[row_groups[verdict.row_id] for verdict in unruled] if row_groups else None,
    )


def repetition_consistency(run: JudgeRun) -> Consistency:
    """Of the items asked twice in the same order: whether the label stayed, and how far probabilities went."""
    pairs = [
        (run.records.get(JudgeCall(item)), run.records.get(JudgeCall(item, repetition=1))) for item in run.repeated
    ]
    answered = [(first, second) for first, second in pairs if first and second and not first.failure + second.failure]
    changes = [
        max(abs(first.probabilities[name] - second.probabilities[name]) for name in first.probabilities)
        for first, second in answered
    ]
    labels = [(record_label(run.rubric, first), record_label(run.rubric, second)) for first, second in answered]
    return consistency([first for first, _ in labels], [second for _, second in labels], changes=changes)


def first_letter_rate(run: JudgeRun) -> float:
    """The share of replies that chose the first letter, whatever stood behind it; nan without replies."""
    chosen = [
        record_label(run.rubric, record) == run.rubric.by_letter(swapped=call.swapped)["A"]
        for call, record in run.records.items()
        if not record.failure
    ]
    return sum(chosen) / len(chosen) if chosen else math.nan


def label_masses(run: JudgeRun) -> tuple[float, float] | None:
    """The smallest and the mean probability of all letters; None where labels alone were read."""
    masses = [record.label_mass for record in run.records.values() if record.label_mass is not None]
    return (min(masses), sum(masses) / len(masses)) if masses else None


def compare_labels(
    reference: str,
    labels: Mapping[str, str],
    verdicts: Sequence[RowVerdict],
    run: JudgeRun,
    row_groups: Mapping[str, str],
) -> Agreement:
    """Verdicts against labels by row id, over the rows that have both; those by rule say nothing of the judge."""
    judged = [verdict for verdict in verdicts if verdict.is_judged and not verdict.by_rule and verdict.row_id in labels]
    return agreement(
        reference,
        [labels[verdict.row_id] for verdict in judged],
        [verdict.label for verdict in judged],
        label=run.rubric.best.name,
        groups=[row_groups[verdict.row_id] for verdict in judged] if row_groups else None,
    )


def count_labels(verdicts: Sequence[RowVerdict], run: JudgeRun) -> dict[str, int]:
    """Rows by label, in the rubric's order."""
    counts = Counter(verdict.label for verdict in verdicts)
    return {label.name: counts[label.name] for label in run.rubric.labels}


def count_failures(verdicts: Sequence[RowVerdict]) -> dict[str, int]:
    """Rows without a verdict by the kind of failure, the most frequent first."""
    return dict(Counter(verdict.failure for verdict in verdicts if not verdict.is_judged).most_common())


def _mean(name: str, values: Sequence[float], groups: Sequence[str] | None) -> Estimate:
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0, "no row has a verdict")

    def prepare(_: Column, predictions: Column) -> Evaluator:
        return mean_of(np.asarray(predictions, dtype=np.float64))

    return estimate(Metric(name, "score", prepare), values, values, groups=groups)
