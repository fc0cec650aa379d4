"""Level 1, claims: what config, card and records say, against each other and against the tensors.

Nothing is looked up outside the adapter's folder, except shapes in the shipped table of bases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.fingerprint import BaseMatch
from lorica.adapters.methods import FORMATS, method_of_config, method_of_names
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.vetting.claims.base_claims import check_named_base
from lorica.vetting.claims.base_names import quantization_format
from lorica.vetting.claims.named_bases import NamedBase, difference, named_bases
from lorica.vetting.claims.own_runs import check_own_run
from lorica.vetting.claims.stated_settings import check_settings
from lorica.vetting.claims.tokenizers import check_tokenizer
from lorica.vetting.claims.training_evidence import check_evidence, training_evidence
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import shown

_KNOWN_PEFT = (0, 21)
# Weights in these formats are other weights; 4-bit loading by bitsandbytes rounds the public ones.
_OTHER_WEIGHTS = ("gptq", "awq", "gguf", "exl2", "int4", "int8", "fp8")


def check_claims(adapter: RawAdapter, tensor_map: TensorMap, base_match: BaseMatch | None) -> list[Finding]:
    """Findings L150-L199. base_match: which bases of the table fit the tensors' shapes, None when that is not known."""
    claims = named_bases(adapter)
    tool_method = method_of_names(tensor_map.tensors)
    findings = _bases(adapter, claims, foreign=tool_method is not None and tool_method[0] in FORMATS) + _config(adapter)
    findings += check_settings(adapter)
    findings += check_evidence(adapter, training_evidence(adapter)) + check_own_run(adapter)
    if method_of_config(adapter.raw_config or {}) is None and tensor_map.modules:
        findings += check_named_base(adapter, tensor_map, claims, base_match)
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
        findings.append(finding("L156", actual, expected="the base's id", file=CONFIG_NAME))
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
    for difference_kind in ("family", "size", "name"):
        if difference_kind in conflicts:
            conflict_pair = conflicts[difference_kind]
            facts = {
                "differ": difference_kind,
                "names": [claim.text[:200] for claim in conflict_pair],
                "places": [claim.file for claim in conflict_pair],
            }
            actual, expected = _says(conflict_pair), "one base everywhere"
            return [finding("L150", actual, expected=expected, file=conflict_pair[1].file, facts=facts)]
    if "variant" in conflicts:
        conflict_pair = conflicts["variant"]
        return [finding("L153", _says(conflict_pair), expected="one of them", file=conflict_pair[1].file)]
    return []


def _quantization(claims: list[NamedBase]) -> list[Finding]:
    """Quantised copies of the base."""
    by_place = {claim.file: quantization_format(claim.tail) for claim in claims if claim.is_informative}
    formats = set(by_place.values())
    if not formats - {""}:
        return []
    differ = len(formats) > 1 and not formats.isdisjoint(_OTHER_WEIGHTS)
    places_text = ", ".join(
        f"{format_name or 'not quantised'} in {base_file}" for base_file, format_name in by_place.items()
    )
    expected = "one variant everywhere" if differ else "the variant it was trained on when it is used"
    return [
        finding(
            "L154",
            f"the base is named as {places_text}",
            expected=expected,
            file=next(iter(by_place)),
            severity="warn" if differ else None,
            facts={"variants": by_place},
        )
    ]


def _says(claims: Sequence[NamedBase]) -> str:
    return ", ".join(f"{claim.file} names {shown(claim.text)}" for claim in claims[:6])


def _config(adapter: RawAdapter) -> list[Finding]:
    """Revision, task and version, as the config states them."""
    raw_config, findings = adapter.raw_config or {}, []
    revision = raw_config.get("revision")
    if isinstance(revision, str) and revision not in ("", "main"):
        findings.append(
            finding("L155", f"revision {shown(revision)}", file=CONFIG_NAME, facts={"revision": revision[:100]})
        )
    task_type = raw_config.get("task_type")
    if isinstance(task_type, str) and task_type != "CAUSAL_LM":
        findings.append(
            finding("L158", f"task_type {shown(task_type)}", file=CONFIG_NAME, facts={"task": task_type[:40]})
        )
    version = raw_config.get("peft_version")
    version_match = re.match(r"(\d{1,4})\.(\d{1,4})", version) if isinstance(version, str) else None
    if version_match and (int(version_match[1]), int(version_match[2])) > _KNOWN_PEFT:
        findings.append(finding("L159", f"peft_version {shown(version)}", file=CONFIG_NAME))
    return findings
