"""What stands between the products of a training pass, with gradients: the compiled kernels, or torch's operators."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.models.compiled import training_bindings
from lorica.models.compiled.bindings import is_available
from lorica.models.decoder import RmsNorm
from lorica.models.rope import apply_rotary

CosSin = tuple[Tensor, Tensor]
"""Of each token's position: [T, 1, Dh], float32."""


def silu_and_mul(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, [T, width] each; gate and up are columns of one tensor."""
    if not is_available():
        return F.silu(gate) * up
    return cast(Tensor, _SiluAndMul.apply(gate, up))  # type: ignore[no-untyped-call]


def add_and_norm(x: Tensor, added: Tensor | None, norm: RmsNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [T, hidden] + added, in float32, and its norm in the dtype of the products."""
    if not is_available():
        total = x if added is None else x + added
        return total, norm(total).to(dtype)
    weight = norm.weight.detach().float()
    if added is None:
        return x, training_bindings.add_and_norm(x.detach(), None, weight, norm.eps, dtype)[1]
    outputs: tuple[Tensor, Tensor] = _AddAndNorm.apply(x, added, weight, norm.eps)  # type: ignore[no-untyped-call]
    return outputs


def rotate_heads(
    qkv: tuple[Tensor, Tensor, Tensor], cos_sin: CosSin, norms: tuple[RmsNorm | None, RmsNorm | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value [T, heads * Dh] -> [T, heads, Dh] in float32, the former two normed and rotated."""
    if is_available():
        tables = tuple(table.squeeze(1) for table in cos_sin)
        weights = [None if norm is None else norm.weight.detach().float() for norm in norms]
        eps = next((norm.eps for norm in norms if norm is not None), 0.0)
        outputs: tuple[Tensor, Tensor, Tensor] = _RotateHeads.apply(*qkv, tables, weights, eps)  # type: ignore[no-untyped-call]
        return outputs
    head_dim = cos_sin[0].shape[-1]
    query, key, value = (states.view(len(states), -1, head_dim).float() for states in qkv)
    query, key = (
        apply_rotary(states if norm is None else norm(states), *cos_sin)
        for states, norm in zip((query, key), norms, strict=True)
    )
    return query, key, value


class _SiluAndMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return training_bindings.silu_and_mul(gate, up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return training_bindings.silu_and_mul_backward(gradient.contiguous(), *ctx.saved_tensors)


class _AddAndNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total, normed = training_bindings.add_and_norm(x, added.contiguous(), weight, eps, added.dtype)
        ctx.save_for_backward(total, weight)
        ctx.eps = eps
        return total, normed

    @staticmethod
    def backward(ctx: Any, total_gradient: Tensor, normed_gradient: Tensor) -> tuple[Tensor | None, ...]:
        total, weight = ctx.saved_tensors
        gradient, narrow = training_bindings.add_and_norm_backward(
            total, weight, ctx.eps, total_gradient.contiguous(), normed_gradient.contiguous()
        )
        return gradient, narrow, None, None


class _RotateHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tables: CosSin, norms: list[Tensor | None], eps: float
    ) -> tuple[Tensor, ...]:
        head_dim = tables[0].shape[1]
        rotated = [
            training_bindings.rotate_heads(states, tables, norm, eps, head_dim, torch.float32)
            for states, norm in zip((query, key), norms, strict=True)
        ]
        ctx.save_for_backward(query, key)
        ctx.tables, ctx.norms, ctx.eps = tables, norms, eps
        values = torch.empty(len(value), value.shape[1] // head_dim, head_dim)
        return *rotated, values.copy_(value.view(values.shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key = ctx.saved_tensors
        widths = [gradient[0].numel() for gradient in gradients]
        columns = torch.split(torch.empty(len(query), sum(widths), dtype=query.dtype), widths, 1)
        for states, gradient, norm, output in zip((query, key), gradients, ctx.norms, columns, strict=False):
            training_bindings.rotate_heads_backward(states, gradient.contiguous(), ctx.tables, norm, ctx.eps, output)
        columns[2].copy_(gradients[2].flatten(1))
        return *columns, None, None, None
