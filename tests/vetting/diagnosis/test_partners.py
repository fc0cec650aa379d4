"""Halves that were trained together are told from halves that were not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tests.vetting.diagnosis.conftest import WEIGHTS, Arrays, broken

from lorica.adapters.header import read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import map_tensors
from lorica.vetting.numbers.check_numbers import check_numbers
from lorica.vetting.numbers.factor_pairing import FactorPairing


def partners(folder: Path) -> FactorPairing:
    weights = folder / WEIGHTS
    adapter = RawAdapter(name="x", given=folder, kind="folder", folder=folder, weights=weights)
    pairing = check_numbers(adapter, map_tensors(read_header(weights)))[0].pairing
    assert pairing is not None
    return pairing


def test_trained_pairs_belong_together(trained: Path) -> None:
    found = partners(trained)
    assert found.pairs == 12
    assert found.own_correlation > 0.5
    assert found.mismatched == {}


def test_halves_that_changed_places_are_named_with_their_partners(trained: Path, tmp_path: Path) -> None:
    first, second = (f"base_model.model.model.layers.{n}.mlp.up_proj.lora_B.weight" for n in (0, 2))

    def swap(arrays: Arrays) -> Arrays:
        return arrays | {first: arrays[second], second: arrays[first]}

    found = partners(broken(trained, tmp_path / "torn", swap))
    assert found.mismatched == {"model.layers.0.mlp.up_proj": "model.layers.2.mlp.up_proj",
                          "model.layers.2.mlp.up_proj": "model.layers.0.mlp.up_proj"}  # fmt: skip
    assert found.mismatched_correlation > 0.5


def test_noise_and_untrained_pairs_say_nothing(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for name, scale in (("noise", 1.0), ("zero", 0.0)):
        arrays = {}
        for layer in range(6):
            path = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
            arrays[f"{path}.lora_A.weight"] = chance.standard_normal((8, 32)).astype(np.float32)
            arrays[f"{path}.lora_B.weight"] = (scale * chance.standard_normal((32, 8))).astype(np.float32)
        (tmp_path / name).mkdir()
        save_file(arrays, tmp_path / name / WEIGHTS)
        found = partners(tmp_path / name)
        assert found.mismatched == {}
        assert abs(found.own_correlation) < 0.4


def test_small_ranks_and_broken_values_are_left_out(tmp_path: Path) -> None:
    path = "base_model.model.model.layers.0.self_attn.q_proj"
    arrays = {
        f"{path}.lora_A.weight": np.ones((4, 32), np.float32),
        f"{path}.lora_B.weight": np.ones((32, 4), np.float32),
    }
    save_file(arrays, tmp_path / WEIGHTS)
    assert partners(tmp_path).pairs == 0
    assert partners(tmp_path).own_correlation == 0, "the median of none"
    broken_values = {name: np.full((8, 32) if "lora_A" in name else (32, 8), np.nan, np.float32) for name in arrays}
    save_file(broken_values, tmp_path / WEIGHTS)
    assert partners(tmp_path).pairs == 0


def test_factors_of_singular_vectors_say_nothing(tmp_path: Path) -> None:
    """A compressed update's factors are orthogonal: beside the diagonal of their Gram matrices there is rounding only,
    and the largest of it lies in the same entries for all modules."""
    chance = np.random.default_rng(0)
    arrays = {}
    for layer in range(40):
        factors = chance.standard_normal((64, 32)) @ np.diag(0.7 ** np.arange(32)) @ chance.standard_normal((32, 64))
        left, values, right = np.linalg.svd(factors.astype(np.float32), full_matrices=False)
        root, path = np.sqrt(values[:16]), f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        arrays[f"{path}.lora_A.weight"] = np.ascontiguousarray((root[:, None] * right[:16]).astype(np.float16))
        arrays[f"{path}.lora_B.weight"] = np.ascontiguousarray((left[:, :16] * root).astype(np.float16))
    save_file(arrays, tmp_path / WEIGHTS)
    assert partners(tmp_path).mismatched == {}
