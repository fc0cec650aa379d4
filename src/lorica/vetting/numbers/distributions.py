"""Are the sizes of an adapter's values spread as training leaves them? Judged by a sample of every factor.

Bytes that are shifted, swapped, overwritten or read as another type give sizes that no initialisation and no
optimiser gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from lorica.adapters.arrays import TensorReader
from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.numbers.scan import TensorFacts, in_tensors

# No factor of a trained pair holds such a value; a base's activations do not exceed it either.
HUGE = 1e4
# Standard deviation of log2 |x|: 1.2 to 1.6 for uniform and normal values, up to 5 for B under plain SGD; random
# bytes give 8 in F16 (5 exponent bits) and 70 in BF16 and F32 (8).
WIDE = {"F16": 7.0, "BF16": 14.0, "F32": 14.0, "F64": 14.0}
# A value so many times the middle one makes the tensor worth a second look; a gap so wide above all others is none
# that training leaves.
FAR, GAP, GAP_ABSURD = 300.0, 64.0, 3000.0
# Mean |x| over root mean square: 0.87 for uniform, 0.80 for normal values, 1 for one size with two signs.
EVEN = 0.97
_COARSE = {"F16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


class _Distribution(msgspec.Struct):
    """Of one tensor's sample: spread, of log2 |x|; evenness, mean |x| over rms; median, of |x|."""

    tensor: TensorFacts
    spread: float
    evenness: float
    median: float

    @property
    def is_wide(self) -> bool:
        """Whether the sizes are spread as those of random bytes."""
        return self.spread > WIDE.get(self.tensor.info.dtype, np.inf)


class _Outliers(msgspec.Struct):
    """A tensor with few values above a wide gap. gap: how many times the next value the smallest of them is."""

    tensor: TensorFacts
    count: int
    gap: float


def check_distributions(adapter: RawAdapter, factors: Sequence[TensorFacts], tensor_count: int) -> list[Finding]:
    """factors: those to judge. tensor_count: of all tensors."""
    distributions = _describe([tensor for tensor in factors if tensor.largest > 0])
    sound = [distribution for distribution in distributions if not (distribution.tensor.broken or distribution.is_wide)]
    suspects = [item.tensor for item in sound if item.tensor.largest > FAR * item.median]
    outliers = _find_outliers(adapter, suspects)
    garbled = _garbled(distributions, {outlier.tensor.name for outlier in outliers})
    return [*garbled, *_check_outliers(outliers, tensor_count), *_underflow(factors)]


def _describe(tensors: Sequence[TensorFacts]) -> list[_Distribution]:
    sampled = [(tensor, tensor.sample) for tensor in tensors if tensor.sample is not None]
    if not sampled:
        return []
    with np.errstate(all="ignore"):
        sizes = np.abs(np.stack([sample for _, sample in sampled]).astype(np.float64))
        filled = np.isfinite(sizes) & (sizes > 0)
        sizes = np.where(filled, sizes, 0)
        nonzero_counts = np.maximum(filled.sum(axis=1), 1)
        log_sizes = np.where(filled, np.log2(np.where(filled, sizes, 1)), 0)
        log_means = (log_sizes.sum(axis=1) / nonzero_counts)[:, None]
        spread = np.sqrt((np.where(filled, log_sizes - log_means, 0) ** 2).sum(axis=1) / nonzero_counts)
        # np.median would import numpy.ma, which costs as much as everything here.
        median = np.exp2(np.sort(np.where(filled, log_sizes, log_means), axis=1)[:, sizes.shape[1] // 2])
        evenness = np.where(filled.any(axis=1), sizes.mean(axis=1) / np.sqrt((sizes**2).mean(axis=1)), 0)
    rows = np.stack([spread, evenness, median], axis=1).tolist()
    return [_Distribution(tensor, *row) for (tensor, _), row in zip(sampled, rows, strict=True)]


def _find_outliers(adapter: RawAdapter, suspects: Sequence[TensorFacts]) -> list[_Outliers]:
    assert adapter.weights is not None
    outliers = []
    with TensorReader(adapter.weights) as reader:
        for tensor in suspects:
            sizes = np.abs(reader.read(tensor.info)).ravel()
            largest_sizes = np.sort(np.partition(sizes, -min(17, sizes.size))[-17:])[::-1].astype(np.float64)
            gaps = largest_sizes[:-1] / np.maximum(largest_sizes[1:], 1e-30)
            if gaps.max(initial=0) > GAP:
                outliers.append(_Outliers(tensor, int(gaps.argmax()) + 1, float(gaps.max())))
    return outliers


def _check_outliers(outliers: Sequence[_Outliers], tensor_count: int) -> Iterable[Finding]:
    if outliers:
        count, gap = (sum(outlier.count for outlier in outliers), max(outlier.gap for outlier in outliers))
        tensors = [outlier.tensor for outlier in outliers]
        largest = max(tensor.largest for tensor in tensors)
        actual = f"{count} values up to {largest:.3g}, {gap:.2g} times the next, {in_tensors(tensors, tensor_count)}"
        facts = {"values": count, "gap": gap, "largest": largest}
        severity: Severity | None = "reject" if gap > GAP_ABSURD or largest > HUGE else None
        yield finding("L207", actual, facts=facts, severity=severity)


def _garbled(distributions: Sequence[_Distribution], with_outliers: set[str]) -> Iterable[Finding]:
    tensors = [distribution.tensor for distribution in distributions]
    wide_tensors = [distribution for distribution in distributions if distribution.is_wide]
    huge_tensors = [tensor for tensor in tensors if tensor.largest > HUGE and tensor.name not in with_outliers]
    # B after one step of Adam has one size; A keeps the variety it started with, unless bits are read as another type.
    half_factors = [item for item in distributions if item.tensor.side == "a" and item.tensor.info.dtype == "F16"]
    even_tensors = [item.tensor for item in half_factors if item.evenness > EVEN and 0.5 < item.tensor.largest < 2]
    suspects = {*(distribution.tensor for distribution in wide_tensors), *huge_tensors, *even_tensors}
    garbled = [tensor for tensor in tensors if tensor in suspects]
    if garbled:
        reason = "all values lie near 1 in size, as BF16 does when it is read as F16"
        if wide_tensors:
            reason = f"sizes spread over {2 * wide_tensors[0].spread:.0f} powers of two"
        elif huge_tensors:
            reason = f"values up to {max(tensor.largest for tensor in huge_tensors):.2g}"
        facts = {"wide": len(wide_tensors), "huge": len(huge_tensors), "same": len(even_tensors)}
        facts["tensors"] = len(garbled)
        yield finding("L201", f"{reason} {in_tensors(garbled, len(tensors))}", facts=facts)


def _underflow(factors: Sequence[TensorFacts]) -> Iterable[Finding]:
    """Values of B that a coarse type made zero."""
    b_factors = [tensor for tensor in factors if tensor.side == "b"]
    coarse = [tensor for tensor in b_factors if tensor.info.dtype in _COARSE and not tensor.zero_run[1]]
    underflowed = [tensor for tensor in coarse if 0.5 * tensor.count < tensor.zeros < tensor.count]
    if underflowed:
        zero_share = max(tensor.zeros / tensor.count for tensor in underflowed)
        location_text = in_tensors(underflowed, len(b_factors), "lora_B tensors")
        actual = f"up to {zero_share:.0%} of the values became zero as {underflowed[0].info.dtype} {location_text}"
        facts = {"tensors": len(underflowed), "share": zero_share}
        yield finding("L217", actual, facts=facts, severity="warn" if zero_share > 0.95 else None)
