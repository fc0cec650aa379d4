"""Engines by name."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorica.adapters.folder import open_adapter
from lorica.engine_table import ENGINES
from lorica.engines import load_engine
from lorica.engines.base import EngineSettings, MergingEngine
from lorica.engines.native.engine import NativeEngine
from lorica.errors import EngineError
from lorica.models.base_folder import BaseFolder
from lorica.models.weights import load_decoder
from lorica.records import Generate, Sampling, ScoreChoices

SETTINGS = EngineSettings(device="cpu", batch_tokens=512, threads=1)
MANIFEST_KEYS = {  # a run is resumed only where its manifest has the same keys and values
    "native": "engine family dtype device threads batch_tokens share_prefixes deterministic kernels attention merged "
    "torch",
    "transformers": "engine family dtype device threads batch_tokens torch transformers",
    "fake": "engine",
}


@pytest.mark.parametrize("name", [name for name, entry in ENGINES.items() if "text" in entry.answers])
def test_every_engine_of_decoders_loads_and_answers(benches: Any, name: str) -> None:
    bench = benches("qwen3")
    engine = load_engine(name, BaseFolder(bench.base), SETTINGS)
    engine.add_adapter("algebra", open_adapter(bench.adapters["algebra"]))
    outputs = engine.run([ScoreChoices(f"r{i}", (1, 2, 3), ((1,), (2,)), (None, "algebra")[i % 2]) for i in range(4)])
    assert [output.id for output in outputs] == ["r0", "r1", "r2", "r3"]
    assert outputs[0].logprobs == pytest.approx(outputs[2].logprobs)
    assert outputs[0].logprobs != pytest.approx(outputs[1].logprobs)
    assert engine.info.name == name
    manifest = engine.info.manifest()
    assert " ".join(manifest) == MANIFEST_KEYS[name]
    assert manifest.get("merged", "none") == "none"
    assert isinstance(engine, MergingEngine) is ENGINES[name].merges
    assert engine.info.runs_model is ENGINES[name].runs_model
    assert manifest.get("deterministic", "true") == "true"


def test_an_unknown_engine_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="did you mean engine=native"):
        load_engine("nativ", BaseFolder(tmp_path), SETTINGS)


def test_what_only_transformers_does_is_refused_by_the_native_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="use engine=transformers"):
        load_engine("native", BaseFolder(tmp_path), replace(SETTINGS, device_map="balanced"))


def test_four_bits_agree_between_the_engines(benches: Any) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra `quant`")
    bench = benches("wide")
    request = ScoreChoices("r", (1, 2, 3), ((1,), (2,)))
    settings = replace(SETTINGS, dtype="float32", load_in_4bit=True)
    engines = [load_engine(name, BaseFolder(bench.base), settings) for name in ("native", "transformers")]
    assert [engine.info.dtype for engine in engines] == ["nf4", "nf4"]
    ours, theirs = (engine.run([request])[0].logprobs for engine in engines)
    exact = bench.logprobs(request)
    # bitsandbytes multiplies in bfloat16 on some CPUs, in one engine's shapes and not in the other's.
    apart, rounded = (max(abs(a - b) for a, b in zip(ours, reference, strict=True)) for reference in (theirs, exact))
    assert apart < 0.02
    assert apart < rounded / 4


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int8-weights", "int4-weights"])
def test_less_exact_precisions_are_named_and_stay_near(benches: Any, dtype: str) -> None:
    bench = benches("wide")
    engine = load_engine("native", BaseFolder(bench.base), replace(SETTINGS, dtype=dtype))
    engine.add_adapter("algebra", open_adapter(bench.adapters["algebra"]))
    assert engine.info.dtype == dtype
    requests = [
        ScoreChoices(f"r{i}", (*range(1, 40), 5 * i), ((1,), (2, 3)), (None, "algebra")[i % 2]) for i in range(8)
    ]
    for request, output in zip(requests, engine.run(requests), strict=True):
        assert output.logprobs == pytest.approx(bench.logprobs(request), abs=1.0 if dtype == "int4-weights" else 0.5)
    words = engine.run([Generate("g", (1, 2, 3), Sampling(max_new_tokens=5), adapter="algebra")])[0].tokens
    assert len(words) == 5
    engine.remove_adapter("algebra")


@pytest.mark.parametrize("dtype", ["int8", "int4-weights"])
def test_whole_numbers_are_for_the_native_engine_without_four_bits(benches: Any, dtype: str) -> None:
    base, settings = benches("wide").base, replace(SETTINGS, dtype=dtype)
    with pytest.raises(EngineError, match=f"does not compute in {dtype}") as caught:
        load_engine("transformers", BaseFolder(base), settings)
    assert "native" in caught.value.fix
    with pytest.raises(EngineError, match="four bits already"):
        load_engine("native", BaseFolder(base), replace(settings, load_in_4bit=True))
    with pytest.raises(EngineError, match="dtype='int4' is none of auto, float32"):
        load_engine("native", BaseFolder(base), replace(settings, dtype="int4"))


def test_the_package_and_the_fake_need_no_torch() -> None:
    code = "import sys, lorica.engines, lorica.engines.fake; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "src"}, check=False).returncode == 0


def test_an_adapter_takes_no_more_memory_than_its_file(benches: Any) -> None:
    bench = benches("qwen3")
    engine = NativeEngine(load_decoder(BaseFolder(bench.base)))
    for name, folder in bench.adapters.items():
        engine.add_adapter(name, open_adapter(folder))
        tensors = {tensor.untyped_storage().data_ptr(): tensor for tensor in engine._adapters[name].parameters()}
        file = (folder / "adapter_model.safetensors").stat().st_size
        assert sum(tensor.untyped_storage().nbytes() for tensor in tensors.values()) <= 1.2 * file
