"""Experiments on the base model, without labels: shapes, directions of activations, canaries, behaviour."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from lorica.adapters.passport import PASSPORT_NAME
from lorica.adapters.tensor_map import TensorMap, layer_number
from lorica.errors import LoricaError
from lorica.vetting.base.base_loss import sense
from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.finding_likelihoods import from_clean, from_findings
from lorica.vetting.diagnosis.inputs import Context
from lorica.vetting.diagnosis.posterior import Evidence
from lorica.vetting.measure.quality import SURE

# Mean scores of a layer's modules, in standard deviations: layers of healthy adapters of the zoo have 2.2 to 9.9, those
# of an adapter of another base -0.2 to 0.1.
_STRANGE, _AT_HOME = 0.7, 2.0
# One pass over the adapter for each layer; deeper models would take too long.
_MOST_LAYERS = 48
_FEW_SHUFFLES = 16


def fit_base(context: Context) -> list[Evidence]:
    """Do the tensors' shapes fit the base's layers? (Its config and headers are read, not its weights.)"""
    from lorica.vetting.base.base_fit import check_fit

    base, layout = context.inputs.base, context.layout
    if base is None or layout is None:
        return []
    findings = check_fit(context.specimen, layout, base)
    context.add(findings, level=3)
    return [*from_findings(findings), *from_clean(findings, {3})]


def fit_elsewhere(context: Context) -> list[Evidence]:
    """Do the shapes fit one of the bases that were named with --expected-base, where they do not fit --base?"""
    from lorica.vetting.base.base_fit import check_fit

    if context.layout is None or not context.inputs.expected:
        return []
    here = any(each.severity == "reject" for each in context.findings if each.level == 3)
    fitting = [
        base
        for base in context.inputs.expected
        if not any(each.severity == "reject" for each in check_fit(context.specimen, context.layout, base))
    ]
    if not fitting or not here:
        return []
    context.home = fitting[0]
    text = f"it fits {_name(fitting[0])}, which was named as expected, and not the base that was given"
    return [_evidence("fit_elsewhere", text, "elsewhere", {"wrong_size": 4.0, "healthy": -4.0, "broken_weights": -2.0})]


def align_base(context: Context) -> list[Evidence]:
    """Do the adapter's directions lie where this base's activations and gradients lie?"""
    from lorica.vetting.base.alignment_findings import check_alignment

    alignment = context.alignment(context.inputs.base)
    if alignment is None:
        return []
    findings = check_alignment(alignment)
    context.add(findings, level=3)
    told, sizes = findings[0], findings[1:]
    weights = likelihoods.alignment_weights(alignment.decided, alignment.p_true)
    found = [_evidence("alignment", told.seen, "alignment", weights), *from_findings(sizes)]
    strange = _strangers(alignment.modules)
    # Layers in another order, or of a base of two models, are strange for a reason that is known already.
    explained = any(each.code in ("L317", "L319", "L324", "L328", "L329") for each in sizes)
    if strange and alignment.decided != "mismatch" and not explained:
        text = (
            f"{len(strange)} of its layers ({', '.join(map(str, strange[:8]))}) lie in no directions of this base, "
            "while the others do"
        )
        layers = len({layer_number(path) for path in alignment.modules})
        found.append(_evidence("strangers", text, "strangers", likelihoods.stranger_weights(len(strange), layers)))
    return found


def _strangers(modules: Mapping[str, float]) -> list[int]:
    """Layers whose modules align no better than chance, where the other layers clearly do."""
    scores: dict[int, list[float]] = {}
    for path, score in modules.items():
        layer = layer_number(path)
        if layer is not None:
            scores.setdefault(layer, []).append(score)
    # Several modules of a layer make its mean; one alone is too uncertain.
    means = {layer: float(np.mean(each)) for layer, each in scores.items() if len(each) >= 2}
    at_home = [mean for mean in means.values() if mean > _AT_HOME]
    strange = [layer for layer, mean in means.items() if mean < _STRANGE]
    return sorted(strange) if at_home and len(at_home) + len(strange) >= 0.7 * len(means) else []


def align_elsewhere(context: Context) -> list[Evidence]:
    """The same with every base that was named with --expected-base: a better home speaks against the one given."""
    here = context.alignment(context.inputs.base)
    homes = [(base, context.alignment(base)) for base in context.inputs.expected]
    known = [(base, found.score) for base, found in homes if found is not None and not math.isnan(found.score)]
    if not known or here is None or math.isnan(here.score):
        return []
    best, score = max(known, key=lambda each: each[1])
    if score - here.score >= SURE:
        context.home = best
    text = f"alignment {here.score:.1f} with the base given, {score:.1f} with {_name(best)}"
    return [_evidence("align_elsewhere", text, "alignment", likelihoods.rival_weights(here.score, score))]


def read_text(context: Context) -> list[Evidence]:
    """Does the base itself predict plain text? One that does worse than knowing nothing reads its tokens as others."""
    work, engine, base = context.work, context.engine, context.inputs.base
    if work is None or engine is None or base is None:
        return []
    try:
        ratio = sense(engine, work.encoder(), base)
    except LoricaError as error:
        context.notes.append(f"the base could not be asked plain text: {error.message}")
        return []
    if ratio is None:
        return []
    text = f"the base predicts plain text with {ratio:.2f} times the loss of guessing"
    weights = likelihoods.sense_weights(ratio)
    return [_evidence("base_text", text, "base.sense", weights)] if weights else []


def order_layers(context: Context) -> list[Evidence]:
    """Each layer's update at the place of every other one: does it lie better in another layer's directions?"""
    from lorica.vetting.base.alignment import align
    from lorica.vetting.base.collect_subspaces import collect_subspaces

    base, layout = context.inputs.base, context.layout
    if base is None or layout is None:
        return []
    layers = sorted({each.layer for each in layout.pairs if each.layer is not None})
    if not 2 <= len(layers) <= _MOST_LAYERS:
        return []
    table = np.zeros((len(layers), len(layers)))
    try:
        directions = collect_subspaces(base)
        for shift in range(len(layers)):
            moved = {old: layers[(place + shift) % len(layers)] for place, old in enumerate(layers)}
            found = align(context.specimen, _moved(layout, moved), directions, shuffles=_FEW_SHUFFLES)
            for place, old in enumerate(layers):
                scores = [score for path, score in found.modules.items() if layer_number(path) == moved[old]]
                table[place, (place + shift) % len(layers)] = float(np.mean(scores)) if scores else 0.0
    except LoricaError as error:
        context.notes.append(f"the order of its layers could not be tested: {error.message}")
        return []
    best = table.argmax(axis=1)
    torn = [
        place
        for place, other in enumerate(best)
        if other != place and table[:, other].argmax() == place and table[place, other] > table[place, place] + 2.0
    ]
    weights = likelihoods.order_weights(len(layers), len(torn), int((best == np.arange(len(layers))).sum()))
    text = f"{len(layers) - len(torn)} of its {len(layers)} layers lie best where they are"
    if torn:
        first = torn[0]
        text = (
            f"{len(torn)} of its {len(layers)} layers belong to another place: layer {layers[first]} to layer "
            f"{layers[int(best[first])]}, for one (alignment {table[first, best[first]]:.1f}, not "
            f"{table[first, first]:.1f})"
        )
    return [_evidence("layer_order", text, "layer_order", weights)] if weights else []


def _moved(layout: TensorMap, places: Mapping[int, int]) -> TensorMap:
    """The layout with the layers' numbers changed."""
    modules = {}
    for path, each in layout.modules.items():
        if each.layer is None:
            continue
        start, _, end = path.partition(f".{each.layer}.")
        new = f"{start}.{places[each.layer]}.{end}"
        modules[new] = msgspec.structs.replace(each, path=new, layer=places[each.layer])
    return msgspec.structs.replace(layout, modules=modules)


def ask_canaries(context: Context) -> list[Evidence]:
    """The passport's canaries on this base: they tell how much of the adapter's effect arrives."""
    from lorica.adapters.passport import read_passport
    from lorica.admission.canaries import run_canaries

    try:
        passport = read_passport(context.specimen.folder)
        measurement = None if passport is None else context.subject.measurement
        if passport is None or measurement is None:
            return []
        trial = run_canaries(measurement.adapter.engine, measurement.adapter.name, passport.canaries)
    except LoricaError:
        return []
    if trial.reading == "failed":
        return []
    text = trial.problem or f"all {len(passport.canaries.items)} canaries of its passport are reproduced"
    weights = likelihoods.canary_weights(trial.reading, trial.effect, trial.odd, trial.base_largest)
    return [_evidence("canaries", text, "canaries", weights)]


def check_passport_here(context: Context) -> list[Evidence]:
    """The passport against the files and the base."""
    from lorica.vetting.passport_check import check_passport

    findings = check_passport(context.specimen, context.inputs.base)
    found = from_findings(context.add(findings))
    known = {each.code for each in findings}
    if PASSPORT_NAME not in context.specimen.documents or "L341" in known:
        return found
    same: dict[str, float] = {}
    if not known & {"L342", "L348"}:
        same |= {"over_scaled": -6.0, "under_scaled": -6.0}
    if not known & {"L342", "L343", "L348"}:
        same |= {"altered": -6.0, "incomplete": -3.0, "broken_weights": -1.0}
    if same:
        text = "config and weights are those of its passport" if len(same) > 2 else "the config is that of its passport"
        found.append(_evidence("passport", text, "record.config", same))
    return found


def behave(context: Context) -> list[Evidence]:
    """Level 4: what it does to probes, and to the rows where there are any."""
    from lorica.vetting.behaviour import judge_behaviour

    measurement = context.subject.measurement
    if measurement is None or context.subject.repair is not None:
        return []
    try:
        findings = judge_behaviour(measurement.behaviour())
    except LoricaError as error:
        context.notes.append(f"its behaviour could not be examined: {error.message}")
        return []
    context.add(findings, level=4)
    unheard = any(found.code == "L401" for found in findings)
    return [*from_findings(findings), *([] if unheard else from_clean(findings, {4}))]


def _name(base: Path) -> str:
    return ascii(base.name)[1:-1][:60]


def _evidence(name: str, text: str, group: str, weights: dict[str, float]) -> Evidence:
    return Evidence(id=name, text=text, source=name, group=group, weights=weights)
