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
from lorica.vetting.measure.format_sweep import PromptFormat, format_gain
from lorica.vetting.measure.measurements import Comparison, Skill
from lorica.vetting.measure.probe_rows import chosen_rows
from lorica.vetting.measure.quality import HINT, SURE, compare, gold_logprobs
from lorica.vetting.measure.scale_sweep import peak

# Rows for the sweep over kinds of modules, which asks them dozens of times.
_KIND_ROWS = 80


def sweep_scale(context: Context) -> list[Evidence]:
    """The update at 1/64 to 64 times its size: under which are the right answers most probable?"""
    measurement = context.measurement
    if measurement is None:
        return []
    sweep = measurement.scale_sweep
    sweep.refine()
    best, top = sweep.best, peak(sweep.results)
    own = next(result for result in sweep.results if result.factor == 1)
    if best is None or top is None or best.over_base is None or own.over_base is None:
        return []
    over_own = best.gain or Comparison(0.0, 0.0)
    ranking = (best.quality or 0.0) - (own.quality or 0.0)
    by_chance = bool(best.error) and Skill(best.quality, best.error).above_chance < HINT
    if by_chance or max(best.over_base.z, best.ranking_z) < SURE:
        text = "at no scale from 1/64 to 64 are the right answers more probable than under the base alone"
    elif likelihoods.SCALE_LOW <= top <= likelihoods.SCALE_HIGH:
        text = f"its scale is right: the best factor on it is {top:.2g}"
    elif over_own.z < HINT:
        text = f"no scale does clearly better than its own (the best, {top:.2g} times it, by z {over_own.z:.1f})"
    else:
        better = f"the right answers are {gain_text(over_own)} than as it is, and the ranking gains {ranking:.2f}"
        text = f"at {top:.2g} times its scale {better}"
    weights = likelihoods.scale_weights(
        top,
        over_own.z,
        0.0 if by_chance else best.over_base.z,
        ranking,
        best.ranking_z,
        kl=math.nan if own.choices_kl is None else own.choices_kl,
        here_z=own.over_base.z,
    )
    if max(weights.get("over_scaled", 0), weights.get("under_scaled", 0)) > 0:
        context.better_factor = best.factor
    return [outcome("scale_sweep", text, "scale", weights)]


def sweep_kinds(context: Context) -> list[Evidence]:
    """The same for one kind of module at a time: a lost alpha_pattern leaves some kinds at a wrong scale."""
    measurement, layout = context.measurement, context.layout
    if measurement is None or layout is None or context.subject.repair is not None:
        return []
    own = measurement.own.labelled
    if compare(own, measurement.base.labelled).z < SURE:
        return []  # where the adapter does not help at all, any change of it may do "better"
    rows = chosen_rows(own.rows, _KIND_ROWS, measurement.adapter.session.settings.seed)
    row_ids = {row.id for row in rows}
    own, requests = own.keep(row_ids), measurement.requests(row_ids)
    gains: list[tuple[float, float, str, float]] = []  # mean, z, type, factor
    for module_type in sorted({module.target for module in layout.pairs}):
        for factor in (0.25, 4.0):
            config = scaled_kind(measurement.adapter.config, layout, module_type, factor)
            scored = measurement.adapter.score_copy(config, requests)
            if scored is not None and not scored.failed:
                gain = compare(scored, own)
                gains.append((gain.mean, gain.z, module_type, factor))
    if len(gains) < 4:
        return []
    mean, z, module_type, factor = max(gains)
    next_gain = max((gain[0] for gain in gains if gain[2] != module_type and gain[3] == factor), default=0.0)
    weights = likelihoods.kind_weights(factor, mean, z, next_gain)
    if not weights:
        return [outcome("kind_sweep", "no kind of module is at a wrong scale of its own", "kinds",
                          {"over_scaled": -0.5, "under_scaled": -0.5})]  # fmt: skip
    better = gain_text(Comparison(mean, z))
    text = (
        f"with {module_type} alone at {factor:g} times its scale the right answers are {better} (alpha_pattern lost?)"
    )
    return [outcome("kind_sweep", text, "kinds", weights)]


def sweep_formats(context: Context) -> list[Evidence]:
    """Other styles of the task and other templates: an adapter knows the format it was trained with."""
    measurement = context.measurement
    if measurement is None:
        return []
    sweep = measurement.format_sweep
    sweep.ask_pairs()
    if sweep.best is None:
        return []
    prompt_format, best = sweep.best
    margin, added, ranking = format_gain(best)
    own = compare(measurement.own.labelled, measurement.base.labelled)
    weights = likelihoods.format_weights(margin, added, own.z, ranking)
    if weights["prompt_mismatch"] > 0:
        context.better_format = prompt_format
        more = f"more probability than as it is asked now (z {margin:.1f}){Skill(best.quality, best.error)}"
        text = f"asked with {_overrides(prompt_format, sweep.configured)} it gives the right answers {more}"
    else:
        names = ", ".join(_overrides(tried, sweep.configured) for tried in sweep.tried)
        text = f"none of {len(sweep.tried)} other prompt formats ({names}) does better"
    return [outcome("format_sweep", text, "format", weights)]


def weigh_rivals(context: Context) -> list[Evidence]:
    """The better scale and the better format each compensate for part of the other's fault. So both formats are asked
    at the better scale, and the other one as it is, too: where the scale is what is wrong, the format in use at the
    better scale is the best of the three."""
    measurement, factor, better_format = context.measurement, context.better_factor, context.better_format
    if measurement is None or factor is None or better_format is None:
        return []
    requests, scale = measurement.format_sweep.requests(better_format), measurement.scale_sweep
    as_configured = scale.score(factor, measurement.requests({request.row.id for request in requests}))
    rivals = [scored for scored in (scale.score(factor, requests), scale.score(1.0, requests)) if scored is not None]
    if as_configured is None or as_configured.failed or any(scored.failed for scored in rivals):
        return []
    best = max((scored.labelled for scored in rivals), key=lambda scored: float(gold_logprobs(scored).mean()))
    gain = compare(best, as_configured.labelled)
    weights = likelihoods.rivals_weights(gain.z)
    if not weights:
        return []
    more = "more" if gain.mean > 0 else "less"
    text = f"the other format makes up for {more} than {factor:.2g} times its scale does (z {gain.z:.1f})"
    return [outcome("scale_or_format", text, "rivals", weights)]


def scaled_kind(config: AdapterConfig, layout: TensorMap, module_type: str, factor: float) -> AdapterConfig:
    """The config with the update of one kind of module ("q_proj") `factor` times as large."""
    alphas: dict[str, float] = {}
    for path, module in layout.modules.items():
        if module.target == module_type:
            rank = config.rank(path)
            # "^" binds the key to this very module, and stands first so that it wins.
            alphas["^" + path] = config.scaling(path) * (math.sqrt(rank) if config.use_rslora else rank) * factor
    return msgspec.structs.replace(config, alpha_pattern=alphas | config.alpha_pattern)


def _overrides(prompt_format: PromptFormat, configured: PromptFormat) -> str:
    """What asks so on the command line."""
    words = [
        f"task.style={prompt_format.style}" if prompt_format.style != configured.style else "",
        f"task.method={prompt_format.method}" if prompt_format.method != configured.method else "",
        f"model.chat_template={prompt_format.template}" if prompt_format.template else "",
    ]
    return " ".join(filter(None, words))
