"""The compiled kernels as functions of tensors. All tensors are contiguous and on the CPU.

Without them (no compiler when Lorica was installed, another processor) `is_available` is false, and callers use torch's
operators, which compute the same, slower.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorica.models.compiled.build import LIBRARY, digest

DISABLE_VARIABLE = "LORICA_COMPILED_KERNELS"
"""Set to 0 in the environment, this turns the kernels off."""

_HEAD_DIM_STEP = 16  # a head dimension is a multiple of this
_MAX_MODULES = 8  # that share a call of `add_lora`

Integers = NDArray[np.int64]


@cache
def why_unavailable() -> str:
    """Why the kernels are not used here, or ""."""
    if os.environ.get(DISABLE_VARIABLE, "").strip() == "0":
        return f"{DISABLE_VARIABLE} is 0"
    if not LIBRARY.exists():
        return "not built"
    try:
        library = _library()
        if library.lorica_digest() != digest().encode():
            return "built from other sources"
        return "" if library.lorica_runs_here() else "this processor has no AVX-512 with BF16"
    except (OSError, AttributeError):
        return "the library cannot be loaded"


def is_available() -> bool:
    """Whether the kernels are built and this processor runs them."""
    return not why_unavailable()


def supports_head_dim(head_dim: int) -> bool:
    """Whether the kernels are available for heads of this dimension."""
    return is_available() and head_dim % _HEAD_DIM_STEP == 0


def add_and_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """x [N, width] += added, in place; returns the root-mean-square norm of x times weight [width], in float32."""
    normed = torch.empty_like(x)
    _library().lorica_add_and_norm(
        x.data_ptr(), None if added is None else added.data_ptr(), weight.data_ptr(), normed.data_ptr(),
        x.shape[0], x.shape[1], eps, _is_float32(x),
    )  # fmt: skip
    return normed


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, in the memory of gate."""
    _library().lorica_gate(gate.data_ptr(), up.data_ptr(), gate.numel(), _is_float32(gate))
    return gate


def head_layout(
    heads: int, kv_heads: int, width: int, query_norm: Tensor | None = None, key_norm: Tensor | None = None
) -> Integers:
    """For `split_qkv_and_rotate`; the norms' weights are float32 [width] and must outlive it."""
    norms = (0 if norm is None else norm.data_ptr() for norm in (query_norm, key_norm))
    return np.array([heads, kv_heads, width, *norms], np.int64)


def split_qkv_and_rotate(
    qkv: Tensor, outputs: tuple[Tensor, Tensor, Tensor], cos_sin: tuple[Tensor, Tensor], layout: Integers, eps: float
) -> None:
    """qkv [N, (H + 2 * Hkv) * Dh] -> query [N, H, Dh], key and value [N, Hkv, Dh], bfloat16, the former two normed and
    rotated. cos_sin: [N, Dh / 2] each, float32.
    """
    _library().lorica_split_and_turn(
        qkv.data_ptr(), *(tensor.data_ptr() for tensor in outputs), *(tensor.data_ptr() for tensor in cos_sin),
        len(qkv), layout.ctypes.data, eps, _is_float32(qkv),
    )  # fmt: skip


def attend(
    query: Tensor, key: Tensor, value: Tensor, sequences: Integers, links: tuple[Integers, Integers, Integers],
    window: int | None,
) -> Tensor:  # fmt: skip
    """query [T, H, Dh], key and value [T, Hkv, Dh], bfloat16 -> [T, H, Dh]; zeros for tokens of no sequence.

    sequences [S, 7]: offset in the pass, length, keys before, first link, number of links, and the addresses of
    `until` and `position`, int32 for each of its keys, or 0 (see attention.c). links: addresses of keys and of values,
    [length, Hkv, Dh] each, and lengths. Raises MemoryError.
    """
    output = torch.empty_like(query)
    shape = np.array([query.shape[1], key.shape[1], query.shape[2], window or 0], np.int64)
    out_of_memory = _library().lorica_attend(
        query.data_ptr(), key.data_ptr(), value.data_ptr(), output.data_ptr(), len(query),
        sequences.ctypes.data, len(sequences), *(array.ctypes.data for array in links), shape.ctypes.data,
    )  # fmt: skip
    _check_memory(out_of_memory)
    return output


def lora_layout(widths: Sequence[int], in_width: int) -> Integers:
    """For `add_lora`: modules of these output widths side by side, of one input of width `in_width`."""
    if len(widths) > _MAX_MODULES:
        raise ValueError(f"{len(widths)} modules; at most {_MAX_MODULES} share a call")
    padded = [*widths, *([0] * (_MAX_MODULES - len(widths)))]
    return np.array([in_width, len(widths), *padded, sum(widths)], np.int64)


def lora_pointers(pairs: Sequence[tuple[Tensor, Tensor, float] | None]) -> Integers:
    """For `add_lora`: A [r, in], B [out, r], bfloat16, and the scaling; None where a module has none. They must outlive
    it.
    """
    pointer_table = np.zeros((len(pairs), 4), np.int64)
    for pointer_row, pair in zip(pointer_table, pairs, strict=True):
        if pair is not None:
            a, b, scaling = pair
            pointer_row[:] = a.data_ptr(), b.data_ptr(), len(a), np.float64(scaling).view(np.int64)
    return pointer_table


def add_lora(x: Tensor, y: Tensor, first_token: int, spans: Integers, pairs: Integers, layout: Integers) -> None:
    """y [N, sum of widths] += the adapters' updates for x [N, in], bfloat16; in place.

    x: the tokens first_token.. of a pass. spans [S, 2]: first token and the one after the last, in the pass. pairs: of
    each span, one for each module. Raises MemoryError.
    """
    out_of_memory = _library().lorica_add_updates(
        x.data_ptr(), y.data_ptr(), first_token, len(x), spans.ctypes.data, len(spans), pairs.ctypes.data,
        layout.ctypes.data, _is_float32(y),
    )  # fmt: skip
    _check_memory(out_of_memory)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [N, in] -> uint8 codes [N, in] around 128, and the float32 scale of each row [N]; NaN where it holds any."""
    codes, scales = torch.empty(x.shape, dtype=torch.uint8), torch.empty(len(x))
    _check_memory(_library().lorica_round(x.data_ptr(), codes.data_ptr(), scales.data_ptr(), *x.shape, _is_float32(x)))
    return codes, scales


def add_norm_quantize(
    x: Tensor, added: tuple[Tensor, Tensor] | None, weight: Tensor, eps: float, *, keep_normed: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x [N, width], float32, += added [N, width] times their scales [N], in place; returns codes and scales of
    its norm, as `quantize_rows` does, and with keep_normed the norm in bfloat16, too.
    """
    codes, scales = torch.empty(x.shape, dtype=torch.uint8), torch.empty(len(x))
    normed = torch.empty(x.shape, dtype=torch.bfloat16) if keep_normed else None
    _add_norm_quantize(x, added, weight, eps, codes, scales, normed)
    return codes, scales, normed


def add_scaled(x: Tensor, added: Tensor, scales: Tensor) -> None:
    """x [N, width], float32, += added [N, width] times scales [N], in place."""
    _add_norm_quantize(x, (added, scales), None, 0.0, None, None, None)


def _add_norm_quantize(
    x: Tensor, added: tuple[Tensor, Tensor] | None, weight: Tensor | None, eps: float, *outputs: Tensor | None
) -> None:
    added_and_scales = added or (None, None)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in (*added_and_scales, weight, *outputs)]
    _check_memory(_library().lorica_add_norm_round(x.data_ptr(), *pointers[:3], eps, *pointers[3:], *x.shape))


def silu_and_mul_quantize(
    gate: Tensor, up: Tensor, scales: Tensor | None, *, keep_product: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes and scales of silu(gate) * up [N, in], float32, both of which are multiplied by scales [N] first; and with
    keep_product that product in bfloat16, too.
    """
    codes, steps = torch.empty(gate.shape, dtype=torch.uint8), torch.empty(len(gate))
    product = torch.empty(gate.shape, dtype=torch.bfloat16) if keep_product else None
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in (scales, codes, steps, product)]
    _check_memory(_library().lorica_gate_round(gate.data_ptr(), up.data_ptr(), *pointers, *gate.shape))
    return codes, steps, product


def scale_rows(y: Tensor, scales: Tensor, bias: Tensor | None) -> None:
    """y [N, out], float32, = y * scales [N] + bias [out], in place."""
    _library().lorica_scale(
        y.data_ptr(), scales.data_ptr(), None if bias is None else bias.data_ptr(), *y.shape
    )  # fmt: skip


def dequantize_int8(codes: Tensor, scales: Tensor, out: Tensor) -> None:
    """codes [n, in] int8, scales [n] bfloat16 -> out [n, in], bfloat16."""
    _library().lorica_restore_int8(codes.data_ptr(), scales.data_ptr(), out.data_ptr(), *out.shape)


def dequantize_int4(codes: Tensor, scales: Tensor, out: Tensor, group: int) -> None:
    """codes [n, in / 2] uint8, scales and minima [n, in / group, 2] bfloat16 -> out [n, in], bfloat16.

    16 bytes hold 32 weights, the first 16 in their low nibbles.
    """
    _library().lorica_restore_int4(codes.data_ptr(), scales.data_ptr(), out.data_ptr(), *out.shape, group)


def _check_memory(out_of_memory: int) -> None:
    if out_of_memory:
        raise MemoryError("not enough memory for a compiled kernel")


def _is_float32(x: Tensor) -> int:
    return int(x.dtype == torch.float32)


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    pointer, integer, real, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
    library.lorica_digest.restype = ctypes.c_char_p
    library.lorica_runs_here.restype = flag
    for function_name, result_type, *argument_types in (
        ("add_and_norm", None, pointer, pointer, pointer, pointer, integer, integer, real, flag),
        ("gate", None, pointer, pointer, integer, flag),
        ("split_and_turn", None, pointer, pointer, pointer, pointer, pointer, pointer, integer, pointer, real, flag),
        (
            "attend",
            flag,
            pointer,
            pointer,
            pointer,
            pointer,
            integer,
            pointer,
            integer,
            pointer,
            pointer,
            pointer,
            pointer,
        ),
        ("add_updates", flag, pointer, pointer, integer, integer, pointer, integer, pointer, pointer, flag),
        ("scale", None, pointer, pointer, pointer, integer, integer),
        ("round", flag, pointer, pointer, pointer, integer, integer, flag),
        ("add_norm_round", flag, pointer, pointer, pointer, pointer, real, pointer, pointer, pointer, integer, integer),
        ("gate_round", flag, pointer, pointer, pointer, pointer, pointer, pointer, integer, integer),
        ("restore_int8", None, pointer, pointer, pointer, integer, integer),
        ("restore_int4", None, pointer, pointer, pointer, integer, integer, integer),
    ):
        function = getattr(library, f"lorica_{function_name}")
        function.argtypes, function.restype = argument_types, result_type
    return library
