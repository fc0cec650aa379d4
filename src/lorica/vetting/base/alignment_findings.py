"""What the alignment of an adapter with a base says, as findings: about the base, the adapter's parts and the size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lorica.adapters.tensor_map import layer_number
from lorica.vetting.base.alignment import INFORMED, MATCH, MISMATCH, Alignment
from lorica.vetting.base.conversion_faults import check_conversion_fault
from lorica.vetting.base.halves import KNOWING, check_halves
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import numbers

# Of one layer: below this it is at chance, and from this on it clearly belongs to the base.
STRANGE, BELONGS = 2.0, 5.0
# A healthy update is a small part of its base weight; all-linear, high-rank ones of tiny models reach 0.6.
TOO_LARGE = 1.0
NEGLIGIBLE = 1e-4


def check_alignment(alignment: Alignment) -> list[Finding]:
    """At most one finding about the base, and one about the size of the update."""
    facts = {
        "score": _rounded(alignment.score),
        "p_true": _rounded(alignment.p_true),
        "information": _rounded(alignment.information),
        "effect": _rounded(alignment.effect),
        "tested": alignment.tested,
        "pairs": alignment.pairs,
    }
    score_text = "not computed" if math.isnan(alignment.score) else f"{alignment.score:.1f}"
    actual = f"alignment {score_text} with {alignment.base} over {alignment.tested} of {alignment.pairs} modules"
    if alignment.decided == "match":
        about_base = [finding("L320", actual, expected=f"at least {MATCH:g} for the right base", facts=facts)]
    elif alignment.decided == "mismatch":
        agreement = f"though its modules agree with each other ({alignment.information:.1f})"
        expected = f"at least {MATCH:g} for the right base or a relative"
        actual += f", as of an unrelated model, {agreement}"
        about_base = [finding("L321", actual, expected=expected, facts=facts)]
    else:
        about_base = [_undecided(alignment, actual, facts)]
    form_findings, turned = check_conversion_fault(alignment.form), _turned(alignment)
    if alignment.decided == "mismatch" or form_findings or turned:  # the base is to blame for what does not fit
        part_findings = form_findings + turned
    else:
        part_findings = check_halves(alignment.halves, trained=alignment.information >= INFORMED)
    # Which make layers strange.
    if {"L317", "L319", "L324", "L328", "L329"}.isdisjoint(problem.code for problem in part_findings):
        part_findings += _strange_layers(alignment)
    return about_base + part_findings + _size_findings(alignment)


def _undecided(alignment: Alignment, actual: str, facts: dict[str, Any]) -> Finding:
    """A note; a warning where neither the directions nor the halves know this base, and yet the update does something:
    on its own base even an adapter of four updates has shown at least one of the two."""
    expected = f"at least {MATCH:g}, or below {MISMATCH:g} with an agreement of {INFORMED:g} or more"
    if not alignment.tested:
        return finding("L322", f"{actual}: no module could be tested", expected=expected, facts=facts)
    halves = alignment.halves
    strangers = halves.correlated_pairs == 0 or halves.correlation - halves.null_correlation < KNOWING
    at_chance = alignment.score < MISMATCH and strangers
    if not at_chance or max(alignment.sizes.values(), default=0.0) < NEGLIGIBLE:
        reason = "it was hardly trained, or the score is between"
        return finding("L322", f"{actual}: {reason}", expected=expected, facts=facts)
    reason = "its directions are at chance with this base"
    if halves.correlated_pairs:
        reason += f", nor do its halves go together by its inputs ({halves.correlation:.1f}) better than "
        reason += f"by none ({halves.null_correlation:.1f})"
    actual += f": {reason}, though its update is not negligible"
    expected = f"at least {MATCH:g} on its own base, also after few updates"
    fix = "check the adapter on the base model that it was trained on"
    facts |= {"bound": _rounded(halves.correlation), "free": _rounded(halves.null_correlation)}
    return finding("L322", actual, expected=expected, fix=fix, facts=facts, severity="warn")


def _turned(alignment: Alignment) -> list[Finding]:
    """Inside its layers the base is the adapter's, and between them it is not: its residual stream was turned, as for
    quantisation. Then the answers are the same, and the adapter's update acts elsewhere."""
    trained = alignment.information >= INFORMED and alignment.inner >= MATCH
    if not trained or not alignment.stream < STRANGE:
        return []
    inner_score, stream_score = alignment.inner, alignment.stream
    actual = f"its directions are this base's inside layers ({inner_score:.1f}), not between ({stream_score:.1f})"
    facts = {"stream": _rounded(stream_score), "inner": _rounded(inner_score)}
    return [finding("L328", actual, expected=f"at least {MATCH:g} for both", facts=facts)]


def _strange_layers(alignment: Alignment) -> list[Finding]:
    """Layers at chance in an adapter whose other layers clearly belong to this base: they came from elsewhere.

    Only where a good part of the layers is so: among many layers of a weak adapter one or two are at chance, too.
    """
    if alignment.decided == "mismatch" or alignment.information < INFORMED:
        return []
    by_layer: dict[int, list[float]] = {}
    for module_path, score in alignment.modules.items():
        if (layer_index := layer_number(module_path)) is not None:
            by_layer.setdefault(layer_index, []).append(score)
    scores = {layer_index: sum(modules) / math.sqrt(len(modules)) for layer_index, modules in by_layer.items()}
    strange = sorted(layer_index for layer_index, score in scores.items() if score < STRANGE)
    other_scores = [score for layer_index, score in scores.items() if layer_index not in strange]
    median = float(np.median(other_scores)) if other_scores else 0.0
    if len(strange) < max(2, len(scores) / 4) or median < BELONGS:
        return []
    finding_text = f"layers {numbers(strange)} of {len(scores)} are at chance (below {STRANGE:g}), the others at "
    finding_text += f"{median:.1f}"
    facts = {"layers": strange, "of": len(scores), "others": _rounded(median)}
    return [finding("L323", finding_text, facts=facts)]


def _size_findings(alignment: Alignment) -> list[Finding]:
    if not alignment.sizes:
        return []
    sizes = alignment.sizes
    module_path = max(sizes, key=lambda path: sizes[path])
    median, largest = float(np.median(list(sizes.values()))), sizes[module_path]
    facts = {"median": _rounded(median), "largest": _rounded(largest)}
    facts |= {"over": sum(size > TOO_LARGE for size in sizes.values()), "modules": len(sizes)}
    actual = f"the update is {median:.2g} times its base weight in the median module, "
    actual += f"at most {largest:.2g} ({module_path})"
    if median > TOO_LARGE:
        return [finding("L330", actual, expected=f"below {TOO_LARGE:g}; 0.001 to 0.5 is usual", facts=facts)]
    if largest < NEGLIGIBLE:
        return [finding("L331", actual, expected=f"above {NEGLIGIBLE:g}; 0.001 to 0.5 is usual", facts=facts)]
    return [finding("L332", actual, facts=facts)]


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
