"""Sweeps over labelled rows on the base: scales, kinds of modules, prompt formats, and which makes up for more."""

from __future__ import annotations

import math

import msgspec

from lorica.adapters.config import AdapterConfig
from lorica.adapters.tensor_map import TensorMap
from lorica.vetting.behaviour import gain_text
from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.inputs import Context
from lorica.vetting.diagnosis.posterior import Evidence, outcome
from lorica.vetting.measure.adapter_measurement import AdapterMeasurement
from lorica.vetting.measure.format_sweep import PromptFormat, format_gain
from lorica.vetting.measure.measurements import Comparison, Skill
from lorica.vetting.measure.probe_rows import chosen_rows
from lorica.vetting.measure.quality import HINT, SURE, compare, gold_logprobs
from lorica.vetting.measure.scale_sweep import peak

# Rows for the sweep over kinds of modules, which asks them dozens of times.
_KIND_ROWS = 80
_NO_KIND = {"over_scaled": -0.5, "under_scaled": -0.5}


def sweep_scale(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """The update at 1/64 to 64 times its size: under which are the right answers most probable?"""
    scale_sweep = measurement.scale_sweep
    scale_sweep.refine()
    best_scale, peak_factor = scale_sweep.best, peak(scale_sweep.results)
    own_result = next(result for result in scale_sweep.results if result.factor == 1)
    if best_scale is None or peak_factor is None or best_scale.over_base is None or own_result.over_base is None:
        return []
    over_own = best_scale.gain or Comparison(0.0, 0.0)
    ranking_gain = (best_scale.quality or 0.0) - (own_result.quality or 0.0)
    by_chance = bool(best_scale.error) and Skill(best_scale.quality, best_scale.error).above_chance < HINT
    if by_chance or max(best_scale.over_base.z, best_scale.ranking_z) < SURE:
        sentence = "at no scale from 1/64 to 64 are the right answers more probable than under the base alone"
    elif likelihoods.SCALE_LOW <= peak_factor <= likelihoods.SCALE_HIGH:
        sentence = f"its scale is right: the best factor on it is {peak_factor:.2g}"
    elif over_own.z < HINT:
        sentence = f"no scale does clearly better than its own (the best, {peak_factor:.2g} times it, by z "
        sentence += f"{over_own.z:.1f})"
    else:
        sentence = f"at {peak_factor:.2g} times its scale the right answers are {gain_text(over_own)} than as it is"
        sentence += f", and the ranking gains {ranking_gain:.2f}"
    weights = likelihoods.scale_weights(
        peak_factor,
        over_own.z,
        0.0 if by_chance else best_scale.over_base.z,
        ranking_gain,
        best_scale.ranking_z,
        kl=math.nan if own_result.choices_kl is None else own_result.choices_kl,
        here_z=own_result.over_base.z,
    )
    if max(weights.get("over_scaled", 0), weights.get("under_scaled", 0)) > 0:
        context.better_factor = best_scale.factor
    return [outcome("scale_sweep", sentence, "scale", weights)]


def sweep_kinds(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """The same for one kind of module at a time: a lost alpha_pattern leaves some kinds at a wrong scale."""
    layout = context.layout
    if layout is None or context.subject.repair is not None:
        return []
    own_labelled = measurement.own.labelled
    if compare(own_labelled, measurement.base.labelled).z < SURE:
        return []  # where the adapter does not help at all, any change of it may do "better"
    sample_rows = chosen_rows(own_labelled.rows, _KIND_ROWS, measurement.adapter.session.settings.seed)
    row_ids = {row.id for row in sample_rows}
    own_labelled, requests = own_labelled.keep(row_ids), measurement.requests(row_ids)
    module_gains: list[tuple[float, float, str, float]] = []  # mean, z, type, factor
    for module_type in sorted({module.target for module in layout.pairs}):
        for factor in (0.25, 4.0):
            config = scaled_kind(measurement.adapter.config, layout, module_type, factor)
            scored = measurement.adapter.score_copy(config, requests)
            if scored is not None and not scored.failed:
                module_gain = compare(scored, own_labelled)
                module_gains.append((module_gain.mean, module_gain.z, module_type, factor))
    if len(module_gains) < 4:
        return []
    mean_gain, gain_z, module_type, factor = max(module_gains)
    other_gains = [gain for gain, _, target, scale in module_gains if target != module_type and scale == factor]
    weights = likelihoods.kind_weights(factor, mean_gain, gain_z, max(other_gains, default=0.0))
    sentence = f"with {module_type} alone at {factor:g} times its scale the right answers are "
    sentence += f"{gain_text(Comparison(mean_gain, gain_z))} (alpha_pattern lost?)"
    if not weights:
        weights, sentence = _NO_KIND, "no kind of module is at a wrong scale of its own"
    return [outcome("kind_sweep", sentence, "kinds", weights)]


def sweep_formats(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """Other styles of the task and other templates: an adapter knows the format it was trained with."""
    format_sweep = measurement.format_sweep
    format_sweep.ask_pairs()
    if format_sweep.best is None:
        return []
    prompt_format, best_result = format_sweep.best
    margin_z, added_z, ranking = format_gain(best_result)
    own_gain = compare(measurement.own.labelled, measurement.base.labelled)
    weights = likelihoods.format_weights(margin_z, added_z, own_gain.z, ranking)
    if weights["prompt_mismatch"] > 0:
        context.better_format = prompt_format
        overrides = _overrides(prompt_format, format_sweep.configured)
        sentence = f"asked with {overrides} it gives the right answers more probability than as it is asked now "
        sentence += f"(z {margin_z:.1f}){Skill(best_result.quality, best_result.error)}"
    else:
        tried = [_overrides(tried_format, format_sweep.configured) for tried_format in format_sweep.tried]
        sentence = f"none of {len(tried)} other prompt formats ({', '.join(tried)}) does better"
    return [outcome("format_sweep", sentence, "format", weights)]


def weigh_rivals(context: Context, measurement: AdapterMeasurement) -> list[Evidence]:
    """The better scale and the better format each compensate for part of the other's fault. So both formats are asked
    at the better scale, and the other one as it is, too: where the scale is what is wrong, the format in use at the
    better scale is the best of the three."""
    factor, better_format = context.better_factor, context.better_format
    if factor is None or better_format is None:
        return []
    requests, scale_sweep = measurement.format_sweep.requests(better_format), measurement.scale_sweep
    as_configured = scale_sweep.score(factor, measurement.requests({request.row.id for request in requests}))
    scores = (scale_sweep.score(factor, requests), scale_sweep.score(1.0, requests))
    rivals = [scored for scored in scores if scored is not None]
    if as_configured is None or as_configured.failed or any(scored.failed for scored in rivals):
        return []
    best_rival = max((scored.labelled for scored in rivals), key=lambda scored: float(gold_logprobs(scored).mean()))
    rival_gain = compare(best_rival, as_configured.labelled)
    weights = likelihoods.rivals_weights(rival_gain.z)
    if not weights:
        return []
    comparative = "more" if rival_gain.mean > 0 else "less"
    sentence = f"the other format makes up for {comparative} than {factor:.2g} times its scale does"
    sentence += f" (z {rival_gain.z:.1f})"
    return [outcome("scale_or_format", sentence, "rivals", weights)]


def scaled_kind(config: AdapterConfig, layout: TensorMap, module_type: str, factor: float) -> AdapterConfig:
    """The config with the update of one kind of module ("q_proj") `factor` times as large."""
    module_paths = [module.path for module in layout.modules.values() if module.target == module_type]
    # "^" binds the key to this very module, and stands first so that it wins.
    alphas = {f"^{module_path}": config.alpha(module_path) * factor for module_path in module_paths}
    return msgspec.structs.replace(config, alpha_pattern=alphas | config.alpha_pattern)


def _overrides(prompt_format: PromptFormat, configured: PromptFormat) -> str:
    """What asks so on the command line."""
    override_texts = [
        f"task.style={prompt_format.style}" if prompt_format.style != configured.style else "",
        f"task.method={prompt_format.method}" if prompt_format.method != configured.method else "",
        f"model.chat_template={prompt_format.template}" if prompt_format.template else "",
    ]
    return " ".join(filter(None, override_texts))
