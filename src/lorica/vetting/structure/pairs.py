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


def check_pairs(target_spec: TargetSpec | None, tensor_map: TensorMap) -> tuple[list[LoraModule], list[Finding]]:
    """(pairs whose factors have sound shapes and stand the right way round, findings about halves, shapes, ranks, DoRA
    magnitudes, biases and element types)."""
    usable, findings = _shapes(target_spec, tensor_map)
    findings += _halves(tensor_map) + _types(tensor_map) + _magnitudes(target_spec, tensor_map, usable)
    if target_spec is not None:
        findings += _ranks(target_spec, tensor_map, usable) + _biases(target_spec, tensor_map)
        findings += _scaling(target_spec, tensor_map, usable)
    return usable, findings


def _halves(tensor_map: TensorMap) -> list[Finding]:
    half_pairs = [module for module in tensor_map.modules.values() if bool(module.a) != bool(module.b)]
    if not half_pairs:
        return []
    missing_halves = Counter("lora_A" if module.b else "lora_B" for module in half_pairs)
    missing = " and ".join(f"{count} times {factor_name}" for factor_name, count in sorted(missing_halves.items()))
    actual = f"{missing} is missing: {some([module.path for module in half_pairs], len(tensor_map.modules))}"
    facts = {"modules": len(half_pairs), "of": len(tensor_map.modules), **missing_halves}
    return [finding("L110", actual, facts=facts)]


def _shapes(target_spec: TargetSpec | None, tensor_map: TensorMap) -> tuple[list[LoraModule], list[Finding]]:
    """The pairs that can be judged further, and what is wrong with the others."""
    shapeless, transposed, unequal, usable = [], [], [], []
    for module in tensor_map.pairs:
        a_shape, b_shape = tensor_map.shape(module.a), tensor_map.shape(module.b)
        if len(a_shape) != len(b_shape) or not 2 <= len(a_shape) <= 5 or 0 in a_shape or 0 in b_shape:
            shapeless.append((module.path, a_shape, b_shape))
        elif _is_transposed(target_spec, module, a_shape, b_shape):
            transposed.append((module.path, a_shape, b_shape))
        elif a_shape[0] != b_shape[1]:
            unequal.append((module.path, a_shape, b_shape))
        else:
            usable.append(module)
    module_count = len(tensor_map.modules)
    findings = []
    for finding_code, misshapen in (("L114", shapeless), ("L113", transposed), ("L111", unequal)):
        if misshapen:
            module_path, a_shape, b_shape = misshapen[0]
            shown_paths = some([pair[0] for pair in misshapen], module_count)
            actual = f"{shown_paths}: lora_A {list(a_shape)}, lora_B {list(b_shape)}"
            facts = {"modules": len(misshapen), "of": module_count, "first": module_path}
            facts |= {"a": list(a_shape), "b": list(b_shape)}
            if finding_code == "L114":
                # Halves without values, and flat ones, are what sharded trainers save of parameters nobody gathered.
                facts["empty"] = sum(0 in a_shape or 0 in b_shape for _, a_shape, b_shape in misshapen)
                facts["flat"] = sum(1 in (len(a_shape), len(b_shape)) for _, a_shape, b_shape in misshapen)
            findings.append(finding(finding_code, actual, facts=facts))
    return usable, findings


def _is_transposed(
    target_spec: TargetSpec | None, module: LoraModule, a_shape: tuple[int, ...], b_shape: tuple[int, ...]
) -> bool:
    """Whether the rank stands where inputs and outputs belong."""
    of_parameters = target_spec is not None and target_spec.of_parameters(module.path)
    if len(a_shape) != 2 or a_shape[1] != b_shape[0] or of_parameters:
        return False
    rank = None if target_spec is None else target_spec.rank(module.path)
    if a_shape[0] == b_shape[1]:  # they agree as they stand: only the config's rank can tell, if it fits the other way
        return rank is not None and a_shape[0] != rank and a_shape[1] == rank
    return a_shape[1] == rank or a_shape[1] < min(a_shape[0], b_shape[1])


def _types(tensor_map: TensorMap) -> list[Finding]:
    factors = tensor_map.factors()
    findings = []
    integers = [tensor_name for tensor_name, info in factors.items() if info.dtype in _NOT_FLOATING]
    if integers:
        integer_dtypes = sorted({factors[tensor_name].dtype for tensor_name in integers})
        actual = f"{some(integers, len(factors), 'factors')}: {', '.join(integer_dtypes)}"
        facts = {"tensors": len(integers), "of": len(factors), "types": integer_dtypes}
        findings.append(finding("L115", actual, facts=facts))
    dtype_counts = Counter(info.dtype for info in factors.values())
    if len(dtype_counts) > 1 and not integers:
        actual = ", ".join(f"{tensor_count} {dtype}" for dtype, tensor_count in dtype_counts.most_common())
        findings.append(finding("L116", actual, facts={"types": dict(dtype_counts)}))
    return findings


def _ranks(target_spec: TargetSpec, tensor_map: TensorMap, usable: list[LoraModule]) -> list[Finding]:
    mismatches = []
    allowed = {target_spec.config.r, *target_spec.config.rank_pattern.values()}
    for module in usable:
        rank = tensor_map.shape(module.a)[0]
        of_parameters = target_spec.of_parameters(module.path)
        configured_rank = None if of_parameters else target_spec.rank(module.path)
        if of_parameters:
            # rank x experts; which of the module's parameters it is, the file does not say.
            fits = any(rank % allowed_rank == 0 for allowed_rank in allowed)
        else:
            fits = rank in allowed if configured_rank is None else rank == configured_rank
        if not fits:
            mismatches.append((module.path, rank, configured_rank or target_spec.config.r))
    if not mismatches:
        return []
    module_paths, ranks, configured = zip(*mismatches, strict=True)
    tensor_ranks, configured_ranks = Counter(ranks), sorted(set(configured))
    facts = {"modules": len(mismatches), "of": len(usable), "ranks": {str(rank): n for rank, n in tensor_ranks.items()}}
    facts["expected"] = configured_ranks
    actual = f"{some(module_paths, len(usable))}: rank {listed(sorted(tensor_ranks))} in the tensors"
    expected_text = f"rank {listed(configured_ranks)}, by r and rank_pattern of {CONFIG_NAME}"
    return [finding("L112", actual, expected=expected_text, file=CONFIG_NAME, facts=facts)]


def _magnitudes(target_spec: TargetSpec | None, tensor_map: TensorMap, usable: list[LoraModule]) -> list[Finding]:
    with_magnitude = [module for module in tensor_map.modules.values() if module.magnitude]
    module_count, findings = len(tensor_map.modules), []
    if target_spec is not None and with_magnitude and not target_spec.config.use_dora:
        actual = f"{some([module.path for module in with_magnitude], module_count)}: magnitudes, and use_dora is false"
        facts = {"modules": len(with_magnitude), "of": module_count}
        findings.append(finding("L119", actual, file=CONFIG_NAME, facts=facts))
    if target_spec is not None and target_spec.config.use_dora and len(with_magnitude) < module_count:
        without_magnitude = [module.path for module in tensor_map.modules.values() if not module.magnitude]
        actual = f"no magnitude in {some(without_magnitude, module_count)}"
        findings.append(finding("L120", actual, facts={"modules": len(without_magnitude), "of": module_count}))
    mismatches = [
        module.path
        for module in usable
        if module.magnitude and math.prod(tensor_map.shape(module.magnitude)) != tensor_map.shape(module.b)[0]
    ]
    if mismatches:
        module = tensor_map.modules[mismatches[0]]
        magnitude_length, outputs = math.prod(tensor_map.shape(module.magnitude)), tensor_map.shape(module.b)[0]
        actual = f"{some(mismatches, module_count)}: {magnitude_length} magnitudes for {outputs} outputs"
        findings.append(finding("L121", actual, facts={"n": len(mismatches)}))
    return findings


def _biases(target_spec: TargetSpec, tensor_map: TensorMap) -> list[Finding]:
    bias_configured = bool(target_spec.config.other.get("lora_bias"))
    modules = tensor_map.modules.values()
    with_bias = {module.path for module in modules if any(name.endswith(".bias") for name in module.more)}
    wrong = [module.path for module in modules if (module.path in with_bias) != bias_configured]
    if not wrong:
        return []
    bias_text = "no bias" if bias_configured else "biases"
    wrong_text = some(wrong, len(tensor_map.modules))
    actual = f"lora_bias is {str(bias_configured).lower()}; {bias_text} in {wrong_text}"
    facts = {"flag": bias_configured, "with_bias": len(with_bias), "of": len(tensor_map.modules)}
    return [finding("L122", actual, file=CONFIG_NAME, facts=facts)]


def _scaling(target_spec: TargetSpec, tensor_map: TensorMap, usable: list[LoraModule]) -> list[Finding]:
    config = target_spec.config
    module_paths = [module.path for module in tensor_map.pairs if not target_spec.of_parameters(module.path)]
    factors = [factor for module_path in module_paths if (factor := target_spec.scaling(module_path)) is not None]
    if not factors or not usable:
        return []
    lowest, highest = min(factors), max(factors)
    formula = "alpha / sqrt(r), rsLoRA" if config.use_rslora else "alpha / r"
    facts = {"lowest": lowest, "highest": highest, "r": config.r, "alpha": config.lora_alpha}
    facts |= {"rslora": config.use_rslora, "alpha_pattern": bool(config.alpha_pattern)}
    facts |= {"rank_pattern": bool(config.rank_pattern)}
    findings = []
    if highest > _USUAL_SCALING[1] or lowest < _USUAL_SCALING[0]:
        scaling_text = figure(lowest) if lowest == highest else f"{figure(lowest)} to {figure(highest)}"
        actual = f"{formula} = {scaling_text} (r {config.r}, lora_alpha {figure(config.lora_alpha)})"
        usual_text = f"mostly {figure(_USUAL_SCALING[0])} to {figure(_USUAL_SCALING[1])}"
        findings.append(finding("L138", actual, expected=usual_text, file=CONFIG_NAME, facts=facts))
    if highest > 1.01 * lowest:
        actual = f"{formula} from {figure(lowest)} to {figure(highest)}"
        if config.rank_pattern and not config.alpha_pattern:
            actual += "; rank_pattern without alpha_pattern, as when one was lost"
        findings.append(finding("L142", actual, file=CONFIG_NAME, facts=facts))
    return findings
