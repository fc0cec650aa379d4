"""An adapter as part of the weights: near what it gives unmerged, gone without a trace, and only where sensible."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.cli import main  # noqa: E402
from lorica.engines.base import EngineSettings, MergeDecision, MergingEngine  # noqa: E402
from lorica.engines.native import merging  # noqa: E402
from lorica.engines.native.engine import NativeEngine, load_native  # noqa: E402
from lorica.errors import EngineError  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.lora import LoraPair  # noqa: E402
from lorica.models.merged_weights import merged_weight  # noqa: E402
from lorica.precision import DTYPE_NAMES, PRECISIONS  # noqa: E402
from lorica.records import Generate, Output, Request, Sampling, ScoreChoices  # noqa: E402

SETTINGS = EngineSettings("float32", "cpu", merge="always")
# Of log-probabilities that the adapters move by about 1.
NEAR = {
    "float32": 1e-4,
    "bfloat16": 0.3,
    "float16": 0.05,
    "int16": 0.05,
    "int8": 1.5,
    "int8-weights": 0.8,
    "int4-weights": 1.5,
}


def native(bench: Any, settings: EngineSettings = SETTINGS) -> NativeEngine:
    engine = load_native(BaseFolder(bench.base), settings)
    for name, folder in bench.adapters.items():
        engine.add_adapter(name, open_adapter(folder))
    return engine


def rows(adapter: str | None, count: int = 12) -> list[Request]:
    return [
        ScoreChoices(f"r{i}", tuple((i * 7 + j * 5) % 97 for j in range(20 + i)), ((1,), (2, 3)), adapter)
        for i in range(count)
    ]


def texts(adapter: str | None, count: int = 12) -> list[Request]:
    return [Generate(row.id, row.prompt, Sampling(max_new_tokens=6), adapter=adapter) for row in rows(adapter, count)]


def scores(outputs: list[Output]) -> Any:
    assert not [output.error for output in outputs if output.error]
    return torch.tensor([output.logprobs for output in outputs])


@pytest.mark.parametrize("undone", [True, False])
def test_an_interrupted_merge_leaves_nothing_behind(
    benches: Any, monkeypatch: pytest.MonkeyPatch, undone: bool
) -> None:
    engine = native(benches("qwen3"))
    expected, base = scores(engine.run(rows("algebra"))), scores(engine.run(rows(None)))
    renew, calls = CpuDecoder.replace_layer_weights, [0]

    def interrupted(*args: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        renew(*args)

    if undone:  # and the undoing is interrupted, not the merge
        engine.maybe_merge({"algebra": 12}, rows("algebra"))
    monkeypatch.setattr(CpuDecoder, "replace_layer_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run(rows(None)) if undone else engine.maybe_merge({"algebra": 12}, rows("algebra"))
    assert engine.info.merged == ""
    assert torch.equal(scores(engine.run(rows("algebra"))), expected)
    assert torch.equal(scores(engine.run(rows(None))), base)


@pytest.mark.parametrize("precision", [name for name in DTYPE_NAMES if name != "gguf"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_merged_is_near_unmerged_and_leaves_no_trace(benches: Any, family: str, precision: str) -> None:
    engine = native(benches(family), replace(SETTINGS, dtype=precision))
    base, before = scores(engine.run(rows(None))), scores(engine.run(rows("algebra")))
    other_adapter = scores(engine.run(rows("history")))
    engine.maybe_merge({"algebra": 12}, rows("algebra"))
    if precision in ("float32", "bfloat16"):
        assert engine.info.merged == "algebra"
    merged = scores(engine.run(rows("algebra")))
    assert (merged - before).abs().mean() < NEAR[precision]
    assert (base - before).abs().mean() > 0.2, "the adapter must matter, or nothing is tested"
    # Whoever asks for something else gets the base to the last bit, and the adapter as it was.
    assert torch.equal(scores(engine.run(rows("history"))), other_adapter)
    assert engine.info.merged == ""
    assert torch.equal(scores(engine.run(rows(None))), base)
    assert torch.equal(scores(engine.run(rows("algebra"))), before)


def test_a_merged_weight_is_the_sum_rounded_once() -> None:
    torch.manual_seed(0)
    weight, pair = torch.randn(6, 5).bfloat16(), LoraPair(torch.randn(2, 5), torch.randn(6, 2), 0.25)
    expected = weight.double() + 0.25 * pair.b.double() @ pair.a.double()
    actual = merged_weight(weight, pair)
    assert actual.dtype == torch.float32
    assert torch.allclose(actual.double(), expected, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_merged_agrees_with_transformers_and_peft(benches: Any, family: str) -> None:
    bench = benches(family)
    engine = native(bench)
    reason = engine.maybe_merge(Counter({"history": 12}), rows("history")).reason
    assert "history" in reason
    assert engine.info.merged == "history"
    expected = torch.tensor([bench.logprobs(request) for request in rows("history")])
    assert (scores(engine.run(rows("history"))) - expected).abs().max() < 1e-4
    for request, output in zip(texts("history", 3), engine.run(texts("history", 3)), strict=True):
        assert list(output.tokens) == bench.greedy(request.prompt, "history", 6)


def test_merged_scores_are_batch_invariant(benches: Any) -> None:
    engine = native(benches("qwen3"))
    engine.maybe_merge({"algebra": 12}, rows("algebra"))
    together = scores(engine.run(rows("algebra")))
    alone = torch.cat([scores(engine.run([row])) for row in reversed(rows("algebra"))]).flip(0)
    assert engine.info.merged == "algebra"
    assert torch.equal(together, alone)


def test_a_merged_adapter_can_be_removed(benches: Any) -> None:
    engine = native(benches("qwen3"))
    base = scores(engine.run(rows(None)))
    engine.maybe_merge({"algebra": 12}, rows("algebra"))
    engine.remove_adapter("algebra")
    assert engine.info.merged == ""
    assert torch.equal(scores(engine.run(rows(None))), base)


def test_another_run_is_decided_anew(benches: Any) -> None:
    engine = native(benches("qwen3"))
    assert isinstance(engine, MergingEngine)
    engine.maybe_merge({"algebra": 12}, rows("algebra"))
    engine.maybe_merge({"history": 12}, rows("history"))
    assert engine.info.merged == "history"
    assert "in turn" in engine.maybe_merge({"history": 6, None: 6}, rows("history")).reason
    assert engine.info.merged == ""
    assert engine.maybe_merge({None: 6}, rows(None)) == MergeDecision(False, "")


@pytest.mark.parametrize(
    ("change", "make_requests", "word"),
    [
        ({}, texts, ""),
        ({}, rows, "last bit"),
        ({"deterministic": False}, rows, ""),
        ({"merge": "never"}, texts, "engine.merge=never"),
        ({"dtype": "int8-weights"}, texts, "rounds"),
        ({"merge": "always", "dtype": "int8-weights"}, texts, ""),
        ({"merge": "always"}, rows, ""),
    ],
)
def test_what_is_merged(
    benches: Any, change: dict[str, Any], make_requests: Callable[[str], list[Request]], word: str
) -> None:
    settings = replace(EngineSettings("float32", "cpu"), **change)
    engine = native(benches("qwen2"), settings)
    if word == "last bit" and not engine.info.is_batch_invariant(make_requests("algebra")[0]):
        pytest.skip("rows round by the batch here, and nothing is said")
    decision = engine.maybe_merge({"algebra": 5000}, make_requests("algebra"))
    if word:
        assert word in decision.reason
    assert decision.merged is not bool(word)
    assert engine.info.merged == ("" if word else "algebra"), decision


def test_a_short_run_is_not_merged(benches: Any) -> None:
    engine = native(benches("qwen2"), replace(SETTINGS, merge="auto"))
    assert "too few" in engine.maybe_merge({"algebra": 12}, texts("algebra")).reason
    assert engine.info.merged == ""


def test_merging_that_changes_too_much_is_undone(benches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = native(benches("qwen2"))
    before = scores(engine.run(rows("algebra")))
    monkeypatch.setitem(PRECISIONS, "float32", replace(PRECISIONS["float32"], merge_limit=-1.0))
    assert "would differ" in engine.maybe_merge({"algebra": 12}, rows("algebra")).reason
    assert engine.info.merged == ""
    assert torch.equal(scores(engine.run(rows("algebra"))), before)


def test_what_cannot_be_compared_is_not_merged() -> None:
    broken = [Output("r", error="too long", finish="error")]
    assert not merging.is_within_tolerance(merging.mean_difference(broken, broken), "float32")
    assert not merging.is_within_tolerance(merging.mean_difference([Output("r", (1.0,))], broken), "float32")


def test_an_unknown_setting_is_refused(benches: Any) -> None:
    engine = native(benches("qwen2"), replace(SETTINGS, merge="sometimes"))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="sometimes"):
        engine.maybe_merge({"algebra": 12}, rows("algebra"))


def test_infer_says_what_was_merged_and_resumes_no_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    posts = Path(__file__).resolve().parents[2] / "examples" / "rules" / "posts.csv"
    few = tmp_path / "rows.csv"
    few.write_text("\n".join(posts.read_text("utf-8").splitlines()[:13]) + "\n")
    quick = ["training.epochs=1", "lora.r=4", "training.learning_rate=2e-3", "training.save_steps=2"]
    assert main(["train", "task=rules", f"input={few}", f"run_dir={tmp_path / 'run'}", *quick]) == 0
    capsys.readouterr()
    command = ["infer", "task=rules", f"input={few}", f"adapters.dir={tmp_path / 'run'}", "model.dtype=float32"]
    assert main([*command, f"output={tmp_path / 'a.jsonl'}", "engine.merge=always"]) == 0
    assert "merged into the weights in float32" in capsys.readouterr().err
    record = json.loads((tmp_path / "a.jsonl.run/run.json").read_text())
    assert record["manifest"]["engine.merged"] == "rules"
    assert "merged into the weights" in record["summary"]["merging"]
    # By default scores are left as they are, and nobody is told.
    assert main([*command, f"output={tmp_path / 'b.jsonl'}"]) == 0
    assert "merged" not in capsys.readouterr().err
    record = json.loads((tmp_path / "b.jsonl.run/run.json").read_text())
    assert record["manifest"]["engine.merged"] == "none"
    assert "last bit" in record["summary"]["merging"]
