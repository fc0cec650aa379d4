"""Are the sizes of an adapter's values spread as training leaves them? Judged by a sample of every factor.

Bytes that are shifted, swapped, overwritten or read as another type give sizes that no initialisation and no
optimiser gives.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from lorica.adapters.arrays import Floats, TensorReader
from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.scan import TensorFacts
from lorica.vetting.wording import some

# No factor of a trained pair holds such a value; a base's activations do not exceed it either.
HUGE = 1e4
# Standard deviation of log2 |x|: 1.2 to 1.6 for uniform and normal values, up to 5 for B under plain SGD; random
# bytes give 8 in F16 (5 exponent bits) and 70 in BF16 and F32 (8).
WIDE = {"F16": 7.0, "BF16": 14.0, "F32": 14.0, "F64": 14.0}
# A value so many times the middle one makes the tensor worth a second look; a gap so wide above all others is none
# that training leaves.
FAR, GAP, GAP_ABSURD = 300.0, 64.0, 3000.0
# Mean |x| over root mean square: 0.87 for uniform, 0.80 for normal values, 1 for one size with two signs.
ALIKE = 0.97
_COARSE = {"F16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


class _Sampled(msgspec.Struct):
    """Of one tensor's sample: spread, of log2 |x|; alike, mean |x| over rms; middle, the median |x|."""

    spread: float
    alike: float
    middle: float


def check_distributions(specimen: RawAdapter, facts: dict[str, TensorFacts], a: set[str], b: set[str]) -> list[Finding]:
    """a, b: the names of the factors to judge."""
    samples = {
        name: tensor.sample
        for name, tensor in facts.items()
        if name in a | b and tensor.sample is not None and tensor.largest > 0
    }
    if not samples:
        return []
    sampled = _describe(samples)
    far = [
        name
        for name, distribution in sampled.items()
        if facts[name].largest > FAR * distribution.middle
        and not facts[name].broken
        and not _wide(facts[name], distribution)
    ]
    lonely = _lonely(specimen, facts, far)
    return [*_garbled(facts, sampled, a, set(lonely)), *_outliers(facts, lonely), *_lost(facts, b)]


def _describe(samples: dict[str, Floats]) -> dict[str, _Sampled]:
    with np.errstate(all="ignore"):
        sizes = np.abs(np.stack(list(samples.values())).astype(np.float64))
        filled = np.isfinite(sizes) & (sizes > 0)
        sizes = np.where(filled, sizes, 0)
        count = np.maximum(filled.sum(axis=1), 1)
        logs = np.where(filled, np.log2(np.where(filled, sizes, 1)), 0)
        mean = (logs.sum(axis=1) / count)[:, None]
        spread = np.sqrt((np.where(filled, logs - mean, 0) ** 2).sum(axis=1) / count)
        # np.median would import numpy.ma, which costs as much as everything here.
        middle = np.exp2(np.sort(np.where(filled, logs, mean), axis=1)[:, sizes.shape[1] // 2])
        evenness = np.where(filled.any(axis=1), sizes.mean(axis=1) / np.sqrt((sizes**2).mean(axis=1)), 0)
    columns: list[npt.NDArray[np.float64]] = [spread, evenness, middle]
    return {name: _Sampled(*row) for name, row in zip(samples, np.stack(columns, axis=1).tolist(), strict=True)}


def _wide(facts: TensorFacts, sampled: _Sampled) -> bool:
    return sampled.spread > WIDE.get(facts.info.dtype, np.inf)


def _lonely(specimen: RawAdapter, facts: dict[str, TensorFacts], suspects: list[str]) -> dict[str, tuple[int, float]]:
    """Tensors with few values above a wide gap: how many, and how wide."""
    assert specimen.weights is not None
    gaps_by_name: dict[str, tuple[int, float]] = {}
    with TensorReader(specimen.weights) as reader:
        for name in suspects:
            sizes = np.abs(reader.read(facts[name].info)).ravel()
            top = np.sort(np.partition(sizes, -min(17, sizes.size))[-17:])[::-1].astype(np.float64)
            gaps = top[:-1] / np.maximum(top[1:], 1e-30)
            if gaps.max(initial=0) > GAP:
                gaps_by_name[name] = int(gaps.argmax()) + 1, float(gaps.max())
    return gaps_by_name


def _outliers(facts: dict[str, TensorFacts], lonely: dict[str, tuple[int, float]]) -> Iterable[Finding]:
    if lonely:
        count, gap = (
            sum(count_and_gap[0] for count_and_gap in lonely.values()),
            max(count_and_gap[1] for count_and_gap in lonely.values()),
        )
        largest = max(facts[name].largest for name in lonely)
        yield finding(
            "L207",
            f"{count} values up to {largest:.3g}, {gap:.2g} times the next, "
            f"in {some(list(lonely), len(facts), 'tensors')}",
            expected="the largest values close to one another",
            facts={"values": count, "gap": gap, "largest": largest},
            severity="reject" if gap > GAP_ABSURD or largest > HUGE else None,
        )


def _garbled(
    facts: dict[str, TensorFacts], sampled: dict[str, _Sampled], a: set[str], lonely: set[str]
) -> Iterable[Finding]:
    wide = [name for name, distribution in sampled.items() if _wide(facts[name], distribution)]
    huge = [name for name in sampled if facts[name].largest > HUGE and name not in lonely]
    # B after one step of Adam has one size; A keeps the variety it started with, unless bits are read as another type.
    same = [
        name
        for name, distribution in sampled.items()
        if name in a
        and distribution.alike > ALIKE
        and 0.5 < facts[name].largest < 2
        and facts[name].info.dtype == "F16"
    ]
    garbled = [name for name in sampled if name in {*wide, *huge, *same}]
    if garbled:
        why = (
            f"sizes spread over {2 * sampled[wide[0]].spread:.0f} powers of two" if wide
            else f"values up to {max(facts[name].largest for name in huge):.2g}" if huge
            else "all values lie near 1 in size, as BF16 does when it is read as F16"
        )  # fmt: skip
        yield finding(
            "L201",
            f"{why} in {some(garbled, len(sampled), 'tensors')}",
            expected="sizes within a few powers of two of one another, as initialised and trained",
            facts={"wide": len(wide), "huge": len(huge), "same": len(same), "tensors": len(garbled)},
        )


def _lost(facts: dict[str, TensorFacts], b: set[str]) -> Iterable[Finding]:
    """Values of B that a coarse type made zero."""
    underflowed = [
        name
        for name in facts
        if name in b and facts[name].info.dtype in _COARSE and 0.5 * facts[name].count < facts[name].zeros
        and facts[name].zeros < facts[name].count and not facts[name].zero_run[1]
    ]  # fmt: skip
    if underflowed:
        share = max(facts[name].zeros / facts[name].count for name in underflowed)
        yield finding(
            "L217",
            f"up to {share:.0%} of the values became zero as {facts[underflowed[0]].info.dtype} "
            f"in {some(underflowed, len(b), 'lora_B tensors')}",
            facts={"tensors": len(underflowed), "share": share},
            severity="warn" if share > 0.95 else None,
        )
