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

KINDS = ("llama-biases-tied-llama3", "mistral", "qwen2", "qwen3")
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
    made = NativeEngine(to_gpu(decoder) if device == NAME else decoder, batch_tokens=batch_tokens)
    for name, folder in bench.adapters.items():
        made.add_adapter(name, open_adapter(folder))
    return made


def choose(prompts: Any, choices: tuple[tuple[int, ...], ...]) -> list[Request]:
    return [ScoreChoices(f"r{i}", prompt, choices, name) for i, (name, prompt) in enumerate(prompts(24))]


def generate(prompts: Any, **more: Any) -> list[Request]:
    found: list[Request] = []
    for i, (name, prompt) in enumerate(prompts(24)):
        sampling = Sampling(max_new_tokens=3 + i % 9, seed=i, **more)
        found.append(Generate(f"r{i}", prompt, sampling, (5, 11), name))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choices", [SINGLE, MANY])
def test_scores_are_those_of_the_cpu(gpu: Any, benches: Any, prompts: Any, kind: str, choices: Any) -> None:
    bench, requests = benches(kind), choose(prompts, choices)
    right = engine(bench, "cpu").run(requests)
    there = engine(bench, NAME)
    found = there.run(requests)
    assert there.info.device == f"{NAME}:0"
    assert not [one.error for one in found if one.error]
    for one, other in zip(found, right, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)
    windowed = any(window is not None for window in there._decoder.config.windows)
    assert there.info.attention == ("plain" if windowed else "varlen")
    # PrefixCache never have branches.
    assert bool(gpu.calls["torch_attn._varlen_attn.default"]) is not windowed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampled", [False, True])
def test_texts_are_those_of_the_cpu(gpu: Any, benches: Any, prompts: Any, kind: str, sampled: bool) -> None:
    bench = benches(kind)
    requests = generate(prompts, **({"do_sample": True, "temperature": 0.8, "top_p": 0.9} if sampled else {}))
    right = engine(bench, "cpu").run(requests)
    there = engine(bench, NAME)
    found = there.run(requests)
    assert [(one.tokens, one.finish, one.error) for one in found] == [
        (one.tokens, one.finish, one.error) for one in right
    ]
    assert len({one.tokens for one in found}) > 8
    if there.info.attention == "varlen":
        steps = sum(graph.replays for graph in gpu.captured)
        assert steps > 3 * len(gpu.captured) > 0, "a captured step is to be repeated"


def test_precision_that_the_kernel_takes(gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmulatedGpu, "flash_precisions", (torch.bfloat16, torch.float16))
    bench, requests = benches("qwen3"), choose(prompts, SINGLE)
    exact = engine(bench, NAME)
    assert exact.info.attention == "plain"
    right = exact.run(requests)
    half = engine(bench, NAME, dtype=torch.bfloat16)
    assert half.info.attention == "varlen"
    errors = [
        abs(x - y)
        for one, other in zip(half.run(requests), right, strict=True)
        for x, y in zip(one.logprobs, other.logprobs, strict=True)
    ]
    assert sum(errors) / len(errors) < 0.1


def test_a_graph_that_cannot_be_captured_costs_only_time(
    gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench, requests = benches("qwen3"), generate(prompts)
    right = engine(bench, NAME).run(requests)

    def refuse(graph: object) -> None:
        raise RuntimeError("capturing is not possible")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with caplog.at_level(logging.WARNING):
        found = engine(bench, NAME).run(requests)
    assert [one.tokens for one in found] == [one.tokens for one in right]
    assert [record.getMessage() for record in caplog.records] == [
        "steps are not captured as a CUDA graph, and take longer: capturing is not possible"
    ]


def test_a_graph_that_repeats_something_else_is_not_used(
    gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, requests = benches("qwen3"), generate(prompts)
    right = engine(bench, NAME).run(requests)
    monkeypatch.setattr("tests.emulated_gpu.Graph.replay", lambda graph: graph._calls[-1][3].zero_())
    assert [one.tokens for one in engine(bench, NAME).run(requests)] == [one.tokens for one in right]


def test_a_kernel_that_is_wrong_is_not_used(
    gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests import emulated_gpu

    right = emulated_gpu._varlen

    def wrong(*args: Any, **kwargs: Any) -> Any:
        output, total, state = right(*args, **kwargs)
        return output, total.t().contiguous(), state

    monkeypatch.setattr(emulated_gpu, "_varlen", wrong)
    bench, requests = benches("qwen3"), choose(prompts, SINGLE)
    there = engine(bench, NAME)
    assert there.info.attention == "plain"
    assert not [one.error for one in there.run(requests) if one.error]


def test_more_adapters_than_a_graph_suits(
    gpu: Any, benches: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, requests = benches("qwen3"), generate(prompts)
    right = engine(bench, NAME).run(requests)
    monkeypatch.setattr("lorica.engines.native.cuda_graphs.MAX_RANKS", 9)
    assert [one.tokens for one in engine(bench, NAME).run(requests)] == [one.tokens for one in right]
    monkeypatch.setattr("lorica.engines.native.cuda_graphs.MAX_RANKS", 0)
    gpu.captured = []
    some = [request for request in requests if request.adapter is not None]
    there = engine(bench, NAME).run(some)
    assert not gpu.captured
    assert [one.tokens for one in there] == [one.tokens for one in right if one.id in {r.id for r in some}]


def test_tensors_of_both_sides_are_refused(gpu: Any) -> None:
    there = torch.zeros(3, device=NAME)
    assert there.device.type == NAME
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.zeros(3)
    assert (there + torch.ones(3).to(NAME)).tolist() == [1.0, 1.0, 1.0]
