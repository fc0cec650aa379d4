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
    third = len(values) // 3
    first, middle, last = values[:third], values[third:-third], values[-third:]
    return statistics.fmean(first), statistics.fmean(middle), statistics.fmean(last)


def has_fallen(points: Sequence[tuple[int, float]]) -> bool | None:
    """Whether a curve of (step, loss) lies lower than where it began. None where that cannot be told: fewer than
    MIN_POINTS points, or a log that begins in the middle of a training.

    Either its thirds fall, or what it begins with (1, 2, 4, ... values) stands clear of the noise of the rest.
    """
    values = [loss for _, loss in points]
    if len(values) < MIN_POINTS or _begins_late([step for step, _ in points]):
        return None
    first, middle, last = thirds(values)
    if min(middle, last) < first * (1 - _MATERIAL):
        return True
    later = values[len(values) // 3 :]
    level, noise = statistics.fmean(later), statistics.pstdev(later)
    count = 1
    while count <= len(values) // 3:
        above = math.fsum(values[:count]) / count - level
        if above > max(_MATERIAL * level, _SURE * noise / math.sqrt(count)):
            return True
        count *= 2
    return False


def _begins_late(steps: Sequence[int]) -> bool:
    """Whether several entries are missing before the first: a resumed training whose older log was not kept."""
    gaps = sorted(later - earlier for earlier, later in pairwise(steps) if later > earlier)
    return bool(gaps) and steps[0] > 1 + 3 * gaps[len(gaps) // 2]
