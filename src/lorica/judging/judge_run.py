"""A run of a judge: which calls it takes, which of them the journal has, and what became of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from lorica.judging.calls import TRANSIENT, CallRecord, Judge, JudgeCall
from lorica.judging.endpoint import EndpointJudge
from lorica.judging.rubrics import JudgeItem, Rubric
from lorica.judging.verdict_journal import VerdictJournal


@dataclass(frozen=True)
class JudgeRun:
    """records: what came of each call that was made, now or before. repeated: the items that were asked twice in the
    same order. made: calls of this run; journaled: calls that an earlier run had made. identity: of the judge."""

    rubric: Rubric
    identity: Mapping[str, str]
    records: Mapping[JudgeCall, CallRecord]
    repeated: tuple[JudgeItem, ...]
    made: int
    journaled: int

    @property
    def scoring(self) -> str:
        """How replies were read, in all of the run."""
        return self.identity["scoring"]

    def orders(self, item: JudgeItem) -> tuple[CallRecord | None, CallRecord | None]:
        """What came of an item in both orders."""
        return self.records.get(JudgeCall(item)), self.records.get(JudgeCall(item, swapped=True))


def plan_calls(items: Iterable[JudgeItem], repeat: int) -> tuple[list[JudgeCall], tuple[JudgeItem, ...]]:
    """The calls of a run, each once however often an item occurs, and the items asked twice: `repeat` of them, chosen
    by their digests, so that the same items are asked again in every run."""
    distinct = list(dict.fromkeys(items))
    sample = sorted(distinct, key=lambda item: hashlib.sha256(msgspec.json.encode(item)).digest())[:repeat]
    repeated = set(sample)
    calls = []
    for item in distinct:
        calls += [JudgeCall(item), JudgeCall(item, swapped=True)]
        calls += [JudgeCall(item, repetition=1)] if item in repeated else []
    return calls, tuple(sample)


def run_judge(
    judge: Judge,
    rubric: Rubric,
    items: Sequence[JudgeItem],
    journal: VerdictJournal,
    *,
    repeat: int,
    on_done: Callable[[int], None] = lambda count: None,
) -> JudgeRun:
    """Ask for all verdicts that the journal does not have, each in both orders. on_done: told of calls as they end.

    Raises EngineError where the judge cannot go on; what it had replied is in the journal.
    """
    calls, repeated = plan_calls(items, repeat)
    records: dict[JudgeCall, CallRecord] = {}
    made = 0

    def add(call: JudgeCall, record: CallRecord) -> None:
        nonlocal made
        made += 1
        records[call] = record
        if record.failure not in TRANSIENT:
            journal.add(call.digest(rubric, judge.identity), record)
        on_done(1)

    if isinstance(judge, EndpointJudge):
        _settle_scoring(judge, rubric, calls, journal, add)
    digests = {call: call.digest(rubric, judge.identity) for call in calls}
    earlier = journal.find(digest for call, digest in digests.items() if call not in records)
    journaled = {call: earlier[digest] for call, digest in digests.items() if digest in earlier}
    records |= journaled
    on_done(len(journaled))
    if isinstance(judge, EndpointJudge):
        judge.go_on_from(records.values())
    judge.ask(rubric, [call for call in calls if call not in records], add)
    return JudgeRun(rubric, judge.identity, records, repeated, made, len(journaled))


def _settle_scoring(
    judge: EndpointJudge,
    rubric: Rubric,
    calls: Sequence[JudgeCall],
    journal: VerdictJournal,
    add: Callable[[JudgeCall, CallRecord], None],
) -> None:
    """How replies are read is decided once for a judge and a rubric, and kept: a run mixes no two ways."""
    if judge.is_settled():
        return
    key = hashlib.sha256(msgspec.json.encode((rubric.digest, sorted(judge.settings_identity.items())))).hexdigest()
    scoring = journal.scoring(key)
    if scoring is not None:
        judge.use_scoring(scoring)
        return
    probes = judge.settle_scoring(rubric, calls)
    if judge.is_settled():
        journal.settle_scoring(key, judge.scoring)
    for call, record in probes:
        add(call, record)
