"""Level 1, structure: are names, shapes and config those of one whole LoRA adapter that a loader would apply?

Nothing is read here: a checked header says all. What PEFT does with each fault was tried with peft 0.21.2.
"""

from __future__ import annotations

import msgspec

from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.methods import method_of_config
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.coverage import check_coverage
from lorica.vetting.structure.extras import check_extras
from lorica.vetting.structure.leftovers import check_leftovers, packed_factors
from lorica.vetting.structure.naming import check_naming
from lorica.vetting.structure.pairs import check_pairs
from lorica.vetting.structure.target_spec import TargetSpec
from lorica.vetting.structure.widths import check_widths
from lorica.vetting.wording import shown


def check_structure(adapter: RawAdapter, tensor_map: TensorMap) -> list[Finding]:
    """Findings L100-L149, about the weights where a check names no other file. adapter: with its config where it is a
    LoRA config; tensor_map: of adapter.header."""
    findings = _check(adapter, tensor_map)
    return [msgspec.structs.replace(problem, file=problem.file or WEIGHTS_NAME) for problem in findings]


def _check(adapter: RawAdapter, tensor_map: TensorMap) -> list[Finding]:
    config = adapter.config
    target_spec = None if config is None else TargetSpec(config)
    findings = check_naming(adapter, target_spec, tensor_map)
    finding_codes = {naming.code for naming in findings}
    if {"L101", "L102"} & finding_codes:
        return findings  # it is something else: LoRA's rules say nothing about it
    if not tensor_map.pairs and "L103" not in finding_codes:
        first_tensor = f", such as {shown(next(iter(tensor_map.tensors)))}" if tensor_map.tensors else ""
        missing = "no complete pair" if tensor_map.modules else "no LoRA tensor"
        actual = f"{missing} among {len(tensor_map.tensors)} tensors{first_tensor}"
        findings.append(finding("L100", actual))
    if config is None and method_of_config(adapter.raw_config or {}) is not None:
        return findings
    if packed_factors(tensor_map):
        # The shapes are those of the packing, and what lies beside the factors belongs to it.
        return findings + check_leftovers(tensor_map) + check_coverage(target_spec, tensor_map)
    usable, pair_findings = check_pairs(target_spec, tensor_map)
    findings += check_leftovers(tensor_map) + pair_findings + check_coverage(target_spec, tensor_map)
    return findings + check_widths(target_spec, tensor_map, usable) + check_extras(config, tensor_map)
