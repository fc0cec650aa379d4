"""How far the adapter's answers are from the base model's, and how they vary from prompt to prompt."""

from __future__ import annotations

from collections import Counter

import numpy as np

from lorica.vetting.measure.measurements import Divergence, Variation
from lorica.vetting.measure.scoring import Floats, ScoredRows

SATURATED = 0.999
_MIDDLE = 0.9
_LEAST = 1e-12
_TINY = 1e-300
# Log-odds between two plateaus; values that are nearer each other are no labels, only hardly spread at all.
_PLATEAUS_APART = 2.0


def with_rest(words: Floats) -> Floats:
    """Log-probabilities of words [n, W] -> probabilities [n, W + 1], the last for all the rest of the vocabulary."""
    probabilities = np.exp(words)
    remainder = np.clip(1 - probabilities.sum(axis=1, keepdims=True), 0, 1)
    total = np.clip(np.concatenate([probabilities, remainder], axis=1), _LEAST, 1)
    normalised: Floats = total / total.sum(axis=1, keepdims=True)
    return normalised


def kl(p: Floats, q: Floats) -> Floats:
    """KL(p || q) in nats along the last dimension; never below 0."""
    nats: Floats = np.maximum((p * (np.log(p) - np.log(q))).sum(axis=-1), 0.0)
    return nats


def choices_kl(adapter: ScoredRows, base: ScoredRows) -> float | None:
    """Mean KL(adapter || base) in nats between the choices' probabilities; None without choices."""
    pairs = zip(adapter.probabilities, base.probabilities, strict=True)
    nats = [kl(np.clip(p, _LEAST, 1), np.clip(q, _LEAST, 1)) for p, q in pairs if len(p) > 1]
    return float(np.mean(nats)) if nats else None


def mean_or_none(values: Floats) -> float | None:
    """The mean of what is there, None when nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def measure_divergence(adapter: ScoredRows, base: ScoredRows) -> Divergence:
    """adapter, base: scores of the same rows, at least one."""
    p, q = with_rest(adapter.words), with_rest(base.words)
    divergences = kl(p, q)
    return Divergence(
        n=len(divergences),
        kl=float(divergences.mean()),
        kl_most=float(divergences.max()),
        changed=changed_share(adapter, base),
        largest_change=largest_change(adapter, base),
        mass=mean_or_none(adapter.mass),
        base_mass=mean_or_none(base.mass),
        entropy=float(-(p * np.log(p)).sum(axis=1).mean()),
        base_entropy=float(-(q * np.log(q)).sum(axis=1).mean()),
    )


def largest_change(adapter: ScoredRows, base: ScoredRows) -> float:
    """The largest absolute difference of any log-probability."""
    pairs = zip((*adapter.logprobs, *adapter.words), (*base.logprobs, *base.words), strict=True)
    return max((float(np.abs(a - b).max()) for a, b in pairs if len(a)), default=0.0)


def changed_share(adapter: ScoredRows, base: ScoredRows) -> float | None:
    """Share of rows whose best choice differs; None when none has choices."""
    has = np.array([len(row) > 1 for row in base.probabilities])
    return float((adapter.best != base.best)[has].mean()) if has.any() else None


def measure_variation(adapter: ScoredRows, base: ScoredRows) -> Variation:
    """adapter, base: scores of the same rows, at least one."""
    return Variation(
        std=spread(adapter),
        base_std=spread(base),
        odds=odds_spread(adapter),
        base_odds=odds_spread(base),
        words=_from_mean(adapter),
        base_words=_from_mean(base),
        top_share=_top_share(adapter),
        base_top_share=_top_share(base),
        plateaus=None if (table := _table(adapter)) is None or table.shape[1] != 2 else plateaus(table[:, 0]),
        saturated=saturated_share(adapter),
        base_saturated=saturated_share(base),
        middle=_share(adapter.confidence, most=_MIDDLE),
        confidence=mean_or_none(adapter.confidence),
    )


def spread(scored: ScoredRows) -> float | None:
    """Standard deviation of the choices' probabilities over rows, the mean over choices; None with fewer than two
    rows of an equal number of choices."""
    table = _table(scored)
    return None if table is None else float(table.std(axis=0).mean())


def odds_spread(scored: ScoredRows) -> float | None:
    """The same of a choice's log-probability less the mean of all choices'."""
    table = _table(scored)
    if table is None:
        return None
    logs = np.log(np.maximum(table, _TINY))
    return float((logs - logs.mean(axis=1, keepdims=True)).std(axis=0).mean())


def _table(scored: ScoredRows) -> Floats | None:
    """[m, choices]: the probabilities of the m rows with the commonest number of choices."""
    sizes = Counter(len(row) for row in scored.probabilities if len(row) > 1)
    if not sizes:
        return None
    size, count = sizes.most_common(1)[0]
    return np.array([row for row in scored.probabilities if len(row) == size]) if count > 1 else None


def plateaus(first: Floats) -> float:
    """Share of probabilities within 0.1 of the middle log-odds of their side of one half: near 1 where only two values
    come out, wherever they lie. 0 where nearly all are on one side. first: [n]."""
    odds = np.log(np.clip(first, 1e-9, 1 - 1e-9)) - np.log(np.clip(1 - first, 1e-9, 1 - 1e-9))
    sides = [odds[odds < 0], odds[odds >= 0]]
    if min(map(len, sides)) < 0.1 * len(odds) or float(np.median(sides[1]) - np.median(sides[0])) < _PLATEAUS_APART:
        return 0.0
    return float(sum(np.sum(np.abs(side - np.median(side)) < 0.1) for side in sides) / len(odds))


def saturated_share(scored: ScoredRows) -> float | None:
    """Share of rows whose best choice has practically all of the probability."""
    below = _share(scored.confidence, most=SATURATED)
    return None if below is None else 1 - below


def _share(values: Floats, *, most: float) -> float | None:
    """Share of the values that are there and at most `most`."""
    defined = values[~np.isnan(values)]
    return float((defined <= most).mean()) if len(defined) else None


def _from_mean(scored: ScoredRows) -> float:
    p = with_rest(scored.words)
    return float(kl(p, p.mean(axis=0, keepdims=True)).mean())


def _top_share(scored: ScoredRows) -> float | None:
    best = [choice for choice in scored.best.tolist() if choice >= 0]
    return Counter(best).most_common(1)[0][1] / len(best) if best else None
