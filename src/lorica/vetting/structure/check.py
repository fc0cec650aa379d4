"""Level 1, structure: are names, shapes and config those of one whole LoRA adapter that a loader would apply?

Nothing is read here: a checked header says all. What PEFT does with each fault was tried with peft 0.21.2.
"""

from __future__ import annotations

from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.layout import Layout
from lorica.adapters.methods import method_of_config
from lorica.adapters.specimen import Specimen
from lorica.vetting.findings import Finding, finding
from lorica.vetting.structure.coverage import check_coverage
from lorica.vetting.structure.extras import check_extras
from lorica.vetting.structure.leftovers import check_leftovers, packed_factors
from lorica.vetting.structure.naming import check_naming
from lorica.vetting.structure.pairs import check_pairs
from lorica.vetting.structure.targets import Asked
from lorica.vetting.structure.widths import check_widths
from lorica.vetting.wording import shown


def check_structure(specimen: Specimen, layout: Layout) -> list[Finding]:
    """Findings L100-L149. specimen: with its config where it is a LoRA config; layout: of specimen.header."""
    config = specimen.config
    asked = None if config is None else Asked(config)
    found = check_naming(specimen, asked, layout)
    if any(each.code in ("L101", "L102") for each in found):
        return found  # it is something else: LoRA's rules say nothing about it
    if not layout.pairs and not any(each.code == "L103" for each in found):
        first = f", such as {shown(next(iter(layout.tensors)))}" if layout.tensors else ""
        what = "no complete pair" if layout.modules else "no LoRA tensor"
        seen = f"{what} among {len(layout.tensors)} tensors{first}"
        found.append(finding("L100", seen, expected="pairs of lora_A and lora_B", file=WEIGHTS_NAME))
    if config is None and method_of_config(specimen.raw_config or {}) is not None:
        return found
    if packed_factors(layout):
        # The shapes are those of the packing, and what lies beside the factors belongs to it.
        return found + check_leftovers(layout) + check_coverage(asked, layout)
    return (
        found
        + check_leftovers(layout)
        + check_pairs(asked, layout)
        + check_coverage(asked, layout)
        + check_widths(asked, layout)
        + check_extras(config, layout)
    )
