"""The private kernel against public operators, and both against attention over all keys at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.engines.native import block  # noqa: E402

Block = Callable[..., tuple[Any, Any]]


def tensors(heads: int = 4, kv_heads: int = 2, queries: int = 5, keys: int = 9) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, heads, queries, 8, generator=generator)
    key, value = torch.randn(2, 2, kv_heads, keys, 8, generator=generator)
    return query, key, value


@pytest.mark.parametrize("kernel", [block.attend_block, block.plain_block])
def test_two_halves_merge_to_the_whole(kernel: Block) -> None:
    query, key, value = tensors()
    whole, total = kernel(query, key, value)
    (a, la), (b, lb) = (kernel(query, key[:, :, part], value[:, :, part]) for part in (slice(0, 4), slice(4, 9)))
    share = torch.sigmoid(lb - la).unsqueeze(-1)
    torch.testing.assert_close(torch.lerp(a, b, share), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.logaddexp(la, lb), total, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", [block.attend_block, block.plain_block])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_is_that_of_sdpa(kernel: Block, dtype: Any) -> None:
    query, key, value = (x.to(dtype) for x in tensors(queries=9))
    wide_key, wide_value = (x.repeat_interleave(2, dim=1) for x in (key, value))
    for causal in (False, True):
        expected = torch.nn.functional.scaled_dot_product_attention(query, wide_key, wide_value, is_causal=causal)
        found, total = kernel(query, key, value, causal=causal)
        torch.testing.assert_close(found, expected, atol=1e-6 if dtype == torch.float32 else 2e-2, rtol=0)
        assert total.dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 1, 5, 9), (5, 9), (2, 1, 1, 9)])
def test_masks_broadcast(shape: tuple[int, ...]) -> None:
    query, key, value = tensors()
    hidden = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[..., 0] = False
    mask = torch.zeros(shape).masked_fill(hidden, -torch.inf)
    for mine, right in zip(
        block.attend_block(query, key, value, mask), block.plain_block(query, key, value, mask), strict=True
    ):
        torch.testing.assert_close(mine, right, atol=1e-6, rtol=0)


def test_a_kernel_that_changed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = tensors()
    expected = block.plain_block(query, key, value)
    for broken in (_raises, _wrong_total):
        block.has_fast_kernel.cache_clear()
        monkeypatch.setattr(block, "_fast", broken)
        try:
            assert not block.has_fast_kernel()
            found = block.attend_block(query, key, value)
        finally:
            block.has_fast_kernel.cache_clear()
        assert all(torch.equal(mine, right) for mine, right in zip(found, expected, strict=True))


def _raises(*_: Any) -> tuple[Any, Any]:
    raise AttributeError("no such operator")


def _wrong_total(query: Any, key: Any, value: Any, mask: Any, causal: bool) -> tuple[Any, Any]:
    output, total = block.plain_block(query, key, value, mask, causal=causal)
    return output, total * 1.4427  # as if in base 2
