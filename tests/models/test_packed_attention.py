"""Packed attention against the definition: softmax over the allowed pairs, written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.shapes import TINY  # noqa: E402

from lorica.models.families import DecoderConfig  # noqa: E402
from lorica.models.packed_attention import PackedAttention  # noqa: E402


def config(heads: int, kv_heads: int, windows: tuple[int | None, ...]) -> DecoderConfig:
    return replace(
        TINY, hidden_size=8 * heads, layers=len(windows), heads=heads, kv_heads=kv_heads, head_dim=8, windows=windows
    )


def by_definition(query: Any, key: Any, value: Any, lengths: list[int], window: int | None) -> Any:
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(owner))
    gap = place[:, None] - place[None, :]
    allowed = (owner[:, None] == owner[None, :]) & (gap >= 0) & (gap < (window or len(owner)))
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    window=st.sampled_from([None, 1, 3, 16]),
)
def test_packed_attention_is_the_definition(lengths: list[int], heads: tuple[int, int], window: int | None) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    query, key, value = (
        torch.randn(sum(lengths), count, 8, generator=generator).requires_grad_()
        for count in (heads[0], heads[1], heads[1])
    )
    # The window belongs to layer 1 only.
    attention = PackedAttention(lengths, config(*heads, (None, window)))
    for layer, seen in ((0, None), (1, window)):
        ours = attention.attend(layer, query, key, value)
        expected = by_definition(query, key, value, lengths, seen)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
        upstream = torch.randn(ours.shape, generator=generator)
        inputs = (query, key, value)
        for got, wanted in zip(
            torch.autograd.grad(ours, inputs, upstream),
            torch.autograd.grad(expected, inputs, upstream),
            strict=True,
        ):
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)


def test_very_different_lengths_are_not_padded_to_the_longest() -> None:
    seen: list[tuple[int, ...]] = []

    def record(query: Any, *rest: Any, **options: Any) -> Any:
        seen.append(tuple(query.shape))
        return original(query, *rest, **options)

    original = torch.nn.functional.scaled_dot_product_attention
    lengths = [10, 400, 12, 390, 11]
    x = torch.randn(sum(lengths), 2, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
        PackedAttention(lengths, config(2, 2, (None,))).attend(0, x, x, x)
    assert sorted(seen) == [(2, 2, 400, 8), (3, 2, 12, 8)]


def test_the_order_of_sequences_does_not_change_their_results() -> None:
    lengths = [5, 33, 7, 30, 1]
    starts = [0, 5, 38, 45, 75]
    x = torch.randn(sum(lengths), 2, 8, generator=torch.Generator().manual_seed(0))
    shape = config(2, 2, (None,))
    forward = PackedAttention(lengths, shape).attend(0, x, x, x)
    pieces = [x[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    turned = torch.cat(pieces[::-1])
    backward = PackedAttention(lengths[::-1], shape).attend(0, turned, turned, turned)
    again = torch.cat(torch.split(backward, lengths[::-1])[::-1])
    torch.testing.assert_close(again, forward, atol=1e-6, rtol=0)
