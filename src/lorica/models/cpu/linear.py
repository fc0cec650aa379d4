"""Linear layers for inference on a CPU: frozen weights in the form in which they are multiplied fastest.

One `Linear` may fuse several layers of the same input (query, key and value). No gradient passes through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.models.compiled import amx, block_products, library, products
from lorica.models.cpu import kernels
from lorica.models.cpu.weight_only import WeightOnlyLinear
from lorica.models.gguf_layers import GgufLinear, GgufWeight
from lorica.precision import PRECISIONS

_MAX_CODE = 127  # symmetric: -127..127
_MIN_SCALE = 1e-30  # of a row of zeros
_CACHED_ELEMENTS = 1 << 18  # of a block of activations: 1 MiB of float32
_ROWS_PER_BLOCK = 1024  # of a weight that are quantized at once, so that their float32 copy stays in the cache


Linear = Callable[[Tensor], Tensor]
"""x [T, in] -> x W^T + bias, a new tensor [T, out], for frozen W."""


def make_linear(layers: Sequence[nn.Linear | GgufLinear], precision: str) -> Linear:
    """Fuse layers of one input into one; their weights are copied, so that they can be freed. In the precision `gguf`
    the blocks of a GGUF file stay mapped from it.

    precision: a name of `precision.PRECISIONS`, but nf4.
    """
    precision_row = PRECISIONS[precision]
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    bias = torch.cat(biases).to(residual_dtype(precision)) if biases else None
    if precision_row.weights == "gguf":
        states = compute_dtype(precision)
        return WeightOnlyLinear([_as_stored(layer, states) for layer in layers], bias, states)
    weight = torch.cat([layer.weight.detach() for layer in layers]) if len(layers) > 1 else layers[0].weight.detach()
    if precision_row.products == "int8" and (kernels.has_int8_linear() or not library.target()):
        return Int8Linear(weight, bias)
    if precision_row.quantized:
        bits = int(precision_row.weights.removeprefix("int"))
        return partial(products.multiply, panels=products.pack_codes(weight, bits), bias=bias)
    dtype: torch.dtype = getattr(torch, precision_row.weights)
    if dtype == torch.bfloat16 and amx.is_available():
        return partial(amx.multiply, panels=amx.pack(weight), bias=None if bias is None else bias.float())
    if _is_prepacked(dtype):
        return partial(kernels.prepacked_linear, packed=kernels.prepack(weight.to(dtype)), bias=bias)
    if dtype == torch.float32:
        return partial(F.linear, weight=weight.float(), bias=bias)
    return partial(products.multiply, panels=products.pack_floats(weight, dtype), bias=bias)


def rounds_by_row(linear: Linear) -> bool:
    """Whether the bits of a row of the result depend on that row alone, for any number of rows."""
    if isinstance(linear, WeightOnlyLinear):
        return linear.compiled
    if not isinstance(linear, partial):
        return False
    return linear.func is amx.multiply or (linear.func is products.multiply and bool(library.target()))


def compute_dtype(precision: str) -> torch.dtype:
    """The dtype of keys, values and adapters on a base that is computed in `precision` on this processor."""
    precision_row = PRECISIONS[precision]
    if precision_row.weights == "gguf" and library.target():
        return block_products.input_dtype()
    dtype: torch.dtype = getattr(torch, precision_row.states)
    return dtype if _is_prepacked(dtype) else torch.float32


def _is_prepacked(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in this dtype. Its products in float16 are no faster than Lorica's, which take and give
    float32: hidden states in float16 overflow above 65,504.
    """
    return kernels.can_prepack(dtype) and not (dtype == torch.float16 and library.target())


def residual_dtype(precision: str) -> torch.dtype:
    """The dtype of the hidden states between layers: float32 where weights are quantized."""
    return torch.float32 if PRECISIONS[precision].quantized else compute_dtype(precision)


class Int8Linear:
    """W8A8: weights in int8 with a scale per row, activations in int8 with a scale per token, sums in int32, output in
    float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        codes, self._scales = quantize_weight(weight)
        self._fast = kernels.has_int8_linear()
        self._weight = kernels.prepack_int8(codes) if self._fast else codes
        self.bias = bias

    def __call__(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """[T, in], or what `quantize_rows` makes of it -> [T, out]."""
        codes, scale = quantize_rows(x) if isinstance(x, Tensor) else x
        y = self.matmul_unscaled(codes).mul_(scale)
        return y if self.bias is None else y.add_(self.bias)

    def matmul_unscaled(self, codes: Tensor) -> Tensor:
        """Codes [T, in] -> [T, out] before the scales of the tokens and the bias."""
        int8_linear = kernels.int8_linear if self._fast else kernels.int8_linear_reference
        return int8_linear(codes, self._weight, self._scales)


def _as_stored(layer: nn.Linear | GgufLinear, dtype: torch.dtype) -> GgufWeight:
    """The blocks of a GGUF file; a layer that an adapter was merged into has none."""
    return layer.quantized if isinstance(layer, GgufLinear) else GgufWeight.plain(layer.weight.detach().to(dtype))


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] -> int8 codes [out, in] and float32 scales [out]."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight))
    for start in range(0, len(weight), _ROWS_PER_BLOCK):
        row_slice = slice(start, start + _ROWS_PER_BLOCK)
        block = weight[row_slice].float()
        scale = _row_absmax(block).div_(_MAX_CODE)
        codes[row_slice] = (block / scale).round_().to(torch.int8)
        scales[row_slice] = scale.squeeze(1)
    return codes, scales


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [T, in] -> uint8 codes [T, in] around 128, and the float32 scale of each row [T, 1].

    A row that holds NaN gets the scale NaN.
    """
    codes, scales = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x), 1)
    for row_slice in cache_blocks(x):
        block = x[row_slice].float()
        absmax = _row_absmax(block)
        codes[row_slice] = (block * (_MAX_CODE / absmax)).round_()
        torch.div(absmax, _MAX_CODE, out=scales[row_slice])
    return codes.view(torch.uint8).bitwise_xor_(kernels.ZERO_POINT), scales


def cache_blocks(x: Tensor) -> Iterator[slice]:
    """The rows of x [T, in] in blocks that stay in the cache over several operations."""
    block_size = max(1, _CACHED_ELEMENTS // x.shape[1])
    for start in range(0, len(x), block_size):
        yield slice(start, start + block_size)


def _row_absmax(x: Tensor) -> Tensor:
    # [N, in] -> [N, 1]; maximum and minimum are faster than absolute values
    return torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_()).clamp_min_(_MIN_SCALE)
