"""Are an adapter's values what training leaves: finite, varied, unclipped, whole, and each layer's own?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from lorica.adapters.arrays import TensorReader
from lorica.adapters.layout import Factors, Layout
from lorica.adapters.specimen import Specimen
from lorica.vetting.findings import Finding, finding
from lorica.vetting.scan import ZERO_RUN_BYTES, TensorFacts
from lorica.vetting.sizes import where
from lorica.vetting.spectra import Measure

# No factor of a trained pair holds such a value; a base's activations do not exceed it either.
HUGE = 1e4
# Standard deviation of log2 |x|: 1.2 to 1.6 for uniform and normal values, up to 5 for B under plain SGD; random
# bytes give 8 in F16 (5 exponent bits) and 70 in BF16 and F32 (8).
WIDE = {"F16": 7.0, "BF16": 14.0, "F32": 14.0, "F64": 14.0}
# A value so many times the middle one makes the tensor worth a second look; a gap so wide above all others is none
# that training leaves.
FAR, GAP, GAP_ABSURD = 300.0, 32.0, 3000.0
# Mean |x| over root mean square: 0.87 for uniform, 0.80 for normal values, 1 for one size with two signs.
ALIKE = 0.97
_COARSE = {"F16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


def check_values(
    specimen: Specimen, layout: Layout, facts: dict[str, TensorFacts], measures: dict[str, Measure]
) -> list[Finding]:
    """Findings about the tensors' values, one for each kind of trouble."""
    a = {each.a for each in layout.modules.values() if each.a}
    b = {each.b for each in layout.modules.values() if each.b}
    sparse = {name for each in layout.modules.values() if each.embedding for name in (each.a, each.b)}
    checks = (
        _not_finite(facts),
        _unreadable({name: facts[name] for name in a | b}),
        _zeros(layout, facts, (a | b) - sparse, a),
        _constant(facts, a, b),
        _components({path: each for path, each in measures.items() if not layout.modules[path].embedding}),
        _saturated(facts),
        _shapes_of_values(specimen, facts, a - sparse, b - sparse),
        _copies(layout, facts),
        _magnitudes(layout, facts),
    )
    return [each for found in checks for each in found]


def _not_finite(facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    hit = [name for name, each in facts.items() if each.broken]
    if hit:
        nans, infinite = (sum(getattr(facts[name], kind) for name in hit) for kind in ("nans", "infinities"))
        yield finding(
            "L200",
            f"{nans} NaN and {infinite} infinite values {where(hit, len(facts), 'tensors')}",
            expected="finite values only",
            facts={"nans": nans, "infinities": infinite, "tensors": len(hit)},
        )


def _unreadable(facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    hit = [name for name, each in facts.items() if not each.readable]
    if hit:
        types = sorted({facts[name].info.dtype for name in hit})
        yield finding("L219", f"{', '.join(types)} {where(sorted(hit), len(facts), 'tensors')}", facts={"types": types})


def _zeros(layout: Layout, facts: dict[str, TensorFacts], factors: set[str], a: set[str]) -> Iterable[Finding]:
    """Zeros that begin or end in the middle of things: what a stopped copy or a hole in a file leaves."""
    order = sorted((each.info.stop, name) for name, each in facts.items() if each.count)
    tail, partial, spanned = 0, "", 0
    for _, name in reversed(order):
        each = facts[name]
        if name not in factors or not each.zeros:
            break
        if each.zeros == each.count:
            tail += each.info.stop - each.info.start
            spanned += 1
            continue
        partial = name if each.zero_tail else ""
        tail += each.zero_tail * _width(each)
        break
    rows = _zero_rows(layout, facts)
    if partial and tail >= ZERO_RUN_BYTES and (spanned or not _structural(partial, facts, rows)):
        yield finding(
            "L202",
            f"the last {tail} bytes are zeros, from inside tensor {ascii(partial)[1:-1]} on",
            expected="trained values to the end",
            facts={"bytes": tail, "tensors": spanned + 1},
        )
    hit = [
        name
        for name in facts
        if name in factors
        and name != partial
        and 0 < facts[name].zero_run[1] < facts[name].count
        and not _structural(name, facts, rows)
        and not (name in a and _whole_rows(facts[name]))
    ]
    if hit:
        longest = max(facts[name].zero_run[1] * _width(facts[name]) for name in hit)
        yield finding(
            "L203",
            f"{longest} bytes of zeros in a row {where(hit, len(factors), 'tensors')}",
            expected="no stretch of zeros in a trained tensor",
            facts={"tensors": len(hit), "bytes": longest},
        )


def _width(each: TensorFacts) -> int:
    return (each.info.stop - each.info.start) // each.count


def _whole_rows(each: TensorFacts) -> bool:
    row = each.count // max(each.info.shape[0], 1)
    return each.zero_run[0] % row == 0 and each.zero_run[1] % row == 0


def _zero_rows(layout: Layout, facts: dict[str, TensorFacts]) -> dict[tuple[object, ...], int]:
    """How often the same rows are zero in the same kind of tensor: outputs that a fused layer does not adapt."""
    count: dict[tuple[object, ...], int] = {}
    for module in layout.modules.values():
        for name in (module.a, module.b):
            if name and facts[name].zero_run[1]:
                key = _pattern(facts[name])
                count[key] = count.get(key, 0) + 1
    return count


def _pattern(each: TensorFacts) -> tuple[object, ...]:
    return (each.info.shape, each.zero_run)


def _structural(name: str, facts: dict[str, TensorFacts], rows: dict[tuple[object, ...], int]) -> bool:
    each = facts[name]
    return _whole_rows(each) and rows.get(_pattern(each), 0) > 1


def _constant(facts: dict[str, TensorFacts], a: set[str], b: set[str]) -> Iterable[Finding]:
    hit = [name for name in facts if name in a | b and facts[name].constant and facts[name].zeros == 0]
    hit = [name for name in hit if facts[name].count >= 16]
    if hit:
        yield finding(
            "L204",
            f"every value is {facts[hit[0]].largest:.4g} in size {where(hit, len(a | b), 'tensors')}",
            expected="values that differ",
            facts={"tensors": len(hit), "a": sum(name in a for name in hit)},
        )


def _components(measures: dict[str, Measure]) -> Iterable[Finding]:
    flat = [path for path, each in measures.items() if 0 < each.flat < each.rank]
    repeated = [path for path, each in measures.items() if each.repeated and each.flat < each.rank]
    hit = [path for path in measures if path in {*flat, *repeated}]
    if hit:
        what = "constant" if flat else "equal to one another"
        yield finding(
            "L205",
            f"rank components are {what} {where(hit, len(measures))}",
            expected="components that differ",
            facts={"constant": len(flat), "repeated": len(repeated), "modules": len(measures)},
        )


def _saturated(facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    hit = [name for name, each in facts.items() if each.saturated]
    if hit:
        count = sum(facts[name].saturated for name in hit)
        share = max(facts[name].saturated / facts[name].count for name in hit)
        yield finding(
            "L206",
            f"{count} values are as large as {facts[hit[0]].info.dtype} can be {where(hit, len(facts), 'tensors')}",
            expected="none",
            facts={"values": count, "share": share, "tensors": len(hit)},
            severity="reject" if share > 0.001 else None,
        )


def _shapes_of_values(specimen: Specimen, facts: dict[str, TensorFacts], a: set[str], b: set[str]) -> Iterable[Finding]:
    """Judge the distributions by a sample of every factor."""
    samples = {
        name: each.sample
        for name, each in facts.items()
        if name in a | b and each.sample is not None and each.largest > 0
    }
    names = list(samples)
    if not names:
        return
    with np.errstate(all="ignore"):
        sizes = np.abs(np.stack(list(samples.values())).astype(np.float64))
        filled = np.isfinite(sizes) & (sizes > 0)
        count = np.maximum(filled.sum(axis=1), 1)
        logs = np.where(filled, np.log2(np.where(filled, sizes, 1)), 0)
        middle = logs.sum(axis=1) / count
        spread = np.sqrt((np.where(filled, logs - middle[:, None], 0) ** 2).sum(axis=1) / count)
        squares = np.where(filled, sizes, 0)
        alike = squares.mean(axis=1) / np.sqrt((squares**2).mean(axis=1))
        largest = np.array([facts[name].largest for name in names])
        far = largest > FAR * np.exp2(middle)
    yield from _garbled(names, facts, spread, alike, far, a)
    suspects = [name for i, name in enumerate(names) if far[i] and not facts[name].broken and spread[i] < 7]
    yield from _lonely(specimen, facts, suspects)
    lost = [
        name
        for i, name in enumerate(names)
        if name in b and facts[name].info.dtype in _COARSE and facts[name].zeros > 0.5 * facts[name].count
        and not facts[name].zero_run[1]
    ]  # fmt: skip
    if lost:
        share = max(facts[name].zeros / facts[name].count for name in lost)
        yield finding(
            "L217",
            f"up to {share:.0%} of the values became zero as {facts[lost[0]].info.dtype} "
            f"{where(lost, len(b), 'lora_B tensors')}",
            facts={"tensors": len(lost), "share": share},
            severity="warn" if share > 0.95 else None,
        )


def _garbled(
    names: list[str],
    facts: dict[str, TensorFacts],
    spread: npt.NDArray[np.float64],
    alike: npt.NDArray[np.float64],
    far: npt.NDArray[np.bool_],
    a: set[str],
) -> Iterable[Finding]:
    wide = {name: float(spread[i]) for i, name in enumerate(names) if spread[i] > WIDE.get(facts[name].info.dtype, 99)}
    huge = [name for i, name in enumerate(names) if facts[name].largest > HUGE and not far[i]]
    # B after one step of Adam has one size; A keeps the variety it started with, unless bits are read as another type.
    same = [name for i, name in enumerate(names) if name in a and alike[i] > ALIKE and facts[name].largest > 0.5]
    same = [name for name in same if facts[name].largest < 2 and facts[name].info.dtype == "F16"]
    hit = [name for name in names if name in wide or name in huge or name in same]
    if hit:
        first = facts[hit[0]]
        why = (
            f"sizes spread over {2 * wide[hit[0]]:.0f} powers of two" if hit[0] in wide
            else f"values up to {first.largest:.2g}" if hit[0] in huge
            else "all values lie near 1 in size, as BF16 does when it is read as F16"
        )  # fmt: skip
        yield finding(
            "L201",
            f"{why} {where(hit, len(names), 'tensors')}",
            expected="sizes within a few powers of two of one another, as initialised and trained",
            facts={"wide": len(wide), "huge": len(huge), "same": len(same), "tensors": len(hit)},
        )


def _lonely(specimen: Specimen, facts: dict[str, TensorFacts], suspects: list[str]) -> Iterable[Finding]:
    """Few values with a wide gap to all others: flipped bits."""
    assert specimen.weights is not None
    hit: dict[str, tuple[int, float]] = {}
    with TensorReader(specimen.weights) as reader:
        for name in suspects:
            sizes = np.abs(reader.read(facts[name].info)).ravel()
            top = np.sort(np.partition(sizes, -min(17, sizes.size))[-17:])[::-1].astype(np.float64)
            gaps = top[:-1] / np.maximum(top[1:], 1e-30)
            if top[0] > 0 and gaps.max(initial=0) > GAP:
                hit[name] = int(gaps.argmax()) + 1, float(gaps.max())
    if hit:
        count, gap = sum(each[0] for each in hit.values()), max(each[1] for each in hit.values())
        largest = max(facts[name].largest for name in hit)
        yield finding(
            "L207",
            f"{count} values up to {largest:.3g}, {gap:.2g} times the next, {where(list(hit), len(facts), 'tensors')}",
            expected="the largest values close to one another",
            facts={"values": count, "gap": gap, "largest": largest},
            severity="reject" if gap > GAP_ABSURD or largest > HUGE else None,
        )


def _copies(layout: Layout, facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    """The same tensors under several modules."""
    pairs: dict[bytes, list[Factors]] = {}
    starts: dict[bytes, list[Factors]] = {}
    for module in layout.pairs:
        a, b = facts[module.a], facts[module.b]
        if a.count < 16 or a.constant:
            continue
        starts.setdefault(a.digest, []).append(module)
        if b.zeros < b.count:
            pairs.setdefault(a.digest + b.digest, []).append(module)
    copied = [group for group in pairs.values() if len(group) > 1]
    if copied:
        paths = [each.path for group in copied for each in group]
        # Some architectures use one block several times.
        shared = all("shared" in path for path in paths)
        yield finding(
            "L208",
            f"lora_A and lora_B are the same as another module's {where(paths, len(layout.modules))}",
            expected="trained layers that differ",
            facts={"modules": len(paths), "groups": len(copied)},
            severity="warn" if shared else None,
        )
        return
    common = [group for group in starts.values() if len(group) > 1]
    if common:
        paths = [each.path for group in common for each in group]
        across = any(len({each.layer for each in group}) > 1 for group in common)
        yield finding(
            "L209",
            f"lora_A is the same {where(paths, len(layout.modules))}" + (", across layers" if across else ""),
            expected="each layer's own" if across else "",
            facts={"modules": len(paths), "groups": len(common), "across": across},
            severity="warn" if across else None,
        )


def _magnitudes(layout: Layout, facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    names = [each.magnitude for each in layout.modules.values() if each.magnitude]
    zero = [name for name in names if facts[name].count and facts[name].zeros == facts[name].count]
    odd = []
    for name in names:
        sample = facts[name].sample
        negative = sample is not None and float((sample < 0).mean()) > 0.1
        if name not in zero and (negative or (facts[name].constant and facts[name].count >= 16)):
            odd.append(name)
    if zero or odd:
        what = "are zero" if zero else "are negative or all the same"
        yield finding(
            "L220",
            f"magnitudes {what} {where(zero or odd, len(names))}",
            expected="the lengths of the base weight's rows: positive, and different",
            facts={"zero": len(zero), "odd": len(odd)},
            severity=None if zero else "warn",
        )
