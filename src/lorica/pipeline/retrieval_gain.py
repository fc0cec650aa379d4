"""Do passages help? Answers with and without them to the same rows, subject by subject."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lorica.metrics.bootstrap import Estimate
from lorica.metrics.metric_table import find_metric
from lorica.metrics.paired_tests import SIGNIFICANCE, holm
from lorica.names import subject_key
from lorica.pipeline.compare import PairComparison, compare
from lorica.pipeline.evaluate import estimate_metric
from lorica.pipeline.judged_answers import JudgedAnswer, judge_answers
from lorica.pipeline.retrieve import NO_RETRIEVAL, RETRIEVAL_FAILED
from lorica.records import Answer, Row
from lorica.tasks.base import Task

WITH, WITHOUT = "with passages", "without"


@dataclass(frozen=True)
class SubjectGain:
    """One subject's rows, answered with and without passages.

    pair: the two compared, with passages first; its p-value is corrected for the number of subjects (Holm). shown:
    passages in prompts. failed: rows whose look-up failed. documents: rows that name the document they were taken from;
    own_shown: those of them that had a passage of it before them. switch: what is proposed, and `verdict` says why.
    """

    subject: str
    rows: int
    with_passages: Estimate
    without: Estimate
    pair: PairComparison
    shown: int
    failed: int
    documents: int
    own_shown: int
    switch: bool = False
    verdict: str = ""


@dataclass(frozen=True)
class RetrievalGain:
    """metric: the task's main one. subjects: those with an index, in the order of the rows. overall: all their rows
    together. unindexed: subject -> rows that were asked without passages both times, for want of an index."""

    metric: str
    subjects: tuple[SubjectGain, ...]
    overall: SubjectGain | None
    unindexed: dict[str, int]

    @property
    def switches(self) -> dict[str, bool]:
        """`retrieval.enabled` as it is proposed: on where passages were shown to help, off everywhere else."""
        return {subject_key(gain.subject): gain.switch for gain in self.subjects}


def retrieval_gain(
    task: Task,
    rows: Sequence[Row],
    with_passages: Mapping[str, Answer],
    without: Mapping[str, Answer],
    *,
    documents: Mapping[str, str],
    seed: int = 0,
) -> RetrievalGain:
    """Compare two sets of answers (by row id) to rows with gold. documents: row id -> the document it was taken from.

    A subject is switched on only where the paired interval of the difference lies above 0, and the p-value stays below
    0.05 when it is corrected for the number of subjects.
    """
    judged_with = judge_answers(task, rows, with_passages, answer_file=WITH)
    judged_without = judge_answers(task, rows, without, answer_file=WITHOUT)
    rows_of_subject: dict[str, list[int]] = {}
    unindexed: dict[str, int] = {}
    for number, judged in enumerate(judged_with):
        if NO_RETRIEVAL in judged.answer.flags:
            unindexed[judged.row.subject] = unindexed.get(judged.row.subject, 0) + 1
        else:
            rows_of_subject.setdefault(subject_key(judged.row.subject), []).append(number)

    def gain_of(name: str, numbers: Sequence[int]) -> SubjectGain:
        chosen = [[judged_rows[number] for number in numbers] for judged_rows in (judged_with, judged_without)]
        return _gain(task, name, chosen[0], chosen[1], documents, seed)

    gains = [gain_of(judged_with[numbers[0]].row.subject, numbers) for numbers in rows_of_subject.values()]
    corrected = holm([gain.pair.test.p_value for gain in gains])
    indexed = sorted(number for numbers in rows_of_subject.values() for number in numbers)
    return RetrievalGain(
        find_metric(task.metric_names[0]).name,
        tuple(_judge(gain, p_value, len(gains)) for gain, p_value in zip(gains, corrected, strict=True)),
        gain_of("all", indexed) if indexed else None,
        unindexed,
    )


def _gain(
    task: Task,
    subject: str,
    judged_with: Sequence[JudgedAnswer],
    judged_without: Sequence[JudgedAnswer],
    documents: Mapping[str, str],
    seed: int,
) -> SubjectGain:
    metric = find_metric(task.metric_names[0])
    sources = {judged.row.id: {passage.source for passage in judged.answer.passages or ()} for judged in judged_with}
    named = [row_id for row_id in sources if documents.get(row_id)]
    return SubjectGain(
        subject,
        len(judged_with),
        estimate_metric(metric, judged_with, seed),
        estimate_metric(metric, judged_without, seed),
        compare(task, {WITH: judged_with, WITHOUT: judged_without}, seed=seed).pairs[0],
        shown=sum(len(judged.answer.passages or ()) for judged in judged_with),
        failed=sum(RETRIEVAL_FAILED in judged.answer.flags for judged in judged_with),
        documents=len(named),
        own_shown=sum(documents[row_id] in sources[row_id] for row_id in named),
    )


def _judge(gain: SubjectGain, p_corrected: float, subject_count: int) -> SubjectGain:
    """The gain with its corrected p-value, and what follows from it."""
    difference = gain.pair.test.difference
    gain = replace(gain, pair=replace(gain.pair, p_corrected=p_corrected))
    if math.isnan(difference.low) or math.isnan(difference.high):
        return replace(gain, verdict="cannot be measured: off")
    if difference.low > 0:
        if p_corrected < SIGNIFICANCE:
            return replace(gain, switch=True, verdict="helps: on")
        return replace(gain, verdict=f"no evidence, counted among {subject_count} subjects: off")
    return replace(gain, verdict="hurts: off" if difference.high < 0 else "no evidence: off")
