"""Products with weights in ggml's blocks, which stay as a file has them: restored a panel at a time (in C)."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int64, c_uint, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.models.compiled.library import Kernel, target
from lorica.models.compiled.products import openmp_parallel
from lorica.models.compiled.tensor_arguments import address

_INPUT_STEP = 32  # the smallest block; numbers that are in none come in any count


class _BlockProduct(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "weight", "order", "bias", "y")),
        *((name, c_int64) for name in ("rows", "inputs", "outputs", "row_bytes", "y_stride")),
        *((name, c_int64) for name in ("block_type", "block_weights", "block_bytes", "next")),
    ]


_multiply_blocks = Kernel("multiply_blocks", c_void_p, c_void_p, c_uint)
_multiplies_pairs = Kernel("multiplies_pairs", returns=c_int)


def can_multiply(in_features: int) -> bool:
    """Whether the kernels are available for rows of so many weights."""
    return bool(target()) and in_features % _INPUT_STEP == 0


def input_dtype() -> torch.dtype:
    """Of activations: bfloat16 where the kernels in use multiply it, else float32."""
    return torch.bfloat16 if _multiplies_pairs() else torch.float32


@dataclass(frozen=True)
class BlockRows:
    """A weight [out, in] as blocks [out, bytes of a row] uint8 of one type.

    number: the type's, in GGUF files. weights, size: of a block, and its bytes. order: [out] int64, which row of
    `blocks` is which of the weight; None where they lie in order.
    """

    blocks: Tensor
    number: int
    weights: int
    size: int
    order: Tensor | None = None


def multiply(x: Tensor, weight: BlockRows, bias: Tensor | None, out: Tensor) -> None:
    """out [T, out_features] float32 = x [T, in] W^T + bias; the bits of a row depend on nothing but that row.

    x: contiguous, of `input_dtype`. bias: float32. out: columns of a contiguous tensor.
    """
    product = _BlockProduct(
        *map(address, (x, weight.blocks, weight.order, bias, out)),
        len(x), x.shape[1], *weight.blocks.shape, out.stride(0), weight.number, weight.weights, weight.size,
    )  # fmt: skip
    _multiply_blocks(ctypes.byref(product), openmp_parallel(), torch.get_num_threads())
