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


def check_structure(specimen: RawAdapter, layout: TensorMap) -> list[Finding]:
    """Findings L100-L149, about the weights where a check names no other file. specimen: with its config where it is a
    LoRA config; layout: of specimen.header."""
    findings = _check(specimen, layout)
    return [msgspec.structs.replace(problem, file=problem.file or WEIGHTS_NAME) for problem in findings]


def _check(specimen: RawAdapter, layout: TensorMap) -> list[Finding]:
    config = specimen.config
    spec = None if config is None else TargetSpec(config)
    findings = check_naming(specimen, spec, layout)
    codes = {naming.code for naming in findings}
    if {"L101", "L102"} & codes:
        return findings  # it is something else: LoRA's rules say nothing about it
    if not layout.pairs and "L103" not in codes:
        first = f", such as {shown(next(iter(layout.tensors)))}" if layout.tensors else ""
        missing = "no complete pair" if layout.modules else "no LoRA tensor"
        actual = f"{missing} among {len(layout.tensors)} tensors{first}"
        findings.append(finding("L100", actual, expected="pairs of lora_A and lora_B"))
    if config is None and method_of_config(specimen.raw_config or {}) is not None:
        return findings
    if packed_factors(layout):
        # The shapes are those of the packing, and what lies beside the factors belongs to it.
        return findings + check_leftovers(layout) + check_coverage(spec, layout)
    return (
        findings
        + check_leftovers(layout)
        + check_pairs(spec, layout)
        + check_coverage(spec, layout)
        + check_widths(spec, layout)
        + check_extras(config, layout)
    )
