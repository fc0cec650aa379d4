"""The gain that adapting is expected to give on rules that training has not seen, by leaving out rules that it has."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev, variance

import msgspec
import numpy as np

from lorica.adaptation.harvest import LabelledText
from lorica.metrics.base import Floats
from lorica.metrics.bootstrap import Estimate, MetricResamples, metric_resamples, percentile_interval
from lorica.metrics.metric_table import find_metric
from lorica.names import count_of

_CHANCE = 0.5  # ROC-AUC of scores that tell nothing
_LEVEL = 0.05  # of the permutation test
_MOST_PERMUTATIONS = 100_000  # up to which all are counted, and of which so many are drawn beyond

# Two-sided 95% quantiles of Student's t by degrees of freedom (scipy.stats.t.ppf(0.975, df)).
_T_QUANTILES = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)


@dataclass(frozen=True)
class LeftOutRule:
    """The rows [n] of one rule, scored by models that have not seen it: one that did not adapt, one that learned from
    its examples, and some that learned from its examples, each under another permutation of their labels."""

    stratum: str
    labels: tuple[int, ...]
    unadapted: tuple[float, ...]
    adapted: tuple[float, ...]
    shuffled: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class RuleGain:
    """ROC-AUC on the rows of a rule that was left out, of each of its models. gain: of the adapted one over the
    unadapted one."""

    gain: Estimate
    unadapted: float
    adapted: float
    shuffled: tuple[float, ...]


@dataclass(frozen=True)
class ExpectedGain:
    """rules: stratum -> gain of its rows. gain: the mean over rules, with the paired interval of these rows. low, high:
    in which the mean gain on `unseen` further rules is expected (95%); nan where fewer than two rules were left out.

    The control learns the same texts under permuted labels, `shuffles` times for each rule: all but what the labels
    say. control: its gain over the unadapted model, in the mean of rules and shuffles. above_chance: the same over the
    better of the unadapted model and chance (0.5), rule by rule, by which the control is judged: where the unadapted
    model ranks a rule upside down, any training on new texts lifts it towards chance, and tells no answer by that.
    by_labels: what true labels give beyond permuted ones. These intervals are of rows and of shuffles. p_value: how
    often labels that tell nothing would do as well as the true ones (permutation test within rules, one-sided).
    deviation: of the control's ROC-AUC from shuffle to shuffle of a rule."""

    rules: dict[str, RuleGain]
    gain: Estimate
    control: Estimate
    above_chance: Estimate
    by_labels: Estimate
    p_value: float
    deviation: float
    shuffles: int
    low: float
    high: float
    unseen: int

    @property
    def control_gains(self) -> bool:
        """Whether labels without meaning help, too, beyond chance."""
        return self.above_chance.low > 0

    @property
    def beats_shuffles(self) -> bool:
        """Whether the permutation test tells true labels from permuted ones: at 0.05, or, where so few shuffles allow
        no such value, by doing better than every one of them."""
        lowest = (self.shuffles + 1.0) ** -len(self.rules)
        return self.p_value <= max(_LEVEL, lowest * (1 + 1e-9))

    @property
    def expected(self) -> bool:
        """Whether a gain can be expected, on what is known."""
        return self.gain.low > 0 and self.by_labels.low > 0 and self.beats_shuffles

    @property
    def verdict(self) -> str:
        """In sentences."""
        predicted = "" if math.isnan(self.low) else f"; on unseen rules expect {self.low:+.3f} to {self.high:+.3f}"
        beginning = "A gain is expected" if self.expected else "No gain is expected"
        if self.control_gains and not self.expected:
            beginning = "Do not believe the gain, for shuffled labels help as well"
        rule_words = f"{count_of(len(self.rules), 'rule')} left out"
        by_labels = f"True labels give {_signed(self.by_labels)} beyond shuffled ones (p = {self.p_value:.2g})"
        alone = ": count on that alone" if self.expected and self.control.low > 0 else ""
        return (
            f"{beginning}: ROC-AUC {_signed(self.gain)} in the mean of {rule_words}{predicted}. Control, labels "
            f"shuffled {self.shuffles} times: {self._control_words}. {by_labels}{alone}."
        )

    @property
    def _control_words(self) -> str:
        over = "the better of the unadapted model and chance"
        if self.control_gains:
            return f"IT GAINS, TOO, {_signed(self.control)}, and {_signed(self.above_chance)} over {over}"
        if self.control.low > 0:
            return (
                f"{_signed(self.control)} over the unadapted model, which ranks rules worse than chance; no gain over "
                f"{over}, {_signed(self.above_chance)}"
            )
        return f"no gain, {_signed(self.control)}"


def _signed(difference: Estimate) -> str:
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def expected_gain(rules: Sequence[LeftOutRule], unseen: int) -> ExpectedGain:
    """The gain over all rules, and the interval for the mean of `unseen` others.

    The interval for other rules is Student's prediction interval of the rules' gains, for the next rules may be as
    different from these as these are from each other: mean +- t(k-1) s sqrt(1/unseen + 1/k).
    """
    drawn = [_DrawnRule.of(rule, seed) for seed, rule in enumerate(rules)]
    n = sum(len(rule.labels) for rule in rules)
    gains = {
        rule.stratum: RuleGain(
            _estimate([own.adapted.minus(own.unadapted)], len(rule.labels)),
            own.unadapted.value,
            own.adapted.value,
            own.shuffled,
        )
        for rule, own in zip(rules, drawn, strict=True)
    }
    values = [rule_gain.gain.value for rule_gain in gains.values()]
    low, high = _prediction_interval(values, max(1, unseen))
    return ExpectedGain(
        rules=gains,
        gain=_estimate([own.adapted.minus(own.unadapted) for own in drawn], n),
        control=_estimate([own.control.minus(own.unadapted) for own in drawn], n),
        above_chance=_estimate([own.control.minus(own.floor) for own in drawn], n),
        by_labels=_estimate([own.adapted.minus(own.control) for own in drawn], n),
        p_value=_permutation_p([(own.adapted.value, *own.shuffled) for own in drawn]),
        deviation=math.sqrt(mean(variance(own.shuffled) for own in drawn)),
        shuffles=len(rules[0].shuffled),
        low=low,
        high=high,
        unseen=unseen,
    )


@dataclass(frozen=True)
class _DrawnRule:
    """ROC-AUC of a rule's models, on its rows and on the same rows drawn again. control: in the mean of the shuffles,
    which are drawn again as well. floor: the better of the unadapted model and chance."""

    unadapted: MetricResamples
    adapted: MetricResamples
    shuffled: tuple[float, ...]
    control: MetricResamples
    floor: MetricResamples

    @classmethod
    def of(cls, rule: LeftOutRule, seed: int) -> _DrawnRule:
        unadapted, adapted, *shuffled = metric_resamples(
            find_metric("roc_auc"), rule.labels, rule.unadapted, rule.adapted, *rule.shuffled, seed=seed
        )
        values = tuple(drawn.value for drawn in shuffled)
        control = MetricResamples(mean(values), _mean_of_draws(np.stack([drawn.resampled for drawn in shuffled]), seed))
        # Chosen once: the larger of two in every resample would lie above both, and hide a control that gains.
        chance = MetricResamples(_CHANCE, np.full_like(unadapted.resampled, _CHANCE))
        floor = unadapted if unadapted.value >= _CHANCE else chance
        return cls(unadapted, adapted, values, control, floor)


def _mean_of_draws(shuffled: Floats, seed: int) -> Floats:
    """[k, resamples] -> [resamples]: the mean of k - 1 of the k shuffles, drawn with replacement. With k draws the
    variance would be too small by (k - 1) / k (Rao and Wu 1988)."""
    count, resamples = shuffled.shape
    draws = np.random.default_rng([seed, count]).integers(0, count, size=(count - 1, resamples))
    means: Floats = np.take_along_axis(shuffled, draws, axis=0).mean(axis=0)
    return means


def _estimate(drawn: Sequence[MetricResamples], n: int) -> Estimate:
    """The mean over rules, which are drawn apart."""
    averaged = MetricResamples(mean(rule.value for rule in drawn), np.mean([rule.resampled for rule in drawn], axis=0))
    return percentile_interval(find_metric("roc_auc"), averaged, n)


def _permutation_p(values_of_rules: Sequence[Sequence[float]]) -> float:
    """values_of_rules: of each rule the true labels' value, then the permuted ones'. If labels tell nothing, each of
    these may as well be the true one's, in every rule by itself: p is the share of such choices whose mean is no less.
    """
    columns = [np.asarray(values) for values in values_of_rules]
    observed = sum(column[0] for column in columns) - 1e-9
    if math.prod(map(len, columns)) <= _MOST_PERMUTATIONS:
        totals = np.zeros(1)
        for column in columns:
            totals = np.add.outer(totals, column).ravel()
        return float((totals >= observed).mean())
    generator = np.random.default_rng(0)
    totals = np.sum([generator.choice(column, size=_MOST_PERMUTATIONS) for column in columns], axis=0)
    return float(1 + (totals >= observed).sum()) / (1 + _MOST_PERMUTATIONS)


def _prediction_interval(gains: Sequence[float], unseen: int) -> tuple[float, float]:
    count = len(gains)
    if count < 2:
        return math.nan, math.nan
    quantile = _T_QUANTILES[min(count - 1, len(_T_QUANTILES)) - 1]
    margin = quantile * stdev(gains) * math.sqrt(1 / unseen + 1 / count)
    return max(-1.0, mean(gains) - margin), min(1.0, mean(gains) + margin)  # no difference of areas is larger


def shuffled_labels(items: Sequence[LabelledText], seed: str) -> list[LabelledText]:
    """The items with their labels permuted at random within each stratum: as many of each label as before, and none
    that tells anything of its text."""
    generator = random.Random(seed)
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.stratum, []).append(index)
    labels = [item.label for item in items]
    for indices in groups.values():
        permuted = [labels[index] for index in indices]
        generator.shuffle(permuted)
        for index, label in zip(indices, permuted, strict=True):
            labels[index] = label
    return [
        msgspec.structs.replace(item, row=msgspec.structs.replace(item.row, gold=label))
        for item, label in zip(items, labels, strict=True)
    ]
