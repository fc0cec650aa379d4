"""Weight-only quantization: the blocks of a GGUF file, dequantized for each product, a few rows at a time.

What is dequantized stays in the processor's cache until it is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorica.models.compiled import bindings, block_products
from lorica.models.cpu import scratch
from lorica.models.gguf_layers import GgufWeight

_GATED_ELEMENTS = 1 << 17  # of gate or up at a time, for each thread: 512 KiB, so that both stay in the cache
_COLUMN_STEP = 64  # whole panels of every target
_DEQUANTIZED_BYTES = 1 << 21  # without the kernels: what the L2 cache holds, and a little more, for few calls
_ROW_STEP = 32  # rows are then dequantized in multiples of so many


class WeightOnlyLinear:
    """Quantized weights of one input, their outputs side by side; activations as they are, sums in float32.

    Batch-invariant: with the kernels always, without them in steps of 16 tokens.
    """

    def __init__(self, weights: Sequence[GgufWeight], bias: Tensor | None, dtype: torch.dtype) -> None:
        """dtype: that of products without the kernels. `compiled`: whether there are such."""
        self._weights, self._dtype = weights, dtype
        self._widths = [weight.shape[0] for weight in weights]
        self._biases = [None] * len(weights) if bias is None else torch.split(bias, self._widths)
        self.compiled = block_products.can_multiply(weights[0].shape[1])

    @property
    def width(self) -> int:
        """Of the output."""
        return sum(self._widths)

    def columns(self, columns: slice) -> WeightOnlyLinear:
        """Some outputs of a single weight, whose blocks it shares."""
        (weight,), (bias,) = self._weights, self._biases
        return WeightOnlyLinear([weight.columns(columns)], None if bias is None else bias[columns], self._dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out] float32, within a frame of `scratch` no longer than that."""
        y = scratch.empty(len(x), self.width, dtype=torch.float32)
        inputs = scratch.convert(x, block_products.input_dtype() if self.compiled else self._dtype)
        for weight, bias, out in zip(self._weights, self._biases, torch.split(y, self._widths, 1), strict=True):
            if self.compiled:
                block_products.multiply(inputs, weight.block_rows, bias, out)
            else:
                self._dequantize_and_multiply(inputs, weight, out)
                out += 0.0 if bias is None else bias
        return y

    def _dequantize_and_multiply(self, x: Tensor, weight: GgufWeight, out: Tensor) -> None:
        out_features, in_features = weight.shape
        step = max(_ROW_STEP, _DEQUANTIZED_BYTES // (in_features * self._dtype.itemsize) // _ROW_STEP * _ROW_STEP)
        buffer = torch.empty(min(step, out_features), in_features, dtype=self._dtype)
        for first in range(0, out_features, step):
            block = buffer[: out_features - first]
            weight.dequantize(first, block)
            out[:, first : first + len(block)] = torch.mm(x, block.t())


def gated_product(gate: WeightOnlyLinear, up: WeightOnlyLinear, x: Tensor) -> Tensor:
    """silu(gate(x)) * up(x) of x [T, in] -> [T, out] as the next product takes it, by the kernels.

    Some columns at a time, so that not all of both are there at once.
    """
    x = scratch.convert(x, block_products.input_dtype())
    width = gate.width
    elements = _GATED_ELEMENTS * torch.get_num_threads()
    step = max(_COLUMN_STEP, elements // len(x) // _COLUMN_STEP * _COLUMN_STEP)
    if step >= width:
        return bindings.silu_and_mul(gate(x), up(x))
    activated = scratch.empty(len(x), width, dtype=x.dtype)
    for first in range(0, width, step):
        columns = slice(first, min(first + step, width))
        with scratch.frame(len(x)):
            activated[:, columns] = bindings.silu_and_mul(gate.columns(columns)(x), up.columns(columns)(x))
    return activated
