"""Damage that leaves names and shapes as they were: parts of an adapter, or of a base, that are from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from tests.vetting.diagnosis.conftest import WEIGHTS, Arrays, broken

from lorica.adapters.config import read_adapter_config
from lorica.adapters.header import read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import map_tensors
from lorica.models.locate import locate_model
from lorica.vetting.base.alignment import Alignment, align, collect_subspaces
from lorica.vetting.base.alignment_findings import check_alignment
from lorica.vetting.base.halves import Halves, check_halves
from lorica.vetting.base.layer_consistency import EMBEDDING, outlier_layers
from lorica.vetting.base.layer_permutation import assign, find_layer_permutation
from lorica.vetting.diagnosis import Diagnosis, to_text
from lorica.vetting.numbers.check_numbers import check_numbers

torch = pytest.importorskip("torch")


def specimen(folder: Path) -> RawAdapter:
    weights = folder / WEIGHTS
    return RawAdapter(
        name=folder.name, given=folder, kind="folder", folder=folder, weights=weights,
        config=read_adapter_config(folder), header=read_header(weights),
    )  # fmt: skip


def aligned(folder: Path, base: Path) -> Alignment:
    found = specimen(folder)
    assert found.header is not None
    return align(found, map_tensors(found.header), collect_subspaces(base))


def codes(alignment: Alignment) -> set[str]:
    return {each.code for each in check_alignment(alignment) if each.severity != "note"}


def other_channels(arrays: Arrays) -> Arrays:
    chance = np.random.default_rng(0)
    orders = {len(v): chance.permutation(len(v)) for k, v in sorted(arrays.items()) if "lora_B" in k}
    return {k: v[orders[len(v)]] if "lora_B" in k else v for k, v in arrays.items()}


def noise(arrays: Arrays) -> Arrays:
    chance = np.random.default_rng(0)
    return {
        k: (v + chance.normal(0, 6 * v.std(), v.shape)).astype(np.float32) if "lora_B" in k else v
        for k, v in arrays.items()
    }


def other_components(arrays: Arrays) -> Arrays:
    """Both halves still belong to the base, but not to each other."""
    chance = np.random.default_rng(0)
    return {k: v[:, chance.permutation(v.shape[1])] if "lora_B" in k else v for k, v in sorted(arrays.items())}


def reversed_layers(arrays: Arrays) -> Arrays:
    return {re.sub(r"\.layers\.(\d+)\.", lambda hit: f".layers.{2 - int(hit[1])}.", k): v for k, v in arrays.items()}


def swapped_twice(arrays: Arrays) -> Arrays:
    first, second = (f"base_model.model.model.layers.{n}.mlp.up_proj.lora_A.weight" for n in (0, 1))
    return arrays | {first: arrays[second], second: arrays[first]}


def test_a_sound_adapter_is_left_alone(trained: Path, bases: tuple[Path, Path]) -> None:
    found = aligned(trained, bases[0])
    assert codes(found) == set()
    assert found.halves.correlation > 5
    assert found.halves.outlier_layers == ()
    # On another base nothing fits, and that is all there is to say.
    assert codes(aligned(trained, bases[1])) == {"L321"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (other_channels, "L325"),
        (noise, "L325"),
        (other_components, "L326"),
        (reversed_layers, "L324"),
    ],
)
def test_check_sees_what_is_from_elsewhere(
    trained: Path, bases: tuple[Path, Path], tmp_path: Path, change: Callable[[Arrays], Arrays], code: str
) -> None:
    found = aligned(broken(trained, tmp_path / "changed", change), bases[0])
    assert codes(found) & {"L324", "L325", "L326"} == {code}, found


@pytest.mark.parametrize("change", [other_channels, reversed_layers])
def test_the_diagnosis_names_broken_weights(
    trained: Path, tmp_path: Path, ask: Callable[..., Diagnosis], change: Callable[[Arrays], Arrays]
) -> None:
    found = ask(broken(trained, tmp_path / "changed", change), rows=())
    assert found.cause == "broken_weights", to_text(found)


def test_an_a_that_was_drawn_anew_is_told_from_one_that_never_moved() -> None:
    anew = Halves(inputs=0.5, outputs=5.0, tested=4, correlation=-0.6, correlated_pairs=8)
    assert [each.code for each in check_halves(anew, trained=False)] == ["L325"]
    for change in ({"correlation": 5.3}, {"correlated_pairs": 0}, {"outputs": 3.0}, {"inputs": 3.0}):
        assert check_halves(replace(anew, **change), trained=False) == []


def test_halves_of_two_modules_that_changed_places_need_no_base(trained: Path, tmp_path: Path) -> None:
    for change, expected in ((None, set()), (swapped_twice, {"L222"})):
        found = specimen(broken(trained, tmp_path / f"one{len(expected)}", change))
        assert found.header is not None
        _, findings = check_numbers(found, map_tensors(found.header))
        assert {each.code for each in findings if each.severity != "note"} == expected


def test_modules_with_one_a_in_common_are_no_strangers(trained: Path, tmp_path: Path) -> None:
    """As adapters of fused modules have them, once they are split."""
    arrays = load_arrays(trained / WEIGHTS)
    for name in [name for name in arrays if "q_proj.lora_A" in name]:
        arrays[name.replace("q_proj", "v_proj")] = arrays[name]
    found = specimen(broken(trained, tmp_path / "shared", lambda _: arrays))
    assert found.header is not None
    _, findings = check_numbers(found, map_tensors(found.header))
    assert "L222" not in {each.code for each in findings}


def test_layers_of_another_model_are_found_in_the_base_alone(tmp_path: Path) -> None:
    tiny = locate_model("embedded:lorica_tiny", environ={})
    assert collect_subspaces(tiny).outlier_layers == ()
    shutil.copytree(tiny, tmp_path / "damaged")
    weights = load_file(tiny / "model.safetensors")
    torch.manual_seed(0)
    for name, tensor in weights.items():
        if tensor.ndim == 2 and re.search(r"\.layers\.[23]\.", name):
            weights[name] = (torch.randn(tensor.shape) * 0.02).to(tensor.dtype)
    save_file(weights, tmp_path / "damaged" / "model.safetensors", metadata={"format": "pt"})
    found = collect_subspaces(tmp_path / "damaged")
    assert found.outlier_layers == (2, 3)
    told = check_halves(Halves(outlier_layers=found.outlier_layers), trained=True)
    assert [(each.code, each.severity) for each in told] == [("L317", "warn")]


def test_layers_that_share_nothing_at_all_were_never_trained() -> None:
    chance = np.random.default_rng(0)
    nodes = {layer: chance.normal(size=(300, 64)).astype(np.float32) for layer in range(EMBEDDING, 4)}
    assert outlier_layers(nodes) == ()
    assert outlier_layers({0: nodes[0], 1: nodes[1]}) == ()


def test_the_best_order_is_found() -> None:
    chance = np.random.default_rng(0)
    order = chance.permutation(9)
    table = chance.normal(size=(9, 9))
    table[np.arange(9), order] += 20
    assert assign(table) == order.tolist()
    found = find_layer_permutation(list(range(10, 19)), table)
    assert found.moves == {10 + place: 10 + int(other) for place, other in enumerate(order) if place != other}
    assert find_layer_permutation(list(range(9)), chance.normal(size=(9, 9))).moves == {}
    # Rows and columns that are high everywhere say nothing.
    assert find_layer_permutation(list(range(9)), chance.normal(size=(9, 9)) + 30 * np.arange(9)[:, None]).moves == {}
    assert find_layer_permutation([3], table[:1, :1]).moves == {}


def test_a_base_that_was_turned_is_not_the_one_of_training(
    trained: Path, bases: tuple[Path, Path], tmp_path: Path
) -> None:
    turn = torch.linalg.qr(torch.randn((64, 64), generator=torch.Generator().manual_seed(0)))[0]
    own, turned = load_file(bases[0] / "model.safetensors"), {}
    for name, each in own.items():
        layer = name.rsplit(".", 3)[0]
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            turned[name] = each * own[f"{layer}.input_layernorm.weight"] @ turn
        elif name.endswith(("gate_proj.weight", "up_proj.weight")):
            turned[name] = each * own[f"{layer}.post_attention_layernorm.weight"] @ turn
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            turned[name] = turn.T @ each
        elif name == "model.embed_tokens.weight":
            turned["lm_head.weight"] = each * own["model.norm.weight"] @ turn
            turned[name] = each @ turn
        else:
            turned[name] = torch.ones_like(each)
    shutil.copytree(bases[0], tmp_path / "turned")
    made = {name: each.contiguous() for name, each in turned.items()}
    save_file(made, tmp_path / "turned" / "model.safetensors", metadata={"format": "pt"})
    config = tmp_path / "turned" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"tie_word_embeddings": False}), "utf-8")
    found = aligned(trained, tmp_path / "turned")
    assert found.stream < 2 < 4 < found.inner
    assert {"L328"} <= codes(found) or found.decided == "mismatch"


def test_what_was_learned_well_must_be_bound_though_modules_disagree() -> None:
    learned = Halves(inputs=14.2, outputs=4.8, tested=8, correlation=0.1, correlated_pairs=8)
    assert [one.code for one in check_halves(learned, trained=False)] == ["L326"]
    for other in (replace(learned, correlation=3.0), replace(learned, inputs=7.5)):
        assert check_halves(other, trained=False) == []
