"""The prefix cache: shared prefixes are computed once for many runs, and not a bit of any output changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.adapters.config import AdapterConfig  # noqa: E402
from lorica.adapters.folder import open_adapter, save_adapter  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native import prefix_cache  # noqa: E402
from lorica.engines.native.engine import NativeEngine, load_native  # noqa: E402
from lorica.engines.native.model_runner import ModelRunner  # noqa: E402
from lorica.engines.native.packed_batch import Prefix  # noqa: E402
from lorica.models.adapter_weights import create_lora  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.compiled import library  # noqa: E402
from lorica.models.families import read_decoder_config  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.records import Generate, Request, Sampling, ScoreChoices  # noqa: E402

DTYPES = ["float32", "bfloat16"]
CHOICES = ((11,), (12, 13))
MakeEngine = Callable[..., tuple[NativeEngine, list[int]]]


@pytest.fixture(scope="module")
def base() -> Path:
    return locate_model("embedded:lorica_tiny", environ={})


def adapter(base: Path, folder: Path, seed: int) -> Path:
    config = AdapterConfig(peft_type="LORA", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
    weights = create_lora("a", read_decoder_config(base), config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for pair in weights.pairs.values():
        pair.b = torch.randn(pair.b.shape, generator=generator) * 0.05
    packed = {k: ("F32", tuple(v.shape), v.detach().numpy().tobytes()) for k, v in weights.to_tensors().items()}
    save_adapter(folder, config, packed)
    return folder


@pytest.fixture
def make_engine(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeEngine:
    """An engine with an adapter, and the lengths of the prefixes that it computes."""

    def make(dtype: str = "float32", **settings: Any) -> tuple[NativeEngine, list[int]]:
        engine = load_native(BaseFolder(base), EngineSettings(dtype=dtype, device="cpu", **settings))
        folder = tmp_path / "a"
        engine.add_adapter("a", open_adapter(folder if folder.exists() else adapter(base, folder, 1)))
        lengths: list[int] = []
        read = ModelRunner.prefill

        def spy(self: ModelRunner, pieces: Any) -> Any:
            if self._decoder is engine._decoder:
                lengths.extend(piece.length for piece in pieces)
            return read(self, pieces)

        monkeypatch.setattr(ModelRunner, "prefill", spy)
        return engine, lengths

    return make


def some(seed: int, count: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(6144) for _ in range(count))


def window(number: int, rows: int = 3, *, shared: tuple[int, ...] = some(1, 90)) -> list[Request]:
    return [
        ScoreChoices(f"{number}-{row}-{name}", (*shared, *some(100 * number + row, 20 + row)), CHOICES, name)
        for row in range(rows)
        for name in (None, "a")
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_next_window_computes_no_prefix_again(make_engine: MakeEngine, dtype: str) -> None:
    engine, lengths = make_engine(dtype)
    engine.run(window(1))
    assert lengths == [90, 90]
    lengths.clear()
    outputs = engine.run(window(2))
    assert lengths == []
    assert outputs == make_engine(dtype)[0].run(window(2)), "not a bit is different"
    engine.clear_prefix_cache()
    assert engine.run(window(2)) == outputs
    assert lengths == [90, 90]


def test_single_rows_learn_from_the_windows_before(make_engine: MakeEngine) -> None:
    engine, lengths = make_engine()
    for number in range(4):
        outputs = engine.run(window(number, rows=1))
        assert outputs == make_engine()[0].run(window(number, rows=1))
        assert lengths == ([90, 90] if number == 1 else []), "observed once, computed once, then cached"
        lengths.clear()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_longer_cached_prefix_is_used_in_part_and_new_suffixes_are_added(make_engine: MakeEngine, dtype: str) -> None:
    engine, lengths = make_engine(dtype)
    longer = some(1, 90) + some(2, 70)
    engine.run(window(1, shared=longer))
    lengths.clear()
    mixed = [*window(2, shared=longer[:120]), *window(3, shared=some(1, 90) + some(5, 40))]
    outputs = engine.run(mixed)
    assert sorted(lengths) == [40, 40], "the first 90 and the first 120 tokens are cached"
    assert outputs == make_engine(dtype)[0].run(mixed)


def test_texts_begin_with_cached_prefixes_too(make_engine: MakeEngine) -> None:
    engine, lengths = make_engine()
    engine.run(window(1))
    lengths.clear()
    texts = [
        Generate(str(row), (*some(1, 90), *some(row, 9)), Sampling(max_new_tokens=4), adapter="a") for row in range(3)
    ]
    outputs = engine.run(texts)
    assert lengths == []
    assert [output.tokens for output in outputs] == [output.tokens for output in make_engine()[0].run(texts)]


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(library.TARGET_VARIABLE, library.NO_TARGET)
    library.clear_caches()
    yield
    monkeypatch.undo()
    library.clear_caches()


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("dtype", DTYPES)
def test_texts_that_are_not_batch_invariant_are_planned_without_the_cache(make_engine: MakeEngine, dtype: str) -> None:
    documents = [some(seed, 90) for seed in range(8)]

    def requests(window: int, rows: int) -> list[Request]:
        """A run that continues after a kill knows nothing of the windows before."""
        return [
            Generate(f"{window}-{number}-{row}", (*document, *some(10 * window + row, 9)), Sampling(max_new_tokens=12))
            for number, document in enumerate(documents)
            for row in range(rows)
        ]

    engine, _ = make_engine(dtype)
    assert not engine.info.is_batch_invariant(requests(1, 1)[0])
    engine.run(requests(1, 3))
    fresh_engine = make_engine(dtype)[0]
    assert engine.plan(requests(2, 1)).digest() == fresh_engine.plan(requests(2, 1)).digest()
    assert engine.run(requests(2, 1)) == fresh_engine.run(requests(2, 1))


def test_a_prefix_is_matched_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "free_memory", lambda device: 1 << 40)
    rng = random.Random(3)
    cache = prefix_cache.PrefixCache()
    cache.set_budget(torch.device("cpu"))
    cached_paths: set[tuple[str | None, tuple[int, ...]]] = set()

    def put(adapter: str | None, path: tuple[int, ...]) -> None:
        length = len(path)
        numbers = [torch.tensor(path, dtype=torch.float32).view(1, length, 1)]
        cache._put((adapter, path), Prefix(None, 0, length, numbers, numbers))
        cached_paths.add((adapter, path))

    for step in range(600):
        path = tuple(rng.randrange(3) for _ in range(rng.randrange(1, 8)))
        adapter = rng.choice([None, "a"])
        if step % 3 == 0:
            put(adapter, path)
        if step == 500:
            cache.invalidate("a")
            cached_paths = {key for key in cached_paths if key[0] is None}
        prefix = cache._find(adapter, path, 0)
        assert (prefix is not None) == any(
            name == adapter and cached_path[: len(path)] == path for name, cached_path in cached_paths
        )
        if prefix is not None:
            assert prefix.keys[0].flatten().tolist() == list(path)
    assert cache.evict_all()
    assert not cache.evict_all()
    assert cache._find(None, (1,), 0) is None
    put(None, (1, 2))
    assert cache._find(None, (1,), 0) is None, "nothing is cached before there is a budget again"


def test_another_adapter_of_the_name_gets_its_own(make_engine: MakeEngine, base: Path, tmp_path: Path) -> None:
    engine, lengths = make_engine()
    before = engine.run(window(1))
    engine.remove_adapter("a")
    engine.add_adapter("a", open_adapter(adapter(base, tmp_path / "other", 2)))
    lengths.clear()
    after = engine.run(window(1))
    assert lengths == [90], "the base's is still cached"
    assert [output.logprobs for output in after[::2]] == [output.logprobs for output in before[::2]]
    assert all(mine.logprobs != old.logprobs for mine, old in zip(after[1::2], before[1::2], strict=True))


def test_without_batch_invariance_nothing_is_cached(make_engine: MakeEngine) -> None:
    engine, lengths = make_engine(deterministic=False)
    for _ in range(2):
        engine.run(window(1))
        assert lengths == [90, 90]
        lengths.clear()


def test_the_least_recently_used_prefix_is_evicted_first(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, lengths = make_engine()
    engine.run(window(1))
    engine.run(window(2, shared=some(7, 200)))
    cache = engine._prefix_cache
    sizes = sum(prefix_cache._entry_bytes(path, prefix) for (_, path), prefix in cache._entries.items())
    monkeypatch.setattr(prefix_cache, "free_memory", lambda device: int(sizes * (0.8 / prefix_cache._MEMORY_SHARE - 1)))
    cache.set_budget(torch.device("cpu"))
    assert {len(path) for _, path in cache._entries} == {200}
    engine.run(window(3, shared=some(8, 300)))
    assert (
        sum(prefix_cache._entry_bytes(path, prefix) for (_, path), prefix in cache._entries.items()) <= 0.8 * sizes
    ), "not within a run either"
    monkeypatch.setattr(prefix_cache, "free_memory", lambda device: 0)
    cache.set_budget(torch.device("cpu"))
    assert not cache._entries
    lengths.clear()
    engine.run(window(2, shared=some(7, 200)))
    assert lengths == [200, 200]


def test_chunks_of_one_long_row_are_not_cached(make_engine: MakeEngine) -> None:
    engine, _ = make_engine(batch_tokens=256)
    engine.run([ScoreChoices("long", some(3, 700), CHOICES, "a")])
    assert not engine._prefix_cache._entries
