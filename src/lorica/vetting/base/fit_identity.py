"""Is a base model the one that an adapter names? Its words against the base's own: ids, families, quantisation."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from lorica.adapters.bases import BaseShape, bases_named, normalise_base_id
from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.base.base_modules import BaseModel
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import listed, shown

# Families whose configs differ in name and whose language models are one.
_ALIKE = (
    {"qwen2", "qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text"},
    {"qwen3", "qwen3_vl", "qwen3_vl_text"},
    {"gemma3", "gemma3_text"},
    {"mistral", "mistral3", "ministral", "ministral3"},
    {"llama", "llava", "mllama", "mllama_text_model", "llama4", "llama4_text"},
    {"gemma", "paligemma"},
    {"phi3", "phi4mm", "phi3_v"},
    {"minicpm", "minicpm_moe"},
)


_QUANTISED = re.compile(
    r"gptq|awq|gguf|exl2|(?<![a-z])(?:bnb|nf4|fp4|hqq|aqlm|eetq)(?![a-z])|int[48]|[48][-_ ]?bit", re.I
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_identity(adapter: RawAdapter, base_model: BaseModel) -> list[Finding]:
    """L306 to L308. Ids that say nothing certain are passed over: a folder may be called anything."""
    adapter_base = adapter.config.base_model_name_or_path if adapter.config else None
    findings = _quantisation(adapter_base or "", base_model)
    if not adapter_base:
        return findings
    named_bases = bases_named(adapter_base, loosely=False)
    findings += _family(adapter_base, named_bases, base_model)
    base_names = (base_model.identity, str(base_model.folder), base_model.folder.name)
    if normalise_base_id(adapter_base) in map(normalise_base_id, base_names):
        return findings + _revision(adapter, base_model)
    theirs = bases_named(base_model.identity, loosely=False)
    if not theirs or not named_bases or {base.name for base in theirs} & {base.name for base in named_bases}:
        return findings
    actual = f"{CONFIG_NAME} names {shown(adapter_base)}; the base is {shown(base_model.identity)}"
    facts = {"adapter": adapter_base, "base": base_model.identity, "by": "name"}
    return [*findings, finding("L306", actual, expected=shown(adapter_base), file=CONFIG_NAME, facts=facts)]


def names_settled(findings: Sequence[Finding]) -> list[Finding]:
    """Findings of level 3 with a base's other name as a note where the alignment knows the base: a folder may be called
    anything, and the adapter's directions may not. Commits stay: revisions of one model align alike."""
    aligned = next((problem.facts["score"] for problem in findings if problem.code == "L320"), None)
    if aligned is None:
        return list(findings)
    evidence = f"; by the alignment, {aligned:.1f}, it was trained on this base or on a close relative of it"
    fix = "nothing, unless it was trained on another variant (base, instruct) than this"
    return [
        msgspec.structs.replace(problem, seen=problem.seen + evidence, fix=fix, severity="note")
        if problem.code == "L306" and problem.facts.get("by") == "name"
        else problem
        for problem in findings
    ]


def _quantisation(adapter_base: str, base_model: BaseModel) -> list[Finding]:
    quantised_name = _QUANTISED.search(adapter_base.rpartition("/")[2])
    if not base_model.quantised and not quantised_name:
        return []
    actual = f"the base is {shown(base_model.quantised)}" if base_model.quantised else "the base is not quantised"
    actual += f"; the adapter names {shown(adapter_base)}" if adapter_base else ""
    facts = {"base": base_model.quantised, "adapter_names_quantised": quantised_name is not None}
    return [finding("L308", actual, facts=facts)]


def _revision(adapter: RawAdapter, base_model: BaseModel) -> list[Finding]:
    """A commit that the adapter states, against the one whose snapshot the base is."""
    stated = adapter.config.revision if adapter.config else None
    base_revision = base_model.folder.name
    if not stated or not _COMMIT.fullmatch(stated) or not _COMMIT.fullmatch(base_revision) or stated == base_revision:
        return []
    actual = f"{CONFIG_NAME} names revision {stated[:12]}; the base is the snapshot {base_revision[:12]}"
    facts = {"adapter": stated, "base": base_revision}
    return [finding("L306", actual, expected=f"revision {stated[:12]}", file=CONFIG_NAME, facts=facts)]


def _family(adapter_base: str, named_bases: list[BaseShape], base_model: BaseModel) -> list[Finding]:
    families = {base_shape.family for base_shape in named_bases}
    if not families or not base_model.family:
        return []
    related_families = families.union(*(relatives for relatives in _ALIKE if relatives & families))
    if {base_model.family, str(base_model.config.get("model_type"))} & related_families:
        return []
    actual = (
        f"{CONFIG_NAME} names {shown(adapter_base)}, of the family {listed(sorted(families))}; "
        f"the base's config.json says {shown(base_model.family)}"
    )
    facts = {"adapter": sorted(families), "base": base_model.family}
    return [finding("L307", actual, expected=f"a {listed(sorted(families))} model", file=CONFIG_NAME, facts=facts)]
