"""Experiments on the base model, without labels: shapes, directions of activations, canaries, behaviour."""

from __future__ import annotations

import math
from pathlib import Path

from lorica.adapters.passport import PASSPORT_NAME, read_passport
from lorica.errors import LoricaError
from lorica.vetting.base.base_fit import check_fit
from lorica.vetting.base.base_loss import base_loss
from lorica.vetting.behaviour import judge_behaviour
from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.finding_likelihoods import from_clean, from_findings
from lorica.vetting.diagnosis.inputs import Context
from lorica.vetting.diagnosis.posterior import Evidence, outcome
from lorica.vetting.measure.quality import SURE
from lorica.vetting.passport_check import check_passport


def fit_base(context: Context) -> list[Evidence]:
    """Do the tensors' shapes fit the base's layers? (Its config and headers are read, not its weights.)"""
    from lorica.vetting.base.base_health import check_base_files  # which loads torch

    base_folder, layout = context.inputs.base, context.layout
    if base_folder is None or layout is None:
        return []
    findings = check_fit(context.specimen, layout, base_folder) + check_base_files(base_folder)
    context.add(findings)
    return [*from_findings(findings), *from_clean(findings, {3})]


def fit_elsewhere(context: Context) -> list[Evidence]:
    """Do the shapes fit one of the bases that were named with --expected-base, where they do not fit --base?"""
    if context.layout is None or not context.inputs.expected:
        return []
    misfits = any(finding.severity == "reject" for finding in context.findings if finding.level == 3)
    fitting = [
        base_folder
        for base_folder in context.inputs.expected
        if not any(finding.severity == "reject" for finding in check_fit(context.specimen, context.layout, base_folder))
    ]
    if not fitting or not misfits:
        return []
    context.home = fitting[0]
    sentence = f"it fits {_name(fitting[0])}, which was named as expected, and not the base that was given"
    weights = {"wrong_size": 4.0, "healthy": -4.0, "broken_weights": -2.0}
    return [outcome("fit_elsewhere", sentence, "elsewhere", weights)]


def align_base(context: Context) -> list[Evidence]:
    """Do the adapter's directions lie where this base's activations and gradients lie?"""
    from lorica.vetting.base.alignment_findings import check_alignment

    alignment = context.alignment(context.inputs.base)
    if alignment is None:
        return []
    findings = check_alignment(alignment)
    context.add(findings)
    about_base, about_parts = findings[0], findings[1:]
    weights = likelihoods.alignment_weights(alignment.decided, alignment.p_true)
    return [outcome("alignment", about_base.seen, "alignment", weights), *from_findings(about_parts)]


def align_elsewhere(context: Context) -> list[Evidence]:
    """The same with every base that was named with --expected-base: a better home speaks against the one given."""
    alignment_here = context.alignment(context.inputs.base)
    scores: list[tuple[float, Path]] = []
    for base_folder in context.inputs.expected:
        alignment = context.alignment(base_folder)
        scores += [] if alignment is None or math.isnan(alignment.score) else [(alignment.score, base_folder)]
    if not scores or alignment_here is None or math.isnan(alignment_here.score):
        return []
    best_score, best_base = max(scores, key=lambda score_and_base: score_and_base[0])
    if best_score - alignment_here.score >= SURE:
        context.home = best_base
    sentence = f"alignment {alignment_here.score:.1f} with the base given, {best_score:.1f} with {_name(best_base)}"
    weights = likelihoods.rival_weights(alignment_here.score, best_score)
    return [outcome("align_elsewhere", sentence, "alignment", weights)]


def read_text(context: Context) -> list[Evidence]:
    """Does the base itself predict plain text? One that does worse than knowing nothing reads its tokens as others."""
    session, engine, base_folder = context.session, context.engine, context.inputs.base
    if session is None or engine is None or base_folder is None:
        return []
    try:
        loss_ratio = base_loss(engine, session.encoder(), base_folder)
    except LoricaError as error:
        context.notes.append(f"the base could not be asked plain text: {error.message}")
        return []
    if loss_ratio is None:
        return []
    sentence = f"the base predicts plain text with {loss_ratio:.2f} times the loss of guessing"
    weights = likelihoods.sense_weights(loss_ratio)
    return [outcome("base_text", sentence, "base.sense", weights)] if weights else []


def ask_canaries(context: Context) -> list[Evidence]:
    """The passport's canaries on this base: they tell how much of the adapter's effect arrives."""
    from lorica.admission.canaries import run_canaries

    try:
        passport = read_passport(context.specimen.folder)
        measurement = None if passport is None else context.subject.measurement
        if passport is None or measurement is None:
            return []
        canary_result = run_canaries(measurement.adapter.engine, measurement.adapter.name, passport.canaries)
    except LoricaError:
        return []
    if canary_result.outcome == "failed":
        return []
    sentence = canary_result.problem or f"all {len(passport.canaries.items)} canaries of its passport are reproduced"
    weights = likelihoods.canary_weights(
        canary_result.outcome, canary_result.effect, canary_result.odd, canary_result.base_largest
    )
    return [outcome("canaries", sentence, "canaries", weights)]


def check_passport_here(context: Context) -> list[Evidence]:
    """The passport against the files and the base."""
    findings = check_passport(context.specimen, context.inputs.base)
    evidence = from_findings(context.add(findings))
    found_codes = {finding.code for finding in findings}
    if PASSPORT_NAME not in context.specimen.documents or "L341" in found_codes:
        return evidence
    same_weights: dict[str, float] = {}
    if not found_codes & {"L342", "L348"}:
        same_weights |= {"over_scaled": -6.0, "under_scaled": -6.0}
    if not found_codes & {"L342", "L343", "L348"}:
        same_weights |= {"altered": -6.0, "incomplete": -3.0, "broken_weights": -1.0}
    if same_weights:
        unchanged = "config and weights are those of its passport"
        sentence = unchanged if len(same_weights) > 2 else "the config is that of its passport"
        evidence.append(outcome("passport", sentence, "record.config", same_weights))
    return evidence


def behave(context: Context) -> list[Evidence]:
    """Level 4: what it does to probes, and to the rows where there are any."""
    measurement = context.subject.measurement
    if measurement is None or context.subject.repair is not None:
        return []
    try:
        findings = judge_behaviour(measurement.behaviour())
    except LoricaError as error:
        context.notes.append(f"its behaviour could not be examined: {error.message}")
        return []
    context.add(findings)
    unheard = any(finding.code == "L401" for finding in findings)
    return [*from_findings(findings), *([] if unheard else from_clean(findings, {4}))]


def _name(base_folder: Path) -> str:
    return ascii(base_folder.name)[1:-1][:60]
