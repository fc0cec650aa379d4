"""L4 with real engines: the embedded model in the native one, and kinds of adapters that only PEFT applies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("torch")

from lorica.adapters.config import AdapterConfig
from lorica.adapters.header import read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import map_tensors
from lorica.engines.base import EngineSettings
from lorica.models.locate import locate_model
from lorica.vetting.base_checks import check_behaviour
from lorica.vetting.measure.measurements import Behaviour
from lorica.vetting.measure.model_session import ModelSession, SessionSettings

BASE = locate_model("embedded:lorica_tiny", environ={})
SETTING = SessionSettings(BASE, task="rules", engine_settings=EngineSettings(dtype="float32", device="cpu"), probes=8)
SHAPES = {"self_attn.q_proj": (256, 256), "mlp.up_proj": (256, 768), "mlp.down_proj": (768, 256)}


@pytest.fixture(scope="module")
def work() -> ModelSession:
    return ModelSession(SETTING)


def specimen(folder: Path, size: float = 0.02, *, extra: dict[str, Any] | None = None, **changes: Any) -> RawAdapter:
    """Random pairs in two layers, B of this size."""
    config = AdapterConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj", "down_proj"])
    config = msgspec.structs.replace(config, **changes)
    random = np.random.default_rng(1)
    tensors: dict[str, Any] = {}
    for layer in (0, 3):
        for module, (wide_in, wide_out) in SHAPES.items():
            path = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{path}.lora_A.weight"] = (random.normal(size=(4, wide_in)) / 16).astype(np.float32)
            tensors[f"{path}.lora_B.weight"] = (size * random.normal(size=(wide_out, 4))).astype(np.float32)
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(config.to_json())
    weights = folder / "adapter_model.safetensors"
    save_file({**tensors, **(extra or {})}, weights, metadata={"format": "pt"})
    return RawAdapter(
        name="it",
        given=folder,
        kind="folder",
        folder=folder,
        weights=weights,
        config=config,
        header=read_header(weights),
    )


def look(work: ModelSession, one: RawAdapter) -> tuple[Behaviour, dict[str, str]]:
    assert one.header is not None
    found, findings = check_behaviour(one, map_tensors(one.header), work)
    return found, {each.code: each.severity for each in findings}


@pytest.mark.parametrize("size", [1e-4, 0.2])
def test_random_updates_of_every_size_are_applied_and_not_rejected(
    work: ModelSession, tmp_path: Path, size: float
) -> None:
    found, findings = look(work, specimen(tmp_path / "a", size))
    assert "reject" not in findings.values()
    assert found.divergence is not None
    assert found.divergence.largest_change > 1e-6
    nothing = next(each for each in found.scales if each.factor == 0)
    assert nothing.largest_change < 1e-4


def test_a_zero_update_changes_nothing_to_the_last_bit(work: ModelSession, tmp_path: Path) -> None:
    found, findings = look(work, specimen(tmp_path / "a", 0.0))
    assert findings["L402"] == "reject"
    assert found.divergence is not None
    assert found.divergence.largest_change == 0


def test_nan_is_rejected(work: ModelSession, tmp_path: Path) -> None:
    one = specimen(tmp_path / "a")
    assert one.weights is not None
    tensors = load_file(one.weights)
    for name, each in tensors.items():
        if "layers.3" in name:
            each[0, 0] = np.nan
    save_file(tensors, one.weights, metadata={"format": "pt"})
    found, findings = look(work, one)
    assert findings == {"L401": "reject"}
    assert found.broken == 8


def test_many_adapters_leave_nothing_in_the_engine(work: ModelSession, tmp_path: Path) -> None:
    first, second = (look(work, specimen(tmp_path / name))[0] for name in "ab")
    assert first.divergence == second.divergence
    assert first.scales == second.scales


def test_an_adapter_that_does_not_fit_is_a_finding(work: ModelSession, tmp_path: Path) -> None:
    wide = {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": np.ones((4, 256), np.float32)}
    wide["base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight"] = np.ones((256, 4), np.float32)
    found, findings = look(work, specimen(tmp_path / "a", extra=wide))
    assert findings == {"L400": "reject"}
    assert found.n == 0


def test_what_no_engine_applies_is_noted_and_not_blamed(work: ModelSession, tmp_path: Path) -> None:
    assert look(work, specimen(tmp_path / "a", bias="all"))[1] == {"L400": "note"}


@pytest.mark.parametrize("kind", ["dora", "head"])
def test_kinds_beyond_the_native_engine_are_asked_in_transformers(
    work: ModelSession, tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("peft")
    random = np.random.default_rng(2)
    extra: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    if kind == "dora":
        changes |= {"use_dora": True, "layers_to_transform": [0, 3]}
        for layer in (0, 3):
            for module, (_, wide_out) in SHAPES.items():
                path = f"base_model.model.model.layers.{layer}.{module}"
                extra[f"{path}.lora_magnitude_vector"] = random.uniform(0.5, 1, size=wide_out).astype(np.float32)
    else:
        changes["target_modules"] = [f"layers.{i}.{name}" for i in (0, 3) for name in SHAPES] + ["lm_head"]
        extra["base_model.model.lm_head.lora_A.weight"] = random.normal(size=(4, 256)).astype(np.float32) / 16
        extra["base_model.model.lm_head.lora_B.weight"] = random.normal(size=(6144, 4)).astype(np.float32) / 50
    found, findings = look(work, specimen(tmp_path / "a", extra=extra, **changes))
    assert "reject" not in findings.values()
    assert found.engine["engine"] == "transformers"
    assert found.divergence is not None
    assert found.divergence.largest_change > 1e-3
    assert ("L416" in findings) == (kind == "dora")
