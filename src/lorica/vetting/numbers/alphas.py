"""Tensors of alpha, as some trainers keep them beside each pair, against the config that loaders go by."""

from __future__ import annotations

import math

from lorica.adapters.arrays import READABLE, read_array
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.leftovers import alpha_tensors
from lorica.vetting.structure.target_spec import TargetSpec
from lorica.vetting.wording import figure, shown, some

# So much two figures of one alpha may differ: bfloat16 has three digits.
_SAME = 0.01
_MAX_MODULES = 4096  # of so many modules the values are read


def check_alphas(adapter: RawAdapter, tensor_map: TensorMap) -> list[Finding]:
    """At most one finding: modules whose tensor of alpha is not the config's alpha. Raises AdapterError for a file
    that became shorter."""
    if adapter.config is None or adapter.weights is None:
        return []
    target_spec = TargetSpec(adapter.config)
    mismatches: dict[str, tuple[float, float]] = {}
    for module_path, tensor_name in list(alpha_tensors(tensor_map).items())[:_MAX_MODULES]:
        tensor_info = tensor_map.tensors[tensor_name]
        configured = target_spec.alpha(module_path)
        if tensor_info.dtype not in READABLE or configured is None:
            continue
        stored = float(read_array(adapter.weights, tensor_info).reshape(-1)[0])
        if not (math.isfinite(stored) and abs(stored - configured) <= _SAME * abs(configured)):
            mismatches[module_path] = stored, configured
    if not mismatches:
        return []
    module_path, (stored, configured) = next(iter(mismatches.items()))
    ratios = [alpha / value for value, alpha in mismatches.values() if value > 0 and alpha > 0]
    facts: dict[str, object] = {"modules": len(mismatches), "stored": stored, "config": configured}
    if ratios and len(ratios) == len(mismatches) and max(ratios) <= min(ratios) * (1 + _SAME):
        facts["scale_factor"] = ratios[0]
    modules = some(list(mismatches), len(tensor_map.modules))
    actual = f"{modules}: {figure(stored)} in {shown(module_path)}, {figure(configured)} in the config"
    return [finding("L223", actual, facts=facts)]
