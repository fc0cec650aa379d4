"""The precisions in which a base model is held and computed: each is one row of `PRECISIONS`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int16", "int8", "int8-weights", "int4-weights", "gguf"]
"""What `model.dtype` may say; nf4 is chosen by `model.load_in_4bit`."""

DTYPE_NAMES: tuple[str, ...] = get_args(Dtype)[1:]
"""Those that name a precision."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How the linear weights of a base model are held and multiplied, and how exact the log-probabilities are.

    All limits are in nats, measured by bench/canary_tolerance.py and bench/precision.py; the defaults are those of
    bfloat16 activations.
    """

    weights: str
    """Storage of the linear weights: a torch dtype; int16, int8, int4 or nf4 with scales; or a GGUF file's blocks."""

    products: str
    """What is multiplied: a torch dtype, int8 or int16, to which quantized weights are expanded. A CPU that has no fast
    products of bfloat16 or float16 multiplies such weights in float32."""

    bytes_per_weight: float
    """Of the linear weights, with their scales."""

    states: str = "bfloat16"
    """The torch dtype of keys, values and adapters on a CPU that multiplies it fast; on others they are float32."""

    quantized: bool = False
    """Weights are codes with scales. Other than nf4, only the native engine on a CPU computes with such."""

    head: str = ""
    """Precision of the output head, where it is another: the head decides between tokens, and 4 bits would cost as much
    there as in all layers together."""

    trainable: bool = True
    """Whether gradients pass through the products, so that an adapter can be trained on such a base."""

    canary_absolute: float
    canary_relative: float
    """Tolerance of a canary's log-probability: absolute, plus a share of its size."""

    faint_effect: float
    """Below this root mean square an adapter's effect on the canaries drowns in rounding: a few times the noise."""

    noise: float = 0.15
    """Largest difference between two log-probabilities of one state: batches are packed otherwise with an adapter."""

    visible_update: float = 0.5
    """An adapter whose update has at least this size, relative to the base's weights, must show beyond `noise`: an
    update of relative size s moves some log-probability of the probes by s to 15 s."""

    moving_update: float = 1e-2
    """An adapter whose update has at least this relative size must move some log-probability at all."""

    merge_limit: float = 0.1
    """Largest mean difference of log-probabilities between merged and unmerged weights. On a task whose adapter moves
    them by 0.34 it is 2e-6 in float32 and 0.02 in bfloat16."""

    merges_by_default: bool = False
    """Whether engine.merge=auto merges: rounding to half precision is no larger merged than unmerged."""


PRECISIONS: dict[str, Precision] = {  # from coarse to exact
    "nf4": Precision(
        weights="nf4", bytes_per_weight=0.6, products="bfloat16", quantized=True,
        canary_absolute=1.5, canary_relative=0.5, faint_effect=0.15,
    ),
    "int4-weights": Precision(
        weights="int4", bytes_per_weight=0.63, products="int16", quantized=True, head="int8-weights", trainable=False,
        canary_absolute=1.5, canary_relative=0.5, faint_effect=0.6, merge_limit=0.2,
    ),
    "int8": Precision(
        weights="int8", bytes_per_weight=1, products="int8", quantized=True, trainable=False,
        canary_absolute=0.5, canary_relative=0.2, faint_effect=0.5, merge_limit=0.2,
    ),
    "int8-weights": Precision(
        weights="int8", bytes_per_weight=1.06, products="int16", quantized=True, trainable=False,
        canary_absolute=0.3, canary_relative=0.15, faint_effect=0.25, merge_limit=0.2,
    ),
    # The weights are the base's own, not rounded anew: what differs from float32 are the products.
    "gguf": Precision(
        weights="gguf", bytes_per_weight=0.6, products="bfloat16", quantized=True, trainable=False,
        canary_absolute=0.15, canary_relative=0.1, faint_effect=0.15,
    ),
    "bfloat16": Precision(
        weights="bfloat16", bytes_per_weight=2, products="bfloat16",
        canary_absolute=0.15, canary_relative=0.1, faint_effect=0.15, merges_by_default=True,
    ),
    "int16": Precision(
        weights="int16", bytes_per_weight=2.06, products="int16", states="float32", quantized=True, trainable=False,
        canary_absolute=0.1, canary_relative=0.02, faint_effect=0.05,
        noise=0.02, visible_update=0.1, moving_update=1e-3, merge_limit=0.05,
    ),
    "float16": Precision(
        weights="float16", bytes_per_weight=2, products="float16", states="float16",
        canary_absolute=0.03, canary_relative=0.02, faint_effect=0.02,
        noise=0.02, visible_update=0.1, moving_update=1e-3, merge_limit=0.05,
    ),
    "float32": Precision(
        weights="float32", bytes_per_weight=4, products="float32", states="float32",
        canary_absolute=1e-3, canary_relative=1e-4, faint_effect=1e-4,
        noise=1e-4, visible_update=2e-3, moving_update=1e-5, merge_limit=1e-4, merges_by_default=True,
    ),
}  # fmt: skip


def coarser(first: str, second: str) -> str:
    """The less exact of two precisions; one that has no row counts as the coarsest."""
    precision_names = list(PRECISIONS)
    return precision_names[
        min(
            precision_names.index(precision_name) if precision_name in precision_names else 0
            for precision_name in (first, second)
        )
    ]


def precision_of(precision_name: str) -> Precision:
    """The row of a precision; `auto` and what has no row, such as float8, are taken for bfloat16."""
    return PRECISIONS.get(precision_name, PRECISIONS["bfloat16"])
