"""Attention by the compiled kernel, against attention in parts merged by log-sum-exp, and its bits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.engines.native.attention.compiled import CompiledAttention, CompiledDecodeAttention  # noqa: E402
from lorica.engines.native.attention.prefix_merge import PrefixMergeAttention, PrefixMergeDecodeAttention  # noqa: E402
from lorica.engines.native.kv_cache import KVCache  # noqa: E402
from lorica.engines.native.packed_batch import PackedSequence, Prefix, pack_sequences  # noqa: E402
from lorica.engines.native.token_tree import EMPTY_TREE, TokenTree, choice_tree  # noqa: E402
from lorica.models.compiled import bindings  # noqa: E402

pytestmark = pytest.mark.skipif(
    not bindings.is_available(), reason=f"no compiled kernels: {bindings.why_unavailable()}"
)

CPU = torch.device("cpu")


class Numbers:
    """Queries, keys and values of one layer."""

    def __init__(self, heads: int, kv_heads: int, width: int) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self.heads, self.kv_heads, self.width = heads, kv_heads, width

    def some(self, tokens: int, heads: int) -> Any:
        return torch.randn(tokens, heads, self.width, generator=self._generator).bfloat16()

    def three(self, tokens: int) -> tuple[Any, Any, Any]:
        return self.some(tokens, self.heads), self.some(tokens, self.kv_heads), self.some(tokens, self.kv_heads)

    def prefix(self, parent: Prefix | None, start: int, length: int) -> Prefix:
        keys, values = (self.some(length, self.kv_heads).transpose(0, 1) for _ in range(2))
        return Prefix(parent, start, length, [keys], [values])


def in_float(prefix: Prefix | None, known: dict[int, Prefix]) -> Prefix | None:
    if prefix is None:
        return None
    if id(prefix) not in known:
        keys, values = ([one.float() for one in each] for each in (prefix.keys, prefix.values))
        known[id(prefix)] = Prefix(in_float(prefix.parent, known), prefix.start, prefix.length, keys, values)
    return known[id(prefix)]


def piece(length: int, prefix: Prefix | None = None, tree: TokenTree = EMPTY_TREE) -> PackedSequence:
    return PackedSequence((1,) * length, prefix, None, tree)


@pytest.mark.parametrize("window", [None, 11, 300])
@pytest.mark.parametrize("shape", [(14, 2, 64), (4, 4, 32), (3, 1, 128), (6, 2, 80)])
def test_it_gives_what_merged_parts_give(shape: tuple[int, int, int], window: int | None) -> None:
    numbers = Numbers(*shape)
    older = numbers.prefix(None, 0, 43)
    newer, longer = numbers.prefix(older, 43, 7), numbers.prefix(older, 43, 800)
    forked = choice_tree(((1, 2, 3), (1, 2, 4, 5), (6, 7)))
    pieces = [piece(70), piece(5, newer, forked), piece(30, newer), piece(1, older), piece(600), piece(33, longer),
              piece(40, longer, forked), piece(9)]  # fmt: skip
    work = pack_sequences(pieces, CPU, align=16)
    query, key, value = numbers.three(len(work.tokens))
    known: dict[int, Prefix] = {}
    wide = [PackedSequence(one.tokens, in_float(one.prefix, known), None, one.tree) for one in pieces]
    real = torch.cat([torch.arange(at, at + one.length) for at, one in zip(work.offsets, pieces, strict=True)])
    parts = PrefixMergeAttention(pack_sequences(wide, CPU), windows=(window,), dtype=torch.float32)
    expected = parts.attend(0, *(each[real].float() for each in (query, key, value)))
    found = CompiledAttention(work, windows=(window,)).attend(0, query, key, value)
    torch.testing.assert_close(found[real].float(), expected, atol=1e-2, rtol=1e-2)
    filling = torch.ones(len(query), dtype=torch.bool)
    filling[real] = False
    assert filling.any()
    assert not found[filling].any(), "tokens of no sequence get zeros"


@pytest.mark.parametrize("window", [None, 100])
def test_bits_depend_neither_on_company_nor_on_what_is_shared(window: int | None) -> None:
    numbers = Numbers(14, 2, 64)
    length, forked = 700, choice_tree(((1, 2, 3), (1, 4)))
    query, key, value = numbers.three(length + len(forked.tokens))
    whole = pack_sequences([piece(length, tree=forked)], CPU)
    right = CompiledAttention(whole, windows=(window,)).attend(0, query, key, value)
    for cut in (1, 16, 99, 512, 513):
        start = [0, cut // 2, cut]
        first = Prefix(None, 0, cut // 2, *([each[: cut // 2].transpose(0, 1)] for each in (key, value)))
        second = Prefix(
            first, cut // 2, cut - cut // 2, *([each[cut // 2 : cut].transpose(0, 1)] for each in (key, value))
        )
        before = numbers.three(37)
        last = [each[start[2] :] for each in (query, key, value)]
        pieces = [piece(37, second), piece(length - cut, second, forked), piece(5)]
        mixed = [torch.cat([one, own, fill]) for one, own, fill in zip(before, last, numbers.three(5), strict=True)]
        found = CompiledAttention(pack_sequences(pieces, CPU), windows=(window,)).attend(0, *mixed)
        assert torch.equal(found[37:-5], right[cut:])


def test_what_is_broken_stays_visible() -> None:
    numbers = Numbers(4, 2, 64)
    query, key, value = numbers.three(40)
    key[3] = torch.nan
    found = CompiledAttention(pack_sequences([piece(20), piece(20)], CPU), windows=(None,)).attend(0, query, key, value)
    assert found[3:20].isnan().all()
    assert not found[:3].isnan().any()
    assert not found[20:].isnan().any()


@pytest.mark.parametrize("window", [None, 50])
def test_a_step_sees_beginnings_and_the_rows_own_line(window: int | None) -> None:
    numbers = Numbers(6, 2, 64)
    config = SimpleNamespace(kv_heads=2, head_dim=64, layers=1)
    older = numbers.prefix(None, 0, 43)
    newer = numbers.prefix(older, 43, 7)
    prefixes, lengths, lines = [newer, newer, None, older], [100, 3, 17, 64], [2, 0, 3, 1]
    query, key, value = numbers.three(4)
    caches = [KVCache(config, dtype, CPU, max_tokens=512) for dtype in (torch.bfloat16, torch.float32)]  # type: ignore[arg-type]
    for line, length in zip(lines, lengths, strict=True):
        written = numbers.some(length, 2), numbers.some(length, 2)
        for cache in caches:
            cache.reserve(4, 100)
            cache.write(0, line, *written)
    fast = CompiledDecodeAttention(caches[0], lines, lengths, prefixes, windows=(window,))
    found = fast.attend(0, query, key, value)
    known: dict[int, Prefix] = {}
    wide = [in_float(one, known) for one in prefixes]
    exact = PrefixMergeDecodeAttention(caches[1], lines, lengths, wide, windows=(window,))
    expected = exact.attend(0, query.float(), key.float(), value.float())
    torch.testing.assert_close(found.float(), expected, atol=1e-2, rtol=1e-2)
    for mine, right in zip(caches[0].keys + caches[0].values, caches[1].keys + caches[1].values, strict=True):
        assert torch.equal(mine.float(), right), "both keep the new keys and values"
