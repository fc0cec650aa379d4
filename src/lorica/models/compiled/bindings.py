"""The compiled kernels as functions of tensors. All tensors are contiguous and on the CPU; states, keys and values are
bfloat16, float16 or float32.

Without them (no compiler when Lorica was installed, another processor) `is_available` is false, and callers use torch's
operators, which compute the same, slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float, c_int, c_int64, c_void_p

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorica.models.compiled.library import Kernel, target
from lorica.models.compiled.tensor_arguments import address, type_code

_HEAD_DIM_STEP = 16  # a head dimension is a multiple of this
_MAX_MODULES = 8  # that share a call of `add_lora`

Integers = NDArray[np.int64]


def is_available() -> bool:
    """Whether the kernels are built and this processor runs them."""
    return bool(target())


def supports_head_dim(head_dim: int) -> bool:
    """Whether the kernels are available for heads of this dimension."""
    return is_available() and head_dim % _HEAD_DIM_STEP == 0


_add_and_norm = Kernel("add_and_norm", *[c_void_p] * 4, c_int64, c_int64, c_float, c_int)
_gate = Kernel("gate", c_void_p, c_void_p, c_int64, c_int)
_split_and_turn = Kernel("split_and_turn", *[c_void_p] * 6, c_int64, c_void_p, c_float, c_int, c_int)
_attend = Kernel(
    "attend", *[c_void_p] * 4, c_int64, c_void_p, c_int64, *[c_void_p] * 4, c_int, returns=c_int
)  # fmt: skip
_add_updates = Kernel(
    "add_updates", c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_void_p, c_int, c_int,
    returns=c_int,
)  # fmt: skip
_scale = Kernel("scale", *[c_void_p] * 3, c_int64, c_int64)
_round = Kernel("round", *[c_void_p] * 3, c_int64, c_int64, c_int, returns=c_int)
_add_norm_round = Kernel(
    "add_norm_round", *[c_void_p] * 4, c_float, *[c_void_p] * 3, c_int64, c_int64, c_int, returns=c_int
)  # fmt: skip
_gate_round = Kernel("gate_round", *[c_void_p] * 6, c_int64, c_int64, c_int, returns=c_int)
_restore_blocks = Kernel("restore_blocks", c_void_p, c_void_p, c_int64, c_int, c_int)


def add_and_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float, normed: Tensor) -> Tensor:
    """x [N, width] += added, in place; the root-mean-square norm of x times weight [width], float32, fills `normed`,
    which may be `added`, and is returned.
    """
    _add_and_norm(
        x.data_ptr(), address(added), weight.data_ptr(), normed.data_ptr(),
        x.shape[0], x.shape[1], eps, type_code(x),
    )  # fmt: skip
    return normed


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, in the memory of gate."""
    _gate(gate.data_ptr(), up.data_ptr(), gate.numel(), type_code(gate))
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
    """qkv [N, (H + 2 * Hkv) * Dh] -> query [N, H, Dh], key and value [N, Hkv, Dh], the former two normed and rotated.
    cos_sin: [N, Dh / 2] each, float32. Unless qkv is float32, outputs are of its dtype.
    """
    _split_and_turn(
        qkv.data_ptr(), *(tensor.data_ptr() for tensor in outputs), *(tensor.data_ptr() for tensor in cos_sin),
        len(qkv), layout.ctypes.data, eps, type_code(qkv), type_code(outputs[0]),
    )  # fmt: skip


def attend(
    query: Tensor, key: Tensor, value: Tensor, sequences: Integers, links: tuple[Integers, Integers, Integers],
    window: int | None,
) -> Tensor:  # fmt: skip
    """query [T, H, Dh], key and value [T, Hkv, Dh], of one dtype -> [T, H, Dh]; zeros for tokens of no sequence.

    sequences [S, 7]: offset in the pass, length, keys before, first link, number of links, and the addresses of
    `until` and `position`, int32 for each of its keys, or 0 (see attention.c). links: addresses of keys and of values,
    [length, Hkv, Dh] each, of the same dtype, and lengths. Raises MemoryError.
    """
    output = torch.empty_like(query)
    shape = np.array([query.shape[1], key.shape[1], query.shape[2], window or 0], np.int64)
    out_of_memory = _attend(
        query.data_ptr(), key.data_ptr(), value.data_ptr(), output.data_ptr(), len(query),
        sequences.ctypes.data, len(sequences), *(array.ctypes.data for array in links), shape.ctypes.data,
        type_code(query),
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
    """For `add_lora`: A [r, in] and B [out, r], of one dtype, and the scaling; None where a module has none. They must
    outlive it.
    """
    pointer_table = np.zeros((len(pairs), 5), np.int64)
    for pointer_row, pair in zip(pointer_table, pairs, strict=True):
        if pair is not None:
            a, b, scaling = pair
            pointer_row[:] = a.data_ptr(), b.data_ptr(), len(a), np.float64(scaling).view(np.int64), type_code(a)
    return pointer_table


def add_lora(x: Tensor, y: Tensor, first_token: int, spans: Integers, pairs: Integers, layout: Integers) -> None:
    """y [N, sum of widths] += the adapters' updates for x [N, in], in place; y is float32, or of the dtype of x.

    x: the tokens first_token.. of a pass. spans [S, 2]: first token and the one after the last, in the pass. pairs: of
    each span, one for each module, of the dtype of x, or of any where x is float32. Raises MemoryError.
    """
    out_of_memory = _add_updates(
        x.data_ptr(), y.data_ptr(), first_token, len(x), spans.ctypes.data, len(spans), pairs.ctypes.data,
        layout.ctypes.data, type_code(x), type_code(y),
    )  # fmt: skip
    _check_memory(out_of_memory)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [N, in] -> uint8 codes [N, in] around 128, and the float32 scale of each row [N]; NaN where it holds any."""
    codes, scales = torch.empty(x.shape, dtype=torch.uint8), torch.empty(len(x))
    _check_memory(_round(x.data_ptr(), codes.data_ptr(), scales.data_ptr(), *x.shape, type_code(x)))
    return codes, scales


def add_norm_quantize(
    x: Tensor, added: tuple[Tensor, Tensor] | None, weight: Tensor, eps: float, *, keep_normed: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """x [N, width], float32, += added [N, width] times their scales [N], in place; returns codes and scales of
    its norm, as `quantize_rows` does, and the norm in the dtype keep_normed, unless that is None.
    """
    codes, scales = torch.empty(x.shape, dtype=torch.uint8), torch.empty(len(x))
    normed = None if keep_normed is None else torch.empty(x.shape, dtype=keep_normed)
    _add_norm_quantize(x, added, weight, eps, codes, scales, normed)
    return codes, scales, normed


def add_scaled(x: Tensor, added: Tensor, scales: Tensor) -> None:
    """x [N, width], float32, += added [N, width] times scales [N], in place."""
    _add_norm_quantize(x, (added, scales), None, 0.0, None, None, None)


def _add_norm_quantize(
    x: Tensor, added: tuple[Tensor, Tensor] | None, weight: Tensor | None, eps: float, *outputs: Tensor | None
) -> None:
    added_and_scales = added or (None, None)
    pointers = list(map(address, (*added_and_scales, weight, *outputs)))
    plain = outputs[-1]
    plain_type = 0 if plain is None else type_code(plain)
    _check_memory(_add_norm_round(x.data_ptr(), *pointers[:3], eps, *pointers[3:], *x.shape, plain_type))


def silu_and_mul_quantize(
    gate: Tensor, up: Tensor, scales: Tensor | None, *, keep_product: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes and scales of silu(gate) * up [N, in], float32, both of which are multiplied by scales [N] first; and that
    product in the dtype keep_product, unless that is None.
    """
    codes, steps = torch.empty(gate.shape, dtype=torch.uint8), torch.empty(len(gate))
    product = None if keep_product is None else torch.empty(gate.shape, dtype=keep_product)
    pointers = list(map(address, (scales, codes, steps, product)))
    product_type = 0 if product is None else type_code(product)
    _check_memory(_gate_round(gate.data_ptr(), up.data_ptr(), *pointers, *gate.shape, product_type))
    return codes, steps, product


def scale_rows(y: Tensor, scales: Tensor, bias: Tensor | None) -> None:
    """y [N, out], float32, = y * scales [N] + bias [out], in place."""
    _scale(
        y.data_ptr(), scales.data_ptr(), address(bias), *y.shape
    )  # fmt: skip


def dequantize_blocks(blocks: Tensor, out: Tensor, block_type: int, count: int) -> None:
    """So many of ggml's blocks of one type, by its number in GGUF files, in blocks uint8 -> out, contiguous."""
    _restore_blocks(blocks.data_ptr(), out.data_ptr(), count, block_type, type_code(out))


def _check_memory(out_of_memory: int) -> None:
    if out_of_memory:
        raise MemoryError("not enough memory for a compiled kernel")
