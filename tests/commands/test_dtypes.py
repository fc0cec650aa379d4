"""What a command computes in, on machines of either kind, and the one line about a slow choice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from tools.gguf_files import write_model

from lorica.cli import main
from lorica.commands import dtypes
from lorica.commands.dtypes import answer_dtype, count_parameters, training_precision
from lorica.config.schema import Config
from lorica.models.base_folder import BaseFolder
from lorica.models.cpu import rates
from lorica.models.locate import locate_model
from tests.commands.conftest import QUICK
from tests.test_precision_choice import AVX2, AVX2_RATES, ZEN5, ZEN5_RATES

BASE = BaseFolder(locate_model("embedded:lorica_tiny", environ={}))


@pytest.fixture
def be(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make this machine one of a kind."""

    def pretend(kind: str) -> None:
        machine, measured = (AVX2, AVX2_RATES) if kind == "avx2" else (ZEN5, ZEN5_RATES)
        monkeypatch.setattr(dtypes, "this_machine", lambda: machine)
        monkeypatch.setattr(rates, "measured_rates", lambda: measured)

    return pretend


def _config(engine: str = "native", bf16: bool = False, **model: Any) -> Config:
    config = Config()
    return replace(
        config,
        model=replace(config.model, device="cpu", **model),
        training=replace(config.training, bf16=bf16),
        engine=replace(config.engine, name=engine),
    )


@pytest.mark.parametrize(("kind", "dtype"), [("avx2", "float32"), ("zen5", "bfloat16")])
@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_auto_follows_the_machine(kind: str, dtype: str, engine: str, be: Callable[[str], None]) -> None:
    be(kind)
    assert answer_dtype(_config(engine=engine), BASE) == dtype


@pytest.mark.parametrize("kind", ["avx2", "zen5"])
def test_adapters_are_examined_exactly(kind: str, be: Callable[[str], None]) -> None:
    be(kind)
    assert answer_dtype(_config(), BASE, proof=True) == "float32"
    assert answer_dtype(_config(dtype="int8"), BASE, proof=True) == "int8"


def test_an_explicit_choice_stays_and_is_told_once_where_it_is_slow(
    be: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    be("avx2")
    assert answer_dtype(_config(dtype="bfloat16"), BASE) == "bfloat16"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lorica: warning: model.dtype=bfloat16 is about ")
    assert line.endswith("set model.dtype=float32")
    for dtype in ("float32", "int8"):
        assert answer_dtype(_config(dtype=dtype), BASE) == dtype
    be("zen5")
    assert answer_dtype(_config(dtype="bfloat16"), BASE) == "bfloat16"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "model", "weights", "bf16", "upcast"),
    [
        ("avx2", {}, "float32", False, False),
        ("zen5", {}, "float32", True, False),
        ("avx2", {"dtype": "bfloat16"}, "bfloat16", False, True),
        ("zen5", {"dtype": "bfloat16"}, "bfloat16", True, False),
        ("zen5", {"dtype": "float32"}, "float32", False, False),
        ("avx2", {"dtype": "float16"}, "float16", False, True),
        ("avx2", {"load_in_4bit": True}, "float32", False, False),
        ("zen5", {"load_in_4bit": True}, "bfloat16", True, False),
    ],
)
def test_training_follows_the_machine(
    kind: str, model: dict[str, Any], weights: str, bf16: bool, upcast: bool, be: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    be(kind)
    precision = training_precision(_config(**model), BASE)
    assert (precision.weights, precision.settings.bf16, precision.upcast) == (weights, bf16, upcast)
    assert not precision.settings.fp16
    assert capsys.readouterr().err == ""


def test_bf16_on_a_processor_without_it_is_told(be: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    be("avx2")
    precision = training_precision(_config(bf16=True), BASE)
    assert precision.settings.bf16
    assert not precision.upcast
    (line,) = capsys.readouterr().err.splitlines()
    assert "training.bf16=true is about 4 times as slow here as float32" in line
    assert "no instructions for bfloat16" in line


def test_parameters_are_counted_by_the_files(tmp_path: Path) -> None:
    exact = sum(file.stat().st_size for file in BASE.weight_files) / 2  # it is stored in bfloat16
    assert count_parameters(BASE) == pytest.approx(exact, rel=0.01)
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "float32"}))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 4000)
    assert count_parameters(BaseFolder(tmp_path)) == 1000


def test_a_run_of_another_kind_of_machine_is_not_continued(
    be: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming would go on in another precision: what decided is named."""
    rows = [{"question": f"question {i}", "answer": f"answer {i}"} for i in range(6)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = ["train", "task=qa", f"input={tmp_path / 'rows.json'}", f"run_dir={tmp_path / 'run'}", *QUICK]
    command += ["training.val_ratio=0", "model.dtype=bfloat16", "training.resume=true"]
    be("avx2")
    assert main(command) == 0
    record = json.loads((tmp_path / "run" / "qa" / "training.json").read_text())
    assert "false" in json.dumps(record["manifest"]["training.bf16"])
    capsys.readouterr()
    assert main(command) == 0
    assert "finished before" in capsys.readouterr().err
    be("zen5")
    assert main(command) == 6
    assert "training.bf16" in capsys.readouterr().err


@pytest.mark.parametrize(("type_name", "dtype", "warned"), [
    ("Q4_1", "int4-weights", True), ("Q4_0", "int4-weights", True), ("Q4_1", "int8-weights", False),
    ("Q4_1", "gguf", False), ("Q8_0", "int4-weights", False),
])  # fmt: skip
def test_blocks_of_4_bits_are_not_rounded_again_without_a_word(
    type_name: str,
    dtype: str,
    warned: bool,
    be: Callable[[str], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    be("zen5")
    base = BaseFolder(write_model(tmp_path / "base.gguf", type_name=type_name))
    assert answer_dtype(_config(dtype=dtype), base) == dtype
    lines = [line for line in capsys.readouterr().err.splitlines() if "a second time" in line]
    assert len(lines) == warned
    assert all("model.dtype=gguf" in line and "int8-weights" in line for line in lines)
