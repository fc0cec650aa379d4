"""Is a part of the adapter, or of the base, from elsewhere, though the whole belongs to this base?

Damage inside an adapter (halves of two runs, an A drawn anew, channels or layers in another order, noise) leaves the
names and shapes as they were, and some of its directions, too. Each part is held against the base for itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from lorica.vetting.base.layer_permutation import LayerPermutation
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import numbers

# A side that clearly belongs to the base, where many or few modules show it: docs/research/alignment.md has figures.
_BELONGS, _BELONGS_OUT = 6.0, 4.0
# At chance. Healthy adapters' outputs have at least 3.7 with eight modules or more, and 2.1 with four; on a base that
# was never trained 2.5, a sixth of their inputs.
_CHANCE, _CHANCE_OF_MANY, _CHANCE_OF_FEW, _BESIDE = 2.0, 2.5, 1.5, 10.0
_MANY, _FEW = 8, 4
# Over all pairs, halves that were trained together reach 5, after few updates at least 2.7; those of runs that began
# alike can exceed that, too.
_UNBOUND = 2.5
# How much better the halves go together by the inputs of their own base than by those of no base: after one to ten
# updates 1.7 or more, by a stranger's inputs (40 pairs) mostly worse, and above 1.1 but once.
KNOWING = 1.4
# Inputs that were learned this well tell of training even where the modules do not agree with each other.
_LEARNED = 10.0


@dataclass(frozen=True)
class Halves:
    """inputs, outputs: alignment of lora_A's side and of lora_B's, in standard deviations over shuffles; NaN where
    nothing could be tested. tested: modules whose outputs were. correlation: how far the halves of all pairs go
    together by this base's inputs, 0 ± 1 by chance, over `correlated_pairs`. null_correlation: the same by the inputs
    of no base. permutation: where its layers belong. outlier_layers: layers of the base that are not of its model."""

    inputs: float = math.nan
    outputs: float = math.nan
    tested: int = 0
    correlation: float = math.nan
    null_correlation: float = math.nan
    correlated_pairs: int = 0
    permutation: LayerPermutation = field(default_factory=lambda: LayerPermutation({}, 0.0))
    outlier_layers: tuple[int, ...] = ()


def check_halves(halves: Halves, *, trained: bool) -> list[Finding]:
    """Findings about the adapter's parts, and about the base's layers. trained: its modules agree with each other."""
    if halves.outlier_layers:
        # What the adapter seems to lack then, the base may lack.
        layers, facts = numbers(halves.outlier_layers), {"layers": list(halves.outlier_layers)}
        finding_text = f"what layers {layers} of the base read and write has nothing in common with its other layers"
        return [finding("L317", finding_text, facts=facts)]
    if halves.permutation.moves:
        return [_misplaced(halves.permutation)]
    return _sides(halves, trained=trained)


def _misplaced(permutation: LayerPermutation) -> Finding:
    old_layer, new_layer = next(iter(permutation.moves.items()))
    finding_text = f"{len(permutation.moves)} of its layers fit this base by {permutation.gain:.1f} deviations better"
    finding_text += f" in other places: layer {old_layer} as layer {new_layer}, for one"
    places = {str(layer_index): target for layer_index, target in permutation.moves.items()}
    facts: dict[str, Any] = {"places": places, "gain": permutation.gain}
    return finding("L324", finding_text, facts=facts)


def _sides(halves: Halves, *, trained: bool) -> list[Finding]:
    figures = {"inputs": halves.inputs, "outputs": halves.outputs, "bound": halves.correlation}
    figures["bonds"] = halves.correlated_pairs
    facts = {fact: round(value, 4) for fact, value in figures.items() if math.isfinite(value)}
    unbound = halves.correlated_pairs >= _FEW and abs(halves.correlation) < _UNBOUND
    actual = f"lora_A's directions are this base's ({halves.inputs:.1f}), lora_B's are not ({halves.outputs:.1f})"
    of_many = halves.tested >= _MANY and halves.outputs < halves.inputs / _BESIDE
    chance_limit = _CHANCE_OF_MANY if of_many else _CHANCE_OF_FEW
    if halves.inputs >= _BELONGS and halves.outputs < chance_limit and halves.tested >= _FEW:
        return [finding("L325", actual, expected="both, as training leaves them", facts=facts)]
    actual = f"lora_B's directions are this base's ({halves.outputs:.1f}), lora_A's are not ({halves.inputs:.1f})"
    # A that was frozen, or hardly moved, is at chance too; but then B grew with it.
    if halves.outputs >= _BELONGS_OUT and halves.inputs < _CHANCE and unbound:
        return [finding("L325", f"{actual}, nor do the halves go together", expected="both", facts=facts)]
    trained = trained or halves.inputs >= _LEARNED
    if trained and unbound and max(halves.inputs, halves.outputs) >= _BELONGS:
        actual = f"the halves of its {halves.correlated_pairs} pairs go together no more than by chance "
        actual += f"({halves.correlation:.1f})"
        return [finding("L326", actual, facts=facts)]
    return []
