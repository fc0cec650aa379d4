"""Each module's own tensors: halves, shapes, ranks, magnitudes and biases, against each other and the config.

A: (rank, inputs, ...) and B: (outputs, rank, ...), further dimensions for convolutions; an embedding's A is
(rank, vocabulary). A module with several experts' parameters holds rank x experts rows.
"""

from __future__ import annotations

import math
from collections import Counter

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.tensor_map import LoraModule, TensorMap
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.target_spec import TargetSpec
from lorica.vetting.wording import figure, listed, some

_NOT_FLOATING = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL", "C64")
# Outside of these the effective scaling is worth a look; both ends are legal.
_USUAL_SCALING = (0.05, 8.0)


def check_pairs(spec: TargetSpec | None, tensor_map: TensorMap) -> list[Finding]:
    """Findings about halves, shapes, ranks, DoRA magnitudes, biases and element types."""
    usable, findings = _shapes(spec, tensor_map)
    findings += _halves(tensor_map) + _types(tensor_map)
    findings += _ranks(spec, tensor_map, usable) + _magnitudes(spec, tensor_map, usable) + _biases(spec, tensor_map)
    if spec is not None:
        findings += _scaling(spec, tensor_map, usable)
    return findings


def usable_pairs(spec: TargetSpec | None, tensor_map: TensorMap) -> list[LoraModule]:
    """Pairs whose factors have sound shapes and stand the right way round."""
    return _shapes(spec, tensor_map)[0]


def _halves(tensor_map: TensorMap) -> list[Finding]:
    half = [module for module in tensor_map.modules.values() if bool(module.a) != bool(module.b)]
    if not half:
        return []
    missing_halves = Counter("lora_A" if module.b else "lora_B" for module in half)
    missing = " and ".join(f"{count} times {tensor_name}" for tensor_name, count in sorted(missing_halves.items()))
    actual = f"{missing} is missing: {some([module.path for module in half], len(tensor_map.modules))}"
    facts = {"modules": len(half), "of": len(tensor_map.modules), **missing_halves}
    return [finding("L110", actual, expected="lora_A and lora_B in every module", facts=facts)]


def _shapes(spec: TargetSpec | None, tensor_map: TensorMap) -> tuple[list[LoraModule], list[Finding]]:
    """The pairs that can be judged further, and what is wrong with the others."""
    shapeless, transposed, unequal, usable = [], [], [], []
    for module in tensor_map.pairs:
        a, b = tensor_map.shape(module.a), tensor_map.shape(module.b)
        if len(a) != len(b) or not 2 <= len(a) <= 5 or 0 in a or 0 in b:
            shapeless.append((module.path, a, b))
        elif _is_transposed(spec, module, a, b):
            transposed.append((module.path, a, b))
        elif a[0] != b[1]:
            unequal.append((module.path, a, b))
        else:
            usable.append(module)
    total = len(tensor_map.modules)
    findings = []
    for code, bad, expected in (
        ("L114", shapeless, "two dimensions (more for convolutions), none of them 0"),
        ("L113", transposed, "lora_A (rank, inputs), lora_B (outputs, rank)"),
        ("L111", unequal, "the first dimension of lora_A equal to the second of lora_B"),
    ):
        if bad:
            module_path, a, b = bad[0]
            actual = f"{some([row[0] for row in bad], total)}: lora_A {list(a)}, lora_B {list(b)}"
            facts = {"modules": len(bad), "of": total, "first": module_path, "a": list(a), "b": list(b)}
            facts |= _empty_and_flat(bad) if code == "L114" else {}
            findings.append(finding(code, actual, expected=expected, facts=facts))
    return usable, findings


def _empty_and_flat(bad: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> dict[str, int]:
    """How many of these modules have a half without values, and one that is flat: what sharded trainers save of
    parameters that nobody gathered."""
    return {
        "empty": sum(0 in a or 0 in b for _, a, b in bad),
        "flat": sum(len(a) == 1 or len(b) == 1 for _, a, b in bad),
    }


def _is_transposed(spec: TargetSpec | None, module: LoraModule, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether the rank stands where inputs and outputs belong."""
    if len(a) != 2 or a[1] != b[0] or (spec is not None and spec.of_parameters(module.path)):
        return False
    rank = None if spec is None else spec.rank(module.path)
    if a[0] == b[1]:  # they agree as they stand: only the config's rank can tell, if it fits the other way
        return rank is not None and a[0] != rank and a[1] == rank
    return a[1] == rank or a[1] < min(a[0], b[1])


def _types(tensor_map: TensorMap) -> list[Finding]:
    factors = tensor_map.factors()
    findings = []
    integers = [tensor_name for tensor_name, info in factors.items() if info.dtype in _NOT_FLOATING]
    if integers:
        wrong = sorted({factors[tensor_name].dtype for tensor_name in integers})
        actual = f"{some(integers, len(factors), 'factors')}: {', '.join(wrong)}"
        facts = {"tensors": len(integers), "of": len(factors), "types": wrong}
        findings.append(finding("L115", actual, expected="F32, BF16 or F16", facts=facts))
    types = Counter(info.dtype for info in factors.values())
    if len(types) > 1 and not integers:
        actual = ", ".join(f"{count} {tensor_name}" for tensor_name, count in types.most_common())
        findings.append(finding("L116", actual, facts={"types": dict(types)}))
    return findings


def _ranks(spec: TargetSpec | None, tensor_map: TensorMap, usable: list[LoraModule]) -> list[Finding]:
    if spec is None:
        return []
    wrong = []
    allowed = {spec.config.r, *spec.config.rank_pattern.values()}
    for module in usable:
        rank = tensor_map.shape(module.a)[0]
        if spec.of_parameters(module.path):
            # rank x experts; which of the module's parameters it is, the file does not say.
            fits = any(rank % allowed_rank == 0 for allowed_rank in allowed)
            expected = spec.config.r
        else:
            configured_rank = spec.rank(module.path)
            fits = rank in allowed if configured_rank is None else rank == configured_rank
            expected = spec.config.r if configured_rank is None else configured_rank
        if not fits:
            wrong.append((module.path, rank, expected))
    if not wrong:
        return []
    tensor_ranks = Counter(rank for _, rank, _ in wrong)
    configured_ranks = Counter(expected for _, _, expected in wrong)
    return [
        finding(
            "L112",
            f"{some([row[0] for row in wrong], len(usable))}: rank {listed(sorted(tensor_ranks))} in the tensors",
            expected=f"rank {listed(sorted(configured_ranks))}, by r and rank_pattern of {CONFIG_NAME}",
            file=CONFIG_NAME,
            facts={
                "modules": len(wrong),
                "of": len(usable),
                "ranks": {str(rank): count for rank, count in tensor_ranks.items()},
                "expected": sorted(configured_ranks),
            },
        )
    ]


def _magnitudes(spec: TargetSpec | None, tensor_map: TensorMap, usable: list[LoraModule]) -> list[Finding]:
    have = [module for module in tensor_map.modules.values() if module.magnitude]
    total, findings = len(tensor_map.modules), []
    if spec is not None and have and not spec.config.use_dora:
        actual = f"{some([module.path for module in have], total)}: magnitudes, and use_dora is false"
        facts = {"modules": len(have), "of": total}
        findings.append(finding("L119", actual, expected="use_dora true", file=CONFIG_NAME, facts=facts))
    if spec is not None and spec.config.use_dora and len(have) < total:
        lack = [module.path for module in tensor_map.modules.values() if not module.magnitude]
        actual = f"no magnitude in {some(lack, total)}"
        facts = {"modules": len(lack), "of": total}
        expected = "lora_magnitude_vector in every module"
        findings.append(finding("L120", actual, expected=expected, facts=facts))
    wrong = [
        module.path
        for module in usable
        if module.magnitude and math.prod(tensor_map.shape(module.magnitude)) != tensor_map.shape(module.b)[0]
    ]
    if wrong:
        module = tensor_map.modules[wrong[0]]
        long, outputs = math.prod(tensor_map.shape(module.magnitude)), tensor_map.shape(module.b)[0]
        actual = f"{some(wrong, total)}: {long} magnitudes for {outputs} outputs"
        findings.append(finding("L121", actual, expected="one for each output", facts={"n": len(wrong)}))
    return findings


def _biases(spec: TargetSpec | None, tensor_map: TensorMap) -> list[Finding]:
    if spec is None:
        return []
    flag = bool(spec.config.other.get("lora_bias"))
    have = [
        module.path
        for module in tensor_map.modules.values()
        if any(tensor_name.endswith(".bias") for tensor_name in module.more)
    ]
    if bool(have) == flag and (not flag or len(have) == len(tensor_map.modules)):
        return []
    if not tensor_map.modules:
        return []
    lack = [module_path for module_path in tensor_map.modules if module_path not in set(have)]
    actual = f"lora_bias is {str(flag).lower()}; " + (
        f"no bias in {some(lack, len(tensor_map.modules))}"
        if flag
        else f"biases in {some(have, len(tensor_map.modules))}"
    )
    facts = {"flag": flag, "with_bias": len(have), "of": len(tensor_map.modules)}
    return [finding("L122", actual, expected="lora_B.bias exactly if lora_bias is true", file=CONFIG_NAME, facts=facts)]


def _scaling(spec: TargetSpec, tensor_map: TensorMap, usable: list[LoraModule]) -> list[Finding]:
    module_paths = [module.path for module in tensor_map.pairs if not spec.of_parameters(module.path)]
    factors = [factor for module_path in module_paths if (factor := spec.scaling(module_path)) is not None]
    if not factors or not usable:
        return []
    low, high = min(factors), max(factors)
    formula = "alpha / sqrt(r), rsLoRA" if spec.config.use_rslora else "alpha / r"
    facts = {
        "lowest": low,
        "highest": high,
        "r": spec.config.r,
        "alpha": spec.config.lora_alpha,
        "rslora": spec.config.use_rslora,
        "alpha_pattern": bool(spec.config.alpha_pattern),
        "rank_pattern": bool(spec.config.rank_pattern),
    }
    findings = []
    if high > _USUAL_SCALING[1] or low < _USUAL_SCALING[0]:
        span = figure(low) if low == high else f"{figure(low)} to {figure(high)}"
        actual = f"{formula} = {span} (r {spec.config.r}, lora_alpha {figure(spec.config.lora_alpha)})"
        usual = f"mostly {figure(_USUAL_SCALING[0])} to {figure(_USUAL_SCALING[1])}"
        findings.append(finding("L138", actual, expected=usual, file=CONFIG_NAME, facts=facts))
    if high > 1.01 * low:
        pattern_lost = spec.config.rank_pattern and not spec.config.alpha_pattern
        actual = f"{formula} from {figure(low)} to {figure(high)}" + (
            "; rank_pattern without alpha_pattern, as when one was lost" if pattern_lost else ""
        )
        findings.append(finding("L142", actual, file=CONFIG_NAME, facts=facts))
    return findings
