"""Weights held in 8 or 4 bits, restored for each product a few rows at a time: a half or a quarter of the memory.

What is restored stays in the processor's cache until it is multiplied. The compiled kernel takes 0.04 ns a weight for
that, so products of many tokens lose little; torch's operators do the same where it is not there.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lorica.models.compiled import bindings as compiled
from lorica.models.cpu import kernels

GROUP_SIZES = (64, 32)
"""Weights of a row that share a scale in 4 bits: the first of these that divides the row."""

_DEQUANTIZED_BYTES = 1 << 21  # at once: what the second cache holds, and a little more, for few calls
_ROW_STEP = 32  # rows of weights by which these go on
_FEW_TOKENS = 15  # up to here, without the compiled kernel, int8 weights are multiplied as they are
_PAIR = 32  # 16 bytes hold so many weights in 4 bits: the first half in their lower halves
_LEVELS = 15
_ROWS_AT_ONCE = 1024  # that are quantised at once


class QuantizedWeight(Protocol):
    """Weights [out, in] in few bits."""

    shape: tuple[int, int]

    def dequantize(self, first: int, out: Tensor) -> None:
        """Fill into [n, in] with the weights' rows first .. first + n."""
        ...


class Int8Weight:
    """w = code * scale, a scale for each row."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        """codes [out, in] int8; scales [out], in the precision in which weights are restored."""
        self.codes, self.scales = codes, scales
        self.shape = (codes.shape[0], codes.shape[1])

    def dequantize(self, first: int, out: Tensor) -> None:
        """See `Codes.restore`."""
        rows = slice(first, first + len(out))
        if _uses_compiled(out):
            compiled.dequantize_int8(self.codes[rows], self.scales[rows], out)
        else:
            torch.mul(self.codes[rows], self.scales[rows, None], out=out)


class Int4Weight:
    """w = code * scale + least, a scale and a least weight for each group of a row."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        """weight [out, in], whose rows some of `GROUPS` divides. Scales are rounded to dtype before codes are chosen:
        then that is no error.
        """
        count, width = weight.shape
        self.shape, self.group = (count, width), group_size_for(width)
        self.codes = torch.empty(count, width // 2, dtype=torch.uint8)
        self.scales = torch.empty(count, width // self.group, 2, dtype=dtype)
        for start in range(0, count, _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            self.codes[rows], self.scales[rows] = _quantize_groups(weight[rows].float(), self.group, dtype)

    def dequantize(self, first: int, out: Tensor) -> None:
        """See `Codes.restore`."""
        rows = slice(first, first + len(out))
        if _uses_compiled(out):
            compiled.dequantize_int4(self.codes[rows], self.scales[rows], out, self.group)
            return
        pairs = self.codes[rows].view(len(out), -1, _PAIR // 2)
        codes = torch.cat([pairs & _LEVELS, pairs >> 4], dim=-1).view(len(out), -1, self.group)
        scale, minimum = self.scales[rows].unbind(-1)
        out.copy_(torch.addcmul(minimum.float()[..., None], codes.float(), scale.float()[..., None]).view(out.shape))


class WeightOnlyLinear:
    """Activations as they are; a token's bits do not depend on how many others there are, in steps of 16."""

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._weight, self._bias, self._dtype = weight, bias, dtype
        width = weight.shape[1]
        self._rows_per_block = max(_ROW_STEP, _DEQUANTIZED_BYTES // (width * dtype.itemsize) // _ROW_STEP * _ROW_STEP)

    def prepare(self, x: Tensor) -> Tensor:
        """The same."""
        return x

    def __call__(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """[T, in] -> [T, out]."""
        assert isinstance(x, Tensor)
        y = self._int8_linear(x)
        if y is None:
            y = self._dequantize_and_multiply(x)
        return y if self._bias is None else y.add_(self._bias)

    def _int8_linear(self, x: Tensor) -> Tensor | None:
        """The product of few tokens with the codes themselves, where that is faster."""
        if len(x) > _FEW_TOKENS or x.dtype != torch.bfloat16 or compiled.is_available():
            return None
        if not isinstance(self._weight, Int8Weight) or not kernels.has_int8_weight_only_linear():
            return None
        return kernels.int8_weight_only_linear(x.contiguous(), self._weight.codes, self._weight.scales)

    def _dequantize_and_multiply(self, x: Tensor) -> Tensor:
        count, width = self._weight.shape
        y, buffer = x.new_empty(len(x), count), torch.empty(min(self._rows_per_block, count), width, dtype=self._dtype)
        for first in range(0, count, self._rows_per_block):
            block = buffer[: count - first]
            self._weight.dequantize(first, block)
            torch.mm(x, block.t(), out=y[:, first : first + len(block)])
        return y


def group_size_for(width: int) -> int:
    """The group for rows of this width; 0 where none divides it."""
    return next((group for group in GROUP_SIZES if width % group == 0), 0)


def _uses_compiled(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and compiled.is_available()


def _quantize_groups(weight: Tensor, group: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[n, in] float32 -> codes [n, in / 2], scales and least weights [n, in / group, 2]."""
    groups = weight.view(len(weight), -1, group)
    minimum, maximum = groups.aminmax(dim=-1)
    scales = torch.stack([(maximum - minimum) / _LEVELS, minimum], dim=-1).to(dtype)
    scale, minimum = scales.float().unbind(-1)
    # A group of equal weights has no scale: all its codes are 0.
    steps = torch.where(scale > 0, scale, 1.0)
    codes = ((groups - minimum[..., None]) / steps[..., None]).round_().clamp_(0, _LEVELS).to(torch.uint8)
    pairs = codes.view(len(weight), -1, 2, _PAIR // 2)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(weight), -1), scales
