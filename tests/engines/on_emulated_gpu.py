"""The native engine on a GPU, as far as that can be tested without one: on tensors that are emulated.

Run by `test_gpu.py` in a process of its own, for a device that is known to torch stays so, and training asks it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.emulated_gpu import NAME, EmulatedGpu, emulated_gpu, to_gpu  # noqa: E402

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.engines.native import scheduler  # noqa: E402
from lorica.engines.native.attention import varlen  # noqa: E402
from lorica.engines.native.engine import NativeEngine  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.records import Generate, Request, Sampling, ScoreChoices  # noqa: E402

VARIANTS = ("llama-biases-tied-llama3", "mistral", "qwen2", "qwen3")
SINGLE = ((1,), (2,), (90,))
MANY = ((3, 4, 5), (6,), (3, 9))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[EmulatedGpu]]:
    """An emulated GPU whose flash kernel takes float32, too, so that results can be compared closely."""
    monkeypatch.setattr(scheduler, "MIN_SAVED_TOKENS", 16)
    monkeypatch.setattr(EmulatedGpu, "flash_precisions", (torch.float32, torch.bfloat16, torch.float16))
    varlen.has_varlen.cache_clear()
    with emulated_gpu():
        yield EmulatedGpu
    varlen.has_varlen.cache_clear()


def engine(bench: Any, device: str, *, batch_tokens: int = 300, dtype: Any = torch.float32) -> NativeEngine:
    decoder = load_decoder(BaseFolder(bench.base), dtype=dtype)
    native = NativeEngine(to_gpu(decoder) if device == NAME else decoder, batch_tokens=batch_tokens)
    for name, folder in bench.adapters.items():
        native.add_adapter(name, open_adapter(folder))
    return native


def choose(prompts: Any, choices: tuple[tuple[int, ...], ...]) -> list[Request]:
    return [ScoreChoices(f"r{i}", prompt, choices, name) for i, (name, prompt) in enumerate(prompts(24))]


def generate(prompts: Any, **more: Any) -> list[Request]:
    requests: list[Request] = []
    for i, (name, prompt) in enumerate(prompts(24)):
        sampling = Sampling(max_new_tokens=3 + i % 9, seed=i, **more)
        requests.append(Generate(f"r{i}", prompt, sampling, (5, 11), name))
    return requests


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("choices", [SINGLE, MANY])
def test_scores_are_those_of_the_cpu(gpu: Any, benches: Any, prompts: Any, variant: str, choices: Any) -> None:
    bench, requests = benches(variant), choose(prompts, choices)
    expected = engine(bench, "cpu").run(requests)
    gpu_engine = engine(bench, NAME)
    outputs = gpu_engine.run(requests)
    assert gpu_engine.info.device == f"{NAME}:0"
    assert not [output.error for output in outputs if output.error]
    for output, reference in zip(outputs, expected, strict=True):
        assert output.logprobs == pytest.approx(reference.logprobs, abs=2e-5)
    windowed = any(window is not None for window in gpu_engine._decoder.config.windows)
    assert gpu_engine.info.attention == ("plain" if windowed else "varlen")
    # PrefixCache never have branches.
    assert bool(gpu.calls["torch_attn._varlen_attn.default"]) is not windowed


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sampled", [False, True])
def test_texts_are_those_of_the_cpu(gpu: Any, benches: Any, prompts: Any, variant: str, sampled: bool) -> None:
    bench = benches(variant)
    requests = generate(prompts, **({"do_sample": True, "temperature": 0.8, "top_p": 0.9} if sampled else {}))
    expected = engine(bench, "cpu").run(requests)
    gpu_engine = engine(bench, NAME)
    outputs = gpu_engine.run(requests)
    assert [(output.tokens, output.finish, output.error) for output in outputs] == [
        (output.tokens, output.finish, output.error) for output in expected
    ]
    assert len({output.tokens for output in outputs}) > 8
    if gpu_engine.info.attention == "varlen":
        steps = sum(graph.replays for graph in gpu.captured)
        assert steps > 3 * len(gpu.captured) > 0, "a captured step is to be repeated"


def test_precision_that_the_kernel_takes(gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmulatedGpu, "flash_precisions", (torch.bfloat16, torch.float16))
    bench, requests = benches("qwen3"), choose(prompts, SINGLE)
    exact = engine(bench, NAME)
    assert exact.info.attention == "plain"
    expected = exact.run(requests)
    half = engine(bench, NAME, dtype=torch.bfloat16)
    assert half.info.attention == "varlen"
    errors = [
        abs(x - y)
        for output, reference in zip(half.run(requests), expected, strict=True)
        for x, y in zip(output.logprobs, reference.logprobs, strict=True)
    ]
    assert sum(errors) / len(errors) < 0.1


def test_a_graph_that_cannot_be_captured_costs_only_time(
    gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench, requests = benches("qwen3"), generate(prompts)
    expected = engine(bench, NAME).run(requests)

    def refuse(graph: object) -> None:
        raise RuntimeError("capturing is not possible")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with caplog.at_level(logging.WARNING):
        outputs = engine(bench, NAME).run(requests)
    assert [output.tokens for output in outputs] == [output.tokens for output in expected]
    assert [record.getMessage() for record in caplog.records] == [
        "steps are not captured as a CUDA graph, and take longer: capturing is not possible"
    ]


def test_a_graph_that_repeats_something_else_is_not_used(
    gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, requests = benches("qwen3"), generate(prompts)
    expected = engine(bench, NAME).run(requests)
    monkeypatch.setattr("tests.emulated_gpu.Graph.replay", lambda graph: graph._calls[-1][3].zero_())
    assert [output.tokens for output in engine(bench, NAME).run(requests)] == [output.tokens for output in expected]


def test_a_kernel_that_is_wrong_is_not_used(
    gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests import emulated_gpu

    correct_kernel = emulated_gpu._varlen

    def wrong_kernel(*args: Any, **kwargs: Any) -> Any:
        output, total, state = correct_kernel(*args, **kwargs)
        return output, total.t().contiguous(), state

    monkeypatch.setattr(emulated_gpu, "_varlen", wrong_kernel)
    bench, requests = benches("qwen3"), choose(prompts, SINGLE)
    gpu_engine = engine(bench, NAME)
    assert gpu_engine.info.attention == "plain"
    assert not [output.error for output in gpu_engine.run(requests) if output.error]


def test_more_adapters_than_a_graph_suits(
    gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, requests = benches("qwen3"), generate(prompts)
    expected = engine(bench, NAME).run(requests)
    monkeypatch.setattr("lorica.engines.native.cuda_graphs.MAX_RANKS", 9)
    assert [output.tokens for output in engine(bench, NAME).run(requests)] == [output.tokens for output in expected]
    monkeypatch.setattr("lorica.engines.native.cuda_graphs.MAX_RANKS", 0)
    gpu.captured = []
    some = [request for request in requests if request.adapter is not None]
    outputs = engine(bench, NAME).run(some)
    assert not gpu.captured
    assert [output.tokens for output in outputs] == [
        output.tokens for output in expected if output.id in {r.id for r in some}
    ]


def test_tensors_of_both_sides_are_refused(gpu: Any) -> None:
    gpu_tensor = torch.zeros(3, device=NAME)
    assert gpu_tensor.device.type == NAME
    with pytest.raises(RuntimeError, match="same device"):
        gpu_tensor + torch.zeros(3)
    assert (gpu_tensor + torch.ones(3).to(NAME)).tolist() == [1.0, 1.0, 1.0]
