"""Linear layers for inference on a CPU: frozen weights in the form in which they are multiplied fastest.

One `Product` may stand for several layers of the same input (query, key and value), whose weights lie below each
other. Nothing here is trained through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.models.cpu import kernels
from lorica.models.cpu.weight_only import Int4Weight, Int8Weight, QuantizedWeight, WeightOnlyLinear, group_size_for
from lorica.precision import PRECISIONS

_LEVELS = 127  # symmetric: -127..127
_SMALLEST = 1e-30  # a row of zeros has this scale
_CACHED_ELEMENTS = 1 << 18  # numbers that are worked on at once: 1 MiB of float32
_ROWS_PER_BLOCK = 1024  # weights' rows that are quantised at once, so that their float32 copy stays in the cache


LinearInput = Tensor | tuple[Tensor, Tensor]
"""The input of a product: as it is, or its codes with their scales."""


class Linear(Protocol):
    """y = x W^T + bias for frozen W."""

    def prepare(self, x: Tensor) -> LinearInput:
        """x [T, in] in the form in which it is multiplied, for several products of one input and one precision."""
        ...

    def __call__(self, x: LinearInput) -> Tensor:
        """x [T, in], prepared or not -> a new tensor [T, out]."""
        ...


def make_linear(layers: Sequence[nn.Linear], precision: str) -> Linear:
    """Several layers of one input as one product; their weights are copied, so that they can be let go of.

    precision: a name of `precision.PRECISIONS`, but nf4.
    """
    row, dtype = PRECISIONS[precision], compute_dtype(precision)
    weight = torch.cat([layer.weight.detach() for layer in layers]) if len(layers) > 1 else layers[0].weight.detach()
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    bias = torch.cat(biases).to(residual_dtype(precision)) if biases else None
    if row.products == "int8":
        return Int8Linear(weight, bias)
    if row.quantized:
        return WeightOnlyLinear(_quantized_weight(weight, row.weights, dtype), bias, dtype)
    return (
        PrepackedLinear(weight.to(dtype), bias) if kernels.can_prepack(dtype) else TorchLinear(weight.to(dtype), bias)
    )


def compute_dtype(precision: str) -> torch.dtype:
    """The precision of keys, values and adapters beside a base that is computed in `precision`."""
    row = PRECISIONS[precision]
    if row.quantized:
        return torch.bfloat16 if kernels.can_prepack(torch.bfloat16) else torch.float32
    dtype: torch.dtype = getattr(torch, row.products)
    return dtype


def residual_dtype(precision: str) -> torch.dtype:
    """The precision of the states between layers: with int8, whose results are float32, they stay so."""
    return torch.float32 if PRECISIONS[precision].products == "int8" else compute_dtype(precision)


class _UnquantizedInput:
    """A product whose input needs no preparation."""

    def prepare(self, x: Tensor) -> LinearInput:
        """The same."""
        return x


class TorchLinear(_UnquantizedInput):
    """torch's own product."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: LinearInput) -> Tensor:
        """[T, in] -> [T, out]."""
        assert isinstance(x, Tensor)
        return F.linear(x, self._weight, self._bias)


class PrepackedLinear(_UnquantizedInput):
    """Weights in oneDNN's own order."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed, self._bias = kernels.prepack(weight), bias

    def __call__(self, x: LinearInput) -> Tensor:
        """[T, in] -> [T, out]."""
        assert isinstance(x, Tensor)
        return kernels.prepacked_linear(x, self._packed, self._bias)


class Int8Linear:
    """Weights in int8 with one scale a row, activations in int8 with one scale a token, sums in int32.

    The result is float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        codes, self._scales = quantize_weight(weight)
        self._fast = kernels.has_int8_linear()
        self._weight = kernels.prepack_int8(codes) if self._fast else codes
        self.bias = bias

    def prepare(self, x: Tensor) -> LinearInput:
        """Codes [T, in], and scales [T, 1]."""
        return quantize_rows(x)

    def __call__(self, x: LinearInput) -> Tensor:
        """[T, in] -> [T, out]."""
        codes, scale = quantize_rows(x) if isinstance(x, Tensor) else x
        y = self.matmul_unscaled(codes).mul_(scale)
        return y if self.bias is None else y.add_(self.bias)

    def matmul_unscaled(self, codes: Tensor) -> Tensor:
        """[T, in] codes -> [T, out] without the scales of their rows, and without the bias."""
        product = kernels.int8_linear if self._fast else kernels.int8_linear_reference
        return product(codes, self._weight, self._scales)


def _quantized_weight(weight: Tensor, storage: str, dtype: torch.dtype) -> QuantizedWeight:
    if storage == "int4" and group_size_for(weight.shape[1]):
        return Int4Weight(weight, dtype)
    # The scales are rounded first, so that their rounding is no error.
    codes, scales = quantize_weight(weight, scales_in=dtype)
    return Int8Weight(codes, scales.to(dtype))


def quantize_weight(weight: Tensor, *, scales_in: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """[out, in] -> int8 codes [out, in] and float32 scales [out], rounded to `scales_in` (upwards or downwards)."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight))
    for start in range(0, len(weight), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        block = weight[rows].float()
        scale = _row_absmax(block).div_(_LEVELS).to(scales_in).float()
        # A scale that was rounded down would push the largest weight to 128.
        codes[rows] = (block / scale).round_().clamp_(-_LEVELS, _LEVELS).to(torch.int8)
        scales[rows] = scale.squeeze(1)
    return codes, scales


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [T, in] -> uint8 codes [T, in] around 128, and the float32 scale of each row [T, 1].

    A row that holds NaN gets the scale NaN.
    """
    codes, scales = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x), 1)
    for rows in cache_blocks(x):
        block = x[rows].float()
        largest = _row_absmax(block)
        codes[rows] = (block * (_LEVELS / largest)).round_()
        torch.div(largest, _LEVELS, out=scales[rows])
    return codes.view(torch.uint8).bitwise_xor_(kernels.ZERO_POINT), scales


def cache_blocks(x: Tensor) -> Iterator[slice]:
    """The rows of x [T, in], a few at a time: several operations in a row on them stay in the processor's own cache."""
    step = max(1, _CACHED_ELEMENTS // x.shape[1])
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def _row_absmax(x: Tensor) -> Tensor:
    # [N, in] -> [N, 1]; both ends are found faster than absolute values are made
    return torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_()).clamp_min_(_SMALLEST)
