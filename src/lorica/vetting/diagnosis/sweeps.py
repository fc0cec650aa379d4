"""Sweeps over labelled rows on the base: scales, kinds of modules, prompt formats, and which makes up for more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from lorica.errors import LoricaError
from lorica.prompts.encoder import Encoder
from lorica.tasks import load_task
from lorica.tasks.base import Task
from lorica.vetting.behaviour.formats import other_templates
from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.inputs import Asked, Context, LoadedAdapter
from lorica.vetting.diagnosis.on_rows import evidence, gain_text, ready, skill_text
from lorica.vetting.diagnosis.posterior import Evidence
from lorica.vetting.diagnosis.trial import Comparison, Scored, Trial, auc_error, compare, divergence
from lorica.vetting.diagnosis.variants import rescaled

# The factors on the update that are tried first: far apart and far out, for over the scale the answers can have more
# than one optimum.
_FIRST_SCALES = (1 / 64, 1 / 16, 1 / 4, 4.0, 16.0, 64.0)
# Rows for the sweep over kinds of modules, which asks them dozens of times.
_KIND_ROWS = 80


class _Format(NamedTuple):
    """A prompt format that was tried. margin: z of the gold answers against the format in use. gain: z against the
    base in this format. ranking: z of AUC against AUC in the format in use; all three are 0 where the adapter adds
    nothing in it to what the base knows. skill: AUC in words."""

    name: str
    margin: float
    gain: float
    ranking: float
    skill: str
    asked: Asked


def sweep_scale(context: Context) -> list[Evidence]:
    """The update at 1/64 to 64 times its size: under which are the right answers most probable?"""
    found = ready(context)
    if found is None:
        return []
    trial, subject = found
    scored = _search_scale(context, trial, subject)
    means = {factor: float(each.gold.mean()) for factor, each in scored.items()}
    best = max(means, key=lambda factor: (means[factor], -abs(math.log(factor))))
    peak = _peak(means, best)
    base, here = trial.score(None), scored[1.0]
    over_base, over_one = compare(scored[best], base), compare(scored[best], here)
    ranking = _ranks(trial, scored[best]) - _ranks(trial, here)
    ranking_z = _ranking_z(trial, scored[best], here)
    auc, error = trial.auc(scored[best])
    by_chance = error > 0 and (auc - 0.5) / error < likelihoods.HINT
    if by_chance or max(over_base.z, ranking_z) < likelihoods.SURE:
        text = "at no scale from 1/64 to 64 are the right answers more probable than under the base alone"
    elif likelihoods.SCALE_LOW <= peak <= likelihoods.SCALE_HIGH:
        text = f"its scale is right: the best factor on it is {peak:.2g}"
    elif over_one.z < likelihoods.HINT:
        text = f"no scale does clearly better than its own (the best, {peak:.2g} times it, by z {over_one.z:.1f})"
    else:
        better = f"the right answers are {gain_text(over_one)} than as it is, and the ranking gains {ranking:.2f}"
        text = f"at {peak:.2g} times its scale {better}"
    useful = 0.0 if by_chance else over_base.z
    weights = likelihoods.scale_weights(
        peak,
        over_one.z,
        useful,
        ranking,
        ranking_z,
        kl=divergence(here, base),
        here_z=compare(here, base).z,
    )
    if max(weights.get("over_scaled", 0), weights.get("under_scaled", 0)) > 0:
        context.best["scale"] = (best, Asked(trial.task, trial.encoder))
    return [evidence("scale_sweep", text, "scale", weights)]


def _search_scale(context: Context, trial: Trial, subject: LoadedAdapter) -> dict[float, Scored]:
    """Factor -> the rows under it: a wide grid, then twice closer around the best."""
    assert subject.folder is not None
    specimen = context.specimen if subject.repair is None else context.reread(subject.folder)
    scored = {1.0: trial.score(subject.folder)}

    def best() -> float:
        return max(scored, key=lambda factor: float(scored[factor].gold.mean()))

    def add(factor: float) -> None:
        found = None if factor in scored else context.scored(rescaled(specimen, factor, context.new_place()))
        if found is not None:
            scored[factor] = found

    for factor in _FIRST_SCALES:
        add(factor)
    for step in (2.0, math.sqrt(2.0)):
        middle = best()
        add(middle / step)
        add(middle * step)
    return scored


def sweep_kinds(context: Context) -> list[Evidence]:
    """The same for one kind of module at a time: a lost alpha_pattern leaves some kinds at a wrong scale."""
    found = ready(context)
    if found is None or context.layout is None or found[1].repair is not None:
        return []
    subject = found[1]
    gains: list[tuple[float, float, str, float]] = []  # mean, z, kind, factor
    if compare(found[0].score(subject.folder), found[0].score(None)).z < likelihoods.SURE:
        return []  # where the adapter does not help at all, any change of it may do "better"
    with context.fewer_rows(_KIND_ROWS) as trial:
        here = trial.score(subject.folder)
        for kind in sorted({factors.kind for factors in context.layout.pairs}):
            for factor in (0.25, 4.0):
                changed = rescaled(context.specimen, factor, context.new_place(), kind=kind, layout=context.layout)
                scored = context.scored(changed)
                if scored is not None:
                    gain = compare(scored, here)
                    gains.append((gain.mean, gain.z, kind, factor))
    if len(gains) < 4:
        return []
    mean, z, kind, factor = max(gains)
    others = max((each[0] for each in gains if each[2] != kind and each[3] == factor), default=0.0)
    weights = likelihoods.kind_weights(factor, mean, z, others)
    if not weights:
        return [evidence("kind_sweep", "no kind of module is at a wrong scale of its own", "kinds",
                          {"over_scaled": -0.5, "under_scaled": -0.5})]  # fmt: skip
    text = (
        f"with {kind} alone at {factor:g} times its scale the right answers are {gain_text(Comparison(mean, z))} "
        "(alpha_pattern lost?)"
    )
    return [evidence("kind_sweep", text, "kinds", weights)]


def sweep_formats(context: Context) -> list[Evidence]:
    """Other styles of the task and other templates: an adapter knows the format it was trained with."""
    found = ready(context)
    if found is None:
        return []
    trial, subject = found
    here, base = trial.score(subject.folder), trial.score(None)
    tried: list[_Format] = []
    for name, task, encoder in _formats(context, trial):
        try:
            tried.append(_try(name, Asked(task, encoder), trial, subject, here))
        except LoricaError:
            continue
    if not tried:
        return []
    best = max(tried, key=lambda each: max(min(each.margin, each.gain), each.ranking))
    weights = likelihoods.format_weights(best.margin, best.gain, compare(here, base).z, best.ranking)
    if weights["prompt_mismatch"] > 0:
        context.best["format"] = (1.0, best.asked)
        more = f"more probability than as it is asked now (z {best.margin:.1f}){best.skill}"
        text = f"asked with {best.name} it gives the right answers {more}"
    else:
        text = f"none of {len(tried)} other prompt formats ({', '.join(each.name for each in tried)}) does better"
    return [evidence("format_sweep", text, "format", weights)]


def _try(name: str, asked: Asked, trial: Trial, subject: LoadedAdapter, here: Scored) -> _Format:
    """One format. Raises LoricaError where it cannot be asked."""
    scored = trial.score(subject.folder, task=asked.task, encoder=asked.encoder)
    more, ranking, gain = compare(scored, here), _ranking_z(trial, scored, here), 0.0
    margin, (auc, error) = more.z, trial.auc(scored)
    if max(margin, ranking) >= likelihoods.HINT:
        # In some formats the base itself does better: what the adapter knows is what it adds to that.
        alone = trial.score(None, task=asked.task, encoder=asked.encoder)
        added = compare(scored, alone)
        gain, known = added.z, max(0.5, trial.auc(alone)[0])
        # Where a ranking is no better than chance, no probability makes the format the right one.
        backwards = error > 0 and (auc - 0.5) / error < likelihoods.HINT
        ranks = not error > 0 or (auc - known) / error >= likelihoods.HINT or added.mean >= 3 * likelihoods.SUITED
        if backwards or not ranks or min(added.mean, more.mean) < likelihoods.SUITED:
            margin = ranking = gain = 0.0
    return _Format(name, margin, gain, ranking, skill_text(auc, error), asked)


def weigh_rivals(context: Context) -> list[Evidence]:
    """The better scale and the better format each make up for some of what the other spoils. So both formats are asked
    at the better scale, and the other one as it is, too: where the scale is what is wrong, the format in use at the
    better scale is the best of the three."""
    found = ready(context)
    if found is None or not {"scale", "format"} <= context.best.keys():
        return []
    (factor, now), (_, other) = context.best["scale"], context.best["format"]
    subject = found[1]
    assert subject.folder is not None
    specimen = context.specimen if subject.repair is None else context.reread(subject.folder)
    scaled = rescaled(specimen, factor, context.new_place())
    here = context.scored(scaled, now)
    there = context.scored(scaled, other)
    if here is None or there is None:
        return []
    as_it_is = found[0].score(subject.folder, task=other.task, encoder=other.encoder)
    gain = compare(max(there, as_it_is, key=lambda each: float(each.gold.mean())), here)
    weights = likelihoods.rivals_weights(gain.z)
    if not weights:
        return []
    more = "more" if gain.mean > 0 else "less"
    text = f"the other format makes up for {more} than {factor:.2g} times its scale does (z {gain.z:.1f})"
    return [evidence("scale_or_format", text, "rivals", weights)]


def _formats(context: Context, trial: Trial) -> list[tuple[str, Task, Encoder]]:
    """(name, task, encoder) of every other way to ask."""
    assert context.inputs.base is not None
    tasks = [("", trial.task)]
    settings = trial.task.settings
    tasks += [
        (f"task.style={style}", load_task(trial.task.name, msgspec.structs.replace(settings, style=style)))
        for style in trial.task.styles
        if style != settings.style
    ]
    encoders = [("", trial.encoder)]
    known = {trial.encoder.template_digest}
    for template in ("auto", "plain"):
        try:
            encoder = Encoder.load(context.inputs.base, chat_template=template)
        except LoricaError:
            continue
        if encoder.template_digest not in known:
            known.add(encoder.template_digest)
            encoders.append((f"model.chat_template={template}", encoder))
    pairs = [(f"{a} {b}".strip(), task, encoder) for a, task in tasks for b, encoder in encoders]
    return [*(each for each in pairs if each[0]), *_well_known(context, trial, known)]


def _well_known(context: Context, trial: Trial, known: set[str]) -> Iterator[tuple[str, Task, Encoder]]:
    """The shipped chat templates that this base's tokens allow, in the style in use."""
    if context.work is None:
        return
    for name in other_templates(context.work):
        encoder = context.work.encoder(name)
        if encoder.template_digest not in known:
            yield f"model.chat_template={name}", trial.task, encoder


def _peak(means: dict[float, float], best: float) -> float:
    """Where a parabola through the best factor and its neighbours, over the logarithm, has its top."""
    factors = sorted(means)
    place = factors.index(best)
    if not 0 < place < len(factors) - 1:
        return best
    x = [math.log(factors[place + step]) for step in (-1, 0, 1)]
    a, b, _ = np.polyfit(x, [means[factors[place + step]] for step in (-1, 0, 1)], 2)
    return float(math.exp(min(max(-b / (2 * a), x[0]), x[2]))) if a < 0 else best


def _ranking_z(trial: Trial, other: Scored, here: Scored) -> float:
    """AUC there against AUC here; 0 where there is none, or where it is no better than chance there."""
    (there, error), (now, _) = trial.auc(other), trial.auc(here)
    if math.isnan(there) or error <= 0 or (there - 0.5) / error < likelihoods.SURE:
        return 0.0
    return (there - now) / (
        math.sqrt(2) * max(error, auc_error(now, sum(trial.gold), len(trial.gold) - sum(trial.gold)))
    )


def _ranks(trial: Trial, scored: Scored) -> float:
    """AUC where there is one, else accuracy, else 0."""
    auc, _ = trial.auc(scored)
    if not math.isnan(auc):
        return auc
    right = float(np.mean(scored.right))
    return 0.0 if math.isnan(right) else right
