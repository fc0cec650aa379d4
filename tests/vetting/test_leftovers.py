"""What converters and quantisers leave beside the factors is named, and what is lost is told from what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.vetting.numbers_fixtures import healthy, specimen, write
from tests.vetting.specimens import Shapes, codes, pairs
from tests.vetting.specimens import specimen as made_up

from lorica.adapters.config import AdapterConfig
from lorica.vetting.diagnosis import DiagnosisInputs, diagnose
from lorica.vetting.files.sources import find_sources
from lorica.vetting.levels import examine
from lorica.vetting.numbers.check_numbers import check_numbers
from lorica.vetting.structure.check_structure import check_structure

PLAIN = pairs({"self_attn.q_proj": (32, 32), "self_attn.v_proj": (32, 16)}, range(4))


def with_alphas(folder: Path, alpha: float, tensors: float) -> Path:
    """A sound adapter with a tensor of alpha beside each pair; its config says `alpha`."""
    arrays = healthy()
    for name in [one for one in arrays if ".lora_A." in one]:
        arrays[name.split(".lora_A.")[0] + ".alpha"] = np.array(tensors, np.float32)
    return write(folder, arrays, config=AdapterConfig(r=8, lora_alpha=alpha, target_modules=["q_proj", "v_proj"]))


def test_alphas_that_agree_with_the_config_are_a_warning(tmp_path: Path) -> None:
    found, layout = specimen(with_alphas(tmp_path, 16, 16))
    assert codes(check_structure(found, layout), "reject", "warn") == ["L145"]
    assert codes(check_numbers(found, layout)[1], "reject") == []


@pytest.mark.parametrize(("alpha", "cause"), [(128, "over_scaled"), (16, "altered"), (1, "under_scaled")])
def test_alphas_that_contradict_the_config_say_in_which_direction(alpha: float, cause: str, tmp_path: Path) -> None:
    folder = with_alphas(tmp_path, alpha, 8)
    found, layout = specimen(folder)
    (seen,) = [each for each in check_numbers(found, layout)[1] if each.severity == "reject"]
    assert (seen.code, seen.facts["modules"]) == ("L223", 12)
    assert seen.facts["scale_factor"] == alpha / 8
    assert diagnose(folder, DiagnosisInputs()).cause == cause


def test_factors_packed_by_a_quantiser_are_of_another_kind() -> None:
    shapes: Shapes = {}
    dtypes = {}
    for name, (first, second) in PLAIN.items():
        shapes |= {name: (first * second // 2, 1), f"{name}.absmax": (4,), f"{name}.quant_map": (16,)}
        dtypes[name] = "U8"
    found = check_structure(*made_up(shapes, dtypes=dtypes))
    assert codes(found, "reject") == ["L144"]
    assert "absmax" in next(each.seen for each in found if each.code == "L144")


def test_rounded_factors_in_their_own_shape_are_not_packed() -> None:
    found = check_structure(*made_up(PLAIN, dtypes=dict.fromkeys(PLAIN, "I8")))
    assert codes(found, "reject") == ["L115"]


@pytest.mark.parametrize("kind", ["empty", "flat"])
def test_values_that_no_worker_gathered_are_missing(kind: str, tmp_path: Path) -> None:
    arrays = healthy()
    for name in arrays:
        arrays[name] = np.zeros(0, np.float32) if kind == "empty" else arrays[name].ravel()[: arrays[name].size // 2]
    folder = write(tmp_path / kind, arrays)
    (source,) = find_sources([folder])
    (seen,) = [each for each in examine(source).findings if each.code == "L114"]
    assert seen.facts[kind] == 12
    assert diagnose(folder, DiagnosisInputs()).cause == "incomplete"


def test_shards_beside_whole_halves_are_missing_too(tmp_path: Path) -> None:
    arrays = {name: np.zeros(0, np.float32) if ".lora_B." in name else x for name, x in healthy().items()}
    folder = write(tmp_path / "adapter", arrays)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 8
    assert diagnose(folder, DiagnosisInputs()).cause == "incomplete"
