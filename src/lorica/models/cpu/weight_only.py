"""Weight-only quantization: the blocks of a GGUF file, dequantized for each product, a few rows at a time.

What is dequantized stays in the processor's cache until it is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorica.models.compiled import block_products
from lorica.models.gguf_layers import GgufWeight

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

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out] float32."""
        y = torch.empty(len(x), sum(self._widths))
        inputs = x.to(block_products.input_dtype() if self.compiled else self._dtype).contiguous()
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
