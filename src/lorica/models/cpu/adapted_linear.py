"""Frozen layers of one input with the adapter's updates, forward and backward: what autograd would do, in fewer passes.

Layers of one input are one product, and so is the gradient of that input, which is kept once for all adapted modules
that read it; an element's dropout is drawn from 16 random bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lorica.models.compiled import training_bindings
from lorica.models.compiled.bindings import is_available
from lorica.models.cpu.frozen_linear import FrozenLinear
from lorica.models.lora import LoraPair

_LEVELS = 1 << 16  # probabilities of dropout are multiples of 1 / _LEVELS


class Dropout:
    """The elements of one module's input that are dropped: drawn once, from torch's global generator.

    The compiled kernel needs a seed only; without it there is a mask, True where an element is kept.
    """

    def __init__(self, x: Tensor, probability: float) -> None:
        self.threshold = round(probability * _LEVELS)
        self.seed, self.mask = 0, None
        if is_available():
            self.seed = int(torch.randint(1 << 62, ()))
            return
        # One number for four elements.
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        lanes = words.view(torch.int16)[: x.numel()].view(x.shape)
        self.mask = lanes >= self.threshold - _LEVELS // 2

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by, so that their expectation stays."""
        return _LEVELS / (_LEVELS - self.threshold)

    def drop(self, x: Tensor) -> Tensor:
        """x with 0 for what is dropped, not scaled."""
        if self.mask is None:
            return training_bindings.drop(x, self.seed, self.threshold)
        return torch.where(self.mask, x, 0.0)

    def add_gradient(self, total: Tensor, gradient: Tensor) -> None:
        """total += the gradient of `drop`'s input; in place."""
        if self.mask is None:
            training_bindings.drop(gradient, self.seed, self.threshold, add_to=total)
        else:
            total.addcmul_(gradient, self.mask)


def adapted_linear(
    x: Tensor, frozen: FrozenLinear, pairs: Sequence[LoraPair | None], dropout: float
) -> tuple[Tensor, ...]:
    """x [T, in] -> [T, out] float32 of each of the frozen layers with its update.

    dropout: the probability; each module's is drawn anew, as in PEFT.
    """
    factors = [factor for pair in pairs if pair is not None for factor in (pair.a, pair.b)]
    outputs: tuple[Tensor, ...] = _AdaptedLinear.apply(x, frozen, pairs, dropout, *factors)  # type: ignore[no-untyped-call]
    return outputs


class _AdaptedLinear(torch.autograd.Function):
    """y_i = x W_i^T + b_i + scaling_i * dropout_i(x) A_i^T B_i^T for several frozen W_i and trained A_i, B_i."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: FrozenLinear, pairs: Sequence[LoraPair | None], dropout: float, *factors: Tensor
    ) -> tuple[Tensor, ...]:
        """x [T, in] -> each [T, out_i]. factors: A and B of each pair, once more, for their gradients."""
        inputs = x.to(frozen.dtype)
        # The update of a few steps is less than what bfloat16 tells apart beside the base's output.
        outputs = torch.split(frozen.multiply(inputs).float(), frozen.widths, 1)
        low_ranks: list[Tensor] = []
        dropouts: list[Dropout | None] = []
        for pair, output in zip(pairs, outputs, strict=True):
            if pair is None:
                continue
            dropouts.append(Dropout(inputs, dropout) if dropout else None)
            dropped = inputs if dropouts[-1] is None else dropouts[-1].drop(inputs)
            low_ranks.append(dropped @ pair.a.detach().t().to(frozen.dtype))
            low_ranks[-1] *= pair.scaling if dropouts[-1] is None else pair.scaling * dropouts[-1].scale
            output.addmm_(low_ranks[-1].float(), pair.b.detach().t())
        ctx.save_for_backward(*(inputs, *low_ranks) if low_ranks else ())
        ctx.frozen, ctx.pairs, ctx.dropouts, ctx.input_dtype = frozen, pairs, dropouts, x.dtype
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """The gradients [T, out_i] -> those of x, A_i and B_i."""
        inputs, *low_ranks = ctx.saved_tensors or (None,)
        frozen: FrozenLinear = ctx.frozen
        gradient = _side_by_side(gradients).to(frozen.dtype)
        input_gradient = frozen.input_gradient(gradient) if ctx.needs_input_grad[0] else None
        factor_gradients: list[Tensor | None] = []
        remaining = iter(zip(low_ranks, ctx.dropouts, strict=True))
        for pair, output_gradient in zip(ctx.pairs, torch.split(gradient, frozen.widths, 1), strict=True):
            if pair is None:
                continue
            low_rank, dropout = next(remaining)
            low_gradient = output_gradient @ pair.b.detach().to(frozen.dtype)
            low_gradient *= pair.scaling if dropout is None else pair.scaling * dropout.scale
            dropped = inputs if dropout is None else dropout.drop(inputs)
            factor_gradients += [(low_gradient.t() @ dropped).float(), (output_gradient.t() @ low_rank).float()]
            if input_gradient is None:
                continue
            if dropout is None:
                input_gradient.addmm_(low_gradient, pair.a.detach().to(frozen.dtype))
            else:
                dropout.add_gradient(input_gradient, low_gradient @ pair.a.detach().to(frozen.dtype))
        input_gradient = None if input_gradient is None else input_gradient.to(ctx.input_dtype)
        return (input_gradient, None, None, None, *factor_gradients)


def _side_by_side(gradients: Sequence[Tensor]) -> Tensor:
    """Tensors [T, width_i] as one [T, sum of widths], without a copy where they are its columns already."""
    first, width = gradients[0], sum(gradient.shape[1] for gradient in gradients)
    offset = first.storage_offset()
    for gradient in gradients:
        same = gradient.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or gradient.stride() != (width, 1) or gradient.storage_offset() != offset:
            return torch.cat(list(gradients), 1)
        offset += gradient.shape[1]
    return first.as_strided((len(first), width), (width, 1))
