"""Attention over one block of keys in torch's operators: with the log-sum-exp by which blocks are merged exactly, and
as batched matrix products.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def attend_block(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """query [B, H, Q, Dh], key and value [B, Hkv, K, Dh] -> output [B, H, Q, Dh], float32 log-sum-exp [B, H, Q].

    mask: additive, in the query's precision, broadcast to [B, H, Q, K]; the output of a query that sees no key is
    undefined. causal: query i sees keys 0..i (Q == K).
    """
    if uses_flash(query.device):
        return _flash(query, key, value, mask, causal)
    return plain_block(query, key, value, mask, causal=causal)


def uses_flash(device: torch.device) -> bool:
    """Whether `attend_block` calls torch's flash kernel on this device."""
    return device.type == "cpu" and has_flash_kernel()


def plain_block(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """`attend_block` in public operators only: the fallback on every device, and the oracle of the flash kernel."""
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    logsumexp = scores.logsumexp(dim=-1, keepdim=True)
    return torch.exp(scores - logsumexp).to(value.dtype) @ value, logsumexp.squeeze(-1)


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, out: Tensor, *, repeat: int) -> None:
    """query [B, Hkv, M, Dh], key and value [B, Hkv, K, Dh] -> out [B * Hkv * M, Dh], by `attend_block`.

    repeat: query heads of a key head. The first repeat * Q of the M rows are the Q queries of each of these heads; the
    others are padding, whose output is undefined. mask: additive, in the query's precision, [B or 1, 1, Q, S], for the
    last S keys; all queries see the keys before.
    """
    queries, keys = mask.shape[2], key.shape[2]
    full_mask = mask.new_zeros(*mask.shape[:3], keys)
    full_mask[..., keys - mask.shape[3] :] = mask
    by_head = query[:, :, : repeat * queries].reshape(len(query), -1, queries, query.shape[3])
    output, _ = attend_block(by_head, key, value, full_mask)
    out.view(query.shape)[:, :, : repeat * queries] = output.view(*query.shape[:2], -1, query.shape[3])


def bmm_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, out: Tensor, *, repeat: int) -> None:
    """`grouped_attention` as two batched matrix products and a softmax; only where `prefers_bmm`.

    Scores are rounded to bfloat16 in between. So the keys should be centred, which no softmax notices: then a bias that
    all keys share does not use up the digits (SageAttention, arXiv:2410.02367, section 4.2).
    """
    keys, queries = key.shape[2], mask.shape[2]
    # Contiguous: the product would copy strided keys element by element.
    scores = _scaled_scores(query.flatten(0, 1), key.flatten(0, 1).contiguous())
    masked = scores[:, : repeat * queries, keys - mask.shape[3] :]
    masked.view(*query.shape[:2], repeat, queries, mask.shape[3]).add_(mask.unsqueeze(2))
    torch.bmm(scores.softmax(-1), value.flatten(0, 1), out=out.view(len(scores), *query.shape[2:]))


def prefers_bmm(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `bmm_attention` works and is faster: in bfloat16 on a CPU, where the flash kernel multiplies at a sixth
    of the speed of matrix products.
    """
    return device.type == "cpu" and dtype == torch.bfloat16 and has_bfloat16_bmm()


def _scaled_scores(query: Tensor, key: Tensor) -> Tensor:
    # [N, M, Dh], [N, K, Dh] -> [N, M, K]; scaled before the sums are rounded
    scores = query.new_empty(len(query), query.shape[1], key.shape[1])
    scale = query.shape[-1] ** -0.5
    # beta=0 ignores the first argument; being the output itself, it is not copied either.
    return torch.baddbmm(scores, query, key.transpose(1, 2), beta=0, alpha=scale, out=scores)


@cache
def has_bfloat16_bmm() -> bool:
    """Whether this processor multiplies bfloat16 natively in batched matrix products, with the right result."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(3, 32, 64, generator=generator), torch.randn(3, 96, 64, generator=generator)
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        scores = _scaled_scores(query.bfloat16(), key.bfloat16())
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(scores.float(), query @ key.transpose(1, 2) / 8, atol=0.05, rtol=0.02)


def _flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    output, logsumexp = kernel(query, key, value, 0.0, causal, attn_mask=mask)
    return output, logsumexp


@cache
def has_flash_kernel() -> bool:
    """Whether torch's private flash kernel for CPUs exists and gives what `plain_block` gives: it may change without
    notice.
    """
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 5, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 5, 8, generator=generator)
    mask = torch.zeros(2, 1, 1, 5)
    mask[0, :, :, 4] = -torch.inf
    try:
        return all(
            torch.allclose(actual, expected, atol=1e-5)
            for case_mask, causal in ((None, True), (mask, False))
            for actual, expected in zip(
                _flash(query, key, value, case_mask, causal),
                plain_block(query, key, value, case_mask, causal=causal),
                strict=True,
            )
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
