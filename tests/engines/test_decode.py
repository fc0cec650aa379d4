"""Continuous batching: the right tokens, whatever else is decoded at the same time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.engines.base import StopStringEngine  # noqa: E402
from lorica.engines.native import scheduler  # noqa: E402
from lorica.engines.native.engine import NativeEngine  # noqa: E402
from lorica.engines.native.kv_cache import KVCache  # noqa: E402
from lorica.engines.native.stop_strings import contains_stop_string  # noqa: E402
from lorica.errors import EngineError  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.records import Generate, Output, Request, Sampling  # noqa: E402

Prompts = Callable[[int], list[tuple[str | None, tuple[int, ...]]]]


def native(bench: Any, *, batch_tokens: int = 4096, share_prefixes: bool = True) -> NativeEngine:
    decoder = load_decoder(BaseFolder(bench.base), dtype=torch.float32)
    engine = NativeEngine(decoder, batch_tokens=batch_tokens, share_prefixes=share_prefixes)
    for name, folder in bench.adapters.items():
        engine.add_adapter(name, open_adapter(folder))
    return engine


def generates(prompts: Prompts, sampling: Sampling, count: int = 20, stop: tuple[int, ...] = ()) -> list[Request]:
    return [Generate(f"r{i}", prompt, sampling, stop, name) for i, (name, prompt) in enumerate(prompts(count))]


@pytest.fixture(autouse=True)
def _eager_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MIN_SAVED_TOKENS", 16)


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen2", "qwen3", "llama-biases-tied-llama3", "qwen3-biases-tied-window"]
)
def test_greedy_text_is_that_of_transformers(benches: Any, prompts: Prompts, family: str) -> None:
    bench = benches(family)
    requests = generates(prompts, Sampling(max_new_tokens=10))
    # So small that rows wait for each other: batches of different ages are decoded together.
    outputs = native(bench, batch_tokens=120).run(requests)
    for request, output in zip(requests, outputs, strict=True):
        assert output.finish == "length"
        assert list(output.tokens) == bench.greedy(request.prompt, request.adapter, 10)


@dataclass(frozen=True)
class Setting:
    budget: int
    share: bool


@pytest.mark.parametrize("family", ["mistral", "qwen3"])
@pytest.mark.parametrize("setting", [Setting(1, True), Setting(150, True), Setting(400, False), Setting(9999, True)])
def test_drawn_text_does_not_depend_on_the_batch(benches: Any, prompts: Prompts, family: str, setting: Setting) -> None:
    bench = benches(family)
    # Different lengths and settings side by side, so that rows leave and join at different times.
    requests: list[Request] = []
    for i, (name, prompt) in enumerate(prompts(20)):
        drawn = Sampling(2 + i % 7, do_sample=i % 5 > 0, temperature=0.7 + i % 2, top_p=0.9, top_k=20 * (i % 2), seed=i)
        requests.append(Generate(f"r{i}", prompt, drawn, (3, 50), name))
    expected = {output.id: output for output in native(bench).run(requests)}
    shuffled = random.Random(setting.budget).sample(requests, len(requests))
    outputs = native(bench, batch_tokens=setting.budget, share_prefixes=setting.share).run(shuffled)
    assert outputs == [expected[request.id] for request in shuffled]
    assert [expected[request.id] for request in requests[:3]] == [native(bench).run([r])[0] for r in requests[:3]]


def test_seed_and_id_choose_the_draw(benches: Any) -> None:
    engine = native(benches("qwen3"))

    def tokens(row: str, seed: int) -> tuple[int, ...]:
        drawn = Sampling(12, do_sample=True, temperature=2.0, seed=seed)
        return engine.run([Generate(row, (1, 2, 3), drawn)])[0].tokens

    assert tokens("a", 0) == tokens("a", 0)
    assert len({tokens("a", 0), tokens("a", 1), tokens("b", 0)}) == 3


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(benches: Any) -> None:
    bench = benches("qwen3")
    text = bench.greedy((1, 2, 3, 4), "algebra", 12)
    stop = text[5]
    expected = text[: text.index(stop)]
    request = Generate("r", (1, 2, 3, 4), Sampling(max_new_tokens=12), (stop, 5000), "algebra")
    assert native(bench).run([request]) == [Output("r", tokens=tuple(expected), finish="stop")]


def say(tokens: Sequence[int]) -> str:
    """A tokenizer whose pieces are letters, some of half a character."""
    return bytes(97 + token % 26 if token % 7 else 0xC3 for token in tokens).decode("utf-8", "replace").lstrip("b")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_text_ends_the_text_with_the_token_that_completes_it(benches: Any, length: int) -> None:
    bench = benches("qwen3")
    text = bench.greedy((1, 2, 3, 4), "algebra", 40)
    stop = say(text)[25 : 25 + length]
    needed = next(count for count in range(41) if stop in say(text[:count]))
    engine = native(bench)
    engine.set_detokenizer(say)
    assert isinstance(engine, StopStringEngine)
    request = Generate("r", (1, 2, 3, 4), Sampling(max_new_tokens=40), (), "algebra", ("not said", stop))
    beside = Generate("s", (1, 2, 3, 4), Sampling(max_new_tokens=40), (), "algebra")
    first, second = engine.run([request, beside])
    assert first == Output("r", tokens=tuple(text[:needed]), finish="stop")
    assert second == Output("s", tokens=tuple(text), finish="length")


def test_stop_texts_are_found_as_in_the_whole_text() -> None:
    rng = random.Random(0)
    for _ in range(300):
        tokens = [rng.randrange(97) for _ in range(60)]
        stops = [say(tokens)[at : at + rng.randrange(1, 4)] or "x" for at in (rng.randrange(60), rng.randrange(60))]
        expected = next((count for count in range(1, 61) if any(stop in say(tokens[:count]) for stop in stops)), None)
        actual = next((count for count in range(1, 61) if contains_stop_string(say, tokens[:count], stops)), None)
        assert actual == expected
    assert not contains_stop_string(say, tokens, ())


def test_the_cache_grows_in_blocks_and_keeps_what_it_holds() -> None:
    config = SimpleNamespace(kv_heads=2, head_dim=4, layers=2)
    cache = KVCache(config, torch.float32, torch.device("cpu"), max_tokens=32 * 128)  # type: ignore[arg-type]
    cache.reserve(3, 50)
    first = cache.keys[0]
    assert first.shape == (16, 64, 2, 4)
    key, value = torch.randn(50, 2, 4), torch.randn(50, 2, 4)
    cache.write(1, 2, key, value)
    cache.reserve(16, 64)
    assert cache.keys[0] is first, "within the block nothing is allocated"
    cache.reserve(17, 65)
    assert cache.keys[1].shape == cache.values[1].shape == (32, 128, 2, 4)
    cache.move(2, 0)
    cache.reserve(33, 50)
    assert cache.keys[1].shape == cache.values[1].shape == (48, 64, 2, 4), "both sides together would be too much"
    for line in (0, 2):
        assert torch.equal(cache.keys[1][line, :50], key)
        assert torch.equal(cache.values[1][line, :50], value)
    assert not cache.keys[1][:, 50:].any()


def test_the_cache_grows_no_longer_than_its_sequences() -> None:
    config = SimpleNamespace(kv_heads=1, head_dim=2, layers=1)
    cache = KVCache(config, torch.float32, torch.device("cpu"), max_tokens=1 << 20)  # type: ignore[arg-type]
    steps = [(32, 55, 56), (50, 56, 56), (57, 57, 64), (65, 500, 128), (90, 90, 128)]
    for length, final_length, expected_length in steps:
        cache.reserve(1, length, final_length)
        assert cache.keys[0].shape[:2] == cache.values[0].shape[:2] == (16, expected_length)


def test_min_new_tokens_forbids_an_early_stop(benches: Any) -> None:
    bench = benches("qwen3")
    stop = bench.greedy((1, 2, 3, 4), None, 1)[0]
    early = Generate("early", (1, 2, 3, 4), Sampling(max_new_tokens=6), (stop,))
    late = Generate("late", (1, 2, 3, 4), Sampling(max_new_tokens=6, min_new_tokens=4), (stop,))
    first, second = native(bench).run([early, late])
    assert first == Output("early", finish="stop")
    assert len(second.tokens) >= 4
    assert stop not in second.tokens


def test_the_models_positions_limit_the_text(benches: Any) -> None:
    prompt = tuple(i % 97 for i in range(155))
    (output,) = native(benches("llama")).run([Generate("r", prompt, Sampling(max_new_tokens=64))])
    # 160 positions: tokens 155..159 can be read, and one more predicted.
    assert (len(output.tokens), output.finish) == (6, "length")


def test_no_new_tokens_asked_for(benches: Any) -> None:
    (output,) = native(benches("llama")).run([Generate("r", (1, 2), Sampling(max_new_tokens=0))])
    assert output == Output("r", finish="length")


def test_a_finished_row_is_replaced_before_the_others_are_done(
    benches: Any, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "ADMISSION_ROWS", 1)
    engine = native(benches("qwen3"), batch_tokens=60)
    pairs = prompts(6)
    requests: list[Request] = [
        Generate(f"r{i}", prompt[:20], Sampling(max_new_tokens=30 if i == 0 else 3))
        for i, (_, prompt) in enumerate(pairs)
    ]
    steps = list(engine.execute(engine.plan(requests)))
    finished = [index for step in steps for index, _ in step]
    assert sorted(finished) == list(range(6))
    # One after the other would take 30 + 5 * 3 passes.
    assert len(steps) < 40
    assert finished[-1] == 0


def test_no_token_budget_at_all_is_refused(benches: Any) -> None:
    with pytest.raises(EngineError, match="batch_tokens is 0"):
        native(benches("qwen3"), batch_tokens=0)
