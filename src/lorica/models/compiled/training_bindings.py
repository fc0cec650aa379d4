"""The compiled kernels of training as functions of tensors: contiguous but where a stride is said, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float, c_int, c_int64, c_uint64, c_void_p
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lorica.models.compiled.library import Kernel
from lorica.models.compiled.tensor_arguments import address

_TYPES = {torch.bfloat16: 0, torch.float32: 2}  # as in common.h; nothing is trained in float16
_ELEMENTS_PER_THREAD = 1 << 14  # fewer are sooner computed than handed to another thread

_drop = Kernel("drop", c_void_p, c_void_p, c_int64, c_uint64, c_int64, c_int, c_int, c_int64)
_gate = Kernel("train_gate", *[c_void_p] * 3, c_int64, c_int64, c_int64, c_int, c_int64)
_gate_backward = Kernel("train_gate_backward", *[c_void_p] * 5, c_int64, c_int64, c_int64, c_int, c_int64)
_norm = Kernel("train_norm", *[c_void_p] * 5, c_int64, c_int64, c_float, c_int, c_int64)
_norm_backward = Kernel("train_norm_backward", *[c_void_p] * 6, c_int64, c_int64, c_float, c_int, c_int64)
_attention = Kernel("train_attention", *[c_void_p] * 4, c_float, c_int, c_int64)
_attention_scratch = Kernel("train_attention_scratch", c_int64, c_int64, c_int64, returns=c_int64)
_heads = Kernel("train_heads", *[c_void_p] * 6, c_int64, c_void_p, c_float, c_int, c_int, c_int64)


def drop(x: Tensor, seed: int, threshold: int, *, add_to: Tensor | None = None) -> Tensor:
    """x where 16 random bits are not below the threshold, 0 elsewhere; added to a tensor in place where one is given.

    The bits are a function of the seed, of 64 bits, and the element's number.
    """
    output = torch.empty_like(x) if add_to is None else add_to
    _drop(
        x.data_ptr(), output.data_ptr(), x.numel(), seed, threshold, _TYPES[x.dtype], add_to is not None, _threads(x)
    )  # fmt: skip
    return output


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up -> [N, width]; gate and up [N, width] of one row stride."""
    output = torch.empty(gate.shape, dtype=gate.dtype)
    _gate(
        gate.data_ptr(), up.data_ptr(), output.data_ptr(), *gate.shape, gate.stride(0), _TYPES[gate.dtype],
        _threads(gate),
    )  # fmt: skip
    return output


def silu_and_mul_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient [N, width] of the product -> those of gate and up, side by side in one tensor where these are."""
    rows, width = gate.shape
    gradients = torch.empty(rows, gate.stride(0), dtype=gate.dtype)
    of_gate, of_up = gradients[:, :width], gradients[:, width : 2 * width]
    _gate_backward(
        gradient.data_ptr(), gate.data_ptr(), up.data_ptr(), of_gate.data_ptr(), of_up.data_ptr(), rows, width,
        gate.stride(0), _TYPES[gate.dtype], _threads(gate),
    )  # fmt: skip
    return of_gate, of_up


def add_and_norm(
    x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x [N, width] + added, and its root-mean-square norm times weight [width] in `dtype`, which is that of `added`; x
    and weight are float32.
    """
    total = x if added is None else torch.empty_like(x)
    normed = torch.empty(x.shape, dtype=dtype)
    _norm(
        x.data_ptr(), address(added), weight.data_ptr(), total.data_ptr(), normed.data_ptr(), *x.shape, eps,
        _TYPES[dtype], _threads(x),
    )  # fmt: skip
    return total, normed


def add_and_norm_backward(
    total: Tensor, weight: Tensor, eps: float, total_gradient: Tensor | None, normed_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of what `add_and_norm` returned, for its sum `total` -> that of x, and in the norm's dtype."""
    gradient = torch.empty_like(total)
    narrow = gradient if normed_gradient.dtype == torch.float32 else torch.empty_like(normed_gradient)
    _norm_backward(
        total.data_ptr(), weight.data_ptr(), address(total_gradient), normed_gradient.data_ptr(), gradient.data_ptr(),
        None if narrow is gradient else narrow.data_ptr(), *total.shape, eps, _TYPES[narrow.dtype], _threads(total),
    )  # fmt: skip
    return gradient, narrow


def rotate_heads(
    x: Tensor, cos_sin: tuple[Tensor, Tensor], norm: Tensor | None, eps: float, head_dim: int, dtype: torch.dtype
) -> Tensor:
    """x [N, H * Dh], of any row stride, normed and rotated -> [N, H, Dh] in `dtype`. cos_sin: [N, Dh] float32 each."""
    output = torch.empty(len(x), x.shape[1] // head_dim, head_dim, dtype=dtype)
    _rotate(x, None, output, cos_sin, norm, eps, dtype)
    return output


def rotate_heads_backward(
    x: Tensor, gradient: Tensor, cos_sin: tuple[Tensor, Tensor], norm: Tensor | None, eps: float, output: Tensor
) -> None:
    """The gradient [N, H, Dh] of what `rotate_heads` made of x -> that of x, into output [N, H * Dh] of any stride."""
    _rotate(x, gradient, output, cos_sin, norm, eps, gradient.dtype)


def _rotate(
    x: Tensor,
    gradient: Tensor | None,
    output: Tensor,
    cos_sin: tuple[Tensor, Tensor],
    norm: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> None:
    head_dim = cos_sin[0].shape[1]
    shape = np.array([x.shape[1] // head_dim, head_dim, x.stride(0), output.stride(0)], np.int64)
    _heads(
        x.data_ptr(), address(gradient), output.data_ptr(), *(table.data_ptr() for table in cos_sin), address(norm),
        len(x), shape.ctypes.data, eps, _TYPES[x.dtype], _TYPES[dtype], _threads(x),
    )  # fmt: skip


_ATTENTION_WIDTH = 16  # heads of a multiple of it are computed on every target


@dataclass(frozen=True)
class AttentionUnits:
    """What queries of a prefix tree meet which keys. units [U, 6] and segments [S, 2], int64: as in
    training_attention.c. keys: of all units. longest: keys of one.
    """

    units: Tensor
    segments: Tensor
    keys: int
    longest: int


def takes_heads(width: int) -> bool:
    """Whether `tree_attention` computes heads of this width."""
    return width % _ATTENTION_WIDTH == 0


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, tree: AttentionUnits, window: int
) -> tuple[Tensor, Tensor]:
    """query [T, H, Dh], key and value [T, Hkv, Dh] -> [T, H, Dh], and what the gradients need of it, [T, H].

    All float32. window: keys that a query meets, its own with them; 0 for all.
    """
    output, log_sums = torch.empty_like(query), query.new_empty(query.shape[:2])
    _run_attention((query, key, value, output, log_sums), (), tree, window)
    return output, log_sums


def tree_attention_backward(
    saved: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], gradient: Tensor, tree: AttentionUnits, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the output -> those of query, key and value. saved: these three and both results."""
    gradients = tuple(torch.empty_like(tensor) for tensor in saved[:3])
    partials = gradient.new_empty(2 * saved[1].shape[1] * tree.keys * gradient.shape[2])
    _run_attention(saved, (gradient, *gradients, partials), tree, window)
    return gradients[0], gradients[1], gradients[2]


def _run_attention(tensors: Sequence[Tensor], backward: Sequence[Tensor], tree: AttentionUnits, window: int) -> None:
    query, key = tensors[:2]
    tokens, heads, width = query.shape
    work = tree.keys * heads * width
    threads = max(1, min(torch.get_num_threads(), len(tree.units) * key.shape[1], work // _ELEMENTS_PER_THREAD))
    scratch = query.new_empty(threads * _attention_scratch(tree.longest, width, heads // key.shape[1]))
    addresses = np.array([tensor.data_ptr() for tensor in (*tensors, scratch, *backward)], np.uint64)
    shape = np.array([len(tree.units), tokens, heads, key.shape[1], width, window, tree.keys, tree.longest], np.int64)
    _attention(
        addresses.ctypes.data, tree.units.data_ptr(), tree.segments.data_ptr(), shape.ctypes.data, width**-0.5,
        bool(backward), threads,
    )  # fmt: skip


def _threads(x: Tensor) -> int:
    return max(1, min(torch.get_num_threads(), x.numel() // _ELEMENTS_PER_THREAD))
