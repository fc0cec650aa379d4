"""Experiments with labelled rows on the base: what makes the right answers more probable tells what is wrong."""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np

from lorica.errors import LoricaError
from lorica.prompts.encoder import Encoder
from lorica.tasks import load_task
from lorica.tasks.base import Task
from lorica.tasks.rules import STYLES, RulesCase
from lorica.vetting.diagnosis import numeric
from lorica.vetting.diagnosis.context import Context, Subject
from lorica.vetting.diagnosis.evidence import Evidence
from lorica.vetting.diagnosis.trial import Comparison, Scored, Trial, auc_error, compare, divergence
from lorica.vetting.diagnosis.variants import Repair, rescaled

# The factors on the update that are tried first: far apart and far out, for over the scale the answers can have more
# than one optimum.
_FIRST_SCALES = (1 / 64, 1 / 16, 1 / 4, 4.0, 16.0, 64.0)
# Rows for the sweep over kinds of modules, which asks them dozens of times.
_KIND_ROWS = 80


class _Format(NamedTuple):
    """A prompt format that was tried. margin: z of the gold answers against the format in use. gain: z against the
    base in this format. ranking: z of AUC against AUC in the format in use. skill: AUC in words."""

    name: str
    margin: float
    gain: float
    ranking: float
    skill: str


def ready(context: Context) -> tuple[Trial, Subject] | None:
    """The trial and the adapter in it; None when there are no labelled rows, or the engine takes the adapter in no
    form."""
    trial = context.trial
    if trial is None or context.subject.folder is None:
        return None
    return trial, context.subject


def mend(context: Context) -> list[Evidence]:
    """Whether the engine takes the adapter as it is and, if not, whether a mended copy works: if it does, its weights
    and its base are right, and what was mended is what was wrong."""
    found = ready(context)
    if context.trial is None:
        return []
    if found is None:
        text = f"the engine refuses it, and no mended copy of it loads: {context.subject.refused}"
        weights = {"healthy": -6.0, "hard_task": -6.0, "over_scaled": -4.0, "under_scaled": -4.0, "inverted": -5.0,
                   "prompt_mismatch": -5.0, "ignores_input": -4.0, "hard_labels": -5.0}  # fmt: skip
        return [_evidence("mend", text, "mend", weights)]
    trial, subject = found
    if subject.repair is None:
        taken = {"unsupported": -3.0, "unreadable": -6.0, "wrong_size": -4.0, "incomplete": -1.0}
        return [_evidence("mend", "the engine takes it as it is", "mend", taken)]
    with_it, base = trial.score(subject.folder), trial.score(None)
    gain = compare(with_it, base)
    auc, error = trial.auc(with_it)
    auc_z = (auc - 0.5) / error if error > 0 else 0.0
    kl = divergence(with_it, base)
    weights = numeric.repair_weights(gain.z, auc_z, bool(math.isnan(kl) or kl > 1e-6)) | _mended(subject.repair)
    what = _what_was_mended(subject.repair)
    works = "works" if gain.z >= numeric.SURE or auc_z >= numeric.SURE else "is no better than the base"
    text = f"the engine refuses it ({subject.refused}); a copy with {what} loads and {works}{_skill(auc, error)}"
    return [_evidence("mend", text, "mend", weights | {"healthy": -5.0, "hard_task": -5.0})]


def skill(context: Context) -> list[Evidence]:
    """How well it does on the rows, against the base: the rows' gold must become more probable."""
    found = ready(context)
    if found is None:
        return []
    trial, subject = found
    scored, base = trial.score(subject.folder), trial.score(None)
    gain, (auc, error) = compare(scored, base), trial.auc(scored)
    text = f"the right answers are {_gain(gain)} than without it, n={len(trial.rows)}{_skill(auc, error)}"
    evidence = [_evidence("skill", text, "skill", numeric.skill_weights(auc, error, gain.z, trial.auc(base)[0]))]
    if trial.task.settings.method != "generate":
        # What spoils generated answers is then not to blame for these.
        text = "the answers are probabilities of choices: nothing is generated or parsed"
        evidence.append(_evidence("method", text, "method", {"generation_settings": -2.0, "parser_fallbacks": -2.0}))
    if subject.repair is None:
        changed = _changed(scored, base)
        kl = divergence(scored, base)
        text = f"it changes the probabilities of {changed:.0%} of the rows (divergence {kl:.2g} nats)"
        evidence.append(
            _evidence("change", text, "change", numeric.change_weights(changed, 1.0 if math.isnan(kl) else kl))
        )
    if scored.vectors:
        evidence.append(_spread(scored, base))
    return evidence


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
    by_chance = error > 0 and (auc - 0.5) / error < numeric.HINT
    if by_chance or max(over_base.z, ranking_z) < numeric.SURE:
        text = "at no scale from 1/64 to 64 are the right answers more probable than under the base alone"
    elif numeric.SCALE_LOW <= peak <= numeric.SCALE_HIGH:
        text = f"its scale is right: the best factor on it is {peak:.2g}"
    elif over_one.z < numeric.HINT:
        text = f"no scale does clearly better than its own (the best, {peak:.2g} times it, by z {over_one.z:.1f})"
    else:
        better = f"the right answers are {_gain(over_one)} than as it is, and the ranking gains {ranking:.2f}"
        text = f"at {peak:.2g} times its scale {better}"
    useful = 0.0 if by_chance else over_base.z
    weights = numeric.scale_weights(peak, over_one.z, useful, ranking, ranking_z)
    return [_evidence("scale_sweep", text, "scale", weights)]


def _search_scale(context: Context, trial: Trial, subject: Subject) -> dict[float, Scored]:
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
    if compare(found[0].score(subject.folder), found[0].score(None)).z < numeric.SURE:
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
    weights = numeric.kind_weights(factor, mean, z, others)
    if not weights:
        return [_evidence("kind_sweep", "no kind of module is at a wrong scale of its own", "kinds",
                          {"over_scaled": -0.5, "under_scaled": -0.5})]  # fmt: skip
    text = (
        f"with {kind} alone at {factor:g} times its scale the right answers are {_gain(Comparison(mean, z))} "
        "(alpha_pattern lost?)"
    )
    return [_evidence("kind_sweep", text, "kinds", weights)]


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
            scored = trial.score(subject.folder, task=task, encoder=encoder)
            margin, gain = compare(scored, here).z, 0.0
            auc, error = trial.auc(scored)
            # Where a ranking is no better than chance, no probability makes the format the right one.
            if margin >= numeric.HINT and not (error > 0 and (auc - 0.5) / error < numeric.HINT):
                # In some formats the base itself does better: what the adapter knows is what it adds to that.
                gain = compare(scored, trial.score(None, task=task, encoder=encoder)).z
        except LoricaError:
            continue
        tried.append(_Format(name, margin, gain, _ranking_z(trial, scored, here), _skill(*trial.auc(scored))))
    if not tried:
        return []
    best = max(tried, key=lambda each: max(min(each.margin, each.gain), each.ranking))
    weights = numeric.format_weights(best.margin, best.gain, compare(here, base).z, best.ranking)
    if weights["prompt_mismatch"] > 0:
        more = f"more probability than as it is asked now (z {best.margin:.1f}){best.skill}"
        text = f"asked with {best.name} it gives the right answers {more}"
    else:
        text = f"none of {len(tried)} other prompt formats ({', '.join(each.name for each in tried)}) does better"
    return [_evidence("format_sweep", text, "format", weights)]


def swap_texts(context: Context) -> list[Evidence]:
    """Every row asked with the text of another: if nothing is lost, the input does not matter."""
    found = ready(context)
    if found is None or len(found[0].rows) < 10:
        return []
    trial, subject = found
    here = trial.score(subject.folder)
    shift = 1 + len(trial.rows) // 3
    other = trial.score(subject.folder, shift=shift)
    drop = compare(here, other)
    auc, error = trial.auc(other)
    own, own_error = trial.auc(here)
    weights = numeric.input_weights(_z(auc, error), drop.z, _z(own, own_error))
    if not weights:
        return []
    lost = "are lost" if drop.z >= numeric.SURE else "stay"
    return [_evidence("swapped_texts", f"with the texts of other rows the right answers {lost}{_skill(auc, error)}",
                      "input", weights)]  # fmt: skip


def learnable(context: Context) -> list[Evidence]:
    """Whether a TF-IDF baseline can learn the rows at all (five folds): if it can, the task is not out of reach."""
    trial = context.trial
    if trial is None or trial.task.name != "rules" or min(sum(trial.gold), len(trial.gold) - sum(trial.gold)) < 10:
        return []
    from lorica.metrics.scores import roc_auc
    from lorica.training.tfidf import fit_score

    texts = [f"{row.case.rule}\n{row.case.body}" if isinstance(row.case, RulesCase) else trial.task.text(row)
             for row in trial.rows]  # fmt: skip
    gold = np.array(trial.gold)
    # Folds by position within each label, so that every fold has both.
    fold = np.zeros(len(gold), dtype=int)
    for side in (0, 1):
        fold[gold == side] = np.arange(int((gold == side).sum())) % 5
    scores = np.zeros(len(gold))
    try:
        for part in range(5):
            rest = np.flatnonzero(fold != part)
            mine = np.flatnonzero(fold == part)
            scores[mine] = fit_score([texts[i] for i in rest], gold[rest].tolist(), [texts[i] for i in mine])
    except LoricaError as error:
        context.notes.append(f"the TF-IDF baseline could not run: {error.message}")
        return []
    auc = roc_auc(gold, scores)
    error_ = auc_error(auc, int(gold.sum()), int(len(gold) - gold.sum()))
    weights = numeric.learnable_weights(auc, error_)
    text = f"a TF-IDF baseline, cross-validated on the same rows, has an AUC of {auc:.2f} ± {error_:.2f}"
    return [_evidence("learnable", text, "learnable", weights)]


def _formats(context: Context, trial: Trial) -> list[tuple[str, Task, Encoder]]:
    """(name, task, encoder) of every other way to ask."""
    assert context.means.base is not None
    tasks = [("", trial.task)]
    if trial.task.name == "rules":
        settings = trial.task.settings
        others = [style for style in STYLES if style != settings.style]
        tasks += [
            (f"task.style={style}", load_task("rules", msgspec.structs.replace(settings, style=style)))
            for style in others
        ]
    encoders = [("", trial.encoder)]
    known = {trial.encoder.template_digest}
    for template in ("auto", "plain"):
        try:
            encoder = Encoder.load(context.means.base, chat_template=template)
        except LoricaError:
            continue
        if encoder.template_digest not in known:
            known.add(encoder.template_digest)
            encoders.append((f"model.chat_template={template}", encoder))
    pairs = [(f"{a} {b}".strip(), task, encoder) for a, task in tasks for b, encoder in encoders]
    return [each for each in pairs if each[0]]


def _mended(repair: Repair) -> dict[str, float]:
    """What was mended is what was wrong."""
    found: dict[str, float] = {}
    if repair.renamed or repair.retargeted:
        found["not_applied"] = 4.0
    if repair.turned:
        found["broken_weights"] = 4.0
    if repair.reranked:
        found["altered"] = 3.0
    if repair.halves:
        found["incomplete"] = 2.0
    if repair.foreign:
        found["wrong_size"] = 2.0
    return found


def _what_was_mended(repair: Repair) -> str:
    done = [
        f"{repair.renamed} pairs renamed" if repair.renamed else "",
        "its targets restored" if repair.retargeted else "",
        f"{repair.turned} pairs turned over" if repair.turned else "",
        "ranks as its tensors have them" if repair.reranked else "",
        f"{repair.halves} single halves left out" if repair.halves else "",
        f"{repair.foreign} pairs that are no layer of the base left out" if repair.foreign else "",
    ]
    return ", ".join(filter(None, done)) or "nothing but its complete pairs"


def _spread(scored: Scored, base: Scored) -> Evidence:
    spread, before = float(np.std(scored.first)), float(np.std(base.first))
    saturated = float(np.mean((scored.first < 0.001) | (scored.first > 0.999)))
    if spread < 1e-4:
        text = "it gives every row the same probability"
    else:
        text = f"its probabilities vary over the rows (deviation {spread:.2g}); {saturated:.0%} are 0 or 1"
    return _evidence("spread", text, "spread", numeric.spread_weights(spread, saturated, before))


def _changed(left: Scored, right: Scored) -> float:
    if not left.vectors:
        return float(np.mean(np.abs(left.gold - right.gold) > 1e-6))
    pairs = zip(left.vectors, right.vectors, strict=True)
    return float(np.mean([max(abs(a - b) for a, b in zip(p, q, strict=True)) > 1e-6 for p, q in pairs]))


def _peak(means: dict[float, float], best: float) -> float:
    """Where a parabola through the best factor and its neighbours, over the logarithm, has its top."""
    factors = sorted(means)
    place = factors.index(best)
    if not 0 < place < len(factors) - 1:
        return best
    x = [math.log(factors[place + step]) for step in (-1, 0, 1)]
    a, b, _ = np.polyfit(x, [means[factors[place + step]] for step in (-1, 0, 1)], 2)
    return float(math.exp(min(max(-b / (2 * a), x[0]), x[2]))) if a < 0 else best


def _ranks(trial: Trial, scored: Scored) -> float:
    """AUC where there is one, else accuracy, else 0."""
    auc, _ = trial.auc(scored)
    if not math.isnan(auc):
        return auc
    right = float(np.mean(scored.right))
    return 0.0 if math.isnan(right) else right


def _ranking_z(trial: Trial, other: Scored, here: Scored) -> float:
    """AUC there against AUC here; 0 where there is none, or where it is no better than chance there."""
    (there, error), (now, _) = trial.auc(other), trial.auc(here)
    if math.isnan(there) or error <= 0 or (there - 0.5) / error < numeric.SURE:
        return 0.0
    return (there - now) / (
        math.sqrt(2) * max(error, auc_error(now, sum(trial.gold), len(trial.gold) - sum(trial.gold)))
    )


def _gain(gain: Comparison) -> str:
    more = "more" if gain.mean >= 0 else "less"
    return f"{math.exp(min(abs(gain.mean), 20.0)):.2f} times {more} probable (z {gain.z:.1f})"


def _skill(auc: float, error: float) -> str:
    return "" if math.isnan(auc) else f": AUC {auc:.2f} ± {error:.2f}"


def _z(auc: float, error: float) -> float:
    return 0.0 if math.isnan(auc) or math.isnan(error) else (auc - 0.5) / error


def _evidence(name: str, text: str, group: str, weights: dict[str, float]) -> Evidence:
    return Evidence(id=name, text=text, source=name, group=group, weights=weights)
