"""What the commands make of a configuration."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lorica.commands.build import build_engine
from lorica.commands.dtypes import training_precision
from lorica.config.schema import Config
from lorica.errors import ConfigError
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model


@pytest.mark.parametrize("dtype", ["int8", "int8-weights", "int4-weights"])
def test_nothing_is_trained_in_whole_numbers(dtype: str) -> None:
    config = Config()
    config = replace(config, model=replace(config.model, dtype=dtype))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"model.dtype={dtype} is for answering") as caught:
        training_precision(config, BaseFolder(Path("base")))
    assert "load_in_4bit" in caught.value.fix


@pytest.mark.parametrize(
    ("engine", "changes", "told"),
    [
        ("native", {"rope_scalling": {"factor": 4}}, "rope_scalling (did you mean rope_scaling?)"),
        ("transformers", {"rope_scalling": {"factor": 4}}, "rope_scalling (did you mean rope_scaling?)"),
        ("transformers", {"logit_scale": 0.5}, "no qwen3 model computes with it"),
        ("transformers", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ""),
        ("fake", {"rope_scalling": {"factor": 4}}, ""),
    ],
)
def test_what_a_base_says_in_vain_is_told_when_it_is_loaded(
    engine: str, changes: dict[str, object], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    base = Path(shutil.copytree(locate_model("embedded:lorica_tiny", environ={}), tmp_path / "base"))
    raw = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps(raw | changes), "utf-8")
    config = Config()
    build_engine(replace(config, engine=replace(config.engine, name=engine)), BaseFolder(base))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lorica: warning")]
    assert len(lines) == bool(told)
    assert told in "".join(lines)
