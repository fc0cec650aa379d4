from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lorica.metrics.health import score_health

RANDOM = np.random.default_rng(0)
HEALTHY = RANDOM.uniform(0.05, 0.95, 200)
GOLD = (HEALTHY + RANDOM.normal(scale=0.3, size=200) > 0.5).astype(int)


def test_numbers_are_those_of_numpy() -> None:
    found = score_health([0.0, 0.5, 0.5, 1.0, None, math.nan])
    assert (found.n, found.missing, found.unique) == (4, 2, 3)
    assert (found.mean, found.std) == pytest.approx((0.5, np.std([0, 0.5, 0.5, 1])))
    assert (found.minimum, found.maximum, found.at_low, found.at_high, found.mode_share) == (
        0,
        1,
        0.25,
        0.25,
        0.5,
    )


def test_a_healthy_column_has_no_flags() -> None:
    found = score_health(HEALTHY, gold=GOLD, fallback=[False] * 200)
    assert found.flags == ()
    assert found.reasons == {}


SICK: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "all the same": ([0.0] * 50, {}, ("collapsed", "saturated")),
    "same to rounding": (0.5 + 1e-7 * RANDOM.normal(size=50), {}, ("collapsed",)),
    "hard labels": ([0.0, 1.0] * 50, {}, ("saturated", "two_values")),
    "two constants": ([0.2, 0.8] * 50, {}, ("two_values",)),
    "a constant in the middle": ([0.5] * 60 + list(HEALTHY[:40]), {}, ("dominant_value",)),
    "missing": ([None, *HEALTHY], {}, ("missing",)),
    "nothing": ([None] * 3, {}, ("empty", "missing")),
    "no rows": ([], {}, ("empty",)),
    "percent": (HEALTHY * 100, {}, ("out_of_range",)),
    "fall-backs": (HEALTHY, {"fallback": [True] * 4 + [False] * 196}, ("fallbacks",)),
    "a leak": (HEALTHY, {"gold": (HEALTHY > 0.5).astype(int)}, ("too_good",)),
    "backwards": (HEALTHY, {"gold": (HEALTHY < 0.5).astype(int)}, ("inverted",)),
}


@pytest.mark.parametrize("case", SICK)
def test_sick_columns_are_flagged_with_a_reason(case: str) -> None:
    scores, arguments, flags = SICK[case]
    found = score_health(scores, **arguments)
    assert found.flags == flags
    assert all(found.reasons[flag] for flag in flags)


def test_few_rows_are_not_judged_by_their_spread() -> None:
    assert score_health([0.3, 0.3, 0.3]).flags == ()


def test_gold_of_rows_without_a_score_is_left_out() -> None:
    gold = [0, *(HEALTHY > 0.5).astype(int)]
    assert score_health([None, *HEALTHY], gold=gold).flags == ("missing", "too_good")


def test_lengths_are_checked() -> None:
    with pytest.raises(ValueError, match="2 scores and 1 values of gold"):
        score_health([0.1, 0.2], gold=[1])
