"""The adapter under training on a CPU: its products, dropout and gradients written out, beside frozen layers.

What autograd would do, with fewer passes over memory: layers of one input are one product, and so is the gradient of
that input, which is kept once for all adapted modules that read it; an element's dropout is drawn from 16 random bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorica.models.cpu.frozen_linear import FrozenLinear
from lorica.models.lora import LoraPair, LoraWeights

_LEVELS = 1 << 16  # probabilities of dropout are multiples of 1 / _LEVELS


class TrainingLora:
    """A `Lora` that covers all packed tokens with one adapter, and multiplies the base's frozen layers, too.

    Dropout is drawn for each module anew, as in PEFT, from torch's global generator.
    """

    def __init__(self, adapter: LoraWeights, dtype: torch.dtype, *, prepack: bool) -> None:
        """dtype: of all products; float32 or bfloat16. Sums over tokens and the states between layers are float32."""
        self._adapter, self._dtype, self._prepack = adapter, dtype, prepack
        self._frozen: dict[str, FrozenLinear] = {}

    def linear(self, x: Tensor, layers: Sequence[nn.Module], module_paths: Sequence[str]) -> tuple[Tensor, ...]:
        """x [T, in] -> [T, out] of each layer with its update, in the products' precision."""
        frozen = self._frozen.get(module_paths[0])
        if frozen is None:
            frozen = self._frozen[module_paths[0]] = FrozenLinear(layers, self._dtype, prepack=self._prepack)
        pairs = [self._adapter.pairs.get(module_path) for module_path in module_paths]
        dropout = self._adapter.dropout if self._adapter.training else 0.0
        factors = [factor for pair in pairs if pair is not None for factor in (pair.a, pair.b)]
        outputs: tuple[Tensor, ...] = _AdaptedLinear.apply(x, frozen, pairs, dropout, *factors)  # type: ignore[no-untyped-call]
        return outputs


class _AdaptedLinear(torch.autograd.Function):
    """y_i = x W_i^T + b_i + scaling_i * dropout_i(x) A_i^T B_i^T for several frozen W_i and trained A_i, B_i."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        frozen: FrozenLinear,
        pairs: Sequence[LoraPair | None],
        dropout: float,
        *factors: Tensor,
    ) -> tuple[Tensor, ...]:
        """x [T, in] -> each [T, out_i]. factors: A and B of each pair, once more, for their gradients."""
        inputs = x.to(frozen.dtype)
        outputs: tuple[Tensor, ...] = torch.split(frozen.multiply(inputs), frozen.widths, 1)
        kept_for_backward = [inputs]
        for pair, output in zip(pairs, outputs, strict=True):
            if pair is None:
                continue
            mask = draw_mask(inputs, dropout) if dropout else None
            dropped = inputs if mask is None else torch.where(mask, inputs, 0.0)
            low_rank = dropped @ pair.a.detach().t().to(frozen.dtype)
            low_rank *= pair.scaling / keep_probability(dropout)
            output.addmm_(low_rank, pair.b.detach().t().to(frozen.dtype))
            kept_for_backward += [low_rank] if mask is None else [low_rank, mask]
        ctx.save_for_backward(*kept_for_backward)
        ctx.frozen, ctx.pairs, ctx.dropout, ctx.input_dtype = frozen, pairs, dropout, x.dtype
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """The gradients [T, out_i] -> those of x, A_i and B_i."""
        inputs, *saved = ctx.saved_tensors
        frozen: FrozenLinear = ctx.frozen
        gradient = gradients[0].to(frozen.dtype) if len(gradients) == 1 else torch.cat(gradients, 1).to(frozen.dtype)
        input_gradient = frozen.input_gradient(gradient) if ctx.needs_input_grad[0] else None
        factor_gradients: list[Tensor | None] = []
        tensors = iter(saved)
        for pair, output_gradient in zip(ctx.pairs, torch.split(gradient, frozen.widths, 1), strict=True):
            if pair is None:
                continue
            low_rank = next(tensors)
            mask: Tensor | None = next(tensors) if ctx.dropout else None
            low_gradient = output_gradient @ pair.b.detach().to(frozen.dtype)
            low_gradient *= pair.scaling / keep_probability(ctx.dropout)
            dropped = inputs if mask is None else torch.where(mask, inputs, 0.0)
            factor_gradients += [(low_gradient.t() @ dropped).float(), (output_gradient.t() @ low_rank).float()]
            if input_gradient is None:
                continue
            if mask is None:
                input_gradient.addmm_(low_gradient, pair.a.detach().to(frozen.dtype))
            else:
                input_gradient.addcmul_(low_gradient @ pair.a.detach().to(frozen.dtype), mask)
        input_gradient = None if input_gradient is None else input_gradient.to(ctx.input_dtype)
        return (input_gradient, None, None, None, *factor_gradients)


def keep_probability(dropout: float) -> float:
    """The probability with which `draw_mask` keeps an element: 1 - dropout, to 16 bits."""
    return 1.0 - round(dropout * _LEVELS) / _LEVELS


def draw_mask(x: Tensor, dropout: float) -> Tensor:
    """True where an element of x is kept; from torch's global generator, four elements for each number it draws."""
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    lanes = words.view(torch.int16)[: x.numel()].view(x.shape)
    return lanes >= round(dropout * _LEVELS) - _LEVELS // 2
