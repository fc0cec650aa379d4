"""Attention over one block of keys, with the log-sum-exp that lets blocks be merged exactly."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def attend_block(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """query [B, H, Q, Dh], key and value [B, Hkv, K, Dh] -> output [B, H, Q, Dh], float32 log-sum-exp [B, H,
    Q].

    mask: additive, in the query's precision, broadcast to [B, H, Q, K]; a query that sees no key is undefined
    here. causal: query i sees keys 0..i (Q == K).
    """
    if query.device.type == "cpu" and has_fast_kernel():
        return _fast(query, key, value, mask, causal)
    return plain_block(query, key, value, mask, causal=causal)


def plain_block(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """`attend_block` in public operators only: the fall-back on every device, and what the fast kernel is
    held to.
    """
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    total = scores.logsumexp(dim=-1, keepdim=True)
    return torch.exp(scores - total).to(value.dtype) @ value, total.squeeze(-1)


def _fast(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, total = kernel(query, key, value, 0.0, causal, attn_mask=mask)
    return output, total


@cache
def has_fast_kernel() -> bool:
    """Whether torch's private flash kernel for CPUs exists here and does what is needed: it may change
    unannounced.
    """
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 5, 8, generator=generator)
    mask = torch.zeros(2, 1, 1, 5)
    mask[0, :, :, 4] = -torch.inf
    try:
        return all(
            torch.allclose(mine, right, atol=1e-5)
            for given, causal in ((None, True), (mask, False))
            for mine, right in zip(
                _fast(query, key, value, given, causal),
                plain_block(query, key, value, given, causal=causal),
                strict=True,
            )
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
