"""The base that is named, against what the tensors' shapes and names say of the true one."""

from __future__ import annotations

import re

from lorica.adapters.bases import BaseShape, bases_named
from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.fingerprint import AdapterShapes, BaseMatch, misfit_reasons, shapes_of
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap, split_layer
from lorica.vetting.claims.base_names import has_mixed_layers
from lorica.vetting.claims.named_bases import NamedBase
from lorica.vetting.finding_codes import Severity
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import numbers, shown, some

# Families whose causal models keep their layers in "model.layers".
_MODEL_LAYERS = {
    *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text"),
    *("phi", "phi3", "stablelm", "starcoder2", "cohere", "cohere2", "olmo", "olmo2", "granite", "smollm3", "internlm2"),
}
# Where other families keep them.
_ELSEWHERE = re.compile(
    r"(?:transformer\.(?:h|layers|blocks|encoder\.layers)|gpt_neox\.layers|model\.decoder\.layers|decoder\.layers|"
    r"backbone\.layers|encoder\.layer)"
)


def check_named_base(
    adapter: RawAdapter, tensor_map: TensorMap, named_bases: list[NamedBase], base_match: BaseMatch | None
) -> list[Finding]:
    """Findings L163-L165 and L169. named_bases: every place that names the base, the config first."""
    for claim in named_bases:
        exact_bases = bases_named(claim.text, loosely=False)
        known_bases = exact_bases or bases_named(claim.text)
        if known_bases:
            shapes = shapes_of(tensor_map, adapter.config)
            return _misfit(shapes, claim, known_bases, bool(exact_bases), base_match) + _container(
                tensor_map, claim, known_bases
            )
    return []


def _misfit(
    shapes: AdapterShapes, claim: NamedBase, known_bases: list[BaseShape], exact: bool, base_match: BaseMatch | None
) -> list[Finding]:
    reasons = {base_shape.name: misfit_reasons(shapes, base_shape) for base_shape in known_bases}
    if not all(reasons.values()):
        return []
    base_shape = min(known_bases, key=lambda known_base: len(reasons[known_base.name]))
    base_name, misfits = base_shape.name, reasons[base_shape.name]
    match_text = f"; {base_match.text}" if base_match is not None and not base_match.nothing_decided else ""
    actual = f"{claim.file} names {shown(claim.text)}, which does not fit: {', '.join(misfits)}{shown(match_text, 200)}"
    facts = {
        "base": base_name,
        "exact": exact,
        "reasons": misfits,
        "candidates": list(base_match.candidates[:8]) if base_match is not None else [],
    }
    expected = f"{base_name}: hidden {base_shape.hidden}, {base_shape.layers} layers"
    if all(reason.startswith("vocabulary") for reason in misfits):
        return [finding("L169", actual, expected=f"{base_shape.vocabulary} rows", file=claim.file, facts=facts)]
    severity: Severity | None = None if exact and claim.file == CONFIG_NAME else "warn"
    finding_code = "L163"
    if len(misfits) == 1 and "layers" in misfits[0] and shapes.layers is not None and shapes.layers < base_shape.layers:
        # A prefix of its layers was adapted or kept; the names alone cannot tell that from a smaller base.
        finding_code = "L164"
        expected = f"layers {numbers(range(base_shape.layers))}, as {base_name} has"
        facts |= {"layers": shapes.layers, "of": base_shape.layers}
        severity = "warn" if has_mixed_layers(claim.text) else severity
    return [finding(finding_code, actual, expected=expected, file=claim.file, severity=severity, facts=facts)]


def _container(tensor_map: TensorMap, claim: NamedBase, known_bases: list[BaseShape]) -> list[Finding]:
    if not all(base_shape.family in _MODEL_LAYERS for base_shape in known_bases):
        return []
    misplaced = [module_path for module_path in tensor_map.modules if _ELSEWHERE.fullmatch(split_layer(module_path)[0])]
    if not misplaced or tensor_map.unprefixed:
        return []
    actual = f"{some(misplaced, len(tensor_map.modules))}; {claim.file} names {shown(claim.text)}"
    facts = {"modules": len(misplaced), "of": len(tensor_map.modules), "base": known_bases[0].name}
    expected = "names such as model.layers.0.self_attn.q_proj"
    return [finding("L165", actual, expected=expected, file=WEIGHTS_NAME, facts=facts)]
