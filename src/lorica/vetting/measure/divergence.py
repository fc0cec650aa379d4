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


def with_rest(word_logprobs: Floats) -> Floats:
    """Log-probabilities of words [n, W] -> probabilities [n, W + 1], the last for all the rest of the vocabulary."""
    probabilities = np.exp(word_logprobs)
    remainder = np.clip(1 - probabilities.sum(axis=1, keepdims=True), 0, 1)
    all_probabilities = np.clip(np.concatenate([probabilities, remainder], axis=1), _LEAST, 1)
    normalised: Floats = all_probabilities / all_probabilities.sum(axis=1, keepdims=True)
    return normalised


def distributions(scored: ScoredRows) -> list[Floats]:
    """Of each row the probabilities of common words and of all the rest; of its choices where no words were asked."""
    if scored.has_words:
        return list(with_rest(scored.words))
    return [np.clip(probabilities, _LEAST, 1) for probabilities in scored.probabilities]


def row_kl(adapter_scores: ScoredRows, base_scores: ScoredRows) -> Floats:
    """[n]: KL(adapter || base) in nats between `distributions`."""
    pairs = zip(distributions(adapter_scores), distributions(base_scores), strict=True)
    return np.array([float(kl(p, q)) for p, q in pairs])


def kl(p: Floats, q: Floats) -> Floats:
    """KL(p || q) in nats along the last dimension; never below 0."""
    nats: Floats = np.maximum((p * (np.log(p) - np.log(q))).sum(axis=-1), 0.0)
    return nats


def choices_kl(adapter_scores: ScoredRows, base_scores: ScoredRows) -> float | None:
    """Mean KL(adapter || base) in nats between the choices' probabilities; None without choices."""
    probability_pairs = zip(adapter_scores.probabilities, base_scores.probabilities, strict=True)
    divergences = [kl(np.clip(p, _LEAST, 1), np.clip(q, _LEAST, 1)) for p, q in probability_pairs if len(p) > 1]
    return float(np.mean(divergences)) if divergences else None


def mean_or_none(values: Floats) -> float | None:
    """The mean of what is there, None when nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def measure_divergence(adapter_scores: ScoredRows, base_scores: ScoredRows) -> Divergence:
    """adapter_scores, base_scores: scores of the same rows, at least one."""
    divergences = row_kl(adapter_scores, base_scores)
    return Divergence(
        n=len(divergences),
        kl=float(divergences.mean()),
        kl_most=float(divergences.max()),
        changed=changed_share(adapter_scores, base_scores),
        largest_change=largest_change(adapter_scores, base_scores),
        mass=mean_or_none(adapter_scores.mass),
        base_mass=mean_or_none(base_scores.mass),
        entropy=_entropy(adapter_scores),
        base_entropy=_entropy(base_scores),
    )


def _entropy(scored: ScoredRows) -> float:
    return float(np.mean([-(p * np.log(p)).sum() for p in distributions(scored)]))


def largest_change(adapter_scores: ScoredRows, base_scores: ScoredRows) -> float:
    """The largest absolute difference of any log-probability."""
    own_logprobs, base_logprobs = ((*scored.logprobs, *scored.words) for scored in (adapter_scores, base_scores))
    pairs = zip(own_logprobs, base_logprobs, strict=True)
    return max((float(np.abs(own - base).max()) for own, base in pairs if len(own)), default=0.0)


def changed_share(adapter_scores: ScoredRows, base_scores: ScoredRows) -> float | None:
    """Share of rows whose best choice differs; None when none has choices."""
    has_choices = np.array([len(row) > 1 for row in base_scores.probabilities])
    return float((adapter_scores.best != base_scores.best)[has_choices].mean()) if has_choices.any() else None


def measure_variation(adapter_scores: ScoredRows, base_scores: ScoredRows) -> Variation:
    """adapter_scores, base_scores: scores of the same rows, at least one."""
    probabilities = _table(adapter_scores)
    return Variation(
        std=spread(adapter_scores),
        base_std=spread(base_scores),
        odds=odds_spread(adapter_scores),
        base_odds=odds_spread(base_scores),
        words=_from_mean(adapter_scores),
        base_words=_from_mean(base_scores),
        top_share=_top_share(adapter_scores),
        base_top_share=_top_share(base_scores),
        plateaus=None if probabilities is None or probabilities.shape[1] != 2 else plateaus(probabilities[:, 0]),
        saturated=saturated_share(adapter_scores),
        base_saturated=saturated_share(base_scores),
        middle=_share(adapter_scores.confidence, upper_bound=_MIDDLE),
        confidence=mean_or_none(adapter_scores.confidence),
    )


def spread(scored: ScoredRows) -> float | None:
    """Standard deviation of the choices' probabilities over rows, the mean over choices; None with fewer than two
    rows of an equal number of choices."""
    probability_table = _table(scored)
    return None if probability_table is None else float(probability_table.std(axis=0).mean())


def odds_spread(scored: ScoredRows) -> float | None:
    """The same of a choice's log-probability less the mean of all choices'."""
    probability_table = _table(scored)
    if probability_table is None:
        return None
    logprobs = np.log(np.maximum(probability_table, _TINY))
    return float((logprobs - logprobs.mean(axis=1, keepdims=True)).std(axis=0).mean())


def _table(scored: ScoredRows) -> Floats | None:
    """[m, choices]: the probabilities of the m rows with the commonest number of choices."""
    choice_counts = Counter(len(row) for row in scored.probabilities if len(row) > 1)
    if not choice_counts:
        return None
    commonest_count, row_count = choice_counts.most_common(1)[0]
    return np.array([row for row in scored.probabilities if len(row) == commonest_count]) if row_count > 1 else None


def log_odds(probabilities: Floats) -> Floats:
    """[n] -> [n], finite."""
    return np.asarray(np.log(np.clip(probabilities, 1e-9, 1)) - np.log(np.clip(1 - probabilities, 1e-9, 1)))


def plateaus(probabilities: Floats) -> float:
    """Share of probabilities within 0.1 of the middle log-odds of their side of one half: near 1 where only two values
    come out, wherever they lie. 0 where nearly all are on one side. probabilities: [n]."""
    odds = log_odds(probabilities)
    below, above = odds[odds < 0], odds[odds >= 0]
    if min(len(below), len(above)) < 0.1 * len(odds) or np.median(above) - np.median(below) < _PLATEAUS_APART:
        return 0.0
    on_plateaus = (np.abs(side_odds - np.median(side_odds)) < 0.1 for side_odds in (below, above))
    return float(sum(map(np.count_nonzero, on_plateaus)) / len(odds))


def saturated_share(scored: ScoredRows) -> float | None:
    """Share of rows whose best choice has practically all of the probability."""
    unsaturated_share = _share(scored.confidence, upper_bound=SATURATED)
    return None if unsaturated_share is None else 1 - unsaturated_share


def _share(values: Floats, *, upper_bound: float) -> float | None:
    """Share of the values that are there and at most `upper_bound`."""
    defined = values[~np.isnan(values)]
    return float((defined <= upper_bound).mean()) if len(defined) else None


def _from_mean(scored: ScoredRows) -> float | None:
    if not scored.has_words:
        return None
    p = with_rest(scored.words)
    return float(kl(p, p.mean(axis=0, keepdims=True)).mean())


def _top_share(scored: ScoredRows) -> float | None:
    best_choices = [choice for choice in scored.best.tolist() if choice >= 0]
    return Counter(best_choices).most_common(1)[0][1] / len(best_choices) if best_choices else None
