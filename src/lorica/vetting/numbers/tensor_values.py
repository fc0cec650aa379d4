"""Are an adapter's values what training leaves: finite, varied, unclipped, whole, and each layer's own?"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import LoraModule, TensorMap
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.numbers.distributions import check_distributions
from lorica.vetting.numbers.module_updates import ModuleUpdate
from lorica.vetting.numbers.scan import ZERO_RUN_BYTES, TensorFacts, in_tensors
from lorica.vetting.wording import shown, some

# Saved modules that nothing can come of when they are constant; others may start at zero and stay there unused.
_HEAD = re.compile(r"\b(lm_head|score|classifier|embed_tokens|wte|embed_out)\b")
_CLASSIFIES = re.compile(r"\b(score|classifier)\b")


def check_values(
    adapter: RawAdapter, tensor_map: TensorMap, tensor_facts: dict[str, TensorFacts], updates: dict[str, ModuleUpdate]
) -> list[Finding]:
    """Findings about the tensors' values, one for each kind of trouble."""
    tensors = list(tensor_facts.values())
    factors = [tensor for tensor in tensors if tensor.side]
    dense_factors = [tensor for tensor in factors if not tensor.embedding]
    saved_tensors = [tensor_facts[name] for saved_names in tensor_map.saved.values() for name in saved_names]
    checks = (
        check_finite(tensors),
        _unreadable(factors),
        _zeros(tensors, dense_factors),
        _constant(factors, saved_tensors),
        _components({path: update for path, update in updates.items() if not tensor_map.modules[path].embedding}),
        _saturated(tensors),
        check_distributions(adapter, dense_factors, len(tensor_facts)),
        _copies(tensor_map, tensor_facts),
        _magnitudes([tensor_facts[module.magnitude] for module in tensor_map.modules.values() if module.magnitude]),
    )
    return [problem for problems in checks for problem in problems]


def check_finite(tensors: Sequence[TensorFacts]) -> Iterable[Finding]:
    """L200: values that are no numbers."""
    broken = [tensor for tensor in tensors if tensor.broken]
    if broken:
        nan_count, infinity_count = sum(tensor.nans for tensor in broken), sum(tensor.infinities for tensor in broken)
        actual = f"{nan_count} NaN and {infinity_count} infinite values {in_tensors(broken, len(tensors))}"
        yield finding("L200", actual, facts={"nans": nan_count, "infinities": infinity_count, "tensors": len(broken)})


def _unreadable(factors: Sequence[TensorFacts]) -> Iterable[Finding]:
    unreadable = sorted((tensor for tensor in factors if not tensor.readable), key=lambda tensor: tensor.name)
    if unreadable:
        dtypes = sorted({tensor.info.dtype for tensor in unreadable})
        yield finding("L219", f"{', '.join(dtypes)} {in_tensors(unreadable, len(factors))}", facts={"types": dtypes})


def _zeros(tensors: Sequence[TensorFacts], factors: Sequence[TensorFacts]) -> Iterable[Finding]:
    """Zeros that begin or end in the middle of things: what a stopped copy or a hole in a file leaves."""
    # Rows that are zero in several tensors alike are outputs that a fused layer does not adapt.
    patterns = Counter((tensor.info.shape, tensor.zero_run) for tensor in factors if tensor.zero_run[1])

    def is_structural(tensor: TensorFacts) -> bool:
        return _is_of_rows(tensor) and patterns[tensor.info.shape, tensor.zero_run] > 1

    end_bytes, zero_tensors = 0, 0
    partial: TensorFacts | None = None
    for tensor in sorted(tensors, key=lambda tensor: (tensor.info.stop, tensor.name), reverse=True):
        if not tensor.count:
            continue
        if not tensor.side or tensor.embedding or not tensor.zeros:
            break
        if tensor.zeros < tensor.count:
            partial = tensor if tensor.zero_tail else None
            end_bytes += tensor.zero_tail * tensor.value_bytes
            break
        end_bytes += tensor.info.stop - tensor.info.start
        zero_tensors += 1
    ends_in_zeros = partial is not None and end_bytes >= ZERO_RUN_BYTES and not _by_chance(partial)
    if partial is not None and ends_in_zeros and (zero_tensors or not is_structural(partial)):
        actual = f"the last {end_bytes} bytes are zeros, from inside tensor {shown(partial.name)} on"
        yield finding("L202", actual, facts={"bytes": end_bytes, "tensors": zero_tensors + 1})
    yield from _blocks(factors, partial, is_structural)


def _blocks(
    factors: Sequence[TensorFacts], partial: TensorFacts | None, is_structural: Callable[[TensorFacts], bool]
) -> Iterable[Finding]:
    """Stretches of one value inside a tensor. partial: the one whose zeros go on to the end of the file."""
    zero_blocks = [
        tensor
        for tensor in factors
        if tensor is not partial
        and 0 < tensor.zero_run[1] < tensor.count
        and not _by_chance(tensor)
        and not is_structural(tensor)
        and not (tensor.side == "a" and _is_of_rows(tensor))
    ]
    equal_blocks = [
        tensor
        for tensor in factors
        if tensor.equal_run and not tensor.constant and not tensor.broken and tensor not in zero_blocks
    ]
    if zero_blocks or equal_blocks:
        lengths = [tensor.zero_run[1] * tensor.value_bytes for tensor in zero_blocks]
        longest = max(lengths or [tensor.equal_run * tensor.value_bytes for tensor in equal_blocks])
        blocks = zero_blocks + equal_blocks
        repeated = "zeros" if zero_blocks else "one value"
        actual = f"{longest} bytes of {repeated} in a row {in_tensors(blocks, len(factors))}"
        yield finding("L203", actual, facts={"tensors": len(blocks), "zeros": len(zero_blocks), "bytes": longest})


def _by_chance(tensor: TensorFacts) -> bool:
    """Whether the longest stretch of zeros is what so many zeros make anyway: pruned tensors, coarse types."""
    length = max(tensor.zero_run[1], tensor.zero_tail)
    zero_share = (tensor.zeros - length) / max(tensor.count - length, 1)
    return zero_share > 0 and length * math.log(zero_share) + math.log(tensor.count) > -14


def _is_of_rows(tensor: TensorFacts) -> bool:
    """Whether the longest stretch of zeros begins and ends with a row."""
    row_length = tensor.count // max(tensor.info.shape[0], 1)
    return tensor.zero_run[0] % row_length == 0 and tensor.zero_run[1] % row_length == 0


def _constant(factors: Sequence[TensorFacts], saved_tensors: Sequence[TensorFacts]) -> Iterable[Finding]:
    constant = [tensor for tensor in factors if tensor.constant and not tensor.zeros and tensor.count >= 16]
    constant_saved = [tensor for tensor in saved_tensors if tensor.constant and len(tensor.info.shape) > 1]
    if constant:
        actual = f"every value is {constant[0].largest:.4g} in size {in_tensors(constant, len(factors))}"
        facts = {"tensors": len(constant), "a": sum(tensor.side == "a" for tensor in constant)}
        yield finding("L204", actual, expected="values that differ", facts=facts)
    elif constant_saved:
        location_text = in_tensors(constant_saved, len(saved_tensors), "saved tensors")
        actual = f"every value is {constant_saved[0].largest:.4g} in size {location_text}"
        if any(_CLASSIFIES.search(tensor.name) for tensor in constant_saved):
            actual += ": all rows get one answer"
        severity: Severity | None = None if any(_HEAD.search(tensor.name) for tensor in constant_saved) else "warn"
        facts = {"tensors": len(constant_saved), "a": 0}
        yield finding("L204", actual, expected="trained weights", facts=facts, severity=severity)


def _components(updates: dict[str, ModuleUpdate]) -> Iterable[Finding]:
    constant_modules = [module_path for module_path, update in updates.items() if 0 < update.flat < update.rank]
    repeated = [module_path for module_path, update in updates.items() if update.repeated and update.flat < update.rank]
    degenerate = [module_path for module_path in updates if module_path in {*constant_modules, *repeated}]
    if degenerate:
        description = "constant" if constant_modules else "equal to one another"
        actual = f"rank components are {description} in {some(degenerate, len(updates))}"
        facts = {"constant": len(constant_modules), "repeated": len(repeated), "modules": len(updates)}
        yield finding("L205", actual, facts=facts)


def _saturated(tensors: Sequence[TensorFacts]) -> Iterable[Finding]:
    saturated = [tensor for tensor in tensors if tensor.saturated]
    if saturated:
        saturated_count = sum(tensor.saturated for tensor in saturated)
        saturated_share = max(tensor.saturated / tensor.count for tensor in saturated)
        location_text = in_tensors(saturated, len(tensors))
        actual = f"{saturated_count} values are as large as {saturated[0].info.dtype} can be {location_text}"
        facts = {"values": saturated_count, "share": saturated_share, "tensors": len(saturated)}
        severity: Severity | None = "reject" if saturated_share > 0.001 else None
        yield finding("L206", actual, facts=facts, severity=severity)


def _copies(tensor_map: TensorMap, tensor_facts: dict[str, TensorFacts]) -> Iterable[Finding]:
    """The same tensors under several modules."""
    modules_by_digest: dict[bytes, list[LoraModule]] = {}
    starts: dict[bytes, list[LoraModule]] = {}
    for module in tensor_map.pairs:
        a_facts, b_facts = tensor_facts[module.a], tensor_facts[module.b]
        if a_facts.count < 16 or a_facts.constant:
            continue
        starts.setdefault(a_facts.digest, []).append(module)
        if b_facts.zeros < b_facts.count:
            modules_by_digest.setdefault(a_facts.digest + b_facts.digest, []).append(module)
    copied = [group for group in modules_by_digest.values() if len(group) > 1]
    if copied:
        module_paths = [module.path for group in copied for module in group]
        # Some architectures use one block several times.
        shared = all("shared" in module_path for module_path in module_paths)
        actual = f"lora_A and lora_B are the same as another module's in {some(module_paths, len(tensor_map.modules))}"
        facts = {"modules": len(module_paths), "groups": len(copied)}
        severity: Severity | None = "warn" if shared else None
        yield finding("L208", actual, facts=facts, severity=severity)
        return
    common = [group for group in starts.values() if len(group) > 1]
    if common:
        module_paths = [module.path for group in common for module in group]
        across = any(len({module.layer for module in group}) > 1 for group in common)
        actual = f"lora_A is the same in {some(module_paths, len(tensor_map.modules))}"
        facts = {"modules": len(module_paths), "groups": len(common), "across": across}
        if across:
            actual += ", across layers"
            yield finding("L209", actual, expected="each layer's own", facts=facts, severity="warn")
        else:
            yield finding("L209", actual, facts=facts)


def _magnitudes(magnitudes: Sequence[TensorFacts]) -> Iterable[Finding]:
    zero_magnitudes = [tensor for tensor in magnitudes if tensor.is_zero]
    odd_magnitudes = []
    for tensor in magnitudes:
        has_negatives = tensor.sample is not None and float((tensor.sample < 0).mean()) > 0.1
        if not tensor.is_zero and (has_negatives or (tensor.constant and tensor.count >= 16)):
            odd_magnitudes.append(tensor)
    if zero_magnitudes or odd_magnitudes:
        description = "are zero" if zero_magnitudes else "are negative or all the same"
        actual = f"magnitudes {description} {in_tensors(zero_magnitudes or odd_magnitudes, len(magnitudes), 'modules')}"
        facts = {"zero": len(zero_magnitudes), "odd": len(odd_magnitudes)}
        yield finding("L220", actual, facts=facts, severity=None if zero_magnitudes else "warn")
