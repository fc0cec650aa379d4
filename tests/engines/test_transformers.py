"""The transformers engine against the plain loop, also on architectures that the native engine does not know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from lorica.adapters.folder import MORE_THAN_PAIRS, open_adapter  # noqa: E402
from lorica.engines import transformers as module  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native.engine import NativeEngine  # noqa: E402
from lorica.engines.transformers import TransformersEngine  # noqa: E402
from lorica.errors import AdapterError, EngineError, MissingExtraError, ModelError  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.records import Generate, Output, Request, Sampling, ScoreChoices  # noqa: E402

Prompts = Callable[[int], list[tuple[str | None, tuple[int, ...]]]]
CHOICES = (((1,), (2,)), ((3, 4, 5), (6,), (3, 9)))


def load(bench: Any, *, batch_tokens: int = 300) -> TransformersEngine:
    engine = TransformersEngine(
        BaseFolder(bench.base), EngineSettings(dtype="float32", device="cpu", batch_tokens=batch_tokens)
    )
    for name, folder in bench.adapters.items():
        engine.add_adapter(name, open_adapter(folder, applied=MORE_THAN_PAIRS))
    return engine


def requests_for(bench: Any, prompts: Prompts, count: int = 16) -> list[Request]:
    pairs = [(name if name in bench.adapters else None, prompt) for name, prompt in prompts(count)]
    return [ScoreChoices(f"r{i}", prompt, CHOICES[i % 2], name) for i, (name, prompt) in enumerate(pairs)]


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gemma", "gpt2"])
def test_scores_agree_with_the_plain_loop(benches: Any, prompts: Prompts, kind: str) -> None:
    bench = benches(kind)
    requests = requests_for(bench, prompts)
    outputs = load(bench).run(requests)
    assert [output.id for output in outputs] == [request.id for request in requests]
    for request, output in zip(requests, outputs, strict=True):
        assert output.logprobs == pytest.approx(bench.logprobs(request), abs=2e-5)


@pytest.mark.parametrize("kind", ["qwen3", "gemma", "gpt2"])
def test_greedy_text_agrees_with_the_plain_loop(benches: Any, prompts: Prompts, kind: str) -> None:
    bench = benches(kind)
    requests = [
        Generate(request.id, request.prompt, Sampling(max_new_tokens=8), (), request.adapter)
        for request in requests_for(bench, prompts, 8)
    ]
    for request, output in zip(requests, load(bench).run(requests), strict=True):
        assert list(output.tokens) == bench.greedy(request.prompt, request.adapter, 8)
        assert output.finish == "length"


def test_both_engines_apply_greedy_settings_alike(benches: Any, prompts: Prompts) -> None:
    bench = benches("qwen3")
    sampling = Sampling(max_new_tokens=12, min_new_tokens=3, repetition_penalty=1.4)
    requests: list[Request] = [
        Generate(f"r{i}", prompt, sampling, tuple(range(0, 97, 6)), name)
        for i, (name, prompt) in enumerate(prompts(12))
    ]
    native = NativeEngine(load_decoder(BaseFolder(bench.base)))
    for name, folder in bench.adapters.items():
        native.add_adapter(name, open_adapter(folder, applied=MORE_THAN_PAIRS))
    outputs = native.run(requests)
    assert load(bench).run(requests) == outputs
    assert "stop" in {output.finish for output in outputs}
    assert min(len(output.tokens) for output in outputs) >= 3


def test_drawn_text_does_not_depend_on_the_batch_nor_touch_the_global_generator(benches: Any, prompts: Prompts) -> None:
    engine = load(benches("gemma"))
    drawn = Sampling(6, do_sample=True, temperature=1.5, top_k=40, top_p=0.95, seed=3)
    requests: list[Request] = [Generate(f"r{i}", prompt, drawn) for i, (_, prompt) in enumerate(prompts(6))]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    together = engine.run(requests)
    assert torch.equal(torch.rand(1), expected)
    assert engine.run(requests[::-1])[::-1] == together
    assert len({output.tokens for output in together}) == 6


def test_a_row_that_cannot_be_answered_fails_alone(benches: Any) -> None:
    engine = load(benches("gpt2"))
    requests: list[Request] = [
        ScoreChoices("long", (1,) * 161, ((1,),)),
        ScoreChoices("fine", (1,), ((1,),)),
        Generate("none", (), Sampling()),
    ]
    steps: list[int] = []
    long, fine, none = engine.run(requests, steps.append)
    assert (long.finish, long.error) == ("error", "needs 161 positions, the model has 160")
    assert none.error == "the prompt has no tokens"
    assert fine.error == ""
    assert sum(steps) == 3
    assert engine.run([Generate("r", (1,), Sampling(max_new_tokens=0))]) == [Output("r", finish="length")]


def test_defaults_of_the_model_folder_do_not_leak_into_generation(benches: Any) -> None:
    engine, prompt = load(benches("qwen3")), (1, 2, 3)
    told = engine.run([Generate("r", prompt, Sampling(max_new_tokens=9))])[0].tokens
    assert len(told) == 9
    assert engine._model.generation_config.eos_token_id is None


def test_an_adapter_that_does_not_fit_is_refused_and_leaves_the_base_as_it_was(benches: Any) -> None:
    bench = benches("gemma")
    engine = TransformersEngine(BaseFolder(bench.base), EngineSettings(dtype="float32", device="cpu"))
    request = ScoreChoices("r", (1, 2, 3), ((1,), (2,)))
    before = engine.run([request])
    with pytest.raises(AdapterError, match="is made for width"):
        engine.add_adapter("other", open_adapter(benches("mistral").adapters["algebra"], applied=MORE_THAN_PAIRS))
    with pytest.raises(AdapterError, match="does not have"):
        load(benches("gpt2")).add_adapter("other", open_adapter(bench.adapters["algebra"], applied=MORE_THAN_PAIRS))
    assert engine.run([request]) == before
    engine.add_adapter("other", open_adapter(bench.adapters["algebra"], applied=MORE_THAN_PAIRS))
    assert engine.run([request]) == before


def test_names(benches: Any) -> None:
    bench = benches("gemma")
    engine = load(bench)
    engine.add_adapter(
        "v1.2/history", open_adapter(bench.adapters["history"], applied=MORE_THAN_PAIRS)
    )  # PEFT allows no dots
    a, b = engine.run([ScoreChoices("r", (1, 2), ((1,),), name) for name in ("v1.2/history", "history")])
    assert a.logprobs == b.logprobs
    engine.add_adapter("history", open_adapter(bench.adapters["history"], applied=MORE_THAN_PAIRS))
    with pytest.raises(EngineError, match="taken by another adapter"):
        engine.add_adapter("history", open_adapter(bench.adapters["algebra"], applied=MORE_THAN_PAIRS))
    with pytest.raises(EngineError, match="did you mean 'biology'"):
        engine.run([ScoreChoices("r", (1,), ((1,),), "biologie")])


def test_four_bits_are_near_and_are_told(benches: Any) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra `quant`")
    bench = benches("wide")
    request = ScoreChoices("r", (1, 2, 3), ((1,), (2,)))
    engine = TransformersEngine(
        BaseFolder(bench.base), EngineSettings(dtype="float32", device="cpu", load_in_4bit=True)
    )
    found, exact = engine.run([request])[0].logprobs, bench.logprobs(request)
    assert engine.info.dtype == "nf4"
    assert 0 < max(abs(a - b) for a, b in zip(found, exact, strict=True)) < 1.5


def test_four_bits_without_the_package(benches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lorica\[quant\]"):
        TransformersEngine(BaseFolder(benches("qwen3").base), EngineSettings(device="cpu", load_in_4bit=True))


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load this model"):
        TransformersEngine(BaseFolder(tmp_path), EngineSettings(device="cpu"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', "utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="safetensors"):
        TransformersEngine(BaseFolder(tmp_path), EngineSettings(device="cpu"))


def test_describe(benches: Any) -> None:
    told = load(benches("gpt2")).info.manifest()
    assert told.items() >= {"engine": "transformers", "family": "gpt2", "dtype": "float32"}.items()
