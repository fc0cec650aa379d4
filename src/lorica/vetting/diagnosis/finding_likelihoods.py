"""Findings of the checks as evidence for causes, and the absence of findings as evidence against them.

`findings.toml` says what a code speaks for. A level that ran without a finding for a cause speaks against that cause:
`CLEAN` says how much, which is how reliably the level would have found it (-5: it misses 1 in 150).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from lorica.vetting.base.quantization_levels import FEW
from lorica.vetting.diagnosis.likelihoods import ratio_weights
from lorica.vetting.diagnosis.posterior import Evidence, outcome
from lorica.vetting.findings import LEVELS, SOUND, Finding, Severity, finding_codes

# Log likelihood ratio of the first cause that a code names, of its further causes, and of those in SOUND.
_BY_SEVERITY: dict[Severity, tuple[float, float, float]] = {
    "reject": (4.5, 2.5, -5.0),
    "warn": (2.2, 1.2, -1.2),
    "note": (0.5, 0.3, 0.0),
}
# A file that cannot be read settles the matter: nothing else of it can be judged.
_UNREADABLE = (8.0, 3.0, -8.0)
# From this ratio on a finding has found its cause; from the smaller one on it speaks of it.
_FINDS, _SPEAKS_OF = 2.0, 0.5

# What shows that a part of an adapter belongs elsewhere; that the rest of it works, or lies where it belongs, then does
# not speak against it.
_PARTLY = ("L323", "L324", "partners")
_OF_THE_REST = ("alignment", "skill", "scale_sweep", "format_sweep")
_ELSEWHERE = ("broken_weights", "wrong_base")

# Level -> (cause -> log likelihood ratio when no finding of that level speaks for it, the same in words).
CLEAN: dict[int, tuple[dict[str, float], str]] = {
    0: ({"unreadable": -8.0}, "the files are whole and of the right format"),
    1: (
        {"unsupported": -5.0, "incomplete": -4.0, "not_applied": -4.0, "altered": -1.0},
        "names, pairs, ranks and targets agree with one another",
    ),
    2: (
        {"broken_weights": -2.5, "no_effect": -6.0},
        "all values are finite, none is constant and no update is zero",
    ),
    3: ({"wrong_size": -6.0, "tokenizer_mismatch": -1.0, "wrong_revision": -1.0}, "its shapes fit the base model"),
    4: (
        {"ignores_input": -2.0, "hard_labels": -1.5, "generation_settings": -1.5},
        "its answers change with the input and can be read",
    ),
}

# Keys of the config that decide how large the update is, and which modules get one.
_SCALE_KEYS = {"lora_alpha", "use_rslora", "alpha_pattern", "r"}
_TARGET_KEYS = {"target_modules", "exclude_modules", "layers_to_transform"}


def from_findings(findings: Iterable[Finding]) -> list[Evidence]:
    """Evidence from findings, in their order; those that say nothing of any cause are left out."""
    evidence = []
    for finding_index, finding in enumerate(findings):
        if likelihoods := finding_likelihoods(finding):
            group = _group(finding, likelihoods)
            evidence.append(outcome(f"{finding.code}.{finding_index}", sentence(finding), group, likelihoods))
    return evidence


def finding_likelihoods(finding: Finding) -> dict[str, float]:
    """Cause -> log likelihood ratio of one finding."""
    code_row = finding_codes()[finding.code]
    if code_row.weighed_by:
        return {}
    if code_row.likelihoods is None:
        return _by_severity(finding, [cause for cause in code_row.causes if cause not in SOUND])
    likelihoods = dict(code_row.likelihoods)
    if variants_of := VARIANTS.get(finding.code):
        for variant_name in variants_of(finding.facts):
            likelihoods |= code_row.variants[variant_name]
    if (scale_ratio := _scale(finding)) is not None:
        likelihoods |= ratio_weights(scale_ratio)
    # A note, or a finding that its check itself took less seriously, weighs less than the table says.
    return {cause: ratio / 3 for cause, ratio in likelihoods.items()} if finding.severity == "note" else likelihoods


def _scale(finding: Finding) -> float | None:
    """How many times the update is as large as in training, where a finding says so."""
    facts = finding.facts
    scale_ratio = facts.get("scale_ratio") if finding.code == "L160" else facts.get("scale_factor")
    if finding.code not in ("L160", "L223", "L342") or not isinstance(scale_ratio, float) or scale_ratio <= 0:
        return None
    if finding.code == "L160" and 0.99 < scale_ratio < 1.01:
        # The modules that alpha_pattern names may have another scale for all that.
        scale_ratio = float(facts.get("pattern_ratio", scale_ratio))
    return scale_ratio


def _by_severity(finding: Finding, causes: Sequence[str]) -> dict[str, float]:
    unreadable = finding.level == 0 and finding.severity == "reject"
    first_weight, further_weight, sound_weight = _UNREADABLE if unreadable else _BY_SEVERITY[finding.severity]
    likelihoods = dict.fromkeys(causes[1:], further_weight) | dict.fromkeys(causes[:1], first_weight)
    if sound_weight:
        blames = bool(causes) or finding.severity == "reject"
        likelihoods |= dict.fromkeys(SOUND, sound_weight if blames else sound_weight / 2)
    return likelihoods


def _layer_order(facts: Mapping[str, Any]) -> Iterator[str]:
    """Layers that all stand as many places too low or too high were renumbered; the layer whose own place is beyond
    what is looked at takes the one that is left."""
    places = facts.get("places")
    layer_moves = places if isinstance(places, dict) else {}
    distances = {(int(new) - int(old)) % len(layer_moves) for old, new in layer_moves.items()}
    if len(layer_moves) > 2 and len(distances) == 1:
        yield "shifted"


def _changed_keys(facts: Mapping[str, Any]) -> Iterator[str]:
    changed = facts.get("changed")
    changes: dict[str, Any] = changed if isinstance(changed, dict) else {}
    scale_keys = changes.keys() & _SCALE_KEYS
    if scale_keys and not isinstance(facts.get("scale_factor"), float):
        yield "scale"
        if scale_keys == {"use_rslora"}:
            yield "rslora_set" if changes["use_rslora"][1] else "rslora_unset"
    if changes.keys() & _TARGET_KEYS:
        yield "targets"
    if "modules_to_save" in changes:
        yield "saved_modules"


def _recorded_keys(facts: Mapping[str, Any]) -> Iterator[str]:
    recorded_keys = set(facts.get("keys", ()))
    if recorded_keys & _SCALE_KEYS and "scale_ratio" not in facts:
        yield "scale"
    if recorded_keys & _TARGET_KEYS:
        yield "targets"
    yield from recorded_keys & {"rank_pattern", "use_dora", "modules_to_save", "revision"}


def _failed_rows(facts: Mapping[str, Any]) -> Iterator[str]:
    cut_off_share, invalid_share = float(facts.get("cut_off_share", 0.0)), float(facts.get("invalid_share", 0.0))
    if cut_off_share > 0.01:
        yield "cut_off_often" if cut_off_share >= 0.1 else "cut_off"
    if invalid_share > 0.01:
        yield "invalid_as_cut_off" if cut_off_share >= invalid_share / 2 else "invalid"


# Code -> from a finding's facts the names of its row's variants, each of which changes the likelihoods before it.
VARIANTS: dict[str, Callable[[Mapping[str, Any]], Iterable[str]]] = {
    "L114": lambda facts: ["ungathered"] if facts.get("empty") or facts.get("flat") else [],
    "L160": _recorded_keys,
    "L303": lambda facts: ["repeated"] if facts.get("repeated_layers") else [],
    "L324": _layer_order,
    "L333": lambda facts: ["three_bits"] if facts.get("levels", 0) <= FEW else [],
    "L342": _changed_keys,
    "L464": _failed_rows,
}


def from_clean(findings: Sequence[Finding], levels_run: Collection[int]) -> list[Evidence]:
    """What levels that ran did not find."""
    failed_levels = {finding.level for finding in findings if finding.severity == "reject"}
    of_findings = map(finding_likelihoods, findings)
    spoken_of = {cause for weights in of_findings for cause, ratio in weights.items() if ratio >= _SPEAKS_OF}
    evidence = []
    for level, (likelihoods, text) in CLEAN.items():
        if level not in levels_run or level in failed_levels:
            continue
        if against := {cause: ratio for cause, ratio in likelihoods.items() if cause not in spoken_of}:
            item_id = f"clean.{LEVELS[level]}"
            evidence.append(Evidence(id=item_id, text=text, source="checks", group=item_id, weights=against))
    return evidence


def consistent(evidence: Sequence[Evidence]) -> list[Evidence]:
    """The evidence without what other evidence explains, and where a check that found nothing does not speak against a
    cause that another check found: what names alone do not show, names beside the base's do."""
    code_table = finding_codes()
    sources = {item.source for item in evidence}
    explained = {effect for source in sources if source in code_table for effect in code_table[source].explains}
    evidence = [item for item in evidence if item.source not in explained]
    if any(item.source in _PARTLY and item.weights.get("broken_weights", 0.0) >= _FINDS for item in evidence):
        evidence = [_without_the_rest(item) if item.source in _OF_THE_REST else item for item in evidence]
    of_findings = (item.weights for item in evidence if item.source in code_table)
    causes = {cause for weights in of_findings for cause, ratio in weights.items() if ratio >= _FINDS}
    consistent_evidence = []
    for item in evidence:
        if item.source != "checks":
            consistent_evidence.append(item)
        elif against := {cause: ratio for cause, ratio in item.weights.items() if cause not in causes}:
            consistent_evidence.append(msgspec.structs.replace(item, weights=against))
    return consistent_evidence


def _without_the_rest(item: Evidence) -> Evidence:
    weights = {cause: ratio for cause, ratio in item.weights.items() if cause not in _ELSEWHERE or ratio > 0}
    return msgspec.structs.replace(item, weights=weights)


def sentence(finding: Finding) -> str:
    """A finding in one line: what was seen, and what was expected."""
    observation, expected = finding.seen.rstrip("."), finding.expected.rstrip(".")
    return f"{observation}; expected {expected}" if expected else observation


def _group(finding: Finding, likelihoods: Mapping[str, float]) -> str:
    """Findings of one level that speak first of the same cause tell one story."""
    if evidence_group := finding_codes()[finding.code].group:
        return evidence_group
    top_cause = max(likelihoods, key=lambda cause: likelihoods[cause])
    return f"L{finding.level}.{top_cause if likelihoods[top_cause] > 0 else 'sound'}"
