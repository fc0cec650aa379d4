"""What the checks found, and what they looked for and did not find, as evidence.

A finding speaks for the causes its code names; `weights.py` says more exactly what a code means where naming is not
enough. A level that ran without a finding for a cause speaks against that cause: `CLEAN` says how much, which is how
reliably the level would have found it (-5: it misses 1 in 150).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from lorica.vetting.codes import CODES, Severity
from lorica.vetting.diagnosis.evidence import Evidence
from lorica.vetting.diagnosis.weights import BY_FACTS, EXPLAINED, GROUPS, SPECIFIC
from lorica.vetting.findings import Finding

# Weight for the first cause that a code names, for its further causes, and against what needs a sound adapter.
_BY_SEVERITY: dict[Severity, tuple[float, float, float]] = {
    "reject": (4.5, 2.5, -5.0),
    "warn": (2.2, 1.2, -1.2),
    "note": (0.5, 0.3, 0.0),
}
# From this weight on a finding counts as having found its cause.
_FOUND = 2.0
# A file that cannot be read settles the matter: nothing else of it can be judged.
_UNREADABLE = (8.0, 3.0, -8.0)
# These two say that nothing is wrong with the adapter itself, so every rejection refutes them.
SOUND = ("healthy", "hard_task")

# What shows that a part of an adapter belongs elsewhere; that the rest of it works, or lies where it belongs, then does
# not speak against it.
_PARTLY = ("strangers", "layer_order", "partners")
_OF_THE_REST = ("alignment", "skill", "scale_sweep", "format_sweep")
_ELSEWHERE = ("broken_weights", "wrong_base")

# Area -> (the level that must have run, cause -> weight when no finding of that level speaks for the cause).
CLEAN: dict[str, tuple[int, dict[str, float]]] = {
    "files": (0, {"unreadable": -8.0}),
    "structure": (1, {"unsupported": -5.0, "incomplete": -4.0, "not_applied": -4.0, "altered": -1.0}),
    "numbers": (2, {"broken_weights": -2.5, "no_effect": -6.0}),
    "base": (3, {"wrong_size": -6.0, "tokenizer_mismatch": -1.0, "wrong_revision": -1.0}),
    "behaviour": (4, {"ignores_input": -2.0, "hard_labels": -1.5, "generation_settings": -1.5}),
}
_CLEAN_TEXT = {
    "files": "the files are whole and of the right format",
    "structure": "names, pairs, ranks and targets agree with one another",
    "numbers": "all values are finite, none is constant and no update is zero",
    "base": "its shapes fit the base model",
    "behaviour": "its answers change with the input and can be read",
}


def from_findings(findings: Iterable[Finding]) -> list[Evidence]:
    """Evidence from findings, the strongest first; notes that say nothing of any cause are left out."""
    found = []
    for number, each in enumerate(findings):
        weights = finding_weights(each)
        if weights:
            found.append(
                Evidence(
                    id=f"{each.code}.{number}",
                    text=sentence(each),
                    source=each.code,
                    group=_group(each, weights),
                    weights=weights,
                )
            )
    return found


def finding_weights(each: Finding) -> dict[str, float]:
    """Cause -> weight of one finding."""
    if each.code in BY_FACTS:
        return BY_FACTS[each.code](each.facts)
    special = SPECIFIC.get(each.code)
    if special is not None:
        # A note, or a finding that its check itself took less seriously, weighs less than the table says.
        return dict(special) if each.severity != "note" else {cause: w / 3 for cause, w in special.items()}
    causes = [cause for cause in CODES[each.code].causes if cause not in SOUND] if each.code in CODES else []
    first, further, sound = _BY_SEVERITY[each.severity] if each.level or each.severity != "reject" else _UNREADABLE
    weights = dict.fromkeys(causes[1:], further) | dict.fromkeys(causes[:1], first)
    if sound:
        weights |= dict.fromkeys(SOUND, sound if causes or each.severity == "reject" else sound / 2)
    return weights


def from_clean(findings: Sequence[Finding], ran: Collection[int]) -> list[Evidence]:
    """What levels that ran did not find."""
    failed = {each.level for each in findings if each.severity == "reject"}
    spoken = {cause for each in findings for cause, weight in finding_weights(each).items() if weight >= 0.5}
    found = []
    for area, (level, weights) in CLEAN.items():
        if level not in ran or level in failed:
            continue
        left = {cause: weight for cause, weight in weights.items() if cause not in spoken}
        if left:
            found.append(
                Evidence(
                    id=f"clean.{area}", text=_CLEAN_TEXT[area], source="checks", group=f"clean.{area}", weights=left
                )
            )
    return found


def consistent(evidence: Sequence[Evidence]) -> list[Evidence]:
    """The evidence without what other evidence explains, and where a check that found nothing does not speak against a
    cause that another check found: what names alone do not show, names beside the base's do."""
    there = {each.source for each in evidence}
    explained = {code for by, codes in EXPLAINED.items() if by in there for code in codes}
    evidence = [each for each in evidence if each.source not in explained]
    if any(each.source in _PARTLY and each.weights.get("broken_weights", 0.0) >= _FOUND for each in evidence):
        evidence = [_without_the_rest(each) if each.source in _OF_THE_REST else each for each in evidence]
    found = {cause for each in evidence if each.source in CODES for cause, w in each.weights.items() if w >= _FOUND}
    kept = []
    for each in evidence:
        if each.source != "checks":
            kept.append(each)
        elif left := {cause: weight for cause, weight in each.weights.items() if cause not in found}:
            kept.append(msgspec.structs.replace(each, weights=left))
    return kept


def _without_the_rest(each: Evidence) -> Evidence:
    left = {cause: weight for cause, weight in each.weights.items() if cause not in _ELSEWHERE or weight > 0}
    return msgspec.structs.replace(each, weights=left)


def sentence(each: Finding) -> str:
    """A finding in one line: what was seen, and what was expected."""
    return f"{each.seen.rstrip('.')}; expected {each.expected.rstrip('.')}" if each.expected else each.seen.rstrip(".")


def _group(each: Finding, weights: dict[str, float]) -> str:
    """Findings of one level that speak first of the same cause tell one story."""
    if each.code in GROUPS:
        return GROUPS[each.code]
    for_ = [cause for cause, weight in weights.items() if weight > 0]
    return f"L{each.level}.{max(for_, key=lambda cause: weights[cause]) if for_ else 'sound'}"
