"""The gain that adapting is expected to give on rules that training has not seen, by leaving out rules that it has."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import msgspec
import numpy as np

from lorica.adaptation.harvest import LabelledText
from lorica.metrics.bootstrap import Estimate, averaged_over, paired_difference
from lorica.metrics.metric_table import find_metric

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
    its examples, one that learned from its examples under shuffled labels."""

    stratum: str
    labels: tuple[int, ...]
    unadapted: tuple[float, ...]
    adapted: tuple[float, ...]
    control: tuple[float, ...]
    examples: int


@dataclass(frozen=True)
class ExpectedGain:
    """rules: stratum -> gain of its rows. gain: the mean over rules, with the paired interval of these rows; control:
    the same with shuffled labels; by_labels: what true labels give beyond shuffled ones. low, high: in which the mean
    gain on `unseen` further rules is expected (95%); nan where fewer than two rules were left out.

    The intervals are of the choice of rows. Another training of the same rows may score an unseen rule quite otherwise,
    so that the control may gain where the unadapted model happened to be worse than chance: `by_labels` compares
    trainings on the same texts, and decides."""

    rules: dict[str, Estimate]
    gain: Estimate
    control: Estimate
    by_labels: Estimate
    low: float
    high: float
    unseen: int

    @property
    def control_gains(self) -> bool:
        """Whether labels without meaning help, too."""
        return self.control.low > 0

    @property
    def expected(self) -> bool:
        """Whether a gain can be expected, on what is known."""
        return self.gain.low > 0 and self.by_labels.low > 0

    @property
    def verdict(self) -> str:
        """In a sentence."""
        predicted = "" if math.isnan(self.low) else f"; on unseen rules expect {self.low:+.3f} to {self.high:+.3f}"
        count = len(self.rules)
        figures = f"ROC-AUC {_signed(self.gain)} in the mean of {count} {'rule' if count == 1 else 'rules'} left out, "
        figures += f"shuffled labels {_signed(self.control)}{predicted}"
        if not self.control_gains:
            return f"{'A gain is' if self.expected else 'No gain is'} expected: {figures}."
        if not self.expected:
            return f"Do not believe the gain: shuffled labels help as well. {figures}."
        return f"A gain is expected: {figures}. Shuffled labels help, too: count on {_signed(self.by_labels)} alone."


def _signed(difference: Estimate) -> str:
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def expected_gain(rules: Sequence[LeftOutRule], unseen: int) -> ExpectedGain:
    """The gain over all rules, and the interval for the mean of `unseen` others.

    The interval for other rules is Student's prediction interval of the rules' gains, for the next rules may be as
    different from these as these are from each other: mean +- t(k-1) s sqrt(1/unseen + 1/k).
    """
    metric = find_metric("roc_auc")
    labels = np.concatenate([rule.labels for rule in rules])
    names = [rule.stratum for rule in rules for _ in rule.labels]
    unadapted, adapted, control = (
        np.concatenate([getattr(rule, column) for rule in rules]) for column in ("unadapted", "adapted", "control")
    )
    averaged = averaged_over(metric, names)
    gains = {rule.stratum: paired_difference(metric, rule.labels, rule.adapted, rule.unadapted) for rule in rules}
    low, high = _prediction_interval([gain.value for gain in gains.values()], max(1, unseen))
    return ExpectedGain(
        gains,
        paired_difference(averaged, labels, adapted, unadapted),
        paired_difference(averaged, labels, control, unadapted),
        paired_difference(averaged, labels, adapted, control),
        low,
        high,
        unseen,
    )


def _prediction_interval(gains: Sequence[float], unseen: int) -> tuple[float, float]:
    count = len(gains)
    if count < 2:
        return math.nan, math.nan
    quantile = _T_QUANTILES[min(count - 1, len(_T_QUANTILES)) - 1]
    margin = quantile * stdev(gains) * math.sqrt(1 / unseen + 1 / count)
    return max(-1.0, mean(gains) - margin), min(1.0, mean(gains) + margin)  # no difference of areas is larger


def shuffled_labels(items: Sequence[LabelledText], seed: int) -> list[LabelledText]:
    """The items with labels that tell nothing: within each stratum half of each label, at random, is the other."""
    generator = random.Random(seed)
    groups: dict[tuple[str, int], list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault((item.stratum, item.label), []).append(index)
    flipped: set[int] = set()
    for indices in groups.values():
        share = len(indices) // 2 + (len(indices) % 2 and generator.random() < 0.5)
        flipped.update(generator.sample(indices, share))
    return [
        msgspec.structs.replace(item, row=msgspec.structs.replace(item.row, gold=1 - item.label))
        if index in flipped
        else item
        for index, item in enumerate(items)
    ]
