"""L4: do the answers depend on the input, and on which parts of it? Part of `judge_behaviour`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.measure.format_sweep import CLEARLY
from lorica.vetting.measure.measurements import ENOUGH, Behaviour, InputVariant, Variation
from lorica.vetting.measure.quality import SURE

# The same weights in the same plan give the same bits; what rounding adds to them stays below this.
NO_CHANGE = 1e-6
# Share of answers above 0.999.
HARD, _BASE_SOFT = 0.9, 0.5
# Log-odds that spread less than this over prompts, where the base's spread more, do not depend on the prompt.
_STILL_ODDS, _STILL_WORDS = 0.1, 1e-3
_TIMES_STILLER = 5.0
# The same where there is no base to compare with.
_STILL_ALONE = 0.01
_ONE_ANSWER, _BASE_VARIES = 0.95, 0.8
_FLAT = 0.7  # adapters trained to two values have 0.8 and more on two plateaus, others up to 0.4 (tools/zoo)
_RIGHT_ANYWAY = 0.97
_FEWEST, _FEW_ROWS = 8, 16
_GUESSING = 0.5  # ROC-AUC, or the accuracy of two options


def weight_of(behaviour: Behaviour) -> Severity:
    """How much weight an answer to shipped prompts of a task that nobody named has."""
    return "note" if behaviour.foreign else "warn"


def judge_inputs(behaviour: Behaviour) -> Iterator[Finding]:
    """The findings on what answers owe to the input."""
    divergence, variation = behaviour.divergence, behaviour.variation
    changes = divergence is not None and divergence.largest_change > NO_CHANGE
    if changes and variation is not None and behaviour.n >= _FEWEST:
        yield from _dependence(behaviour, variation)
        yield from _hard_labels(behaviour, variation)
    yield from _variants(behaviour)
    yield from _examples(behaviour)


def _dependence(behaviour: Behaviour, variation: Variation) -> Iterator[Finding]:
    facts = _facts(variation)
    # The choices of a question with a written answer are its own, so they cannot stay the same.
    ranked = behaviour.answer_type != "text"
    if (sentence := _stillness(behaviour, variation)) is not None:
        is_constant = not behaviour.writes and (variation.odds or 0.0) <= NO_CHANGE and not behaviour.foreign
        severity: Severity | None = "reject" if is_constant else None
        yield finding("L405", f"over {behaviour.n} prompts {sentence}", facts=facts, severity=severity)
    elif ranked and behaviour.n >= _FEW_ROWS and (variation.top_share or 0) > _ONE_ANSWER:
        # Labelled rows have clearly less probable right answers than the base alone gives them.
        is_wrong = behaviour.labelled is not None and behaviour.labelled.loss_gain.z <= -SURE
        if is_wrong or _others_vary(behaviour, variation):
            sentence = f"{variation.top_share:.0%} of {behaviour.n} prompts get one answer"
            if behaviour.writes:
                sentence += f", {variation.base_top_share:.0%} from the base"
            elif behaviour.labelled is not None:
                sentence += f", {behaviour.labelled.gold_top:.0%} of the gold is one label"
            wrong_text = "; it makes the right answers less probable than the base does" if is_wrong else ""
            yield finding("L406", sentence + wrong_text, severity="warn" if is_wrong else "note", facts=facts)


def _stillness(behaviour: Behaviour, variation: Variation) -> str | None:
    """In which way answers stay the same over prompts; None where they vary."""
    if not behaviour.writes:
        return _stillness_alone(behaviour, variation.odds)
    odds, base_odds = variation.odds, variation.base_odds
    judged = behaviour.answer_type != "text" and not behaviour.foreign and odds is not None and base_odds is not None
    if judged and odds < _STILL_ODDS and base_odds > _TIMES_STILLER * odds:  # type: ignore[operator]
        return f"its log-odds spread by {odds:.2g}, the base model's by {base_odds:.2g}"
    words, base_words = variation.words or 0.0, variation.base_words or 0.0
    return "its words stay the same" if words < _STILL_WORDS and base_words > _TIMES_STILLER * _STILL_WORDS else None


def _stillness_alone(behaviour: Behaviour, odds: float | None) -> str | None:
    """The same where there is no base that varies. odds: the spread of the log-odds over prompts."""
    without_text = next(iter(behaviour.inputs), None)
    if without_text is not None and without_text.n >= _FEWEST and without_text.moved_odds < _STILL_ALONE:
        return f"its log-odds stay the same {without_text.name}: they move by {without_text.moved_odds:.2g}"
    labelled = behaviour.labelled
    ranks = labelled is not None and labelled.over_base.above > 0  # however little the scores differ
    if odds is None or odds >= _STILL_ALONE or ranks:
        return None
    return f"its log-odds stay the same: they spread by {odds:.2g}"


def _others_vary(behaviour: Behaviour, variation: Variation) -> bool:
    """Whether one answer to nearly all is less than could be expected: the base varies, or else the gold does."""
    if behaviour.writes:
        return (variation.base_top_share or 1) < _BASE_VARIES
    labelled = behaviour.labelled
    return labelled is None or (labelled.gold_top or 1) < _BASE_VARIES


def _hard_labels(behaviour: Behaviour, variation: Variation) -> Iterator[Finding]:
    is_hard = (variation.saturated or 0) > HARD and (variation.base_saturated or 0) < _BASE_SOFT
    is_flat = (variation.plateaus or 0) >= _FLAT and behaviour.n >= ENOUGH
    if behaviour.answer_type == "text" or not (is_hard or is_flat) or behaviour.n < _FEW_ROWS:
        return
    is_right = behaviour.labelled is not None and (behaviour.labelled.accuracy or 0) >= _RIGHT_ANYWAY
    sentence = f"{variation.plateaus:.0%} of {behaviour.n} answers have one of two probabilities"
    if is_hard:
        sentence = f"{variation.saturated:.0%} of {behaviour.n} answers have a probability above 0.999"
    severity: Severity = "note" if is_right else weight_of(behaviour)
    yield finding("L407", sentence, severity=severity, facts=_facts(variation))


def _facts(variation: Variation) -> dict[str, Any]:
    return {field: getattr(variation, field) for field in variation.__struct_fields__}


def _variants(behaviour: Behaviour) -> Iterator[Finding]:
    """What asking without a part of the input, or with two exchanged, does."""
    sentences = []
    for variant in behaviour.inputs:
        effects = [f"answers move by {variant.moved:.2f}"] if variant.n else []
        if behaviour.labelled is not None and variant.quality is not None:
            effects.append(f"{behaviour.labelled.metric} is {variant.quality}")
        if variant.failed:
            effects.append(f"{variant.failed} of {variant.n + variant.failed} rows are not answered")
        sentences.append(f"{variant.name} {', '.join(effects)}")
    if sentences:
        moves = {variant.name: {"moved": variant.moved, "changed": variant.changed} for variant in behaviour.inputs}
        yield finding("L428", "; ".join(sentences), facts={"inputs": moves})
    for variant in behaviour.inputs:
        if is_better(variant):
            sentence = f"{variant.name} by {-(variant.lost.value or 0):.3f}" if variant.lost else variant.name
            facts = {"variant": variant.name, "n": variant.n}
            yield finding("L429", f"{sentence} on {variant.n} rows: {variant.quality}", facts=facts)


def is_better(variant: InputVariant) -> bool:
    """Whether rows are clearly answered better so than as they are asked, and better than by guessing."""
    lost, quality = variant.lost, variant.quality
    guessing = quality is None or quality.low is None or quality.low <= _GUESSING
    return not guessing and lost is not None and lost.n >= ENOUGH and lost.below > 0 and (lost.value or 0) < -CLEARLY


def _examples(behaviour: Behaviour) -> Iterator[Finding]:
    examples = behaviour.examples
    # What the configured prompt does not show, the adapter need not follow.
    if examples is None or behaviour.style != examples.style:
        return
    facts = {"moved": examples.moved, "base_moved": examples.base_moved, "n": examples.n}
    if examples.following is not None:
        facts |= {"following": examples.following.value or 0.0}
    if examples.following is not None and examples.following.below > 0:
        yield finding("L409", f"P(Yes) moves against them by {examples.following} when they are exchanged", facts=facts)
    elif examples.base_moved > 0.05 and examples.moved < 0.2 * examples.base_moved:
        sentence = (
            f"exchanging them moves P(Yes) by {examples.moved:.3f}, the base model's by {examples.base_moved:.3f}"
        )
        yield finding("L408", sentence, facts=facts)
