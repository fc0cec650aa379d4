"""The diagnosis: examine, run what is cheap, then let experiments decide between the two best causes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lorica.adapters.specimen import Specimen
from lorica.errors import AdapterError
from lorica.vetting.check import examine
from lorica.vetting.diagnosis.checks import SOUND, consistent, from_clean, from_findings
from lorica.vetting.diagnosis.context import Context, Means
from lorica.vetting.diagnosis.evidence import NONE, Evidence, Hypothesis, weigh
from lorica.vetting.diagnosis.experiments import EXPERIMENTS, GIVE, Experiment, Need
from lorica.vetting.diagnosis.settle import DECIDED, next_command, settling
from lorica.vetting.files.sources import Source, find_sources
from lorica.vetting.files.unpack import opened
from lorica.vetting.findings import Finding

# A cause this probable is named without further experiments. What says that nothing is wrong with the adapter is only
# ever what is left when every experiment that could refute it was run.
SURE_ENOUGH = 0.95
# When it is so certain that nothing can be read or that it is no LoRA adapter, nothing else can be judged.
_FINAL = ("unreadable", "unsupported")
# A wrong format looks like a scale that is too small, two values like one that is too large, and so on.
_RIVALS: dict[str, tuple[str, ...]] = {
    "over_scaled": ("skill", "format_sweep", "scale_or_format"),
    "under_scaled": ("skill", "other_tasks", "format_sweep", "scale_or_format", "layer_order"),
    "prompt_mismatch": ("skill", "scale_sweep", "scale_or_format"),
    "hard_labels": ("skill", "scale_sweep"),
    "ignores_input": ("skill", "format_sweep"),
    "no_effect": ("other_tasks",),
    "inverted": ("format_sweep", "other_tasks"),
}
# Causes less probable than this are not worth an experiment.
_WORTH = 0.003


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment that was carried out. between: the two leading causes at that time, the reason for it ("" twice
    for those that are always run). found: what came out, a line each; empty when it could tell nothing."""

    name: str
    asks: str
    between: tuple[str, str]
    found: tuple[str, ...]


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What is probably wrong with an adapter, and why.

    name, path: of the adapter. cause: the most probable hypothesis; confidence: its posterior; decided: whether that
    is enough to name it. hypotheses: all of them,
    the most probable first. evidence: everything that was weighed. experiments: in the order in which they ran.
    untested: what could not be tested, and why. settle: what would decide what is left. command: what to type next.
    findings: of all checks.
    """

    name: str
    path: str
    cause: str
    title: str
    confidence: float
    decided: bool
    hypotheses: tuple[Hypothesis, ...]
    evidence: tuple[Evidence, ...]
    experiments: tuple[Ran, ...]
    untested: tuple[str, ...]
    settle: tuple[str, ...]
    command: str
    findings: tuple[Finding, ...]


def diagnose(source: Source | Path, means: Means, *, on_step: Callable[[str], None] | None = None) -> Diagnosis:
    """Diagnose one adapter. on_step: told what is being asked next.

    Nothing that is wrong with the adapter raises: that is what the diagnosis is about. What is wrong with base, rows or
    answers is noted as untested. Raises AdapterError for a path without an adapter, or with several.
    """
    if isinstance(source, Path):
        source = the_one(source)
    with opened(source) as place, tempfile.TemporaryDirectory(prefix="lorica-") as temporary:
        examined = examine(place)
        evidence = [*from_findings(examined.findings), *from_clean(examined.findings, examined.ran)]
        specimen = examined.specimen or Specimen(
            name=source.name, given=source.given, kind=source.kind, folder=place.place
        )
        context = Context(
            specimen=specimen,
            layout=examined.layout,
            means=means,
            place=Path(temporary),
            match=examined.match,
            findings=list(examined.findings),
            ran=set(examined.ran),
        )
        try:
            ran = _run_all(context, evidence, on_step)
        finally:
            context.close()
        return _result(source, context, evidence, ran)


def the_one(path: Path) -> Source:
    """The one adapter at a path. Raises AdapterError when there is none or several, naming them."""
    found = find_sources([path])
    if len(found) > 1:
        names = ", ".join(str(each.given) for each in found[:5])
        raise AdapterError(f"{path}: holds {len(found)} adapters: {names}", fix="name one of them")
    return found[0]


def _run_all(context: Context, evidence: list[Evidence], on_step: Callable[[str], None] | None) -> list[Ran]:
    """Run experiments until one cause is sure enough or none is left; appends to `evidence`."""
    ran: list[Ran] = []
    left = [each for each in EXPERIMENTS if _can_run(each, context.means)]
    while left:
        hypotheses = weigh(consistent(evidence))
        first, second = _leading(hypotheses)
        # What is cheap, and what somebody asks by naming other bases, is always answered.
        chosen = next((each for each in left if _is_asked(each, context.means)), None)
        always = chosen is not None
        if chosen is None:
            sure = first.posterior >= SURE_ENOUGH and first.cause not in (*SOUND, NONE)
            # What is only seen in answers has rivals that look alike: those are tried before it is named.
            ready = [each for each in left if set(each.after) <= {done.name for done in ran}]
            owed = [each for each in ready if each.name in _RIVALS.get(first.cause, ())]
            chosen = owed[0] if owed else None if sure else _decider(ready, hypotheses)
            if chosen is None:
                break
        elif first.cause in _FINAL and first.posterior >= SURE_ENOUGH and chosen.name != "answers":
            left.remove(chosen)
            continue
        left.remove(chosen)
        if on_step is not None:
            on_step(chosen.asks)
        found = chosen.run(context)
        evidence += found
        between = ("", "") if always else (first.cause, second.cause)
        ran.append(Ran(name=chosen.name, asks=chosen.asks, between=between, found=tuple(each.text for each in found)))
    return ran


def _decider(left: Sequence[Experiment], hypotheses: Sequence[Hypothesis]) -> Experiment | None:
    """The experiment that separates the two leading causes for the least cost, else one that bears on any cause that is
    still possible; None when there is none. So what says "nothing is wrong" is named only when nothing is left that
    could refute it."""
    first, second = _leading(hypotheses)
    possible = {each.cause for each in hypotheses if each.posterior >= _WORTH} - {"healthy", NONE}

    def worth(each: Experiment) -> tuple[bool, bool, float]:
        decides = (first.cause in each.separates) != (second.cause in each.separates)
        touches = bool({first.cause, second.cause} & each.separates)
        return decides, touches, -each.cost

    able = [each for each in left if each.separates & possible]
    return max(able, key=worth, default=None)


def _leading(hypotheses: Sequence[Hypothesis]) -> tuple[Hypothesis, Hypothesis]:
    listed = [each for each in hypotheses if each.cause != NONE]
    return listed[0], listed[1]


def _is_asked(each: Experiment, means: Means) -> bool:
    return each.cost == 0 or "expected" in each.needs or (each.name == "alignment" and bool(means.expected))


def _can_run(each: Experiment, means: Means) -> bool:
    needless = bool(each.unless) and all(_has(means, need) for need in each.unless)
    return not needless and all(_has(means, need) for need in each.needs)


def _has(means: Means, need: Need) -> bool:
    return {
        "base": means.base is not None,
        "rows": bool(means.rows) and bool(means.task),
        "expected": bool(means.expected),
        "answers": means.answers is not None,
    }[need]


def _result(source: Source, context: Context, evidence: Sequence[Evidence], ran: Sequence[Ran]) -> Diagnosis:
    hypotheses = weigh(consistent(evidence))
    top, means = hypotheses[0], context.means
    missing = [need for need in GIVE if not _has(means, need)]
    return Diagnosis(
        name=source.name,
        path=str(source.given),
        cause=top.cause,
        title=top.title,
        confidence=top.posterior,
        decided=top.posterior >= DECIDED,
        hypotheses=tuple(hypotheses),
        evidence=tuple(consistent(evidence)),
        experiments=tuple(ran),
        untested=tuple(dict.fromkeys([*context.notes, *_untested(top, missing)])),
        settle=tuple(settling(hypotheses, missing)),
        command=next_command(top, context),
        findings=tuple(context.findings),
    )


def _untested(top: Hypothesis, missing: Sequence[Need]) -> list[str]:
    """Questions that could not be asked for want of a base or of rows."""
    if top.cause in _FINAL:
        return []
    found = []
    for each in EXPERIMENTS:
        lacking = [need for need in each.needs if need in missing]
        if lacking and not {"expected", "answers"} & set(lacking):
            found.append(f"{each.asks.rstrip('?')}: needs {' and '.join(GIVE[need] for need in lacking)}")
    return found
