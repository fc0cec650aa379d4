"""A larger scale that does better: a warning, unless only the confidence grows, as short trainings leave it."""

from __future__ import annotations

import pytest

from lorica.vetting.behaviour import judge_behaviour
from lorica.vetting.measure.measurements import Behaviour, Comparison, Divergence, ScaleResult


def _behaviour(auc_by_factor: dict[float, float], loss_by_factor: dict[float, float]) -> Behaviour:
    scales = tuple(
        ScaleResult(
            factor,
            kl=0.1,
            largest_change=0.0 if factor == 0 else 1.0,
            confidence=0.6,
            saturated=0.0,
            std=0.1,
            changed=0.1,
            loss=loss_by_factor[factor],
            gold=-loss_by_factor[factor],
            quality=auc,
            gain=None if factor == 1 else Comparison(loss_by_factor[1.0] - loss_by_factor[factor], 12.0),
            over_base=None if factor == 0 else Comparison(loss_by_factor[0.0] - loss_by_factor[factor], 12.0),
        )
        for factor, auc in auc_by_factor.items()
    )
    divergence = Divergence(
        128,
        kl=0.1,
        kl_most=0.3,
        changed=0.1,
        largest_change=1.0,
        mass=0.9,
        base_mass=0.9,
        entropy=0.5,
        base_entropy=0.6,
    )
    return Behaviour(
        engine={},
        task="rules",
        answer_type="score",
        style="plain",
        method="token",
        template="",
        source="rows",
        foreign=False,
        n=128,
        labelled_rows=128,
        divergence=divergence,
        scales=scales,
    )


LOSS = {0.0: 0.757, 1.0: 0.562, 4.0: 0.338, 8.0: 0.317}  # as it is, it has 0.44 of what the best scale gains


@pytest.mark.parametrize(
    ("auc", "severity"),
    [
        ({0.0: 0.10, 1.0: 0.941, 4.0: 0.978, 8.0: 0.982}, "warn"),  # folds averaged factor by factor: the order suffers
        ({0.0: 0.10, 1.0: 0.978, 4.0: 0.981, 8.0: 0.982}, "note"),  # a short training: only the confidence is low
    ],
)
def test_a_larger_scale_that_ranks_better_is_warned_of(auc: dict[float, float], severity: str) -> None:
    findings = {finding.code: finding.severity for finding in judge_behaviour(_behaviour(auc, LOSS))}
    assert findings["L413"] == severity
