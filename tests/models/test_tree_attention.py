"""Tree attention against packed attention over the same rows without sharing, forward and backward."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests import emulated_processor  # noqa: E402
from tests.shapes import TINY  # noqa: E402

from lorica.models.packed_attention import PackedAttention  # noqa: E402
from lorica.models.tree_attention import TreeAttention, TreeSpan  # noqa: E402


def _random_tree(draw: Any, longest: int) -> tuple[list[TreeSpan], list[int], list[list[int]]]:
    """Spans, positions, and the packed indices of each row: a path from a root to a leaf."""
    spans: list[TreeSpan] = []
    positions: list[int] = []
    rows: list[list[int]] = []

    def grow(path: list[int], depth: int) -> None:
        length, start, number = draw(st.integers(1, longest)), len(positions), len(spans)
        spans.append(TreeSpan(start, start + length, start + length, root=not path))
        positions.extend(range(len(path), len(path) + length))
        path = [*path, *range(start, start + length)]
        children = draw(st.integers(0, 3)) if depth < 2 else 0
        for _ in range(children):
            grow(path, depth + 1)
        spans[number] = replace(spans[number], subtree_stop=len(positions))
        if not children:
            rows.append(path)

    for _ in range(draw(st.integers(1, 2))):
        grow([], 0)
    return spans, positions, rows


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    window=st.sampled_from([None, 1, 3, 16]),
    width=st.sampled_from([8, 16, 80]),
    longest=st.sampled_from([20, 150]),
)
def test_each_row_gets_what_it_gets_alone(
    data: Any, heads: tuple[int, int], window: int | None, width: int, longest: int, target: str
) -> None:
    tree = _random_tree(data.draw, 20 if target == emulated_processor.TARGET else longest)
    _compare(tree, heads, window, width)


@pytest.mark.parametrize("query_heads", [48, 49, 64])
def test_many_query_heads_share_a_key_head(query_heads: int, target: str) -> None:
    # As many as the rows that the compiled kernel works through together, and more.
    spans = [TreeSpan(0, 7, 12, root=True), TreeSpan(7, 12, 12, root=False)]
    _compare((spans, list(range(12)), [list(range(12))]), (query_heads, 1), None, 64)


def _compare(
    tree: tuple[list[TreeSpan], list[int], list[list[int]]], heads: tuple[int, int], window: int | None, width: int
) -> None:
    spans, positions, rows = tree
    shape = replace(TINY, heads=heads[0], kv_heads=heads[1], windows=(None, window))
    generator = torch.Generator().manual_seed(len(positions))
    inputs = [
        torch.randn(len(positions), count, width, generator=generator).requires_grad_()
        for count in (heads[0], heads[1], heads[1])
    ]
    order = torch.tensor([token for row in rows for token in row])
    attention = TreeAttention(spans, torch.tensor(positions), shape.windows)
    alone = PackedAttention([len(row) for row in rows], shape)
    for layer in (0, 1):
        expected = alone.attend(layer, *(tensor[order] for tensor in inputs))
        output = attention.attend(layer, *inputs)[order]
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
        upstream = torch.randn(output.shape, generator=generator)
        for ours, theirs in zip(
            torch.autograd.grad(output, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("broken", [0, 1])
def test_what_is_not_a_number_is_not_made_one(broken: int) -> None:
    # torch's kernel gives zeros for a few queries or keys that are NaN.
    inputs = [torch.randn(5, 2, 8) for _ in range(3)]
    inputs[broken][3] = math.nan
    attention = TreeAttention([TreeSpan(0, 5, 5, root=True)], torch.arange(5), (None,))
    assert attention.attend(0, *inputs)[3].isnan().all()
