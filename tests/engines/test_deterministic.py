"""Batch invariance: other rows, their order, budgets, sharing and threads change no bit of a row's output."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.adapters.config import AdapterConfig  # noqa: E402
from lorica.adapters.folder import open_adapter, save_adapter  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native import scheduler  # noqa: E402
from lorica.engines.native.attention.batch_invariant import MAX_SCORES, TILE, BatchInvariantAttention  # noqa: E402
from lorica.engines.native.attention.prefix_merge import PrefixMergeAttention  # noqa: E402
from lorica.engines.native.choice_logprobs import align_scored_rows, find_scored_tokens  # noqa: E402
from lorica.engines.native.engine import NativeEngine, load_native  # noqa: E402
from lorica.engines.native.packed_batch import ROW_ALIGNMENT, PackedSequence, Prefix, pack_sequences  # noqa: E402
from lorica.engines.native.token_tree import choice_tree  # noqa: E402
from lorica.models.adapter_weights import create_lora  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.compiled import bindings, library  # noqa: E402
from lorica.models.families import read_decoder_config  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.models.lora import LoraSpan, LoraWeights  # noqa: E402
from lorica.records import Generate, Request, Sampling, ScoreChoices  # noqa: E402

NAMES = (None, "first", "second")
BUDGETS = (512, 1024, 4096)
Prompts = Callable[[int], list[tuple[str | None, tuple[int, ...]]]]


@pytest.fixture(scope="module")
def base() -> Path:
    return locate_model("embedded:lorica_tiny", environ={})


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    shape, folders = read_decoder_config(base), {}
    targets = {"first": ["q_proj", "v_proj", "o_proj"], "second": ["k_proj", "gate_proj", "up_proj", "down_proj"]}
    for rank, name in ((16, "first"), (4, "second")):
        config = AdapterConfig(peft_type="LORA", r=rank, lora_alpha=16, target_modules=targets[name])
        weights = create_lora(name, shape, config, seed=rank)
        generator = torch.Generator().manual_seed(rank)
        for pair in weights.pairs.values():
            pair.b = torch.randn(pair.b.shape, generator=generator) * 0.05
        tensors = weights.to_tensors()
        packed = {key: ("F32", tuple(value.shape), value.detach().numpy().tobytes()) for key, value in tensors.items()}
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        save_adapter(folders[name], config, packed)
    return folders


def engine(base: Path, adapters: dict[str, Path], dtype: str, budget: int, *, share: bool = True) -> NativeEngine:
    settings = EngineSettings(dtype=dtype, device="cpu", batch_tokens=budget, share_prefixes=share)
    native = load_native(BaseFolder(base), settings)
    for name, folder in adapters.items():
        native.add_adapter(name, open_adapter(folder))
    return native


def rows() -> list[Request]:
    """Two levels of shared prefixes, three adapters, choices of one and of several tokens."""
    rng = random.Random(3)

    def some(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(6144) for _ in range(count))

    first = {name: some(50 + 9 * i) for i, name in enumerate(NAMES)}
    second = {name: some(33) for name in NAMES}
    choices = (((11,), (12,)), ((5, 6, 7), (5, 9), (8,)))
    requests: list[Request] = []
    for i in range(9):
        name = NAMES[i % 3]
        prompt = first[name] + (second[name] if i >= 3 else ()) + some(rng.randrange(1, 40))
        requests.append(ScoreChoices(f"r{i}", prompt, choices[i % 2], name))
    return requests


@pytest.mark.parametrize(
    ("dtype", "compiled"),
    [
        *(("float32", True), ("float32", False), ("float16", True), ("bfloat16", True), ("bfloat16", False)),
        *(("int16", True), ("int8", True), ("int8-weights", True), ("int8-weights", False), ("int4-weights", True)),
    ],
)
def test_a_rows_scores_never_change_by_a_bit(
    base: Path, adapters: dict[str, Path], dtype: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(bindings, "supports_head_dim", lambda width: False)
    monkeypatch.setattr(scheduler, "MIN_SAVED_TOKENS", 16)
    requests = rows()
    engines = [engine(base, adapters, dtype, budget) for budget in BUDGETS]
    if not engines[0].info.is_batch_invariant(requests[0]):
        pytest.skip("rows round by the batch here, and nothing is said")
    assert max(node.parent for node in engines[0].plan(requests).nodes) >= 0, "two levels are to be tested"
    expected = {output.id: output for output in engine(base, adapters, dtype, 4096, share=False).run(requests)}
    assert all(output.logprobs for output in expected.values())
    for number in range(20):
        shuffled = random.Random(number).sample(requests, random.Random(number).randrange(1, len(requests) + 1))
        for engine_index, native in enumerate(engines):
            # Two threads wait for each other in every operation, which takes long where the processor is busy.
            torch.set_num_threads(2 if number % 7 == 0 and engine_index == number % 3 else 1)
            assert native.run(shuffled) == [expected[request.id] for request in shuffled]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_tiny_models_and_windows_too(
    benches: Any, prompts: Prompts, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "MIN_SAVED_TOKENS", 16)
    bench = benches(family)
    requests: Sequence[Request] = [
        ScoreChoices(f"r{i}", prompt, ((1,), (2, 3), (2, 4, 5)), name) for i, (name, prompt) in enumerate(prompts(16))
    ]
    native = engine(bench.base, bench.adapters, "float32", 4096)
    if not native.info.is_batch_invariant(requests[0]):
        pytest.skip("rows round by the batch here, and nothing is said")
    expected = {output.id: output for output in native.run(requests)}
    for seed, (budget, share) in enumerate(((1, True), (70, True), (333, False), (9999, True))):
        shuffled = random.Random(seed).sample(requests, len(requests))
        outputs = engine(bench.base, bench.adapters, "float32", budget, share=share).run(shuffled)
        assert outputs == [expected[request.id] for request in shuffled]


@pytest.mark.parametrize("window", [None, 11])
def test_tiles_give_what_prefix_merge_attention_gives(window: int | None) -> None:
    generator = torch.Generator().manual_seed(0)

    def some(count: int, heads: int) -> Any:
        return torch.randn(count, heads, 8, generator=generator)

    def prefix(parent: Prefix | None, start: int, length: int) -> Prefix:
        keys, values = (some(length, 2).transpose(0, 1) for _ in range(2))
        return Prefix(parent, start, length, [keys], [values])

    older = prefix(None, 0, 40)
    newer = prefix(older, 40, 7)
    sequences = [
        PackedSequence((1,) * 70),
        PackedSequence((1,) * 5, newer, None, choice_tree(((1, 2, 3), (1, 2, 4, 5), (6, 7)))),
        PackedSequence((1,) * 30, newer),
        PackedSequence((1,), older),
    ]
    batch = pack_sequences(sequences, torch.device("cpu"))
    tokens = len(batch.tokens)
    query, key, value = some(tokens, 4), some(tokens, 2), some(tokens, 2)
    layout: dict[str, Any] = {"windows": (window,), "dtype": torch.float32}
    expected = PrefixMergeAttention(batch, **layout).attend(0, query, key, value)
    for max_scores in (MAX_SCORES, 1):
        attention = BatchInvariantAttention(batch, **layout, heads=(4, 2), max_scores=max_scores)
        torch.testing.assert_close(attention.attend(0, query, key, value), expected, atol=1e-6, rtol=0)


def test_every_adapter_gets_whole_alignments() -> None:
    first, second = (LoraWeights(name, {}) for name in "ab")
    sequences = [
        PackedSequence((1,) * n, None, adapter) for n, adapter in ((3, None), (20, first), (1, first), (30, second))
    ]
    batch = pack_sequences(sequences, torch.device("cpu"), align=ROW_ALIGNMENT)
    assert [(span.adapter.name, span.start, span.stop) for span in batch.spans] == [("a", 16, 48), ("b", 48, 80)]
    assert len(batch.tokens) == 80
    assert TILE % ROW_ALIGNMENT == 0


def test_reads_are_repeated_to_whole_alignments_and_mean_the_same() -> None:
    requests = [ScoreChoices(str(i), (1,) * 8, ((1, 2), (3,))) for i in range(4)]
    scored = find_scored_tokens(requests, [8, 17, 30, 50], torch.device("cpu"))
    adapter = LoraWeights("a", {})
    aligned = align_scored_rows(scored, [LoraSpan(adapter, 16, 32)], ROW_ALIGNMENT)
    assert aligned.rows[aligned.row_index].tolist() == scored.rows[scored.row_index].tolist()
    assert aligned.rows.tolist() == sorted(aligned.rows.tolist())
    inside = ((aligned.rows >= 16) & (aligned.rows < 32)).sum()
    assert (int(inside) % ROW_ALIGNMENT, len(aligned.rows) % ROW_ALIGNMENT) == (0, 0)
    assert align_scored_rows(scored, [LoraSpan(adapter, 16, 32)], 1) is scored


def test_compiled_kernels_change_nothing_but_rounding(
    base: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = rows()
    expected = engine(base, adapters, "float32", 4096).run(requests)
    as_it_is = bindings.supports_head_dim
    for dtype, most in (("bfloat16", 0.06), ("int8", 0.2)):
        engines = []
        for fits in (as_it_is, lambda width: False):
            monkeypatch.setattr(bindings, "supports_head_dim", fits)
            engines.append(engine(base, adapters, dtype, 4096))
        assert engines[1].info.kernels == "torch"
        assert engines[0].info.kernels == (library.target() or "torch")
        for native in engines:
            pairs = zip(native.run(requests), expected, strict=True)
            errors = [abs(a - b) for mine, exact in pairs for a, b in zip(mine.logprobs, exact.logprobs, strict=True)]
            assert statistics.mean(errors) < most, (dtype, native.info.kernels)


@pytest.mark.skipif(not bindings.is_available(), reason=f"no compiled kernels: {library.why_unavailable()}")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int16", "int8", "int8-weights", "int4-weights"])
def test_a_rows_text_never_changes_either(
    base: Path, adapters: dict[str, Path], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are drawn show every bit of their logits sooner or later."""
    monkeypatch.setattr(scheduler, "MIN_SAVED_TOKENS", 16)
    drawn = Sampling(max_new_tokens=24, do_sample=True, temperature=1.5, top_k=0)
    requests: list[Request] = []
    for number, row in enumerate([*rows(), *rows()]):
        sampling = drawn if number % 2 else Sampling(max_new_tokens=5 + 3 * number)
        requests.append(Generate(f"t{number}", (*row.prompt, number), sampling, adapter=row.adapter))
    scored = rows()
    engines = [engine(base, adapters, dtype, budget) for budget in BUDGETS]
    if dtype == "bfloat16" and not engines[0].info.is_batch_invariant(requests[0]):
        pytest.skip("rows round by the batch here, and nothing is said")
    assert engines[0].info.is_batch_invariant(requests[0])
    one_by_one = engine(base, adapters, dtype, 4096, share=False)
    expected = {request.id: one_by_one.run([request])[0] for request in [*requests, *scored]}
    assert len({output.tokens for output in expected.values()}) > len(requests), "nothing is degenerate"
    for number in range(6):
        mixed = random.Random(number).sample([*requests, *scored], random.Random(number).randrange(2, 27))
        torch.set_num_threads(2 if number == 1 else 1)
        if number % 3 == 0:
            engines[number % 3].clear_prefix_cache()
        assert engines[number % 3].run(mixed) == [expected[request.id] for request in mixed]
