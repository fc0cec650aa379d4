"""Experiments with labelled rows on the base: what makes the right answers more probable tells what is wrong."""

from __future__ import annotations

import math

import numpy as np

from lorica.errors import LoricaError
from lorica.tasks import tasks_with_other_probes
from lorica.vetting.behaviour.divergence import plateaus as plateaus_of
from lorica.vetting.behaviour.probes import shipped_rows
from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.inputs import Context, LoadedAdapter
from lorica.vetting.diagnosis.posterior import Evidence
from lorica.vetting.diagnosis.trial import Comparison, Floats, Scored, Trial, auc_error, compare, divergence
from lorica.vetting.diagnosis.variants import Repair

_FLAWLESS = 0.495  # of AUC from one half, either way


def ready(context: Context) -> tuple[Trial, LoadedAdapter] | None:
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
        return [evidence("mend", text, "mend", weights)]
    trial, subject = found
    if subject.repair is None:
        taken = {"unsupported": -3.0, "unreadable": -6.0, "wrong_size": -4.0, "incomplete": -1.0}
        return [evidence("mend", "the engine takes it as it is", "mend", taken)]
    with_it, base = trial.score(subject.folder), trial.score(None)
    gain = compare(with_it, base)
    auc, error = trial.auc(with_it)
    auc_z = (auc - 0.5) / error if error > 0 else 0.0
    kl = divergence(with_it, base)
    weights = likelihoods.repair_weights(gain.z, auc_z, bool(math.isnan(kl) or kl > 1e-6)) | _mended(subject.repair)
    what = _what_was_mended(subject.repair)
    works = "works" if gain.z >= likelihoods.SURE or auc_z >= likelihoods.SURE else "is no better than the base"
    text = f"the engine refuses it ({subject.refused}); a copy with {what} loads and {works}{skill_text(auc, error)}"
    return [evidence("mend", text, "mend", weights | {"healthy": -5.0, "hard_task": -5.0})]


def skill(context: Context) -> list[Evidence]:
    """How well it does on the rows, against the base: the rows' gold must become more probable."""
    found = ready(context)
    if found is None:
        return []
    trial, subject = found
    scored, base = trial.score(subject.folder), trial.score(None)
    gain, (auc, error) = compare(scored, base), trial.auc(scored)
    text = f"the right answers are {gain_text(gain)} than without it, n={len(trial.rows)}{skill_text(auc, error)}"
    told = [
        evidence("skill", text, "skill", likelihoods.skill_weights(auc, error, gain.z, trial.auc(base)[0], gain.mean))
    ]
    if trial.task.settings.method != "generate" and context.inputs.answers is None:
        # What spoils generated answers is then not to blame for these.
        text = "the answers are probabilities of choices: nothing is generated or parsed"
        told.append(evidence("method", text, "method", {"generation_settings": -2.0, "parser_fallbacks": -2.0}))
    if subject.repair is None:
        changed = _changed(scored, base)
        kl = divergence(scored, base)
        text = f"it changes the probabilities of {changed:.0%} of the rows (divergence {kl:.2g} nats)"
        told.append(
            evidence("change", text, "change", likelihoods.change_weights(changed, 1.0 if math.isnan(kl) else kl))
        )
    if scored.vectors:
        told.append(_spread(scored, base, right=abs(auc - 0.5) >= _FLAWLESS))
        shift = _shift(scored, base)
        if shift:
            # The order that is left in answers that hardly vary is a trace of the input, no proof that it counts.
            told[0].weights.pop("ignores_input", None)
        told += shift
    return told


def other_tasks(context: Context) -> list[Evidence]:
    """The shipped probes of another task: an adapter that leaves these rows nearly alone, and moves those, was trained
    for that task."""
    found = ready(context)
    if found is None or found[1].folder is None or context.work is None:
        return []
    trial, subject = found
    here = divergence(trial.score(subject.folder), trial.score(None))
    for task in tasks_with_other_probes(trial.task):
        if task.answer_type == "text" or math.isnan(here):
            continue
        other = Trial(trial.engine, task, trial.encoder, shipped_rows(task.name), prefix=f"{task.name} ")
        try:
            there = divergence(other.score(subject.folder), other.score(None))
        except LoricaError:
            continue
        finally:
            other.forget_all()
        weights = likelihoods.elsewhere_weights(here, there)
        if weights:
            text = (
                f"it moves the answers to shipped questions of the task {task.name} "
                f"{there / max(here, 1e-9):.0f} times as much as those to these rows ({there:.2g} nats, not {here:.2g})"
            )
            return [evidence("other_tasks", text, "elsewhere", weights)]
    return []


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
    weights = likelihoods.input_weights(_z(auc, error), drop.z, _z(own, own_error))
    if not weights:
        return []
    lost = "are lost" if drop.z >= likelihoods.SURE else "stay"
    return [evidence("swapped_texts", f"with the texts of other rows the right answers {lost}{skill_text(auc, error)}",
                      "input", weights)]  # fmt: skip


def learnable(context: Context) -> list[Evidence]:
    """Whether a TF-IDF baseline can learn the rows at all (five folds): if it can, the task is not out of reach."""
    trial = context.trial
    if (
        trial is None
        or trial.task.answer_type != "score"
        or min(sum(trial.gold), len(trial.gold) - sum(trial.gold)) < 10
    ):
        return []
    from lorica.metrics.score_metrics import roc_auc
    from lorica.training.tfidf import fit_score

    texts = [trial.task.baseline_text(row) for row in trial.rows]
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
    weights = likelihoods.learnable_weights(auc, error_)
    text = f"a TF-IDF baseline, cross-validated on the same rows, has an AUC of {auc:.2f} ± {error_:.2f}"
    return [evidence("learnable", text, "learnable", weights)]


def _mended(repair: Repair) -> dict[str, float]:
    """What was mended is what was wrong."""
    found: dict[str, float] = {}
    if repair.renamed or repair.retargeted:
        found["not_applied"] = 4.0
    if repair.turned:
        # Whole and working, only stored in another tool's layout.
        found["unsupported"] = 3.0
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


def _spread(scored: Scored, base: Scored, *, right: bool) -> Evidence:
    first = scored.first
    spread, before = float(np.std(first)), float(np.std(base.first))
    saturated = float(np.mean((first < 0.001) | (first > 0.999)))
    one_sided = max(float(np.mean(first < 0.02)), float(np.mean(first > 0.98)))
    # Two values that are right leave no ranking to be missed.
    plateaus = 0.0 if right else plateaus_of(first)
    if spread < 1e-4:
        text = "it gives every row the same probability"
    else:
        flat = f"; {plateaus:.0%} of the rows have one of two values" if plateaus >= 0.5 else ""
        text = f"its probabilities vary over the rows (deviation {spread:.2g}, the base's {before:.2g}){flat}"
    weights = likelihoods.spread_weights(spread, saturated, before, one_sided, plateaus)
    return evidence("spread", text, "spread", weights)


def _shift(scored: Scored, base: Scored) -> list[Evidence]:
    odds, before = (_log_odds(each.first) for each in (scored, base))
    change = odds - before
    shift, spread = float(change.mean()), float(odds.std())
    weights = likelihoods.shift_weights(shift, spread, float(change.std()))
    if not weights:
        return []
    text = f"it moves the log-odds of all rows alike, by {shift:.1f}; what is left of them varies by {spread:.2f}"
    return [evidence("shift", text, "spread", weights)]


def _log_odds(probabilities: Floats) -> Floats:
    inside = np.clip(probabilities, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _changed(left: Scored, right: Scored) -> float:
    if not left.vectors:
        return float(np.mean(np.abs(left.gold - right.gold) > 1e-6))
    pairs = zip(left.vectors, right.vectors, strict=True)
    return float(np.mean([max(abs(a - b) for a, b in zip(p, q, strict=True)) > 1e-6 for p, q in pairs]))


def gain_text(gain: Comparison) -> str:
    """How much more probable the right answers are."""
    more = "more" if gain.mean >= 0 else "less"
    return f"{math.exp(min(abs(gain.mean), 20.0)):.2f} times {more} probable (z {gain.z:.1f})"


def skill_text(auc: float, error: float) -> str:
    """AUC with its standard error, "" where there is none."""
    return "" if math.isnan(auc) else f": AUC {auc:.2f} ± {error:.2f}"


def _z(auc: float, error: float) -> float:
    return 0.0 if math.isnan(auc) or math.isnan(error) else (auc - 0.5) / error


def evidence(name: str, text: str, group: str, weights: dict[str, float]) -> Evidence:
    """Evidence from an experiment of this name."""
    return Evidence(id=name, text=text, source=name, group=group, weights=weights)
