"""L4: what the measured behaviour means. Shipped prompts reject only what is wrong for whatever it was trained."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lorica.metrics.health import LOW_MASS
from lorica.metrics.metric_table import METRICS
from lorica.vetting.finding_codes import Severity
from lorica.vetting.findings import Finding, finding
from lorica.vetting.measure.format_sweep import suits
from lorica.vetting.measure.measurements import (
    ENOUGH,
    Behaviour,
    Comparison,
    Divergence,
    FormatResult,
    Labelled,
    ScaleResult,
    Written,
)
from lorica.vetting.measure.quality import HINT, SURE

# The same weights in the same plan give the same bits; what rounding adds to them stays below this.
NO_CHANGE = 1e-6
SMALL_CHANGE = 1e-3
# Nats, the mean and the largest: single improbable words may move further while no answer does.
_SMALL_KL, _SMALL_KL_MOST = 1e-6, 1e-5
# Log-odds that spread less than this over prompts, where the base's spread more, do not depend on the prompt.
_STILL_ODDS, _STILL_WORDS = 0.1, 1e-3
_TIMES_STILLER = 5.0
_LOST_MASS, _HAD_MASS = 0.02, 0.1
_ONE_ANSWER, _BASE_VARIES = 0.95, 0.8
_HARD, _BASE_SOFT = 0.9, 0.5
_FLAT = 0.7  # adapters trained to two values have 0.8 and more on two plateaus, others up to 0.4 (tools/zoo)
_RIGHT_ANYWAY = 0.97
_CLEAR_GAIN = 0.05  # nats per row
_KEPT = 0.05  # so much ROC-AUC or accuracy may chance take from a scale that is better in log-loss
_SURER = 0.1
_REACHED = 0.3  # of the fall in log-loss that the best scale brings
_FEW_ROWS = 16
CLEARLY = 0.03  # so much ROC-AUC or accuracy is worth a word
_FAR_BELOW, _FAR_ABOVE = 0.25, 4.0
_BACKWARDS = 0.4
_READABLE, _CUT, _UNSTABLE, _AGREEING = 0.05, 0.2, 0.2, 0.8


def judge_behaviour(found: Behaviour) -> list[Finding]:
    """All findings on what was measured, in the order of their codes."""
    parts = [_numbers(found), _difference(found), _dependence(found), _examples(found)]
    parts += [_formats(found), _scales(found), _right(found), _elsewhere(found), _texts(found)]
    return sorted((each for part in parts for each in part), key=lambda each: each.code)


def _known(found: Behaviour) -> Severity:
    """How much weight an answer to shipped prompts of a task that nobody named has."""
    return "note" if found.foreign else "warn"


def _numbers(found: Behaviour) -> Iterator[Finding]:
    asked = found.n + found.broken + found.base_broken
    if found.broken:
        yield finding(
            "L401",
            f"{found.broken} of {asked} prompts; the base model answers them",
            facts={"broken": found.broken, "asked": asked},
        )
    if found.outside_vocabulary:
        yield finding("L440", f"{found.outside_vocabulary} prompts", facts={"prompts": found.outside_vocabulary})
    rest = {why: count for why, count in found.errors.items() if "vocabulary" not in why}
    if rest or found.base_broken:
        first = next(iter(rest), "the base model's own output is not a number")
        count = sum(rest.values()) + found.base_broken
        yield finding("L441", f"{count} prompts, the first: {first}", facts={"prompts": count})


def _difference(found: Behaviour) -> Iterator[Finding]:
    seen = found.divergence
    if seen is None:
        return
    facts = {"kl": seen.kl, "kl_most": seen.kl_most, "changed": seen.changed, "largest_change": seen.largest_change}
    if seen.largest_change <= NO_CHANGE:
        if not found.broken:
            yield finding(
                "L402",
                f"over {seen.n} prompts no log-probability differs by more than {seen.largest_change:.1e}",
                expected="a difference from the base model",
                facts=facts,
            )
    elif seen.largest_change < SMALL_CHANGE or _says_the_same(seen):
        text = f"over {seen.n} prompts log-probabilities differ by at most {seen.largest_change:.1e}"
        same = f"; {seen.kl:.1e} nats from the base, and no best answer is another" if _says_the_same(seen) else ""
        yield finding("L403", text + same, facts=facts)
    mass, base = seen.mass, seen.base_mass
    if mass is not None and base is not None and base > _HAD_MASS and mass < _LOST_MASS * base:
        yield finding(
            "L404",
            f"the probability of any possible answer falls from {base:.2f} to {mass:.1e} (KL {seen.kl:.1f} nats)",
            severity=_known(found),
            facts=facts | {"mass": mass, "base_mass": base},
        )
    elif mass is not None and mass < LOW_MASS and found.method == "choice" and not found.foreign:
        own = "" if base is None else f", of the base model's {base:.2g}"
        text = f"{mass:.2g} on average{own}, over {seen.n} prompts"
        yield finding("L470", text, expected=f"above {LOW_MASS:g}", facts={"mass": mass, "base_mass": base})


def _says_the_same(seen: Divergence) -> bool:
    return not seen.changed and seen.kl < _SMALL_KL and seen.kl_most < _SMALL_KL_MOST


def _dependence(found: Behaviour) -> Iterator[Finding]:
    seen = found.variation
    if seen is None or found.n < 8 or found.divergence is None or found.divergence.largest_change <= NO_CHANGE:
        return
    facts: dict[str, Any] = {name: getattr(seen, name) for name in seen.__struct_fields__}
    words_still = seen.words < _STILL_WORDS and seen.base_words > _TIMES_STILLER * _STILL_WORDS
    # The choices of a question with a written answer are its own, so they cannot stay the same.
    ranked = found.answer_type != "text"
    still = ranked and seen.odds is not None and seen.base_odds is not None
    still = still and seen.odds < _STILL_ODDS and seen.base_odds > _TIMES_STILLER * seen.odds  # type: ignore[operator]
    if words_still or (still and not found.foreign):
        spread = f"log-odds spread by {seen.odds:.2g}, the base model's by {seen.base_odds:.2g}" if still else "words"
        yield finding("L405", f"over {found.n} prompts its {spread} stay the same", facts=facts)
    elif ranked and found.n >= _FEW_ROWS and (seen.top_share or 0) > _ONE_ANSWER:
        wrong = _is_surer_and_wrong(found)
        if wrong or (seen.base_top_share or 1) < _BASE_VARIES:
            text = f"{seen.top_share:.0%} of {found.n} prompts get one answer, {seen.base_top_share:.0%} from the base"
            more = "; it makes the right answers less probable than the base does" if wrong else ""
            yield finding("L406", text + more, severity="warn" if wrong else "note", facts=facts)
    hard = (seen.saturated or 0) > _HARD and (seen.base_saturated or 0) < _BASE_SOFT
    flat = (seen.plateaus or 0) >= _FLAT and found.n >= ENOUGH
    if ranked and (hard or flat) and found.n >= _FEW_ROWS:
        right = found.labelled is not None and (found.labelled.accuracy or 0) >= _RIGHT_ANYWAY
        sure = f"{seen.saturated:.0%} of {found.n} answers have a probability above 0.999"
        yield finding(
            "L407",
            sure if hard else f"{seen.plateaus:.0%} of {found.n} answers have one of two probabilities",
            expected="probabilities in between, which can be ranked",
            severity="note" if right else _known(found),
            facts=facts,
        )


def _is_surer_and_wrong(found: Behaviour) -> bool:
    """Whether labelled rows have clearly less probable right answers than the base alone gives them."""
    return found.labelled is not None and found.labelled.loss_gain.z <= -SURE


def _examples(found: Behaviour) -> Iterator[Finding]:
    seen = found.examples
    # What the configured prompt does not show, the adapter need not follow.
    if seen is None or found.style != seen.style:
        return
    facts = {"moved": seen.moved, "base_moved": seen.base_moved, "n": seen.n}
    if seen.following is not None:
        facts |= {"following": seen.following.value or 0.0}
    if seen.following is not None and seen.following.below > 0:
        yield finding("L409", f"P(Yes) moves against them by {seen.following} when they are exchanged", facts=facts)
    elif seen.base_moved > 0.05 and seen.moved < 0.2 * seen.base_moved:
        text = f"exchanging them moves P(Yes) by {seen.moved:.3f}, the base model's by {seen.base_moved:.3f}"
        yield finding("L408", text, facts=facts)


def _formats(found: Behaviour) -> Iterator[Finding]:
    own = next((each for each in found.formats if each.configured), None)
    others = [each for each in found.formats if not each.configured]
    if own is None or not others or _unmoved(found):
        return
    facts = {"formats": [_format_facts(each) for each in found.formats]}
    right = [each for each in others if each.n >= ENOUGH and _suits_better(each)]
    best = max(right, key=lambda each: max(suits(each)), default=None)
    if best is not None and best.margin is not None:
        yield finding(
            "L410",
            f"{best.name}: {best.quality or 0.0:.3f} on {best.n} rows, with the right answers {gain_text(best.margin)} "
            f"than as configured ({own.name})",
            severity="warn" if found.source == "rows" else "note",
            facts=facts | {"best_format": best.name, "best_style": best.style, "best_method": best.method},
        )
        return
    surest = max(others, key=_made_surer)
    if surest.surer is not None and surest.surer.above > _SURER and _made_surer(surest) > _SURER:
        yield finding(
            "L411",
            f"{surest.name}: its best answer has {surest.surer} more probability than as configured ({own.name})",
            facts=facts | {"surer_format": surest.name, "surer": surest.surer.value},
        )


def _suits_better(each: FormatResult) -> bool:
    margin, added, ranking = suits(each)
    return ranking >= SURE or min(margin, added) >= SURE


def gain_text(gain: Comparison) -> str:
    """How much more probable the right answers are."""
    more = "more" if gain.mean >= 0 else "less"
    return f"{math.exp(min(abs(gain.mean), 20.0)):.2f} times {more} probable (z {gain.z:.1f})"


def _made_surer(each: FormatResult) -> float:
    """How much surer a format makes the adapter than it makes the base."""
    return (each.surer.value or 0.0) - (each.base_surer or 0.0) if each.surer else 0.0


def _format_facts(each: FormatResult) -> dict[str, Any]:
    return {
        "format": each.name,
        "configured": each.configured,
        "confidence": each.confidence,
        "mass": each.mass,
        "kl": each.kl,
        "quality": each.quality,
        "base_quality": each.base_quality,
        "margin": None if each.margin is None else each.margin.mean,
        "margin_z": None if each.margin is None else each.margin.z,
    }


def _unmoved(found: Behaviour) -> bool:
    return found.divergence is None or found.divergence.largest_change < SMALL_CHANGE


def _scales(found: Behaviour) -> Iterator[Finding]:
    by_factor = {each.factor: each for each in found.scales}
    own = by_factor.get(1.0)
    if own is None or _unmoved(found):
        return
    facts = {"scales": [_scale_facts(each) for each in found.scales]}
    nothing = by_factor.get(0.0)
    if nothing is not None and nothing.largest_change > SMALL_CHANGE:
        change = f"log-probabilities differ by up to {nothing.largest_change:.2g}: whole modules or magnitudes"
        yield finding("L416", f"{change} are not scaled", facts=facts)
    candidates = [each for each in found.scales if each.factor and each.gain is not None]
    best = max(candidates, key=lambda each: each.gold or 0.0, default=None)
    if best is not None and best.gain is not None and found.labelled_rows >= ENOUGH:
        better = [each.factor for each in candidates if _clearly_better(each, own)]
        below = best.factor < 1 and any(factor <= _FAR_BELOW for factor in better)
        above = best.factor > 1 and any(factor >= _FAR_ABOVE for factor in better)
        if below or above:
            code = "L412" if below else "L413"
            # Short trainings leave every adapter less sure than it could be; ranking does not suffer from that.
            enough = above and _reached(by_factor, own, best) > _REACHED
            yield finding(
                code,
                f"at {best.factor:g} times its scale the right answers are {gain_text(best.gain)} than as it is",
                severity="warn" if found.source == "rows" and not enough else "note",
                facts=facts | {"best_factor": best.factor},
            )
            return
    yield from _scale_hints(by_factor, own, facts)


def _reached(by_factor: dict[float, ScaleResult], own: ScaleResult, best: ScaleResult) -> float:
    """The part of what the best scale gains over the base model that the adapter reaches as it is; 0 without both."""
    nothing = by_factor.get(0.0)
    if nothing is None or nothing.gold is None or own.gold is None or best.gold is None or nothing.gold >= best.gold:
        return 0.0
    return (own.gold - nothing.gold) / (best.gold - nothing.gold)


def _clearly_better(best: ScaleResult, own: ScaleResult) -> bool:
    """Better than as it is, and better than no adapter at all, which a bad adapter would lose to as well."""
    gain, over_base = best.gain, best.over_base
    if gain is None or over_base is None or gain.z < HINT or gain.mean < _CLEAR_GAIN:
        return False
    keeps = best.quality is None or own.quality is None or best.quality >= own.quality - _KEPT
    return over_base.z >= SURE and keeps


def _scale_hints(by_factor: dict[float, ScaleResult], own: ScaleResult, facts: dict[str, Any]) -> Iterator[Finding]:
    quarter, four = by_factor.get(0.25), by_factor.get(4.0)
    if own.saturated is not None and quarter is not None and quarter.saturated is not None and quarter.changed:
        text = (
            f"{own.saturated:.0%} of its answers have a probability above 0.999, {quarter.saturated:.0%} at a quarter"
        )
        if own.saturated > _HARD and quarter.saturated < 0.3:
            yield finding("L414", f"{text} of its scale", facts=facts)
            return
    nothing = by_factor.get(0.0)
    if nothing is not None and quarter is not None and None not in (nothing.mass, own.mass, quarter.mass):
        whole, left, back = nothing.mass or 0.0, own.mass or 0.0, quarter.mass or 0.0
        if whole > _HAD_MASS and left < _LOST_MASS * whole and back > 0.5 * whole:
            text = f"the probability of any possible answer is {left:.1e}, and {back:.2f} at a quarter of its scale"
            yield finding("L414", text, facts=facts)
            return
    # Far below saturation the divergence grows with the square of the scale: 16-fold from 1 to 4.
    if four is not None and own.kl < 1e-3 and not own.changed and own.kl > 0 and 8 < four.kl / own.kl < 32:
        yield finding("L415", f"KL {own.kl:.1e} nats from the base, {four.kl:.1e} at four times its scale", facts=facts)


def _scale_facts(each: ScaleResult) -> dict[str, Any]:
    plain = {
        name: getattr(each, name)
        for name in ("factor", "kl", "confidence", "saturated", "std", "mass", "loss", "quality")
    }
    return {name: None if value == float("inf") else value for name, value in plain.items()}


def _right(found: Behaviour) -> Iterator[Finding]:
    seen = found.labelled
    if seen is None:
        probes = found.probes_quality
        # Foreign prompts: an adapter for one thing may well be wrong about another.
        if probes is not None and found.answer_type == "score" and probes.high is not None and probes.high < 0.5:
            text = f"ROC-AUC {probes} on {probes.n} shipped prompts"
            yield finding("L422", text, severity=_known(found), facts={"quality": probes.value})
        return
    facts = _labelled_facts(seen)
    inverted = seen.metric == "roc_auc" and seen.adapter.high is not None and seen.adapter.high < 0.5
    text = f"{seen.metric} {seen.adapter}, base {seen.base}, difference {seen.over_base} on {seen.n} rows"
    if inverted:
        base_too = seen.base.high is not None and seen.base.high < 0.5
        sure = not base_too and (seen.adapter.value or 0) < _BACKWARDS
        yield finding("L422", text, severity="reject" if sure else "warn", facts=facts)
    elif seen.over_base.above > 0:
        yield finding("L420", text, facts=facts)
    elif seen.over_base.below > 0 and (seen.over_base.value or 0) < -CLEARLY:
        yield finding("L421", text, facts=facts)
    else:
        yield finding("L423", text, facts=facts)
    chance = 0.5 if seen.metric == "roc_auc" else 0.4
    good = seen.adapter.low is not None and seen.adapter.low > chance + 0.1
    if good and seen.over_shuffled.above <= 0:
        with_others = f"{seen.metric} {seen.adapter}, with the texts of other rows {seen.shuffled}"
        yield finding("L424", with_others, facts=facts)
    if seen.top_letter is not None and seen.top_letter > (seen.gold_top_letter or 0) + 0.3:
        yield finding(
            "L425",
            f"{seen.top_letter:.0%} of its answers are one letter, {seen.gold_top_letter:.0%} of the right ones",
            facts=facts,
        )


def _elsewhere(found: Behaviour) -> Iterator[Finding]:
    seen = found.elsewhere
    if seen is not None and seen.belongs:
        yield finding(
            "L427",
            f"shipped questions of {seen.task} move by {seen.there:.2g} nats, these rows by {seen.here:.2g}",
            facts={"task": seen.task, "here": seen.here, "there": seen.there},
        )


def _labelled_facts(seen: Labelled) -> dict[str, Any]:
    facts: dict[str, Any] = {"n": seen.n, "metric": seen.metric, "tfidf": seen.tfidf, "accuracy": seen.accuracy}
    for name in ("adapter", "base", "shuffled", "over_base", "over_shuffled"):
        each = getattr(seen, name)
        facts |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
    return facts


def _texts(found: Behaviour) -> Iterator[Finding]:
    seen = found.generated
    if seen is None:
        return
    facts = {name: getattr(seen, name) for name in seen.__struct_fields__ if name != "written"}
    severity = _known(found)
    worse = seen.unparsed_share > max(_READABLE, seen.base_unparsed_share if found.foreign else 0.0)
    if worse:
        text = f"{seen.unparsed_share:.0%} of {seen.n} answers, of the base model's {seen.base_unparsed_share:.0%}"
        yield finding("L430", text, severity=severity, facts=facts)
    if seen.cut_off_share > _CUT:
        text = f"{seen.cut_off_share:.0%} of {seen.n} answers, of the base model's {seen.base_cut_off_share:.0%}"
        yield finding("L431", text, severity=severity, facts=facts)
    if seen.unstable_share is not None and seen.unstable_share > _UNSTABLE:
        yield finding("L432", f"{seen.unstable_share:.0%} of {seen.n} answers", severity=severity, facts=facts)
    if seen.written is not None and found.source == "rows":
        yield _written(seen.written)
    if seen.agreement is not None and seen.agreement < _AGREEING:
        yield finding("L433", f"{1 - seen.agreement:.0%} of those that could be read", facts=facts)


def _written(seen: Written) -> Finding:
    titles = {name: f"{name} ({METRICS[name].normalisation})" for name in seen.adapter}
    parts = [f"{titles[name]} {value}, base {seen.base[name]}" for name, value in seen.adapter.items()]
    worse = seen.over_base.below > 0 and seen.n >= ENOUGH
    facts = {name: value.value for name, value in seen.adapter.items()} | {"n": seen.n}
    return finding("L434", f"{'; '.join(parts)} on {seen.n} rows", severity="warn" if worse else "note", facts=facts)
