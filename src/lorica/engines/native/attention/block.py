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


def attend_heads(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, found: Tensor, *, repeat: int) -> None:
    """query [B, Hkv, M, Dh], key and value [B, Hkv, K, Dh]; fills found [B * Hkv * M, Dh].

    mask: additive, in the query's precision, [B or 1, 1, Q, S] for the last S of the keys; the others are seen by all.
    repeat: heads for each key head. Their Q queries stand below each other; what of the M follows is of no matter.
    """
    queries, keys = mask.shape[2], key.shape[2]
    hidden = mask.new_zeros(*mask.shape[:3], keys)
    hidden[..., keys - mask.shape[3] :] = mask
    asked = query[:, :, : repeat * queries].reshape(len(query), -1, queries, query.shape[3])
    output, _ = attend_block(asked, key, value, hidden)
    found.view(query.shape)[:, :, : repeat * queries] = output.view(*query.shape[:2], -1, query.shape[3])


def goes_by_products(query: Tensor) -> bool:
    """Whether `products` is there, and faster, for such queries: in bfloat16 on a CPU the flash kernel multiplies in a
    sixth of the speed of products.
    """
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and has_products()


def products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, found: Tensor, *, repeat: int) -> None:
    """`attend_heads` as two products and a softmax; only where `goes_by_products`.

    Scores are rounded to bfloat16 in between. So the keys should have lost their mean before, which no softmax notices:
    then a bias that all keys share does not use up the digits (SageAttention, arXiv:2410.02367, section 4.2).
    """
    keys, queries = key.shape[2], mask.shape[2]
    # Not in strides: the product would copy them element by element.
    scores = _scaled_scores(query.flatten(0, 1), key.flatten(0, 1).contiguous())
    part = scores[:, : repeat * queries, keys - mask.shape[3] :]
    part.view(*query.shape[:2], repeat, queries, mask.shape[3]).add_(mask.unsqueeze(2))
    torch.bmm(scores.softmax(-1), value.flatten(0, 1), out=found.view(len(scores), *query.shape[2:]))


def _scaled_scores(query: Tensor, key: Tensor) -> Tensor:
    # [N, M, Dh], [N, K, Dh] -> [N, M, K]; the factor is applied before the sums are rounded
    scores = query.new_empty(len(query), query.shape[1], key.shape[1])
    factor = query.shape[-1] ** -0.5
    # beta=0 ignores what is added to; given as the result itself, it is not copied either.
    return torch.baddbmm(scores, query, key.transpose(1, 2), beta=0, alpha=factor, out=scores)


@cache
def has_products() -> bool:
    """Whether batched products of bfloat16 are multiplied as such on this processor, and give what they should."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(3, 32, 64, generator=generator), torch.randn(3, 96, 64, generator=generator)
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        found = _scaled_scores(query.bfloat16(), key.bfloat16())
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found.float(), query @ key.transpose(1, 2) / 8, atol=0.05, rtol=0.02)


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
