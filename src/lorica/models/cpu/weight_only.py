"""Weight-only quantization: weights in 8 or 4 bits, dequantized for each product in blocks of rows.

A dequantized block stays in the processor's cache until it is multiplied. The compiled kernel takes 0.04 ns a weight
for that, so products of many tokens lose little; without it, torch's operators do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lorica.models.compiled import bindings as compiled
from lorica.models.cpu import kernels

GROUP_SIZES = (64, 32)
"""Weights of a row that share a scale in 4 bits: the first of these that divides the row."""

_DEQUANTIZED_BYTES = 1 << 21  # of a block: what the L2 cache holds, and a little more, for few calls
_ROW_STEP = 32  # a block has a multiple of so many rows
_FEW_TOKENS = 15  # up to here, without the compiled kernel, torch multiplies int8 weights directly
_PAIR = 32  # weights in 16 bytes of 4-bit codes: the first half in the low nibbles
_MAX_CODE = 15
_ROWS_PER_BLOCK = 1024  # that are quantized at once


class QuantizedWeight(Protocol):
    """A weight [out, in] as codes of few bits with scales."""

    shape: tuple[int, int]

    def dequantize(self, first: int, out: Tensor) -> None:
        """Fill out [n, in] with the rows first .. first + n."""
        ...


class Int8Weight:
    """w = code * scale, a scale for each row."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        """codes [out, in] int8; scales [out], in the dtype to which weights are dequantized."""
        self.codes, self.scales = codes, scales
        self.shape = (codes.shape[0], codes.shape[1])

    def dequantize(self, first: int, out: Tensor) -> None:
        """See `QuantizedWeight`."""
        row_slice = slice(first, first + len(out))
        if out.dtype == self.scales.dtype and compiled.is_available():
            compiled.dequantize_int8(self.codes[row_slice], self.scales[row_slice], out)
        else:
            torch.mul(self.codes[row_slice], self.scales[row_slice, None], out=out)


class Int4Weight:
    """w = code * scale + minimum, with a scale and a minimum for each group of a row."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        """weight [out, in], whose rows one of `GROUP_SIZES` divides. Scales are rounded to dtype before codes are
        chosen, so that their rounding is no error.
        """
        out_features, in_features = weight.shape
        self.shape, self.group = (out_features, in_features), group_size_for(in_features)
        self.codes = torch.empty(out_features, in_features // 2, dtype=torch.uint8)
        self.scales = torch.empty(out_features, in_features // self.group, 2, dtype=dtype)
        for start in range(0, out_features, _ROWS_PER_BLOCK):
            row_slice = slice(start, start + _ROWS_PER_BLOCK)
            self.codes[row_slice], self.scales[row_slice] = _quantize_groups(
                weight[row_slice].float(), self.group, dtype
            )

    def dequantize(self, first: int, out: Tensor) -> None:
        """See `QuantizedWeight`."""
        row_slice = slice(first, first + len(out))
        if out.dtype == self.scales.dtype and compiled.is_available():
            compiled.dequantize_int4(self.codes[row_slice], self.scales[row_slice], out, self.group)
            return
        packed_pairs = self.codes[row_slice].view(len(out), -1, _PAIR // 2)
        codes = torch.cat([packed_pairs & _MAX_CODE, packed_pairs >> 4], dim=-1).view(len(out), -1, self.group)
        scale, minimum = self.scales[row_slice].unbind(-1)
        out.copy_(torch.addcmul(minimum.float()[..., None], codes.float(), scale.float()[..., None]).view(out.shape))


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
        y = self._int8_linear(x)
        if y is None:
            y = self._dequantize_and_multiply(x)
        return y if self._bias is None else y.add_(self._bias)

    def _int8_linear(self, x: Tensor) -> Tensor | None:
        """The product of few tokens with int8 codes directly, where that is faster."""
        if len(x) > _FEW_TOKENS or x.dtype != torch.bfloat16 or compiled.is_available():
            return None
        if not isinstance(self._weight, Int8Weight) or not kernels.has_int8_weight_only_linear():
            return None
        return kernels.int8_weight_only_linear(x.contiguous(), self._weight.codes, self._weight.scales)

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


def group_size_for(in_features: int) -> int:
    """The group size for rows of this width; 0 where none divides it."""
    return next((group_size for group_size in GROUP_SIZES if in_features % group_size == 0), 0)


def _quantize_groups(weight: Tensor, group_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[n, in] float32 -> codes [n, in / 2], scales and minima [n, in / group, 2]."""
    groups = weight.view(len(weight), -1, group_size)
    minimum, maximum = groups.aminmax(dim=-1)
    scales = torch.stack([(maximum - minimum) / _MAX_CODE, minimum], dim=-1).to(dtype)
    scale, minimum = scales.float().unbind(-1)
    # A group of equal weights has no scale: all its codes are 0.
    steps = torch.where(scale > 0, scale, 1.0)
    codes = ((groups - minimum[..., None]) / steps[..., None]).round_().clamp_(0, _MAX_CODE).to(torch.uint8)
    packed_pairs = codes.view(len(weight), -1, 2, _PAIR // 2)
    return (packed_pairs[:, :, 0] | packed_pairs[:, :, 1] << 4).reshape(len(weight), -1), scales
