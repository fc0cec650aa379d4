"""Choice scores of the native engine: right, and the same whatever else is in the batch."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native import scheduler  # noqa: E402
from lorica.engines.native.attention import block  # noqa: E402
from lorica.engines.native.engine import NativeEngine, load_native  # noqa: E402
from lorica.errors import AdapterError, EngineError  # noqa: E402
from lorica.models import families  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.records import Generate, Output, Request, Sampling, ScoreChoices  # noqa: E402

Prompts = Callable[[int], list[tuple[str | None, tuple[int, ...]]]]
KINDS = [
    *("llama", "mistral", "qwen2", "qwen3"),
    *("llama-biases-tied-llama3", "llama-linear-ungrouped", "mistral-tied-no-window"),
    *("qwen2-window-tied", "qwen3-biases-tied-window"),
]
CHOICES = (((1,), (2,)), ((3, 4, 5), (6,), (3, 9)), ((7, 7, 7, 7), (8, 7)))


def native(
    bench: Any,
    *,
    batch_tokens: int = 4096,
    share_prefixes: bool = True,
    dtype: str = "float32",
    deterministic: bool = True,
) -> NativeEngine:
    settings = EngineSettings(dtype, "cpu", batch_tokens=batch_tokens, share_prefixes=share_prefixes)
    engine = load_native(BaseFolder(bench.base), replace(settings, deterministic=deterministic))
    for name, folder in bench.adapters.items():
        engine.add_adapter(name, open_adapter(folder))
    return engine


def chooses(prompts: Prompts, count: int = 32) -> list[Request]:
    return [ScoreChoices(f"r{i}", prompt, CHOICES[i % 3], name) for i, (name, prompt) in enumerate(prompts(count))]


def difference(a: Sequence[Output], b: Sequence[Output]) -> float:
    """The largest difference between the scores of the same rows."""
    expected = {output.id: output.logprobs for output in b}
    assert len(a) == len(b) == len(expected)
    assert not [output.error for output in (*a, *b) if output.error]
    return max(abs(x - y) for output in a for x, y in zip(output.logprobs, expected[output.id], strict=True))


@pytest.fixture
def eager_sharing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments where the few rows of a test would not earn them, so that two levels occur."""
    monkeypatch.setattr(scheduler, "MIN_SAVED_TOKENS", 16)


def test_every_family_is_held_to_transformers() -> None:
    assert {variant.partition("-")[0] for variant in KINDS} == set(families.FAMILIES)


@pytest.mark.usefixtures("eager_sharing")
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("family", KINDS)
def test_scores_agree_with_transformers_and_peft(
    benches: Any, prompts: Prompts, family: str, deterministic: bool
) -> None:
    bench, requests = benches(family), chooses(prompts)
    engine = native(bench, batch_tokens=300, deterministic=deterministic)
    planned = engine.plan(requests)
    assert max(node.parent for node in planned.nodes) >= 0, "two levels are to be tested"
    assert any(len({requests[row.request_index].adapter for row in batch.rows}) > 1 for batch in planned.batches), (
        "adapters are to be mixed"
    )
    expected = [Output(request.id, logprobs=tuple(bench.logprobs(request))) for request in requests]
    # The promise is 1e-4.
    assert difference(engine.run(requests), expected) < 2e-5
    spread = [abs(output.logprobs[0] - expected[0].logprobs[0]) for output in expected[4::4]]
    assert max(spread) > 0.1, "rows of one adapter must differ, or nothing is tested"


@pytest.mark.usefixtures("eager_sharing")
@pytest.mark.parametrize("family", ["mistral", "qwen3"])
def test_order_budget_and_sharing_change_nothing(benches: Any, prompts: Prompts, family: str) -> None:
    bench, requests = benches(family), chooses(prompts)
    expected = native(bench, deterministic=False).run(requests)
    for seed, (budget, share) in enumerate(((1, True), (64, True), (333, False), (100_000, True), (100_000, False))):
        engine = native(bench, batch_tokens=budget, share_prefixes=share, deterministic=False)
        shuffled = random.Random(seed).sample(requests, len(requests))
        outputs = engine.run(shuffled)
        assert [output.id for output in outputs] == [request.id for request in shuffled]
        assert difference(outputs, expected) < 1e-5
    alone = [native(bench, deterministic=False).run([request])[0] for request in requests[:5]]
    assert difference(alone, expected[:5]) < 1e-5


@pytest.mark.usefixtures("eager_sharing")
@pytest.mark.parametrize("family", ["mistral", "qwen3"])
def test_public_operators_give_the_same_scores(
    benches: Any, prompts: Prompts, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, requests = benches(family), chooses(prompts)
    fast = native(bench).run(requests)
    monkeypatch.setattr(block, "has_flash_kernel", lambda: False)
    for deterministic in (True, False):
        assert difference(native(bench, deterministic=deterministic).run(requests), fast) < 1e-5


def test_adapters_change_the_scores(benches: Any) -> None:
    bench = benches("qwen3")
    requests = [ScoreChoices(str(name), tuple(range(20)), ((1,), (2,)), name) for name in (None, *bench.adapters)]
    scores = {output.logprobs for output in native(bench).run(requests)}
    assert len(scores) == 1 + len(bench.adapters)


def test_logprobs_are_over_the_full_vocabulary(benches: Any) -> None:
    vocabulary = tuple((token,) for token in range(97))
    (output,) = native(benches("llama")).run([ScoreChoices("r", (5, 6, 7), vocabulary)])
    assert sum(math.exp(value) for value in output.logprobs) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["qwen3", "qwen3-biases-tied-window"])
@pytest.mark.parametrize("packed", [True, False])
def test_scores_in_half_precision_are_not_rounded_to_it(
    benches: Any, kind: str, packed: bool, prompts: Prompts, tmp_path: Path
) -> None:
    tensors = load_file(benches(kind).base / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    shutil.copy(benches(kind).base / "config.json", tmp_path)
    half, exact = (
        load_native(BaseFolder(tmp_path), EngineSettings(dtype, "cpu"))
        if packed
        else NativeEngine(load_decoder(BaseFolder(tmp_path), dtype=getattr(torch, dtype)))
        for dtype in ("bfloat16", "float32")
    )
    requests = [ScoreChoices(f"r{i}", prompt, ((1,), (2,), (1, 2), (1,))) for i, (_, prompt) in enumerate(prompts(32))]
    gaps, expected = (
        [output.logprobs[0] - output.logprobs[1] for output in engine.run(requests)] for engine in (half, exact)
    )  # of two logits of one row
    assert len({round(gap, 5) for gap in gaps}) == len({round(gap, 5) for gap in expected}) == len(requests)
    assert all(output.logprobs[0] == output.logprobs[3] for output in half.run(requests))
    vocabulary = tuple((token,) for token in range(97))
    (output,) = half.run([ScoreChoices("r", (5, 6, 7), vocabulary)])
    assert sum(math.exp(value) for value in output.logprobs) == pytest.approx(1.0, abs=1e-5)
    assert max(output.logprobs) <= 0


def test_the_head_is_applied_in_parts(benches: Any, prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorica.engines.native import choice_logprobs

    bench, requests = benches("qwen2"), chooses(prompts)
    expected = native(bench).run(requests)
    monkeypatch.setattr(choice_logprobs, "MAX_LOGITS", 97 * 3)
    assert difference(native(bench).run(requests), expected) < 1e-6


def test_half_precision_is_near(benches: Any, prompts: Prompts) -> None:
    bench, requests = benches("qwen3"), chooses(prompts, 12)
    exact = native(bench).run(requests)
    rough = native(bench, dtype="bfloat16").run(requests)
    assert 0 < difference(rough, exact) < 0.5


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (ScoreChoices("bad", tuple(range(90)) * 2, ((1,),)), "180 positions, the model has 160"),
        (ScoreChoices("bad", (1,) * 159, ((1, 2, 3),)), "161 positions"),
        (Generate("bad", (1,) * 161), "161 positions"),
        (ScoreChoices("bad", (), ((1,),)), "the prompt has no tokens"),
        (ScoreChoices("bad", (1,), ()), "there are no choices"),
        (ScoreChoices("bad", (1,), ((1,), ())), "choice 1 has no tokens"),
        (ScoreChoices("bad", (1, 97), ((1,),)), "token 97 is outside"),
        (ScoreChoices("bad", (1,), ((-1,),)), "token -1 is outside"),
    ],
)
def test_a_row_that_cannot_be_answered_fails_alone(benches: Any, request_: Request, word: str) -> None:
    good = ScoreChoices("good", (1, 2, 3), ((1,), (2,)))
    engine = native(benches("qwen3"))
    outputs = engine.run([request_, good])
    assert (outputs[0].id, outputs[0].finish) == ("bad", "error")
    assert word in outputs[0].error
    assert outputs[0].logprobs == ()
    assert outputs[1] == engine.run([good])[0]


def test_the_longest_prompt_that_fits_is_answered(benches: Any) -> None:
    bench = benches("llama")
    request = ScoreChoices("r", tuple(i % 97 for i in range(158)), ((1, 2, 3), (4,)))
    assert difference(native(bench).run([request]), [Output("r", tuple(bench.logprobs(request)))]) < 2e-5


def test_broken_weights_are_an_error_of_the_row(benches: Any) -> None:
    engine = native(benches("llama"))
    assert isinstance(engine._decoder, CpuDecoder)
    assert isinstance(engine._decoder.embedding, torch.Tensor)
    engine._decoder.embedding[5] = torch.nan
    spoilt, fine, text = engine.run(
        [
            ScoreChoices("a", (5,), ((1,),)),
            ScoreChoices("b", (6,), ((1,),)),
            Generate("c", (5,), Sampling(max_new_tokens=2)),
        ]
    )
    assert "NaN" in spoilt.error
    assert "NaN" in text.error
    assert fine.error == ""


def test_an_unknown_adapter_is_named_with_the_nearest(benches: Any) -> None:
    with pytest.raises(EngineError, match="did you mean 'algebra'"):
        native(benches("qwen3")).run([ScoreChoices("r", (1,), ((1,),), "algebr")])


def test_a_name_belongs_to_one_adapter(benches: Any) -> None:
    bench = benches("qwen3")
    engine = native(bench)
    engine.add_adapter("algebra", open_adapter(bench.adapters["algebra"]))
    with pytest.raises(EngineError, match="taken by another adapter"):
        engine.add_adapter("algebra", open_adapter(bench.adapters["history"]))


def test_an_adapter_of_another_base_is_refused_and_its_name_stays_free(benches: Any, tmp_path: Path) -> None:
    engine, folder = native(benches("llama")), tmp_path / "copy"
    with pytest.raises(AdapterError, match="the base model has"):
        engine.add_adapter("other", open_adapter(benches("qwen3").adapters["algebra"]))
    shutil.copytree(benches("llama").adapters["algebra"], folder)
    engine.add_adapter("other", open_adapter(folder))
    assert json.loads((folder / "adapter_config.json").read_text("utf-8"))["r"] == 4
    assert engine.run([ScoreChoices("r", (1,), ((1,),), "other")])[0].error == ""


def test_progress_adds_up_to_all_requests(benches: Any, prompts: Prompts) -> None:
    steps: list[int] = []
    requests = [*chooses(prompts), ScoreChoices("bad", (), ((1,),)), Generate("g", (1,), Sampling(max_new_tokens=3))]
    native(benches("qwen3"), batch_tokens=100).run(requests, steps.append)
    assert sum(steps) == len(requests)
    assert len(steps) > 3


def test_nothing_to_do(benches: Any) -> None:
    assert native(benches("qwen3")).run([]) == []


def test_describe_names_what_decides_the_results(benches: Any) -> None:
    manifest = native(benches("qwen3"), batch_tokens=77).info.manifest()
    assert manifest.items() >= {"engine": "native", "family": "qwen3", "dtype": "float32", "batch_tokens": "77"}.items()
