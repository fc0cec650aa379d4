"""Linear layers by the compiled products: weights in few bytes, in the panels that `products.c` multiplies.

Without the kernels torch's operators multiply the same panels, slower.
"""

from __future__ import annotations

import contextlib
import ctypes
from ctypes import c_int, c_int64, c_uint, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lorica.models.compiled.library import Kernel, target
from lorica.models.compiled.tensor_arguments import address, type_code

GROUP = 64
"""Inputs whose weights share a scale, and in 4 bits a minimum."""

_LEVELS = {16: 2047, 8: 127, 4: 15}  # the largest code: of 4 bits, which have a minimum, the smallest is 0
_CODE_DTYPES = {16: torch.int16, 8: torch.int8, 4: torch.uint8}
_ROWS_PER_BLOCK = 1024  # of a weight that are packed at once: a multiple of the columns of a panel
_PLAIN_COLUMNS = 16  # of a panel without the kernels
_SMALLEST_SCALE = 1e-30  # of a group of zeros


class _Product(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "row_scale", "group_sums", "weight", "scale", "minimum", "bias", "y")),
        *((name, c_int64) for name in ("rows", "inputs", "outputs", "type", "next")),
    ]


_multiply = Kernel("multiply", c_void_p, c_void_p, c_uint)
_panel_columns = Kernel("panel_columns", returns=c_int64)
_quantize_int16 = Kernel("quantize_int16", *[c_void_p] * 4, c_int64, c_int64, c_int64, c_int)


@dataclass(frozen=True)
class Panels:
    """A weight [out, in] in panels of `columns` outputs.

    bits: of a code; 0 where `weight` is [panels, in, columns] in bfloat16 or float16. Codes are
    [panels, in / 2, columns, 2] with `in` padded to a multiple of GROUP; in 4 bits two of them share a byte. scales,
    minima: [panels, groups, columns] float32; the weight is code * scale + minimum.
    """

    shape: tuple[int, int]
    columns: int
    bits: int
    weight: Tensor
    scales: Tensor | None = None
    minima: Tensor | None = None

    @property
    def padded_inputs(self) -> int:
        """Inputs, with the zeros behind them."""
        return self.weight.shape[1] if not self.bits else 2 * self.weight.shape[1]

    def dequantize(self, first: int, stop: int) -> Tensor:
        """The panels first .. stop as weights [outputs, in] float32."""
        panels = self.weight[first:stop]
        if not self.bits:
            return panels.transpose(1, 2).float().flatten(0, 1)
        if self.bits == 4:
            panels = torch.stack([panels & 15, panels >> 4], dim=2)
        codes = panels.reshape(len(panels), -1, self.columns, 2).permute(0, 2, 1, 3).float()
        assert self.scales is not None
        groups = codes.reshape(len(panels), self.columns, -1, GROUP)
        values = groups * self.scales[first:stop].transpose(1, 2)[..., None]
        if self.minima is not None:
            values += self.minima[first:stop].transpose(1, 2)[..., None]
        return values.flatten(0, 1).flatten(1)[:, : self.shape[1]]


def pack_floats(weight: Tensor, dtype: torch.dtype) -> Panels:
    """weight [out, in] -> panels in bfloat16 or float16."""
    out_features, in_features = weight.shape
    columns = _columns()
    panels = torch.zeros(-(-out_features // columns), in_features, columns, dtype=dtype)
    for start in range(0, out_features, _ROWS_PER_BLOCK):
        block = _whole_panels(weight[start : start + _ROWS_PER_BLOCK].to(dtype), columns)
        panels[start // columns :][: len(block)] = block.transpose(1, 2)
    return Panels((out_features, in_features), columns, 0, panels)


def pack_codes(weight: Tensor, bits: int) -> Panels:
    """weight [out, in] -> panels of codes of 4, 8 or 16 bits; each group has a scale, in 4 bits a minimum, too."""
    out_features, in_features = weight.shape
    columns, groups = _columns(), -(-in_features // GROUP)
    count = -(-out_features // columns)
    pair_shape = (columns // 2, 2) if bits == 4 else (columns, 2)
    panels = torch.zeros(count, groups * GROUP // 2, *pair_shape, dtype=_CODE_DTYPES[bits])
    scales = torch.zeros(count, groups, columns)
    minima = torch.zeros(count, groups, columns) if bits == 4 else None
    for start in range(0, out_features, _ROWS_PER_BLOCK):
        block = weight.new_zeros(min(_ROWS_PER_BLOCK, out_features - start), groups * GROUP, dtype=torch.float32)
        block[:, :in_features] = weight[start : start + _ROWS_PER_BLOCK]
        codes, scale, minimum = _quantize_groups(block.view(len(block), groups, GROUP), bits)
        code_pairs = _whole_panels(codes.view(len(codes), -1, 2), columns).transpose(1, 2)
        if bits == 4:  # the second half of a panel's codes of a pair of inputs lies in the high nibbles
            low, high = code_pairs.flatten(2).chunk(2, dim=2)
            code_pairs = (low | high << 4).view(*low.shape[:2], *pair_shape)
        first = start // columns
        panels[first:][: len(code_pairs)] = code_pairs
        scales[first:][: len(code_pairs)] = _whole_panels(scale, columns).transpose(1, 2)
        if minima is not None:
            minima[first:][: len(code_pairs)] = _whole_panels(minimum, columns).transpose(1, 2)
    return Panels((out_features, in_features), columns, bits, panels, scales, minima)


def multiply(x: Tensor, panels: Panels, bias: Tensor | None) -> Tensor:
    """x [T, in] -> x W^T + bias [T, out] float32; bias: float32. The bits of a row depend on nothing but that row.

    Activations are float32, or codes of 15 bits with a scale per row where the weights are codes: a row that holds NaN
    or infinity gets NaN.
    """
    x = x.contiguous()
    if not target():
        return _multiply_plainly(x, panels, bias)
    (out_features, in_features), rows = panels.shape, len(x)
    y = torch.empty(rows, out_features)
    activations, row_scales, group_sums = x.float(), None, None
    if panels.bits:
        activations = torch.empty(rows, panels.padded_inputs, dtype=torch.int16)
        row_scales = torch.empty(rows)
        group_sums = None if panels.minima is None else torch.empty(rows, panels.padded_inputs // GROUP)
        _quantize_int16(
            x.data_ptr(), activations.data_ptr(), row_scales.data_ptr(), address(group_sums),
            rows, in_features, panels.padded_inputs, type_code(x),
        )  # fmt: skip
    tensors = (activations, row_scales, group_sums, panels.weight, panels.scales, panels.minima, bias, y)
    product = _Product(
        *map(address, tensors), rows, panels.padded_inputs, out_features,
        panels.bits or type_code(panels.weight),
    )  # fmt: skip
    _multiply(ctypes.byref(product), openmp_parallel(), torch.get_num_threads())
    return y


def _multiply_plainly(x: Tensor, panels: Panels, bias: Tensor | None) -> Tensor:
    out_features = panels.shape[0]
    y = torch.empty(len(x), out_features)
    step = _ROWS_PER_BLOCK // panels.columns
    for first in range(0, len(panels.weight), step):
        rows = slice(first * panels.columns, min((first + step) * panels.columns, out_features))
        weight = panels.dequantize(first, first + step)[: rows.stop - rows.start]
        torch.mm(x.float(), weight.t(), out=y[:, rows])
    return y if bias is None else y.add_(bias)


def _quantize_groups(groups: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """[n, groups, GROUP] float32 -> codes of this shape; scales and minima [n, groups]."""
    levels = _LEVELS[bits]
    minimum, maximum = groups.aminmax(dim=-1)
    if bits == 4:
        scale = ((maximum - minimum) / levels).clamp_min_(_SMALLEST_SCALE)
        groups = groups - minimum[..., None]
    else:
        scale = (torch.maximum(maximum, -minimum) / levels).clamp_min_(_SMALLEST_SCALE)
    return (groups / scale[..., None]).round_().to(_CODE_DTYPES[bits]), scale, minimum


def _whole_panels(rows: Tensor, columns: int) -> Tensor:
    """[n, ...] -> [panels, columns, ...], with zeros behind the last row."""
    missing = rows.new_zeros(-len(rows) % columns, *rows.shape[1:])
    return torch.cat([rows, missing]).view(-1, columns, *rows.shape[1:])


def _columns() -> int:
    return int(_panel_columns()) if target() else _PLAIN_COLUMNS


@cache
def openmp_parallel() -> int | None:
    """The address of GOMP_parallel in the OpenMP library that torch has loaded: its threads are used, none are added.
    None where there is no such library; then a product takes one thread.
    """
    with contextlib.suppress(OSError):
        for path in (None, *_openmp_libraries()):
            with contextlib.suppress(OSError, AttributeError, TypeError):
                return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, c_void_p).value
    return None


def _openmp_libraries() -> list[str]:
    """Those that are loaded, torch's first: other packages bring their own along, as scikit-learn does."""
    lines = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    paths = {line.split(maxsplit=5)[-1] for line in lines}
    return sorted(
        (path for path in paths if "omp" in Path(path).name and ".so" in Path(path).name),
        key=lambda path: ("torch" not in path, path),
    )
