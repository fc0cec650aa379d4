"""How answers respond when the adapter's update is multiplied: at 0 the base is left, and 1 should be about best."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from lorica.adapters.rescaled_copies import scaled_config
from lorica.vetting.measure.divergence import (
    changed_share,
    choices_kl,
    largest_change,
    mean_or_none,
    row_kl,
    saturated_share,
    spread,
)
from lorica.vetting.measure.loaded_adapter import LoadedAdapter
from lorica.vetting.measure.measurements import ScaleResult
from lorica.vetting.measure.quality import compare, gold_logprobs, ranking_z, skill
from lorica.vetting.measure.scoring import ScoredRows, ScoreRequest, align

FACTORS = (0.0, 0.25, 0.5, 2.0, 4.0)
# Asked, too, where the best is at the edge of those.
_FARTHER = (0.0625, 0.125, 8.0, 16.0)
# Far apart and far out: over the scale the answers can have more than one optimum.
_WIDE = (1 / 64, 1 / 16, 16.0, 64.0)


class ScaleSweep:
    """The rows of `requests` at every factor that was asked so far. own_scores: theirs with the adapter as it is."""

    def __init__(self, adapter: LoadedAdapter, requests: Sequence[ScoreRequest], own_scores: ScoredRows) -> None:
        self._adapter, self._requests = adapter, requests
        self._own, self._base = align(own_scores, adapter.score_base(requests))
        self._results = {1.0: self._result(1.0, own_scores)}

    @property
    def results(self) -> list[ScaleResult]:
        """In rising order of the factor."""
        return [self._results[factor] for factor in sorted(self._results)]

    @property
    def best(self) -> ScaleResult | None:
        """Where the gold choices are most probable, 0 left out; None without labels."""
        labelled = [result for result in self.results if result.gold is not None and result.factor]
        return max(labelled, key=lambda result: (result.gold, -abs(math.log(result.factor))), default=None)

    def ask(self, factors: Sequence[float]) -> None:
        """Score the rows at these factors, too; a factor that no config may say is left out."""
        for factor in factors:
            if factor not in self._results:
                scored = self.score(factor, self._requests)
                if scored is not None:
                    self._results[factor] = self._result(factor, scored)

    def ask_usual(self) -> None:
        """The usual factors; farther ones only where the best is still at their edge."""
        self.ask(FACTORS)
        if self.best is not None and self.best.factor <= min(FACTORS[1:]):
            self.ask([factor for factor in _FARTHER if factor < 1])
        elif self.best is not None and self.best.factor >= max(FACTORS):
            self.ask([factor for factor in _FARTHER if factor > 1])

    def refine(self) -> None:
        """Ask far out, then twice closer around the best."""
        self.ask(_WIDE)
        for scale_step in (2.0, math.sqrt(2.0)):
            if self.best is not None:
                self.ask((self.best.factor / scale_step, self.best.factor * scale_step))

    def score(self, factor: float, requests: Sequence[ScoreRequest]) -> ScoredRows | None:
        """Any rows at a factor."""
        if factor == 1:
            return self._adapter.score(requests)
        return self._adapter.score_copy(scaled_config(self._adapter.config, factor), requests)

    def _result(self, factor: float, scored: ScoredRows) -> ScaleResult:
        present_scores, base_scores = align(scored, self._base)
        broken = len(scored.failed) - len(self._base.failed)
        if not present_scores.rows:
            return ScaleResult(factor, np.inf, np.inf, None, None, None, None, broken)
        result = ScaleResult(
            factor=factor,
            kl=float(row_kl(present_scores, base_scores).mean()),
            largest_change=largest_change(present_scores, base_scores),
            confidence=mean_or_none(present_scores.confidence),
            saturated=saturated_share(present_scores),
            std=spread(present_scores),
            changed=changed_share(present_scores, base_scores),
            broken=broken,
            n=len(present_scores.rows),
            choices_kl=choices_kl(present_scores, base_scores),
            mass=mean_or_none(present_scores.mass),
        )
        labelled = present_scores.labelled
        if not labelled.rows:
            return result
        own_labelled = self._own.labelled
        quality, own_quality = skill(labelled), skill(own_labelled)
        shared, shared_own = align(labelled, own_labelled)
        return msgspec.structs.replace(
            result,
            loss=float(labelled.losses.mean()),
            gold=float(gold_logprobs(labelled).mean()),
            quality=quality.value,
            error=quality.error,
            gain=compare(shared, shared_own) if shared.rows and factor != 1 else None,
            over_base=compare(labelled, base_scores.labelled),
            ranking_z=ranking_z(quality, own_quality),
        )


def peak(results: Sequence[ScaleResult]) -> float | None:
    """The factor at which a parabola through the best one and its neighbours, over the logarithm, has its top; None
    without labels."""
    gold_by_factor = {result.factor: result.gold for result in results if result.factor and result.gold is not None}
    if not gold_by_factor:
        return None
    factors = sorted(gold_by_factor)
    best_index = max(range(len(factors)), key=lambda i: (gold_by_factor[factors[i]], -abs(math.log(factors[i]))))
    if not 0 < best_index < len(factors) - 1:
        return factors[best_index]
    log_factors = [math.log(factors[best_index + neighbour]) for neighbour in (-1, 0, 1)]
    a, b, _ = np.polyfit(log_factors, [gold_by_factor[factors[best_index + neighbour]] for neighbour in (-1, 0, 1)], 2)
    return float(math.exp(min(max(-b / (2 * a), log_factors[0]), log_factors[2]))) if a < 0 else factors[best_index]
