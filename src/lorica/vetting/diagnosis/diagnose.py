"""The diagnosis: examine, run what is cheap, then let experiments decide between the two leading causes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lorica.adapters.raw_adapter import OWN_MODELS, RawAdapter
from lorica.engine_table import ENGINES
from lorica.errors import AdapterError
from lorica.names import shell_line
from lorica.vetting.diagnosis.experiments import EXPERIMENTS, Experiment
from lorica.vetting.diagnosis.finding_likelihoods import consistent, from_clean, from_findings
from lorica.vetting.diagnosis.inputs import GIVE, Context, DiagnosisInputs, Need
from lorica.vetting.diagnosis.next_steps import next_command, settling
from lorica.vetting.diagnosis.posterior import NONE, SETTLED, Certainty, Evidence, Hypothesis, posteriors, rank
from lorica.vetting.files.sources import AdapterSource, find_sources
from lorica.vetting.files.unpack import opened
from lorica.vetting.findings import SOUND, Finding
from lorica.vetting.levels import examine
from lorica.vetting.measure.measurements import Behaviour

# When it is so certain that nothing can be read or that it is no LoRA adapter, nothing else can be judged.
_FINAL = ("unreadable", "unsupported")
# A wrong format looks like a scale that is too small, two values like one that is too large, and so on.
_RIVALS: dict[str, tuple[str, ...]] = {
    "over_scaled": ("skill", "format_sweep", "scale_or_format"),
    "under_scaled": ("skill", "other_tasks", "format_sweep", "scale_or_format"),
    "prompt_mismatch": ("skill", "scale_sweep", "scale_or_format"),
    "hard_labels": ("skill", "scale_sweep"),
    "ignores_input": ("skill", "format_sweep"),
    "no_effect": ("other_tasks",),
    "inverted": ("format_sweep", "other_tasks"),
}
# Causes with a posterior below this are not worth an experiment.
_WORTH = 0.003


class ExperimentResult(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment that was carried out. between: the two leading causes at that time, the reason for it ("" twice
    for those that are always run). outcome: what came out, a line each; empty when it could tell nothing."""

    name: str
    asks: str
    between: tuple[str, str]
    outcome: tuple[str, ...]


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What is probably wrong with an adapter, and why.

    name, path: of the adapter. cause, title, certainty: of the leading hypothesis, which is named as the cause only
    where `decided`. hypotheses: all of them, the leading one first. evidence: everything that was weighed. experiments:
    in the order in which they ran. untested: what could not be tested, and why. settle: what would decide what is still
    open. command: what to type next. findings: of all checks. measured: the records that experiments made, as `lorica
    check` makes them.
    """

    name: str
    path: str
    cause: str
    title: str
    certainty: Certainty
    hypotheses: tuple[Hypothesis, ...]
    evidence: tuple[Evidence, ...]
    experiments: tuple[ExperimentResult, ...]
    untested: tuple[str, ...]
    settle: tuple[str, ...]
    command: str
    findings: tuple[Finding, ...]
    measured: Behaviour | None = None

    @property
    def decided(self) -> bool:
        """Whether enough speaks for the cause to name it."""
        return self.certainty in ("settled", "likely")


def diagnose(
    source: AdapterSource | Path, inputs: DiagnosisInputs, *, on_step: Callable[[str], None] | None = None
) -> Diagnosis:
    """Diagnose one adapter. on_step: told what is being asked next.

    Nothing that is wrong with the adapter raises: that is what the diagnosis is about. What is wrong with base, rows or
    answers is noted as untested. Raises AdapterError for a path without an adapter, with several, or with a model of
    its own.
    """
    if isinstance(source, Path):
        source = find_adapter(source)
    with opened(source) as unpacked, tempfile.TemporaryDirectory(prefix="lorica-") as temporary:
        examined = examine(unpacked)
        if examined.specimen is not None and examined.specimen.kind in OWN_MODELS:
            raise _own_model_error(source, examined.specimen, inputs)
        evidence = [*from_findings(examined.findings), *from_clean(examined.findings, examined.ran)]
        specimen = examined.specimen or RawAdapter(
            name=source.name, given=source.user_path, kind=source.kind, folder=unpacked.path
        )
        context = Context(
            specimen=specimen,
            layout=examined.layout,
            inputs=inputs,
            folder=Path(temporary),
            match=examined.match,
            numbers=examined.numbers,
            findings=list(examined.findings),
        )
        try:
            experiments = _run_experiments(context, evidence, on_step)
        finally:
            context.close()
        return _conclude(source, context, consistent(evidence), experiments)


def find_adapter(adapter_path: Path) -> AdapterSource:
    """The one adapter at a path. Raises AdapterError when there is none or several, naming them."""
    sources = find_sources([adapter_path])
    if len(sources) > 1:
        adapter_names = ", ".join(str(source.user_path) for source in sources[:5])
        raise AdapterError(f"{adapter_path}: holds {len(sources)} adapters: {adapter_names}", fix="name one of them")
    return sources[0]


def _own_model_error(source: AdapterSource, specimen: RawAdapter, inputs: DiagnosisInputs) -> AdapterError:
    """What is diagnosed, and the command that measures the others."""
    engine = ENGINES.get(specimen.engine_name)
    base_name = str(inputs.base or "BASE") if engine is None or engine.has_base else engine.tokenizer
    words = [str(source.user_path), "--base", base_name, "--rows", inputs.rows_file or "ROWS"]
    return AdapterError(
        f"{source.user_path}: is a model of its own ({specimen.engine_name or 'classifier'}); what is diagnosed are "
        "LoRA adapters, of decoders and of encoders",
        fix="a check measures it on labelled rows, and says what is wrong: lorica check "
        f"{shell_line(*words)} --task {inputs.task or 'TASK'}",
    )


def _run_experiments(
    context: Context, evidence: list[Evidence], on_step: Callable[[str], None] | None
) -> list[ExperimentResult]:
    """Run experiments until one cause is sure enough or none is left to run; appends to `evidence`."""
    results: list[ExperimentResult] = []
    waiting = [experiment for experiment in EXPERIMENTS if _can_run(experiment, context.inputs)]
    while waiting:
        shares = posteriors(consistent(evidence))
        first_cause, second_cause = _leading(shares)
        # What is cheap, and what somebody asks by naming other bases, is always answered.
        always_run = next((experiment for experiment in waiting if _is_always_run(experiment, context.inputs)), None)
        experiment = always_run or _next_experiment(waiting, shares, {result.name for result in results})
        if experiment is None:
            break
        waiting.remove(experiment)
        if always_run and first_cause in _FINAL and shares[first_cause] >= SETTLED and experiment.name != "answers":
            continue
        if on_step is not None:
            on_step(experiment.asks)
        outcome_evidence = experiment.run(context)
        evidence += outcome_evidence
        outcome = tuple(evidence_item.text for evidence_item in outcome_evidence)
        between = ("", "") if always_run else (first_cause, second_cause)
        results.append(ExperimentResult(name=experiment.name, asks=experiment.asks, between=between, outcome=outcome))
    return results


def _next_experiment(
    waiting: Sequence[Experiment], cause_shares: dict[str, float], experiments_run: set[str]
) -> Experiment | None:
    """What to run next; None when the leading cause is sure enough, or nothing bears on the open question.

    What is only seen in answers has rivals that look alike: those are tried before it is named. What says that nothing
    is wrong with the adapter is only ever what remains when every experiment that could refute it was run.
    """
    leading_cause, _ = _leading(cause_shares)
    ready_experiments = [experiment for experiment in waiting if set(experiment.after) <= experiments_run]
    for experiment in ready_experiments:
        if experiment.name in _RIVALS.get(leading_cause, ()):
            return experiment
    if cause_shares[leading_cause] >= SETTLED and leading_cause not in SOUND:
        return None
    return _decider(ready_experiments, cause_shares)


def _decider(ready_experiments: Sequence[Experiment], cause_shares: dict[str, float]) -> Experiment | None:
    """The experiment that separates the two leading causes for the least cost, else one that bears on any cause that is
    still possible; None when there is none. So what says "nothing is wrong" is named only when nothing can be run any
    more that could refute it."""
    first_cause, second_cause = _leading(cause_shares)
    possible_causes = {cause for cause, share in cause_shares.items() if share >= _WORTH} - {"healthy", NONE}

    def worth(experiment: Experiment) -> tuple[bool, bool, float]:
        decides = (first_cause in experiment.separates) != (second_cause in experiment.separates)
        touches = not {first_cause, second_cause}.isdisjoint(experiment.separates)
        return decides, touches, -experiment.cost

    bearing = [experiment for experiment in ready_experiments if not possible_causes.isdisjoint(experiment.separates)]
    return max(bearing, key=worth, default=None)


def _leading(cause_shares: dict[str, float]) -> tuple[str, str]:
    first_cause, second_cause, *_ = (cause for cause in cause_shares if cause != NONE)
    return first_cause, second_cause


def _is_always_run(experiment: Experiment, inputs: DiagnosisInputs) -> bool:
    bears_on_expected = "expected" in experiment.needs or (experiment.name == "alignment" and bool(inputs.expected))
    return experiment.cost == 0 or bears_on_expected


def _can_run(experiment: Experiment, inputs: DiagnosisInputs) -> bool:
    needless = bool(experiment.unless) and all(inputs.has(need) for need in experiment.unless)
    return not needless and all(inputs.has(need) for need in experiment.needs)


def _conclude(
    source: AdapterSource, context: Context, evidence: Sequence[Evidence], experiments: Sequence[ExperimentResult]
) -> Diagnosis:
    hypotheses = rank(evidence)
    leading = hypotheses[0]
    missing_inputs = [need for need in GIVE if not context.inputs.has(need)]
    return Diagnosis(
        name=source.name,
        path=str(source.user_path),
        cause=leading.cause,
        title=leading.title,
        certainty=leading.certainty,
        hypotheses=hypotheses,
        evidence=tuple(evidence),
        experiments=tuple(experiments),
        untested=tuple(dict.fromkeys([*context.notes, *_untested(leading, missing_inputs, context.inputs)])),
        settle=tuple(settling(hypotheses, missing_inputs)),
        command=next_command(leading, context),
        findings=tuple(context.findings),
        measured=context.measured,
    )


def _untested(leading: Hypothesis, missing_inputs: Sequence[Need], inputs: DiagnosisInputs) -> list[str]:
    """Questions that could not be asked for want of a base or of rows, then those for language models alone."""
    if leading.cause in _FINAL:
        return []
    unasked, for_writers = [], []
    unfit_need: Need = "classifier" if inputs.writes else "writer"
    for experiment in EXPERIMENTS:
        question = experiment.asks.rstrip("?")
        lacking_inputs = [need for need in experiment.needs if need in missing_inputs]
        if unfit_need in experiment.needs:
            if unfit_need == "writer" and "expected" not in experiment.needs:
                reason = "left out, the base is no language model and scores its choices alone"
                for_writers.append(f"{question}: {reason}")
        elif lacking_inputs and not {"expected", "answers"} & set(lacking_inputs):
            unasked.append(f"{question}: needs {' and '.join(GIVE[need] for need in lacking_inputs)}")
    return unasked + for_writers
