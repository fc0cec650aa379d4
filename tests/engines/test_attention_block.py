"""The private kernel against public operators, and both against attention over all keys at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.engines.native.attention import block  # noqa: E402

Block = Callable[..., tuple[Any, Any]]


def tensors(heads: int = 4, kv_heads: int = 2, queries: int = 5, keys: int = 9) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, heads, queries, 8, generator=generator)
    key, value = torch.randn(2, 2, kv_heads, keys, 8, generator=generator)
    return query, key, value


@pytest.mark.parametrize("kernel", [block.attend_block, block.plain_block])
def test_two_halves_merge_to_the_whole(kernel: Block) -> None:
    query, key, value = tensors()
    output, logsumexp = kernel(query, key, value)
    (a, la), (b, lb) = (kernel(query, key[:, :, keys], value[:, :, keys]) for keys in (slice(0, 4), slice(4, 9)))
    share = torch.sigmoid(lb - la).unsqueeze(-1)
    torch.testing.assert_close(torch.lerp(a, b, share), output, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.logaddexp(la, lb), logsumexp, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", [block.attend_block, block.plain_block])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_is_that_of_sdpa(kernel: Block, dtype: Any) -> None:
    query, key, value = (x.to(dtype) for x in tensors(queries=9))
    wide_key, wide_value = (x.repeat_interleave(2, dim=1) for x in (key, value))
    for causal in (False, True):
        expected = torch.nn.functional.scaled_dot_product_attention(query, wide_key, wide_value, is_causal=causal)
        actual, logsumexp = kernel(query, key, value, causal=causal)
        torch.testing.assert_close(actual, expected, atol=1e-6 if dtype == torch.float32 else 2e-2, rtol=0)
        assert logsumexp.dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 1, 5, 9), (5, 9), (2, 1, 1, 9)])
def test_masks_broadcast(shape: tuple[int, ...]) -> None:
    query, key, value = tensors()
    hidden = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[..., 0] = False
    mask = torch.zeros(shape).masked_fill(hidden, -torch.inf)
    for actual, expected in zip(
        block.attend_block(query, key, value, mask), block.plain_block(query, key, value, mask), strict=True
    ):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_a_kernel_that_changed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = tensors()
    expected = block.plain_block(query, key, value)
    for broken in (_raises, _wrong_total):
        block.has_flash_kernel.cache_clear()
        monkeypatch.setattr(block, "_flash", broken)
        try:
            assert not block.has_flash_kernel()
            results = block.attend_block(query, key, value)
        finally:
            block.has_flash_kernel.cache_clear()
        assert all(torch.equal(actual, plain) for actual, plain in zip(results, expected, strict=True))


def _raises(*_: Any) -> tuple[Any, Any]:
    raise AttributeError("no such operator")


def _wrong_total(query: Any, key: Any, value: Any, mask: Any, causal: bool) -> tuple[Any, Any]:
    output, logsumexp = block.plain_block(query, key, value, mask, causal=causal)
    return output, logsumexp * 1.4427  # as if in base 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_of_one_key_head_together_give_what_plain_attention_gives(dtype: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    query = torch.randn(3, 2, 32, 64, generator=generator).to(dtype)  # three heads of 8 queries, and what fills up
    key, value = torch.randn(2, 3, 2, 48, 64, generator=generator).to(dtype)
    mask = torch.zeros(3, 1, 8, 16).masked_fill(torch.ones(8, 16).triu(9).bool(), -torch.inf).to(dtype)
    full_mask = torch.cat([torch.zeros(3, 1, 8, 32, dtype=dtype), mask], dim=-1).float()
    expected, _ = block.plain_block(
        query[:, :, :24].reshape(3, 6, 8, 64).float(), key.float(), value.float(), full_mask
    )
    functions = [block.grouped_attention] + [block.bmm_attention] * block.prefers_bmm(query.dtype, query.device)
    for attend in functions:
        out = torch.empty(3 * 2 * 32, 64, dtype=dtype)
        attend(query, key, value, mask, out, repeat=3)
        is_exact = dtype == torch.float32
        actual = out.view(query.shape)[:, :, :24].reshape(expected.shape).float()
        torch.testing.assert_close(actual, expected, atol=1e-6 if is_exact else 1e-2, rtol=0)


def test_scores_that_need_many_digits_want_centred_keys() -> None:
    generator = torch.Generator().manual_seed(6)
    query, (key, value) = (
        torch.randn(1, 1, 128, 64, generator=generator),
        torch.randn(2, 1, 1, 96, 64, generator=generator),
    )
    query[..., 0], key[..., 0] = 16, 300  # scores of 600 and a little
    query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    if not block.prefers_bmm(query.dtype, query.device):
        pytest.skip("no products of bfloat16 on this processor")
    expected, _ = block.plain_block(query.view(1, 4, 32, 64).float(), key.float(), value.float())
    mask = torch.zeros(1, 1, 32, 32).bfloat16()
    centred, uncentred = (torch.empty(4 * 32, 64).bfloat16() for _ in range(2))
    block.bmm_attention(query, key - key[:, :, :32].mean(2, keepdim=True), value, mask, centred, repeat=4)
    block.bmm_attention(query, key, value, mask, uncentred, repeat=4)
    assert (centred.view(expected.shape) - expected).abs().mean() < 0.01
    assert (uncentred.view(expected.shape) - expected).abs().mean() > 0.05
