"""Weight-only quantization: the blocks of a GGUF file, dequantized for each product in blocks of rows.

A dequantized block stays in the processor's cache until it is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

_DEQUANTIZED_BYTES = 1 << 21  # of a block: what the L2 cache holds, and a little more, for few calls
_ROW_STEP = 32  # a block has a multiple of so many rows


class QuantizedWeight(Protocol):
    """A weight [out, in] as codes of few bits with scales."""

    shape: tuple[int, int]

    def dequantize(self, first: int, out: Tensor) -> None:
        """Fill out [n, in] with the rows first .. first + n."""
        ...


class DenseWeight:
    """A weight in floating point among quantized ones."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self.shape = (weight.shape[0], weight.shape[1])

    def dequantize(self, first: int, out: Tensor) -> None:
        """See `QuantizedWeight`."""
        out.copy_(self._weight[first : first + len(out)])


class StackedWeight:
    """Weights of one input, the rows of each below those of the one before."""

    def __init__(self, weights: Sequence[QuantizedWeight]) -> None:
        self._weights = weights
        self.shape = (sum(weight.shape[0] for weight in weights), weights[0].shape[1])

    def dequantize(self, first: int, out: Tensor) -> None:
        """See `QuantizedWeight`."""
        start = 0  # of a weight's rows, counted from the first row of out
        for weight in self._weights:
            begin, end = max(start - first, 0), min(start + weight.shape[0] - first, len(out))
            if begin < end:
                weight.dequantize(first + begin - start, out[begin:end])
            start += weight.shape[0]


class WeightOnlyLinear:
    """Quantized weights, activations as they are; batch-invariant in steps of 16 tokens."""

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._weight, self._bias, self._dtype = weight, bias, dtype
        in_features = weight.shape[1]
        self._rows_per_block = max(
            _ROW_STEP, _DEQUANTIZED_BYTES // (in_features * dtype.itemsize) // _ROW_STEP * _ROW_STEP
        )

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out]."""
        y = self._dequantize_and_multiply(x)
        return y if self._bias is None else y.add_(self._bias)

    def _dequantize_and_multiply(self, x: Tensor) -> Tensor:
        out_features, in_features = self._weight.shape
        y, buffer = (
            x.new_empty(len(x), out_features),
            torch.empty(min(self._rows_per_block, out_features), in_features, dtype=self._dtype),
        )
        for first_row in range(0, out_features, self._rows_per_block):
            block = buffer[: out_features - first_row]
            self._weight.dequantize(first_row, block)
            torch.mm(x, block.t(), out=y[:, first_row : first_row + len(block)])
        return y
