"""Level 1, claims: what config, card and records say, against each other and against the tensors.

Nothing is looked up outside the adapter's folder, except shapes in the shipped table of bases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lorica.adapters.bases import BaseShape, bases_named
from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.fingerprint import AdapterShapes, BaseMatch, misfit_reasons, shapes_of
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.methods import FORMATS, method_of_config, method_of_names
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap, split_layer
from lorica.vetting.claims.base_names import has_mixed_layers, quantization_format
from lorica.vetting.claims.named_bases import NamedBase, difference, named_bases
from lorica.vetting.claims.own_runs import check_own_run
from lorica.vetting.claims.stated_settings import check_settings
from lorica.vetting.claims.tokenizers import check_tokenizer
from lorica.vetting.claims.training_evidence import check_evidence, training_evidence
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.wording import numbers, shown, some

_KNOWN_PEFT = (0, 21)
# Weights in these formats are other weights; 4-bit loading by bitsandbytes rounds the public ones.
_OTHER_WEIGHTS = ("gptq", "awq", "gguf", "exl2", "int4", "int8", "fp8")
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


def check_claims(adapter: RawAdapter, tensor_map: TensorMap, base_match: BaseMatch | None) -> list[Finding]:
    """Findings L150-L199. base_match: which bases of the table fit the tensors' shapes, None when that is not known."""
    claims = named_bases(adapter)
    tool_method = method_of_names(tensor_map.tensors)
    findings = _bases(adapter, claims, foreign=tool_method is not None and tool_method[0] in FORMATS) + _config(adapter)
    findings += check_settings(adapter)
    findings += check_evidence(adapter, training_evidence(adapter)) + check_own_run(adapter)
    if method_of_config(adapter.raw_config or {}) is None and tensor_map.modules:
        findings += _named_base(adapter, tensor_map, claims, base_match)
        findings += check_tokenizer(adapter, tensor_map, claims)
    return findings


def _bases(adapter: RawAdapter, claims: list[NamedBase], *, foreign: bool) -> list[Finding]:
    """Ids of the base model, against each other. foreign: of another tool, whose config names its base otherwise."""
    findings = []
    config_base = next((claim for claim in claims if claim.file == CONFIG_NAME), None)
    of_peft = adapter.raw_config is not None and method_of_config(adapter.raw_config) is None and not foreign
    if config_base is None and of_peft:
        elsewhere = f"; {_says(claims)}" if claims else ""
        actual = f"base_model_name_or_path is missing or empty{elsewhere}"
        findings.append(finding("L156", actual, file=CONFIG_NAME))
    if config_base is not None and config_base.is_path:
        facts = {"base": config_base.text[:300]}
        findings.append(finding("L157", shown(config_base.text), file=CONFIG_NAME, facts=facts))
    return findings + _conflict(claims) + _quantization(claims)


def _conflict(claims: list[NamedBase]) -> list[Finding]:
    """At most one finding: the first two places whose bases differ, in family before size before name."""
    conflicts: dict[str, tuple[NamedBase, NamedBase]] = {}
    for position, first_base in enumerate(claims):
        for second_base in claims[position + 1 :]:
            # Several bases of one card (a merge) are one claim: it agrees if any of them does.
            if first_base.file == second_base.file:
                continue
            differences = [difference(first_base, claim) for claim in claims if claim.file == second_base.file]
            if all(differences):
                conflicts.setdefault(differences[0], (first_base, second_base))
    difference_kind = next((kind for kind in ("family", "size", "name", "variant") if kind in conflicts), None)
    if difference_kind is None:
        return []
    claims = list(conflicts[difference_kind])
    actual, second_file = _says(claims), claims[1].file
    if difference_kind == "variant":
        return [finding("L153", actual, file=second_file)]
    facts = {"differ": difference_kind, "names": [claim.text[:200] for claim in claims]}
    facts |= {"places": [claim.file for claim in claims]}
    return [finding("L150", actual, file=second_file, facts=facts)]


def _quantization(claims: list[NamedBase]) -> list[Finding]:
    """Quantised copies of the base."""
    by_place = {claim.file: quantization_format(claim.tail) for claim in claims if claim.is_informative}
    formats = set(by_place.values())
    if not formats - {""}:
        return []
    differ = len(formats) > 1 and not formats.isdisjoint(_OTHER_WEIGHTS)
    places = (f"{format_name or 'not quantised'} in {base_file}" for base_file, format_name in by_place.items())
    actual, first_file = f"the base is named as {', '.join(places)}", next(iter(by_place))
    expected = "one variant everywhere" if differ else "the variant it was trained on when it is used"
    severity: Severity | None = "warn" if differ else None
    facts = {"variants": by_place}
    return [finding("L154", actual, expected=expected, file=first_file, severity=severity, facts=facts)]


def _says(claims: Sequence[NamedBase]) -> str:
    return ", ".join(f"{claim.file} names {shown(claim.text)}" for claim in claims[:6])


def _config(adapter: RawAdapter) -> list[Finding]:
    """Revision, task and version, as the config states them."""
    raw_config, findings = adapter.raw_config or {}, []
    revision = raw_config.get("revision")
    if isinstance(revision, str) and revision not in ("", "main"):
        facts = {"revision": revision[:100]}
        findings.append(finding("L155", f"revision {shown(revision)}", file=CONFIG_NAME, facts=facts))
    task_type = raw_config.get("task_type")
    if isinstance(task_type, str) and task_type != "CAUSAL_LM":
        facts = {"task": task_type[:40]}
        findings.append(finding("L158", f"task_type {shown(task_type)}", file=CONFIG_NAME, facts=facts))
    version = raw_config.get("peft_version")
    version_match = re.match(r"(\d{1,4})\.(\d{1,4})", version) if isinstance(version, str) else None
    if version_match and (int(version_match[1]), int(version_match[2])) > _KNOWN_PEFT:
        findings.append(finding("L159", f"peft_version {shown(version)}", file=CONFIG_NAME))
    return findings


def _named_base(
    adapter: RawAdapter, tensor_map: TensorMap, named_bases: list[NamedBase], base_match: BaseMatch | None
) -> list[Finding]:
    """Findings L163-L165 and L169. named_bases: every place that names the base, the config first."""
    for claim in named_bases:
        exact_bases = bases_named(claim.text, loosely=False)
        known_bases = exact_bases or bases_named(claim.text)
        if known_bases:
            misfits = _misfit(shapes_of(tensor_map, adapter.config), claim, known_bases, bool(exact_bases), base_match)
            return misfits + _container(tensor_map, claim, known_bases)
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
    candidates = [] if base_match is None else list(base_match.candidates[:8])
    facts = {"base": base_name, "exact": exact, "reasons": misfits, "candidates": candidates}
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
    return [finding("L165", actual, file=WEIGHTS_NAME, facts=facts)]
