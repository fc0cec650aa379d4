"""The mean of adapters against the mean of their updates, written out, and in the logits of a model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lorica.adapters.arrays import read_array
from lorica.adapters.average import average_adapters
from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import AdapterFolder, open_adapter, save_adapter
from lorica.adapters.tensor_names import tensor_name
from lorica.cli import main
from lorica.commands.average import average_folders
from lorica.errors import AdapterError

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj")


def _adapter(
    folder: Path,
    seed: int,
    *,
    r: int = 4,
    alpha: float = 8,
    modules: tuple[str, ...] = MODULES,
    width: int = 24,
    base: str = "base",
    rslora: bool = False,
) -> AdapterFolder:
    random = np.random.default_rng(seed)
    tensors = {}
    for module in modules:
        for part, shape in (("lora_A", (r, width)), ("lora_B", (32, r))):
            factor = random.normal(size=shape).astype("<f4")
            tensors[tensor_name(module, part)] = ("F32", shape, factor.tobytes())
    config = AdapterConfig(
        r=r,
        lora_alpha=alpha,
        use_rslora=rslora,
        base_model_name_or_path=base,
        target_modules=sorted({module.rsplit(".", 1)[-1] for module in modules}),
    )
    save_adapter(folder, config, tensors)
    return open_adapter(folder)


def _updates(adapter: AdapterFolder) -> dict[str, np.ndarray]:
    return {
        module: adapter.config.scaling(module)
        * read_array(adapter.weights, adapter.tensors[tensor_name(module, "lora_B")])
        @ read_array(adapter.weights, adapter.tensors[tensor_name(module, "lora_A")])
        for module in adapter.modules()
    }


def _average(adapters: list[AdapterFolder], weights: list[float], folder: Path, rank: int = 0) -> AdapterFolder:
    average = average_adapters(adapters, weights, rank)
    save_adapter(folder, average.config, average.tensors)
    return open_adapter(folder)


def test_the_exact_mean_of_other_ranks_scalings_and_modules(tmp_path: Path) -> None:
    adapters = [
        _adapter(tmp_path / "a", 1),
        _adapter(tmp_path / "b", 2, r=2, alpha=3, rslora=True),
        _adapter(tmp_path / "c", 3, r=8, modules=MODULES[:1]),
    ]
    weights = [0.5, 0.3, 0.2]
    mean = _updates(_average(adapters, weights, tmp_path / "mean"))
    for module in MODULES:
        expected = sum(w * _updates(adapter).get(module, 0) for w, adapter in zip(weights, adapters, strict=True))
        assert mean[module] == pytest.approx(expected, abs=1e-5)


def test_a_cut_mean_is_the_nearest_of_its_rank_and_states_its_error(tmp_path: Path) -> None:
    adapters = [_adapter(tmp_path / name, seed) for seed, name in enumerate("abc")]
    exact = _updates(_average(adapters, [1 / 3] * 3, tmp_path / "exact"))
    average = average_adapters(adapters, [1 / 3] * 3, 5)
    cut = _updates(_average(adapters, [1 / 3] * 3, tmp_path / "cut", 5))
    lost = total = 0.0
    for module in MODULES:
        left, values, right = np.linalg.svd(exact[module])
        assert cut[module] == pytest.approx((left[:, :5] * values[:5]) @ right[:5], abs=1e-4)
        lost, total = lost + float((values[5:] ** 2).sum()), total + float((values**2).sum())
    assert average.error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    assert average.rank == 5
    assert average_adapters(adapters, [1 / 3] * 3, 12).error == 0.0


def test_heads_of_classifiers_are_averaged_and_keep_their_names(tmp_path: Path) -> None:
    adapters, heads = [], []
    head = "base_model.model.classifier.weight"
    for seed in range(2):
        plain = _adapter(tmp_path / f"plain-{seed}", seed)
        weights = np.random.default_rng(10 + seed).normal(size=(2, 24)).astype("<f4")
        heads.append(weights)
        tensors = {
            name: ("F32", tuple(info.shape), read_array(plain.weights, info).astype("<f4").tobytes())
            for name, info in plain.tensors.items()
        }
        config = msgspec.structs.replace(plain.config, modules_to_save=["classifier"])
        folder = tmp_path / f"head-{seed}"
        save_adapter(
            folder, config, {**tensors, head: ("F32", (2, 24), weights.tobytes())}, applied=("modules_to_save",)
        )
        adapters.append(folder)
    result = average_folders(adapters, tmp_path / "mean", weights=[0.25, 0.75])
    mean = open_adapter(result.output, applied=("modules_to_save",))
    assert np.allclose(read_array(mean.weights, mean.tensors[head]), 0.25 * heads[0] + 0.75 * heads[1], atol=1e-6)
    assert mean.config.modules_to_save == ["classifier"]
    assert result.rank == 8
    with pytest.raises(AdapterError, match=r"other whole parameters(.|\n)*classifier"):
        average_folders([adapters[0], tmp_path / "plain-1"], tmp_path / "none")


@pytest.mark.parametrize("others", [[0], [1], None])
def test_the_mean_targets_the_modules_it_has_and_no_others(tmp_path: Path, others: list[int] | None) -> None:
    every_layer = tuple(f"model.layers.{layer}.self_attn.{name}" for layer in range(3) for name in ("q_proj", "v_proj"))
    adapters = []
    for seed, layers in enumerate(([0], others)):
        modules = tuple(name for name in every_layer if layers is None or int(name.split(".")[2]) in layers)
        plain = _adapter(tmp_path / f"plain-{seed}", seed, modules=modules)
        config = msgspec.structs.replace(plain.config, layers_to_transform=layers, target_modules=["v_proj", "q_proj"])
        (plain.path / "adapter_config.json").write_bytes(config.to_json())
        adapters.append(open_adapter(plain.path))
    mean = _average(adapters, [0.5, 0.5], tmp_path / "mean")
    targeted = {name for name in every_layer if mean.config.targets(name)}
    assert targeted == set(mean.modules()) == set(adapters[0].modules()) | set(adapters[1].modules())
    if others == [0]:  # alike, and kept
        assert mean.config.target_modules == ["q_proj", "v_proj"]
        assert mean.config.layers_to_transform == [0]


def test_adapters_of_another_base_or_shape_are_refused_by_name(tmp_path: Path) -> None:
    first = _adapter(tmp_path / "a", 1)
    with pytest.raises(AdapterError, match=r"b: is of the base 'other', and .*a of 'base'"):
        average_adapters([first, _adapter(tmp_path / "b", 2, base="other")], [0.5, 0.5])
    with pytest.raises(AdapterError, match=r"c: model.layers.0.self_attn.q_proj has 32 x 16 weights, and 32 x 24"):
        average_adapters([first, _adapter(tmp_path / "c", 2, width=16)], [0.5, 0.5])


def test_the_command_writes_an_adapter_and_refuses_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate("ab"):
        _adapter(tmp_path / name, seed)
    folders = [str(tmp_path / name) for name in "ab"]
    output = str(tmp_path / "mean")
    assert main(["average", *folders, "--output", output, "--rank", "6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rank"] == 6
    assert 0 < result["error"] < 1
    assert open_adapter(Path(output)).config.r == 6
    for words, message in (
        ([*folders, "--output", output], "holds an adapter already"),
        ([*folders, "--output", str(tmp_path)], "holds a already"),
        ([folders[0], "--output", str(tmp_path / "x")], "a mean needs two or more"),
        ([folders[0], f"{tmp_path}/b/../a", "--output", str(tmp_path / "x")], "a folder is named twice"),
        ([*folders, "--output", str(tmp_path / "x"), "--weights", "1"], "1 numbers for 2 adapters"),
        ([*folders, "--output", str(tmp_path / "x"), "--rank", "-1"], "allowed: 0 (exact) or more"),
    ):
        assert main(["average", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["average", *folders, "--output", f"{tmp_path}/the mean"]) == 0
    base = open_adapter(Path(output)).config.base_model_name_or_path
    assert shlex.split(capsys.readouterr().out.partition("passport: ")[2]) == [
        *("lorica", "passport", f"{tmp_path}/the mean", "--base", base, "task=TASK")
    ]
