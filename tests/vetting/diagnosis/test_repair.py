"""Mended copies of an adapter: what changes and what must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.vetting.diagnosis.conftest import WEIGHTS, Arrays, broken

from lorica.adapters.config import read_adapter_config
from lorica.adapters.folder import open_adapter
from lorica.adapters.header import read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap, map_tensors
from lorica.models.families import read_decoder_config
from lorica.vetting.diagnosis.repair import repaired
from lorica.vetting.diagnosis.sweeps import scaled_kind


def read(folder: Path) -> tuple[RawAdapter, TensorMap]:
    weights = folder / WEIGHTS
    header = read_header(weights)
    raw: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    specimen = RawAdapter(
        name="x", given=folder, kind="folder", folder=folder, weights=weights, raw_config=raw,
        config=read_adapter_config(folder), header=header,
    )  # fmt: skip
    return specimen, map_tensors(header)


def test_one_kind_of_module_is_scaled_alone(trained: Path, tmp_path: Path) -> None:
    specimen, layout = read(broken(trained, tmp_path / "patterned", alpha_pattern={"q_proj": 4.0}))
    before = read_adapter_config(specimen.folder)
    after = scaled_kind(before, layout, "v_proj", 8.0)
    for module in layout.modules:
        factor = 8.0 if module.endswith("v_proj") else 1.0
        assert after.scaling(module) == pytest.approx(factor * before.scaling(module))


def test_wrapped_turned_and_untargeted_tensors_are_mended(
    trained: Path, bases: tuple[Path, Path], tmp_path: Path
) -> None:
    def spoil(arrays: Arrays) -> Arrays:
        names = {name: name.replace("base_model.model.model.", "vlm.language_model.model.") for name in arrays}
        return {names[name]: (each.T if "up_proj" in name else each) for name, each in arrays.items()}

    specimen, layout = read(
        broken(trained, tmp_path / "spoilt", spoil, target_modules=["q_proj"], modules_to_save=["x"])
    )
    made = repaired(specimen, layout, read_decoder_config(bases[0]).linear_shapes(), tmp_path / "mended")
    assert made is not None
    assert (made.renamed, made.turned, made.halves, made.foreign) == (12, 3, 0, 0)
    assert made.retargeted
    opened = open_adapter(made.folder)
    assert opened.config.modules_to_save is None
    mended, original = load_file(opened.weights), load_file(trained / WEIGHTS)
    assert mended.keys() == original.keys()
    assert all(np.array_equal(mended[name], original[name]) for name in original)


def test_lost_ranks_and_halves_are_mended(trained: Path, bases: tuple[Path, Path], tmp_path: Path) -> None:
    def spoil(arrays: Arrays) -> Arrays:
        del arrays["base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"]
        return {
            name: (each[:4] if "lora_A" in name else each[:, :4]) if "layers.2" in name else each
            for name, each in arrays.items()
        }

    specimen, layout = read(broken(trained, tmp_path / "spoilt", spoil))
    made = repaired(specimen, layout, read_decoder_config(bases[0]).linear_shapes(), tmp_path / "mended")
    assert made is not None
    assert (made.halves, made.reranked, made.renamed) == (1, True, 0)
    config = open_adapter(made.folder).config
    assert {config.rank(f"model.layers.{layer}.self_attn.q_proj") for layer in (0, 1)} == {16}
    assert config.rank("model.layers.2.self_attn.q_proj") == 4


def test_an_adapter_of_another_model_cannot_be_mended(trained: Path, tmp_path: Path) -> None:
    specimen, layout = read(trained)
    assert repaired(specimen, layout, {"model.layers.0.self_attn.q_proj": (999, 999)}, tmp_path / "m") is None
