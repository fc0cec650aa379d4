"""torch's private operators for linear layers on a CPU: each is tried once on a small case before it is trusted.

They may change unannounced. What is missing or wrong is replaced by public operators that compute the same, slower.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.hardware import this_machine

ZERO_POINT = 128  # the code of 0 in activations, whose codes are unsigned


@cache
def can_prepack(dtype: torch.dtype) -> bool:
    """Whether oneDNN prepacks weights of this dtype into its blocked layout, which is faster than torch's operator.

    Where torch uses MKL for float32 and the processor is not Intel's, it is twice as fast.
    """
    if not this_machine().multiplies(str(dtype).removeprefix("torch.")):
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((5, 48), (40, 48), (40,)))
    try:
        product = prepacked_linear(x, prepack(weight), bias)
        return torch.allclose(
            product, F.linear(x, weight, bias), atol=1e-4 if dtype == torch.float32 else 0.1, rtol=1e-2
        )
    except (AttributeError, RuntimeError, TypeError):
        return False


def prepack(weight: Tensor) -> Tensor:
    """weight [out, in] -> an opaque copy for `prepacked_linear`; only where `can_prepack`."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def prepacked_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x [T, in] -> x W^T + bias [T, out]."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


@cache
def rounds_by_batch(dtype: torch.dtype) -> bool:
    """Whether the bits of a row of a product depend on how many rows there are, even if these are whole blocks.

    By AMX oneDNN cuts the inputs of bfloat16 products into pieces by the number of rows and of threads. MKL, by which
    torch multiplies float32 in attention, takes other kernels for 32 rows than for 16 or 48 on Intel's processors that
    have no more than AVX2; since nothing tells which it takes, products are compared.
    """
    if dtype == torch.bfloat16:
        return "amx_bf16" in this_machine().instruction_sets
    return any(not _rows_round_alike(*shape) for shape in ((16, 32), (64, 96), (128, 256), (256, 64)))


def _rows_round_alike(inputs: int, outputs: int) -> bool:
    """Whether the first rows of a float32 product are the same to the bit, however many whole blocks follow."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(2, rows, inputs, generator=generator) for rows in (128, outputs))
    products = torch.bmm(x, weight.transpose(1, 2))
    return all(
        torch.equal(torch.bmm(x[:, :rows], weight.transpose(1, 2)), products[:, :rows]) for rows in range(16, 128, 16)
    )


@cache
def has_int8_linear() -> bool:
    """Whether int8 products do not overflow in their partial sums, as they do on processors without VNNI."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (6, 96), generator=generator, dtype=torch.uint8)
    weight = torch.randint(-127, 128, (32, 96), generator=generator, dtype=torch.int8)
    codes[0], weight[0] = 255, 127  # the largest sums of neighbours
    codes[1], weight[1] = 1, -127
    scales = torch.rand(32, generator=generator) + 0.5
    try:
        product = int8_linear(codes, prepack_int8(weight), scales)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(product, int8_linear_reference(codes, weight, scales), rtol=1e-5, atol=1e-2)


def prepack_int8(weight: Tensor) -> Tensor:
    """weight [out, in] int8 -> an opaque copy for `int8_linear`; only where `has_int8_linear`."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
    return packed


def int8_linear(codes: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """codes [T, in] uint8 around ZERO_POINT, scales [out] float32 of the weight's rows -> float32 [T, out].

    The weight is symmetric, but the operator wants its zero points named.
    """
    zeros = torch.zeros(1, dtype=torch.int64)
    y: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, 1.0, ZERO_POINT, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y


def int8_linear_reference(codes: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """`int8_linear` in public operators, for a weight [out, in] int8 that is not prepacked."""
    return F.linear(codes.float() - ZERO_POINT, weight.float()) * scales
