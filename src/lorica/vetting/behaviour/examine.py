"""Everything that L4 looks at, for one adapter."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import FLOATS, MORE_THAN_PAIRS, open_adapter
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.rescaled_copies import write_variant
from lorica.adapters.tensor_map import TensorMap
from lorica.engines.base import Engine
from lorica.errors import AdapterError, MissingExtraError, ModelError
from lorica.records import Row
from lorica.tasks import tasks_with_other_probes
from lorica.tasks.base import Task
from lorica.vetting.behaviour.asking import OnDone, Replies, ask, both, make_questions
from lorica.vetting.behaviour.divergence import measure_divergence, measure_variation
from lorica.vetting.behaviour.examples import measure_examples
from lorica.vetting.behaviour.findings import judge_behaviour
from lorica.vetting.behaviour.formats import sweep
from lorica.vetting.behaviour.generated import measure_generated
from lorica.vetting.behaviour.labelled import measure_elsewhere, measure_labelled
from lorica.vetting.behaviour.measures import Behaviour
from lorica.vetting.behaviour.probes import chosen_rows, shipped_rows
from lorica.vetting.behaviour.quality import labelled, quality
from lorica.vetting.behaviour.scales import respond
from lorica.vetting.behaviour.setting import Setting, Workplace
from lorica.vetting.findings import Finding, finding

# The sweeps ask rows many times over: so many are enough to tell a clear difference.
_FORMAT_ROWS, _SCALE_ROWS, _EXAMPLE_ROWS = 48, 64, 32
_NOT_A_NUMBER = "not a number"
_OUTSIDE = "outside the model's vocabulary"


@dataclass(frozen=True)
class _Subject:
    """An adapter that is loaded: its name in the engine, and what its copies are made of."""

    work: Workplace
    engine: Engine
    name: str
    config: AdapterConfig
    weights: Path
    place: Path
    on_done: OnDone | None


def examine_behaviour(
    specimen: RawAdapter,
    layout: TensorMap,
    setting: Setting,
    rows: Sequence[Row] | None = None,
    *,
    work: Workplace | None = None,
    on_done: OnDone | None = None,
) -> tuple[Behaviour, list[Finding]]:
    """Ask the adapter and its base, and judge what they say.

    rows: the user's, with gold or without; None asks the shipped prompts, of which only what holds whatever the
    adapter was trained for can reject it. work: of the same setting, to share the loaded base among adapters.
    on_done(n): n more prompts are answered. An adapter that cannot be loaded is a finding. Raises ModelError,
    MissingExtraError, PromptError and EngineError for a base that cannot be asked, ConfigError for an unknown task,
    and AdapterError for a specimen without a config or weights.
    """
    started = time.monotonic()
    work = work or Workplace(setting)
    task = setting.load_task()
    if specimen.config is None or specimen.weights is None:
        raise AdapterError(f"{specimen.name}: without a readable config and weights nothing can be asked")
    asked = chosen_rows(rows, setting.rows, setting.seed) if rows else shipped_rows(task.name)[: setting.probes]
    with TemporaryDirectory(prefix="lorica-behaviour-") as folder:
        place = Path(folder)
        try:
            engine, name = _load(work, specimen.config, specimen.weights, layout, place)
        except (AdapterError, MissingExtraError) as error:
            found = _empty(setting, task, work, {}, "rows" if rows else "probes")
            said = error.message.replace(str(place / "itself"), specimen.name)
            return found, [_cannot_load(specimen.config, layout, error, said)]
        subject = _Subject(work, engine, name, specimen.config, specimen.weights, place, on_done)
        try:
            found = _measure(subject, task, asked, "rows" if rows else "probes")
        finally:
            engine.remove_adapter(name)
            if not engine.info.restores_base:
                work.retire(engine)
    found = msgspec.structs.replace(found, seconds=time.monotonic() - started)
    return found, judge_behaviour(found)


def _load(work: Workplace, config: AdapterConfig, weights: Path, layout: TensorMap, place: Path) -> tuple[Engine, str]:
    """Load the adapter into the first engine that applies all of it."""
    folder = place / "itself"
    write_variant(folder, config, weights)
    name = work.new_name()
    more = bool(config.unsupported()) or bool(layout.saved) or any(_is_more(layout))
    engine = work.engine(all_kinds=more)
    adapter = open_adapter(folder, applied=MORE_THAN_PAIRS)
    try:
        engine.add_adapter(name, adapter)
    except AdapterError:
        if more or work.settled:
            raise
        # It may adapt a layer that the native decoder leaves alone, such as the head.
        other = _other_engine(work)
        if other is None:
            raise
        other.add_adapter(name, adapter)
        return other, name
    return engine, name


def _other_engine(work: Workplace) -> Engine | None:
    try:
        return work.engine(all_kinds=True)
    except (MissingExtraError, ModelError):
        return None


def _is_more(layout: TensorMap) -> list[bool]:
    return [bool(each.magnitude) or each.embedding or bool(each.more) for each in layout.modules.values()]


def _cannot_load(
    config: AdapterConfig, layout: TensorMap, error: AdapterError | MissingExtraError, said: str
) -> Finding:
    """What no engine here applies is no fault of the adapter."""
    strange = {info.dtype for info in layout.tensors.values()} - set(FLOATS)
    reasons = config.unsupported(MORE_THAN_PAIRS)
    beyond = bool(strange or reasons) or isinstance(error, MissingExtraError)
    return finding(
        "L400",
        said if not reasons else f"it uses what no engine here applies: {'; '.join(reasons)}",
        fix=error.fix,
        severity="note" if beyond else "reject",
        facts={"unsupported": reasons, "dtypes": sorted(strange)},
    )


def _empty(setting: Setting, task: Task, work: Workplace, engine: dict[str, str], source: str) -> Behaviour:
    return Behaviour(
        engine=engine,
        task=task.name,
        answer_type=task.answer_type,
        style=task.settings.style,
        method=task.settings.method,
        template=work.encoder().template_origin if source else "",
        source=source,
        foreign=source == "probes" and not setting.task,
        n=0,
        labelled_rows=0,
    )


def _measure(subject: _Subject, task: Task, rows: Sequence[Row], source: str) -> Behaviour:
    work, engine, name, on_done = subject.work, subject.engine, subject.name, subject.on_done
    questions, refused = make_questions(work, task, rows)
    raw = ask(work, engine, questions, name, on_done)
    alone = ask(work, engine, questions, None)
    replies, base = both(raw, alone)
    wide, wide_base = _widened(subject, task, replies, base) if source == "probes" else (replies, base)
    reasons = [*refused.values(), *raw.failed.values()]
    broken = {row for row, why in raw.failed.items() if _NOT_A_NUMBER in why}
    base_broken = {row for row, why in alone.failed.items() if _NOT_A_NUMBER in why}
    found = msgspec.structs.replace(
        _empty(work.setting, task, work, engine.info.manifest(), source),
        n=len(replies.rows),
        labelled_rows=len(labelled(replies).rows),
        broken=len(broken - base_broken),
        base_broken=len(base_broken),
        outside_vocabulary=sum(_OUTSIDE in why for why in raw.failed.values()),
        errors=dict(Counter(why[:120] for why in reasons if _NOT_A_NUMBER not in why).most_common(5)),
    )
    if not replies.rows:
        return found
    seed = work.setting.seed
    few = chosen_rows(replies.rows, _EXAMPLE_ROWS, seed)
    swept = {row.id for row in chosen_rows(replies.rows, _FORMAT_ROWS, seed)}
    scaled = {row.id for row in chosen_rows(replies.rows, _SCALE_ROWS, seed)}
    known = labelled(replies)
    return msgspec.structs.replace(
        found,
        divergence=measure_divergence(wide, wide_base),
        variation=measure_variation(replies, base),
        examples=measure_examples(work, engine, name, task, few, on_done),
        formats=tuple(sweep(work, engine, name, task, replies, base, swept, on_done)),
        scales=tuple(
            respond(
                work,
                engine,
                task,
                [each for each in questions if each.row.id in scaled],
                replies.keep(scaled),
                subject.config,
                subject.weights,
                subject.place,
                on_done,
            )
        ),
        labelled=measure_labelled(work, engine, name, task, replies, base, on_done) if source == "rows" else None,
        elsewhere=measure_elsewhere(work, engine, name, task, replies, base, on_done) if source == "rows" else None,
        probes_quality=quality(task, known, 0.99) if source == "probes" and known.rows else None,
        generated=measure_generated(work, engine, name, task, few, replies),
    )


def _widened(subject: _Subject, task: Task, replies: Replies, base: Replies) -> tuple[Replies, Replies]:
    """With the probes of the other tasks: what an adapter changes need not show in the one that is asked."""
    found = [(replies, base)]
    for other in tasks_with_other_probes(task):
        questions, _ = make_questions(subject.work, other, shipped_rows(other.name))
        mine = ask(subject.work, subject.engine, questions, subject.name, subject.on_done)
        found.append(both(mine, ask(subject.work, subject.engine, questions, None)))
    return _joined([mine for mine, _ in found]), _joined([theirs for _, theirs in found])


def _joined(parts: Sequence[Replies]) -> Replies:
    parts = [each for each in parts if each.rows]
    if not parts:
        return Replies((), (), (), np.zeros((0, 1)), np.zeros(0), np.zeros(0, dtype=np.int64))
    return Replies(
        tuple(row for each in parts for row in each.rows),
        tuple(values for each in parts for values in each.logprobs),
        tuple(values for each in parts for values in each.probabilities),
        np.concatenate([each.words for each in parts]),
        np.concatenate([each.mass for each in parts]),
        np.concatenate([each.gold for each in parts]),
    )
