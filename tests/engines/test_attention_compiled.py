"""Attention by the compiled kernel, against attention merged by log-sum-exp, and its batch invariance."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests import emulated_processor  # noqa: E402

from lorica.engines.native.attention.compiled import CompiledAttention, CompiledDecodeAttention  # noqa: E402
from lorica.engines.native.attention.prefix_merge import PrefixMergeAttention, PrefixMergeDecodeAttention  # noqa: E402
from lorica.engines.native.kv_cache import KVCache  # noqa: E402
from lorica.engines.native.packed_batch import PackedSequence, Prefix, pack_sequences  # noqa: E402
from lorica.engines.native.token_tree import EMPTY_TREE, TokenTree, choice_tree  # noqa: E402
from lorica.models.compiled import bindings, library  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not bindings.is_available(), reason=f"no compiled kernels: {library.why_unavailable()}"),
    pytest.mark.usefixtures("target"),
]

CPU = torch.device("cpu")
TOLERANCES = {torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float32: 2e-6}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES)


class Numbers:
    """Queries, keys and values of one layer."""

    def __init__(self, heads: int, kv_heads: int, width: int, dtype: Any) -> None:
        self._dtype = dtype
        self._generator = torch.Generator().manual_seed(0)
        self.heads, self.kv_heads, self.width = heads, kv_heads, width

    def some(self, tokens: int, heads: int) -> Any:
        return torch.randn(tokens, heads, self.width, generator=self._generator).to(self._dtype)

    def three(self, tokens: int) -> tuple[Any, Any, Any]:
        return self.some(tokens, self.heads), self.some(tokens, self.kv_heads), self.some(tokens, self.kv_heads)

    def prefix(self, parent: Prefix | None, start: int, length: int) -> Prefix:
        keys, values = (self.some(length, self.kv_heads).transpose(0, 1) for _ in range(2))
        return Prefix(parent, start, length, [keys], [values])


def in_float(prefix: Prefix | None, copies: dict[int, Prefix]) -> Prefix | None:
    if prefix is None:
        return None
    if id(prefix) not in copies:
        keys, values = ([layer.float() for layer in layers] for layers in (prefix.keys, prefix.values))
        copies[id(prefix)] = Prefix(in_float(prefix.parent, copies), prefix.start, prefix.length, keys, values)
    return copies[id(prefix)]


def sequence(length: int, prefix: Prefix | None = None, tree: TokenTree = EMPTY_TREE) -> PackedSequence:
    return PackedSequence((1,) * length, prefix, None, tree)


@DTYPES
@pytest.mark.parametrize("window", [None, 11, 300])
@pytest.mark.parametrize("shape", [(14, 2, 64), (4, 4, 32), (3, 1, 128), (6, 2, 80)])
def test_it_gives_what_prefix_merge_attention_gives(
    shape: tuple[int, int, int], window: int | None, dtype: Any, target: str
) -> None:
    if target == emulated_processor.TARGET and (shape, window) != ((6, 2, 80), 11):
        pytest.skip("takes minutes under emulation")
    numbers = Numbers(*shape, dtype)
    older = numbers.prefix(None, 0, 43)
    newer, longer = numbers.prefix(older, 43, 7), numbers.prefix(older, 43, 800)
    forked = choice_tree(((1, 2, 3), (1, 2, 4, 5), (6, 7)))
    sequences = [
        *(sequence(70), sequence(5, newer, forked), sequence(30, newer), sequence(1, older)),
        *(sequence(600), sequence(33, longer), sequence(40, longer, forked), sequence(9)),
    ]
    batch = pack_sequences(sequences, CPU, align=16)
    query, key, value = numbers.three(len(batch.tokens))
    copies: dict[int, Prefix] = {}
    float_sequences = [PackedSequence(seq.tokens, in_float(seq.prefix, copies), None, seq.tree) for seq in sequences]
    real = torch.cat(
        [torch.arange(start, start + seq.length) for start, seq in zip(batch.offsets, sequences, strict=True)]
    )
    prefix_merge = PrefixMergeAttention(pack_sequences(float_sequences, CPU), windows=(window,), dtype=torch.float32)
    expected = prefix_merge.attend(0, *(tensor[real].float() for tensor in (query, key, value)))
    actual = CompiledAttention(batch, windows=(window,)).attend(0, query, key, value)
    torch.testing.assert_close(actual[real].float(), expected, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype])
    is_padding = torch.ones(len(query), dtype=torch.bool)
    is_padding[real] = False
    assert is_padding.any()
    assert not actual[is_padding].any(), "tokens of no sequence get zeros"


@DTYPES
@pytest.mark.parametrize("window", [None, 100])
def test_it_is_batch_invariant_whatever_prefix_is_shared(window: int | None, dtype: Any, target: str) -> None:
    numbers = Numbers(*((1, 1, 16) if target == emulated_processor.TARGET else (14, 2, 64)), dtype)
    length, forked = 700, choice_tree(((1, 2, 3), (1, 4)))
    query, key, value = numbers.three(length + len(forked.tokens))
    unshared = pack_sequences([sequence(length, tree=forked)], CPU)
    expected = CompiledAttention(unshared, windows=(window,)).attend(0, query, key, value)
    for cut in (1, 16, 99, 512, 513):
        start = [0, cut // 2, cut]
        first = Prefix(None, 0, cut // 2, *([tensor[: cut // 2].transpose(0, 1)] for tensor in (key, value)))
        second = Prefix(
            first, cut // 2, cut - cut // 2, *([tensor[cut // 2 : cut].transpose(0, 1)] for tensor in (key, value))
        )
        other_tensors = numbers.three(37)
        last = [tensor[start[2] :] for tensor in (query, key, value)]
        sequences = [sequence(37, second), sequence(length - cut, second, forked), sequence(5)]
        mixed = [
            torch.cat([before, suffix, after])
            for before, suffix, after in zip(other_tensors, last, numbers.three(5), strict=True)
        ]
        actual = CompiledAttention(pack_sequences(sequences, CPU), windows=(window,)).attend(0, *mixed)
        assert torch.equal(actual[37:-5], expected[cut:])


@DTYPES
def test_what_is_broken_stays_visible(dtype: Any) -> None:
    numbers = Numbers(4, 2, 64, dtype)
    query, key, value = numbers.three(40)
    key[3] = torch.nan
    actual = CompiledAttention(pack_sequences([sequence(20), sequence(20)], CPU), windows=(None,)).attend(
        0, query, key, value
    )
    assert actual[3:20].isnan().all()
    assert not actual[:3].isnan().any()
    assert not actual[20:].isnan().any()


@DTYPES
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("heads", [2, 4, 6, 14, 18])
def test_a_decode_step_sees_prefixes_and_the_rows_cache_slot(window: int | None, heads: int, dtype: Any) -> None:
    numbers = Numbers(heads, 2, 64, dtype)
    config = SimpleNamespace(kv_heads=2, head_dim=64, layers=1)
    older = numbers.prefix(None, 0, 43)
    newer = numbers.prefix(older, 43, 7)
    prefixes, lengths, slots = [newer, newer, None, older], [100, 3, 17, 64], [2, 0, 3, 1]
    query, key, value = numbers.three(4)
    caches = [KVCache(config, cache_dtype, CPU, max_tokens=512) for cache_dtype in (dtype, torch.float32)]  # type: ignore[arg-type]
    for slot, length in zip(slots, lengths, strict=True):
        written = numbers.some(length, 2), numbers.some(length, 2)
        for cache in caches:
            cache.reserve(4, 100)
            cache.write(0, slot, *written)
    compiled = CompiledDecodeAttention(caches[0], slots, lengths, prefixes, windows=(window,))
    actual = compiled.attend(0, query, key, value)
    copies: dict[int, Prefix] = {}
    float_prefixes = [in_float(prefix, copies) for prefix in prefixes]
    prefix_merge = PrefixMergeDecodeAttention(caches[1], slots, lengths, float_prefixes, windows=(window,))
    expected = prefix_merge.attend(0, query.float(), key.float(), value.float())
    torch.testing.assert_close(actual.float(), expected, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype])
    for actual_cache, expected_cache in zip(
        caches[0].keys + caches[0].values, caches[1].keys + caches[1].values, strict=True
    ):
        assert torch.equal(actual_cache.float(), expected_cache), "both keep the new keys and values"
