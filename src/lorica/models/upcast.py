"""A decoder held in few bytes a weight and multiplied in float32, gradients of its inputs included.

Many processors have no bfloat16 or float16 products: torch computes them as scalar code there, ten times slower than in
float32. A float32 copy of the weights is made for each product and freed.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.models.decoder import Decoder, RmsNorm


class _UpcastLinear(torch.autograd.Function):
    """y = x W^T + b for a frozen W of any float type and x in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., in] float32, weight [out, in] -> [..., out] float32."""
        ctx.save_for_backward(weight)  # as stored: float32 copies of all layers would not fit
        return F.linear(x, weight.float(), None if bias is None else bias.float())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        """The gradient [..., out] at the outputs -> that at the inputs [..., in]; frozen weights have none."""
        (weight,) = ctx.saved_tensors
        return cast(Tensor, gradients[0]) @ weight.float(), None, None


def multiply_in_float32(decoder: Decoder) -> Decoder:
    """The same decoder with float32 activations; its layers' weights stay in the precision they are held in.

    Norms and the output head, which are small or read in one piece, become float32 themselves. Frozen weights only.
    """
    table = decoder.model.embed_tokens
    table.forward = partial(_embed, table)  # type: ignore[method-assign]
    decoder.lm_head.weight = nn.Parameter(decoder.lm_head.weight.detach().float(), requires_grad=False)
    for module in decoder.modules():
        if isinstance(module, RmsNorm):
            module.float()
        elif isinstance(module, nn.Linear) and module is not decoder.lm_head:
            module.forward = partial(_multiply, module)  # type: ignore[method-assign]
    return decoder


def _embed(table: nn.Embedding, tokens: Tensor) -> Tensor:
    return F.embedding(tokens, table.weight).float()


def _multiply(linear: nn.Linear, x: Tensor) -> Tensor:
    y: Tensor = _UpcastLinear.apply(x, linear.weight, linear.bias)  # type: ignore[no-untyped-call]
    return y
