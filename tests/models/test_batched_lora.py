"""Bundled products of many adapters against one span at a time."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from lorica.models import batched_lora
from lorica.models.batched_lora import BatchedLora, StackedFactorCache
from lorica.models.lora import LoraPair, LoraSpan, LoraWeights, linear_with_lora

PATHS = ("q", "k", "v")
WIDTHS = (24, 8, 8)


def adapters(count: int, dtype: Any = torch.float32) -> list[LoraWeights]:
    """Of ranks 1 to 5 and several scalings; every third lacks a module, the last has none of them."""
    generator = torch.Generator().manual_seed(count)
    made = []
    for number in range(count):
        rank = 1 + number % 5
        pairs = {
            path: LoraPair(
                torch.randn(rank, 16, generator=generator).to(dtype),
                torch.randn(width, rank, generator=generator).to(dtype),
                0.5 + number % 3,
            )
            for path, width in zip(PATHS, WIDTHS, strict=True)
            if not (number % 3 == 1 and path == "k")
        }
        made.append(LoraWeights(str(number), {} if number == count - 1 else pairs))
    return made


def spans_of_lengths(lengths: list[int], gap: int = 0) -> tuple[list[LoraSpan], int]:
    spans, start = [], 0
    for adapter, length in zip(adapters(len(lengths)), lengths, strict=True):
        spans.append(LoraSpan(adapter, start, start + length))
        start += length + gap
    return spans, start


def one_by_one(spans: list[LoraSpan], x: Any, y: Any) -> Any:
    parts = []
    for path, base in zip(PATHS, torch.split(y, list(WIDTHS), dim=1), strict=True):

        class Base(torch.nn.Module):
            def __init__(self, given: Any) -> None:
                super().__init__()
                self.given = given

            def forward(self, _: Any) -> Any:
                return self.given.clone()

        parts.append(linear_with_lora(x, Base(base), path, spans))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("lengths", [[40], [1] * 30, [3, 500, 1, 1, 2, 300, 4], [90] * 12])
@pytest.mark.parametrize("gap", [0, 2])
@pytest.mark.parametrize("block", [7, 10_000])
@pytest.mark.parametrize("bundle", [True, False])
def test_bundles_equal_one_span_at_a_time(lengths: list[int], gap: int, block: int, bundle: bool) -> None:
    spans, tokens = spans_of_lengths(lengths, gap)
    x, y = torch.randn(tokens, 16), torch.randn(tokens, sum(WIDTHS))
    expected = one_by_one(spans, x, y)
    found, given = y.clone(), BatchedLora(spans, tokens, group_adapters=bundle)
    for first in range(0, tokens, block):
        given.add(PATHS, WIDTHS, x[first : first + block], found[first : first + block], first)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    given.add(("elsewhere",), (8,), x, found[:, :8])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_an_update_in_bfloat16_is_added_to_float32() -> None:
    spans = [LoraSpan(each, i * 4, i * 4 + 4) for i, each in enumerate(adapters(6, torch.bfloat16))]
    x, y = torch.randn(24, 16), torch.randn(24, sum(WIDTHS))
    expected = one_by_one(spans, x, y)
    BatchedLora(spans, 24).add(PATHS, WIDTHS, x, y)
    torch.testing.assert_close(y, expected, atol=0.3, rtol=0.02)


def test_few_products_for_many_short_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(x: Any, a: Any) -> Any:
        calls.append(len(x))
        return x @ a.t()

    monkeypatch.setattr("torch.nn.functional.linear", counted)
    spans, tokens = spans_of_lengths([1] * 32)
    BatchedLora(spans, tokens).add(PATHS, WIDTHS, torch.randn(tokens, 16), torch.zeros(tokens, sum(WIDTHS)))
    assert len(calls) <= 2
    calls.clear()
    spans, tokens = spans_of_lengths([1500] * 3)
    BatchedLora(spans, tokens).add(PATHS, WIDTHS, torch.randn(tokens, 16), torch.zeros(tokens, sum(WIDTHS)))
    assert calls == [1500, 1500], "long spans stay apart; the third adapter has none of these modules"


def test_steps_of_generation_join_once_and_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[tuple[str, ...]] = []
    original = batched_lora._stack_factors

    def counted(bundle: Any, paths: tuple[str, ...], dtype: Any) -> Any:
        joined.append(paths)
        return original(bundle, paths, dtype)

    monkeypatch.setattr(batched_lora, "_stack_factors", counted)
    memory, (spans, tokens) = StackedFactorCache(), spans_of_lengths([1] * 4)
    x = torch.randn(tokens, 16)
    results = []
    for _ in range(3):
        results.append(torch.zeros(tokens, sum(WIDTHS)))
        BatchedLora(spans, tokens, memory).add(PATHS, WIDTHS, x, results[-1])
    assert len(joined) == 1
    assert torch.equal(results[0], results[2])
    other = [LoraSpan(spans[1].adapter, 0, 1)]
    BatchedLora(other, 1, memory).add(PATHS, WIDTHS, x[:1], results[0][:1])
    assert len(joined) == 2
    BatchedLora(spans, tokens, memory).add(PATHS, WIDTHS, x, results[0])
    assert len(joined) == 3, "the first bundle was forgotten"
    BatchedLora([LoraSpan(spans[0].adapter, 0, 900)], 900, memory)
    assert not memory._stacks
