"""Are an adapter's values what training leaves: finite, varied, unclipped, whole, and each layer's own?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import LoraModule, TensorMap
from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.distributions import check_distributions
from lorica.vetting.numbers.scan import ZERO_RUN_BYTES, TensorFacts
from lorica.vetting.numbers.spectra import UpdateSpectrum
from lorica.vetting.wording import some

# Saved modules that nothing can come of when they are constant; others may start at zero and stay there unused.
_HEAD = re.compile(r"\b(lm_head|score|classifier|embed_tokens|wte|embed_out)\b")


def check_values(
    specimen: RawAdapter, layout: TensorMap, facts: dict[str, TensorFacts], measures: dict[str, UpdateSpectrum]
) -> list[Finding]:
    """Findings about the tensors' values, one for each kind of trouble."""
    a = {module.a for module in layout.modules.values() if module.a}
    b = {module.b for module in layout.modules.values() if module.b}
    sparse = {name for module in layout.modules.values() if module.embedding for name in (module.a, module.b)}
    checks = (
        _not_finite(facts),
        _unreadable({name: facts[name] for name in a | b}),
        _zeros(layout, facts, (a | b) - sparse, a),
        _constant(facts, a, b, [name for names in layout.saved.values() for name in names]),
        _components({path: measured for path, measured in measures.items() if not layout.modules[path].embedding}),
        _saturated(facts),
        check_distributions(specimen, facts, a - sparse, b - sparse),
        _copies(layout, facts),
        _magnitudes(layout, facts),
    )
    return [problem for problems in checks for problem in problems]


def _not_finite(facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    broken = [name for name, tensor in facts.items() if tensor.broken]
    if broken:
        nans, infinite = (sum(getattr(facts[name], field) for name in broken) for field in ("nans", "infinities"))
        yield finding(
            "L200",
            f"{nans} NaN and {infinite} infinite values in {some(broken, len(facts), 'tensors')}",
            expected="finite values only",
            facts={"nans": nans, "infinities": infinite, "tensors": len(broken)},
        )


def _unreadable(facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    unreadable = [name for name, tensor in facts.items() if not tensor.readable]
    if unreadable:
        types = sorted({facts[name].info.dtype for name in unreadable})
        yield finding(
            "L219", f"{', '.join(types)} in {some(sorted(unreadable), len(facts), 'tensors')}", facts={"types": types}
        )


def _zeros(layout: TensorMap, facts: dict[str, TensorFacts], factors: set[str], a: set[str]) -> Iterable[Finding]:
    """Zeros that begin or end in the middle of things: what a stopped copy or a hole in a file leaves."""
    order = sorted((tensor.info.stop, name) for name, tensor in facts.items() if tensor.count)
    tail, partial, spanned = 0, "", 0
    for _, name in reversed(order):
        tensor = facts[name]
        if name not in factors or not tensor.zeros:
            break
        if tensor.zeros == tensor.count:
            tail += tensor.info.stop - tensor.info.start
            spanned += 1
            continue
        partial = name if tensor.zero_tail else ""
        tail += tensor.zero_tail * _width(tensor)
        break
    rows = _zero_rows(layout, facts)
    if (
        partial
        and tail >= ZERO_RUN_BYTES
        and not _by_chance(facts[partial])
        and (spanned or not _structural(partial, facts, rows))
    ):
        actual = f"the last {tail} bytes are zeros, from inside tensor {ascii(partial)[1:-1]} on"
        expected = "trained values to the end"
        yield finding("L202", actual, expected=expected, facts={"bytes": tail, "tensors": spanned + 1})
    yield from _blocks(facts, factors, {partial}, a, rows)


def _blocks(
    facts: dict[str, TensorFacts],
    factors: set[str],
    reported: set[str],
    a: set[str],
    rows: dict[tuple[object, ...], int],
) -> Iterable[Finding]:
    """Stretches of one value inside a tensor. known: tensors that have their finding already."""
    zero_blocks = [
        name
        for name in facts
        if name in factors
        and name not in reported
        and 0 < facts[name].zero_run[1] < facts[name].count
        and not _by_chance(facts[name])
        and not _structural(name, facts, rows)
        and not (name in a and _whole_rows(facts[name]))
    ]
    same = [
        name
        for name in facts
        if name in factors
        and facts[name].equal_run
        and not (facts[name].constant or facts[name].broken or name in zero_blocks)
    ]
    if zero_blocks or same:
        longest = max(
            [facts[name].zero_run[1] * _width(facts[name]) for name in zero_blocks]
            or [facts[name].equal_run * _width(facts[name]) for name in same]
        )
        yield finding(
            "L203",
            f"{longest} bytes of {'zeros' if zero_blocks else 'one value'} in a row "
            f"in {some(zero_blocks + same, len(factors), 'tensors')}",
            expected="no such stretch in a trained tensor",
            facts={"tensors": len(zero_blocks) + len(same), "zeros": len(zero_blocks), "bytes": longest},
        )


def _by_chance(tensor: TensorFacts) -> bool:
    """Whether the longest stretch of zeros is what so many zeros make anyway: pruned tensors, coarse types."""
    length = max(tensor.zero_run[1], tensor.zero_tail)
    share = (tensor.zeros - length) / max(tensor.count - length, 1)
    return share > 0 and length * math.log(share) + math.log(tensor.count) > -14


def _width(tensor: TensorFacts) -> int:
    return (tensor.info.stop - tensor.info.start) // tensor.count


def _whole_rows(tensor: TensorFacts) -> bool:
    row = tensor.count // max(tensor.info.shape[0], 1)
    return tensor.zero_run[0] % row == 0 and tensor.zero_run[1] % row == 0


def _zero_rows(layout: TensorMap, facts: dict[str, TensorFacts]) -> dict[tuple[object, ...], int]:
    """How often the same rows are zero in the same kind of tensor: outputs that a fused layer does not adapt."""
    count: dict[tuple[object, ...], int] = {}
    for module in layout.modules.values():
        for name in (module.a, module.b):
            if name and facts[name].zero_run[1]:
                key = _pattern(facts[name])
                count[key] = count.get(key, 0) + 1
    return count


def _pattern(tensor: TensorFacts) -> tuple[object, ...]:
    return (tensor.info.shape, tensor.zero_run)


def _structural(name: str, facts: dict[str, TensorFacts], rows: dict[tuple[object, ...], int]) -> bool:
    tensor = facts[name]
    return _whole_rows(tensor) and rows.get(_pattern(tensor), 0) > 1


def _constant(facts: dict[str, TensorFacts], a: set[str], b: set[str], saved_names: list[str]) -> Iterable[Finding]:
    constant = [name for name in facts if name in a | b and facts[name].constant and facts[name].zeros == 0]
    constant = [name for name in constant if facts[name].count >= 16]
    saved = [name for name in saved_names if facts[name].constant and len(facts[name].info.shape) > 1]
    if constant:
        yield finding(
            "L204",
            f"every value is {facts[constant[0]].largest:.4g} in size in {some(constant, len(a | b), 'tensors')}",
            expected="values that differ",
            facts={"tensors": len(constant), "a": sum(name in a for name in constant)},
        )
    elif saved:
        yield finding(
            "L204",
            f"every value is {facts[saved[0]].largest:.4g} in size in {some(saved, len(saved_names), 'saved tensors')}",
            expected="trained weights",
            facts={"tensors": len(saved), "a": 0},
            severity=None if any(_HEAD.search(name) for name in saved) else "warn",
        )


def _components(measures: dict[str, UpdateSpectrum]) -> Iterable[Finding]:
    flat = [path for path, measured in measures.items() if 0 < measured.flat < measured.rank]
    repeated = [path for path, measured in measures.items() if measured.repeated and measured.flat < measured.rank]
    degenerate = [path for path in measures if path in {*flat, *repeated}]
    if degenerate:
        description = "constant" if flat else "equal to one another"
        actual = f"rank components are {description} in {some(degenerate, len(measures))}"
        facts = {"constant": len(flat), "repeated": len(repeated), "modules": len(measures)}
        yield finding("L205", actual, expected="components that differ", facts=facts)


def _saturated(facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    saturated = [name for name, tensor in facts.items() if tensor.saturated]
    if saturated:
        count = sum(facts[name].saturated for name in saturated)
        share = max(facts[name].saturated / facts[name].count for name in saturated)
        yield finding(
            "L206",
            f"{count} values are as large as {facts[saturated[0]].info.dtype} can be "
            f"in {some(saturated, len(facts), 'tensors')}",
            expected="none",
            facts={"values": count, "share": share, "tensors": len(saturated)},
            severity="reject" if share > 0.001 else None,
        )


def _copies(layout: TensorMap, facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    """The same tensors under several modules."""
    pairs: dict[bytes, list[LoraModule]] = {}
    starts: dict[bytes, list[LoraModule]] = {}
    for module in layout.pairs:
        a, b = facts[module.a], facts[module.b]
        if a.count < 16 or a.constant:
            continue
        starts.setdefault(a.digest, []).append(module)
        if b.zeros < b.count:
            pairs.setdefault(a.digest + b.digest, []).append(module)
    copied = [group for group in pairs.values() if len(group) > 1]
    if copied:
        paths = [module.path for group in copied for module in group]
        # Some architectures use one block several times.
        shared = all("shared" in path for path in paths)
        yield finding(
            "L208",
            f"lora_A and lora_B are the same as another module's in {some(paths, len(layout.modules))}",
            expected="trained layers that differ",
            facts={"modules": len(paths), "groups": len(copied)},
            severity="warn" if shared else None,
        )
        return
    common = [group for group in starts.values() if len(group) > 1]
    if common:
        paths = [module.path for group in common for module in group]
        across = any(len({module.layer for module in group}) > 1 for group in common)
        yield finding(
            "L209",
            f"lora_A is the same in {some(paths, len(layout.modules))}" + (", across layers" if across else ""),
            expected="each layer's own" if across else "",
            facts={"modules": len(paths), "groups": len(common), "across": across},
            severity="warn" if across else None,
        )


def _magnitudes(layout: TensorMap, facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    names = [module.magnitude for module in layout.modules.values() if module.magnitude]
    zero = [name for name in names if facts[name].count and facts[name].zeros == facts[name].count]
    odd = []
    for name in names:
        sample = facts[name].sample
        negative = sample is not None and float((sample < 0).mean()) > 0.1
        if name not in zero and (negative or (facts[name].constant and facts[name].count >= 16)):
            odd.append(name)
    if zero or odd:
        description = "are zero" if zero else "are negative or all the same"
        yield finding(
            "L220",
            f"magnitudes {description} in {some(zero or odd, len(names))}",
            expected="the lengths of the base weight's rows: positive, and different",
            facts={"zero": len(zero), "odd": len(odd)},
            severity=None if zero else "warn",
        )
