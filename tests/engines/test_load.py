"""Engines by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorica.engines import ENGINES, load_engine
from lorica.engines.base import Engine
from lorica.errors import EngineError
from lorica.records import Choose


def load(name: str, folder: Path, **changed: Any) -> Engine:
    settings: dict[str, Any] = {
        "dtype": "auto",
        "device": "cpu",
        "device_map": "",
        "load_in_4bit": False,
        "batch_tokens": 512,
        "threads": 1,
        "share_prefixes": True,
    }
    return load_engine(name, folder, **(settings | changed))


@pytest.mark.parametrize("name", list(ENGINES))
def test_every_engine_loads_and_answers(benches: Any, name: str) -> None:
    bench = benches("qwen3")
    engine = load(name, bench.base)
    engine.add_adapter("algebra", bench.adapters["algebra"])
    outputs = engine.run([Choose(f"r{i}", (1, 2, 3), ((1,), (2,)), (None, "algebra")[i % 2]) for i in range(4)])
    assert [output.id for output in outputs] == ["r0", "r1", "r2", "r3"]
    assert outputs[0].logprobs == pytest.approx(outputs[2].logprobs)
    assert outputs[0].logprobs != pytest.approx(outputs[1].logprobs)
    assert engine.describe()["engine"] == name


def test_an_unknown_engine_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="did you mean engine=native"):
        load("nativ", tmp_path)


def test_what_only_transformers_does_is_refused_by_the_native_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="use engine=transformers"):
        load("native", tmp_path, device_map="balanced")


def test_four_bits_agree_between_the_engines(benches: Any) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra `quant`")
    bench = benches("wide")
    request = Choose("r", (1, 2, 3), ((1,), (2,)))
    engines = [load(name, bench.base, dtype="float32", load_in_4bit=True) for name in ("native", "transformers")]
    assert [engine.describe()["dtype"] for engine in engines] == ["nf4", "nf4"]
    ours, theirs = (engine.run([request])[0].logprobs for engine in engines)
    exact = bench.logprobs(request)
    # bitsandbytes multiplies in bfloat16 on some CPUs, in one engine's shapes and not in the other's.
    apart, rounded = (max(abs(a - b) for a, b in zip(ours, other, strict=True)) for other in (theirs, exact))
    assert apart < 0.02
    assert apart < rounded / 4


def test_the_package_and_the_fake_need_no_torch() -> None:
    code = "import sys, lorica.engines, lorica.engines.fake; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "src"}, check=False).returncode == 0
