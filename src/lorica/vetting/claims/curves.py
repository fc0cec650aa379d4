"""Did a loss curve fall? Single steps are noisy, and many a training takes its whole fall in a handful of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

MIN_POINTS = 6
# A mean lies lower from this share of itself on.
_MATERIAL = 0.01
# So many standard errors above the rest are no accident for any of the beginnings that are tried.
_SURE = 4.0


def thirds(values: Sequence[float]) -> tuple[float, float, float]:
    """The means of a curve's beginning, middle and end. At least three values."""
    third_length = len(values) // 3
    first, middle, last = values[:third_length], values[third_length:-third_length], values[-third_length:]
    return statistics.fmean(first), statistics.fmean(middle), statistics.fmean(last)


def has_fallen(points: Sequence[tuple[int, float]]) -> bool | None:
    """Whether a curve of (step, loss) lies lower than where it began. None where that cannot be told: fewer than
    MIN_POINTS points, or a log that begins in the middle of a training.

    Either its thirds fall, or what it begins with (1, 2, 4, ... values) stands clear of the noise of the rest.
    """
    values = [loss for _, loss in points]
    if len(values) < MIN_POINTS or _begins_late([step for step, _ in points]):
        return None
    first_third, middle_third, last_third = thirds(values)
    if min(middle_third, last_third) < first_third * (1 - _MATERIAL):
        return True
    later_losses = values[len(values) // 3 :]
    later_mean, later_deviation = statistics.fmean(later_losses), statistics.pstdev(later_losses)
    point_count = 1
    while point_count <= len(values) // 3:
        start_excess = math.fsum(values[:point_count]) / point_count - later_mean
        if start_excess > max(_MATERIAL * later_mean, _SURE * later_deviation / math.sqrt(point_count)):
            return True
        point_count *= 2
    return False


def _begins_late(steps: Sequence[int]) -> bool:
    """Whether several entries are missing before the first: a resumed training whose older log was not kept."""
    step_gaps = sorted(
        later_step - earlier_step for earlier_step, later_step in pairwise(steps) if later_step > earlier_step
    )
    return bool(step_gaps) and steps[0] > 1 + 3 * step_gaps[len(step_gaps) // 2]
