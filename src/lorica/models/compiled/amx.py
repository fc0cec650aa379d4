"""Linear layers in bfloat16 by the matrix tiles of AMX (in C), whose rounding does not depend on the number of rows."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_uint, c_void_p
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.hardware import this_machine
from lorica.models.compiled.library import Kernel, target
from lorica.models.compiled.products import openmp_parallel
from lorica.models.compiled.tensor_arguments import address

_COLUMNS = 32  # outputs of a panel
_INPUT_STEP = 32  # inputs of a tile
_TARGET = "avx512-bf16"


class _TileProduct(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "weight", "bias", "y")),
        *((name, c_int64) for name in ("rows", "inputs", "outputs", "at_once", "next")),
    ]


_multiply_by_tiles = Kernel("multiply_by_tiles", c_void_p, c_void_p, c_uint)
_has_tiles = Kernel("has_tiles", returns=c_int)


@dataclass(frozen=True)
class TilePanels:
    """A weight [out, in] as bfloat16 [panels, inputs / 2, 32, 2], with zeros behind the last output and input."""

    shape: tuple[int, int]
    weight: Tensor


@cache
def _permitted() -> bool:
    return bool(_has_tiles())


def is_available() -> bool:
    """Whether the kernels in use multiply by AMX's tiles, and neither the system nor the environment forbids it."""
    return target() == _TARGET and "amx_bf16" in this_machine().instruction_sets and _permitted()


def pack(weight: Tensor) -> TilePanels:
    """weight [out, in] -> what `multiply` takes."""
    out_features, in_features = weight.shape
    panels, inputs = -(-out_features // _COLUMNS), -(-in_features // _INPUT_STEP) * _INPUT_STEP
    packed = torch.zeros(panels, inputs // 2, _COLUMNS, 2, dtype=torch.bfloat16)
    for start in range(0, out_features, _COLUMNS):
        block = F.pad(weight[start : start + _COLUMNS].to(torch.bfloat16), (0, inputs - in_features))
        packed[start // _COLUMNS, :, : len(block)] = block.view(len(block), -1, 2).transpose(0, 1)
    return TilePanels((out_features, in_features), packed)


def multiply(x: Tensor, panels: TilePanels, bias: Tensor | None) -> Tensor:
    """x [T, in] bfloat16 -> x W^T + bias [T, out] bfloat16, summed in float32 and rounded once; bias: float32.

    The bits of a row depend on nothing but that row.
    """
    out_features, in_features = panels.shape
    inputs = 2 * panels.weight.shape[1]
    x = F.pad(x, (0, inputs - in_features)) if inputs > in_features else x.contiguous()
    y = torch.empty(len(x), out_features, dtype=torch.bfloat16)
    product = _TileProduct(*map(address, (x, panels.weight, bias, y)), len(x), inputs, out_features)
    _multiply_by_tiles(ctypes.byref(product), openmp_parallel(), torch.get_num_threads())
    return y
