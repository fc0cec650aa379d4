"""Folders of other tools are named as what they are, with what can be done; PEFT's advice is not given for them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.vetting.numbers_fixtures import healthy, write
from tests.vetting.specimens import codes

from lorica.adapters.folder import open_adapter
from lorica.adapters.methods import FORMATS
from lorica.errors import AdapterError
from lorica.vetting.batch import examine_all
from lorica.vetting.files.sources import find_sources
from lorica.vetting.levels import Examination

PICKLE = b"\x80\x02}q\x00."
MLX = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 4, "scale": 20.0}, "model": "mlx/Llama"}
OLD_MLX = {"lora_layers": 16, "lora_parameters": {"rank": 4}, "model": "mlx/Llama"}
HUB: dict[str, Any] = {
    "config": {"architecture": "lora", "r": 8}, "hidden_size": 768, "model_class": "BertModel", "name": "sst",
    "model_name": "bert-base-uncased", "model_type": "bert", "version": "0.1.0",
}  # fmt: skip
Q = "model.layers.0.self_attn.q_proj"
UNET = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def names(*stems: str, ends: str) -> list[str]:
    return [f"{stem}{end}" for stem in stems for end in ends.split()]


KOHYA = names("lora_unet_down_0_to_q", "lora_te_0_q_proj", ends=".lora_down.weight .lora_up.weight")
LORA_AB, DOWN_UP = ".lora_A.weight .lora_B.weight", ".down.weight .up.weight"
OF_MLX = names(Q, ends=".lora_a .lora_b")
OF_DIFFUSERS = "pytorch_lora_weights.safetensors"
OF_TUNE = names("layers.0.attn.q_proj", ends=".lora_a.weight .lora_b.weight")
OF_HUB = ["bert.encoder.layer.0.output.adapters.sst.adapter_down.0.weight"]
TEXT = "text_encoder.layers.0.self_attn.q_proj"
# key, files (tensor names, or None for one that is no safetensors), config
TOOLS: dict[str, tuple[str, Mapping[str, list[str] | None], Mapping[str, Any] | None]] = {
    "mlx": ("mlx", {"adapters.safetensors": OF_MLX}, MLX),
    "mlx with steps": (
        "mlx",
        dict.fromkeys(("adapters.safetensors", "0000100_adapters.safetensors"), OF_MLX),
        MLX,
    ),
    "mlx, steps only": ("mlx", {f"{n:07}_adapters.safetensors": OF_MLX for n in (1, 2)}, MLX),
    "mlx without a config": ("mlx", {"adapters.safetensors": OF_MLX}, None),
    "old mlx": ("mlx", {"adapters.npz": None}, OLD_MLX),
    "old mlx without a config": ("mlx", {"adapters.npz": None}, None),
    "mlx under PEFT's name": ("mlx", {"adapter_model.safetensors": OF_MLX}, None),
    "torchtune": ("torchtune", {"adapter_0.safetensors": OF_TUNE}, None),
    "adapterhub": (
        "adapterhub",
        dict.fromkeys(("pytorch_adapter.bin", "head_config.json", "pytorch_model_head.bin")),
        HUB,
    ),
    "adapterhub, named config": ("adapterhub", {"pytorch_adapter.bin": None}, HUB | {"config": "pfeiffer"}),
    "adapterhub as safetensors": ("adapterhub", {"adapter.safetensors": OF_HUB}, HUB),
    "adapterhub without a config": ("adapterhub", {"pytorch_adapter.bin": None}, None),
    "diffusers, old": ("diffusers", {OF_DIFFUSERS: names(f"{UNET}.to_q.lora", ends=DOWN_UP)}, None),
    "diffusers, processors": ("diffusers", {OF_DIFFUSERS: names(f"{UNET}.processor.to_q_lora", ends=DOWN_UP)}, None),
    "diffusers, text": ("diffusers", {"x.safetensors": names(f"{TEXT}.lora_linear_layer", ends=DOWN_UP)}, None),
    "diffusers of today": ("diffusers", {OF_DIFFUSERS: names(f"{UNET}.to_q", TEXT, ends=LORA_AB)}, None),
    "flux": (
        "diffusers",
        {"flux.safetensors": names("transformer.transformer_blocks.0.attn.to_q", ends=LORA_AB)},
        None,
    ),
    "comfy": ("diffusers", {"wan.safetensors": names("diffusion_model.blocks.0.self_attn.q", ends=LORA_AB)}, None),
    "diffusers' pickle": ("diffusers", {"pytorch_lora_weights.bin": None}, None),
    "kohya": ("kohya", {"style.safetensors": KOHYA}, None),
    "kohya under PEFT's name": ("kohya", {"adapter_model.safetensors": KOHYA}, None),
    "lycoris": ("kohya", {"a.safetensors": names("lycoris_blocks_0_to_q", ends=".lokr_w1 .lokr_w2")}, None),
}


def make(folder: Path, files: Mapping[str, list[str] | None], config: Mapping[str, Any] | None) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for name, tensors in files.items():
        if tensors is not None:
            values = {key: draw.standard_normal((8, 8)).astype(np.float32) for key in tensors}
            save_file(values, folder / name)
        elif name.endswith(".npz"):
            np.savez(folder / name, x=np.ones(4))
        else:
            (folder / name).write_bytes(b"{}" if name.endswith(".json") else PICKLE)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def check(place: Path) -> Examination:
    with ExitStack() as stack:
        (found,) = examine_all(find_sources([place]), stack)
    return found


@pytest.mark.parametrize("name", TOOLS)
def test_a_tools_folder_is_named(name: str, tmp_path: Path) -> None:
    key, files, config = TOOLS[name]
    found = check(make(tmp_path / "x", files, config))
    (hit,) = [each for each in found.findings if each.code == "L102"]
    assert hit.facts["method"] == key
    assert hit.fix
    assert codes(found.findings, "reject") == ["L102"]
    assert (found.verdict.status, found.verdict.levels[1]) == ("rejected", "failed")
    assert found.profile.method == hit.title or found.profile.method  # the table says what it is
    assert not {"L156", "L104"} & set(codes(found.findings))


def test_what_can_be_done_with_mlx_is_said(tmp_path: Path) -> None:
    found = check(make(tmp_path / "x", *TOOLS["mlx"][1:]))
    (hit,) = [each for each in found.findings if each.code == "L102"]
    assert "lorica convert" in hit.fix
    assert (found.profile.base, found.profile.method[:3]) == ("mlx/Llama", "MLX")
    whole = check(make(tmp_path / "y", {"adapters.safetensors": [f"{Q}.weight"]}, MLX | {"fine_tune_type": "full"}))
    (hit,) = [each for each in whole.findings if each.code == "L102"]
    assert "lorica convert" not in hit.fix
    assert "whole model" in hit.seen


@pytest.mark.parametrize("name", ["mlx", "old mlx", "adapterhub", "kohya"])
def test_in_an_archive_too(name: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "x", *TOOLS[name][1:])
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"x/{path.name}")
    assert codes(check(tmp_path / "x.zip").findings, "reject") == ["L102"]


def test_a_single_file_of_mlx(tmp_path: Path) -> None:
    folder = make(tmp_path / "x", *TOOLS["old mlx without a config"][1:])
    assert codes(check(folder / "adapters.npz").findings, "reject") == ["L102"]


def peft(folder: Path, files: tuple[str, ...], **config: Any) -> Path:
    """A folder of PEFT with its weights under these names."""
    write(folder, healthy(layers=2))
    raw = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").unlink()
    for name in files:
        (folder / name).write_bytes(raw if name.endswith("safetensors") else PICKLE)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | config), "utf-8")
    return folder


SIDE_BY_SIDE: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "safetensors and pickle": (("adapter_model.safetensors", "adapter_model.bin"), []),
    "two safetensors": (("adapter_model.safetensors", "other.safetensors"), []),
    "none of the right name": (("a.safetensors", "b.safetensors"), ["L017"]),
    "both begin with adapter": (("adapter_a.safetensors", "adapter_b.safetensors"), ["L017"]),
    "a twin pickle": (("lora.safetensors", "lora.bin"), ["L005"]),
    "what training leaves": (("lora.safetensors", "training_args.bin", "optimizer.pt"), ["L005"]),
    "PEFT's, named as MLX's": (("adapters.safetensors",), ["L005"]),
    "PEFT's, named as AdapterHub's": (("adapter.safetensors",), ["L005"]),
}


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
@pytest.mark.parametrize("with_config", [True, False])
def test_weights_side_by_side(name: str, with_config: bool, tmp_path: Path) -> None:
    files, expected = SIDE_BY_SIDE[name]
    folder = peft(tmp_path / "x", files)
    if not with_config:
        (folder / "adapter_config.json").unlink()
        (folder / "adapter_model.md").write_text("so that the folder is one adapter")
    found = check(folder)
    assert codes(found.findings, "reject") == sorted([*expected, *([] if with_config else ["L002"])])
    if expected == ["L017"] and with_config:  # doing what it says leads on
        (folder / files[0]).rename(folder / "adapter_model.safetensors")
        assert codes(check(folder).findings, "reject") == []


def test_an_archive_of_two_weights_without_a_config_is_not_said_to_hold_none(tmp_path: Path) -> None:
    folder = peft(tmp_path / "x", ("a.safetensors", "b.safetensors"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.safetensors", "b.safetensors"):
            archive.write(folder / name, name)
    assert codes(check(tmp_path / "x.zip").findings, "reject") == ["L002", "L017"]


@pytest.mark.parametrize("kind", ["none", "None", "null", "", " ", None, 3, "lora", "Lora"])
def test_a_peft_type_that_names_no_method(kind: object, tmp_path: Path) -> None:
    """PEFT fails for each of them."""
    folder = peft(tmp_path / "x", ("adapter_model.safetensors",), peft_type=kind)
    found = check(folder)
    assert codes(found.findings, "reject") == ["L058"]
    (hit,) = [each for each in found.findings if each.code == "L058"]
    assert '"peft_type": "LORA"' in hit.fix
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"peft_type": "LORA"}), "utf-8")
    assert codes(check(folder).findings, "reject") == []


def test_a_method_that_is_not_known_is_still_named(tmp_path: Path) -> None:
    found = check(peft(tmp_path / "x", ("adapter_model.safetensors",), peft_type="NEWLORA"))
    assert "L058" not in codes(found.findings)
    assert "L103" in codes(found.findings, "reject")


@pytest.mark.parametrize("name", ["mlx", "old mlx", "adapterhub", "mlx under PEFT's name"])
def test_an_engine_that_is_given_one_says_so_too(name: str, tmp_path: Path) -> None:
    key, files, config = TOOLS[name]
    folder = make(tmp_path / "x", files, config or MLX)
    with pytest.raises(AdapterError) as caught:
        open_adapter(folder)
    assert FORMATS[key].title in caught.value.message
    assert caught.value.fix == FORMATS[key].reader


def test_of_numbered_files_none_is_preferred(tmp_path: Path) -> None:
    """adapter_0 and adapter_1, in PEFT's names: to rename the first would be a guess."""
    write(tmp_path / "x", healthy())
    weights = tmp_path / "x" / "adapter_model.safetensors"
    for number in (0, 1):
        (tmp_path / "x" / f"adapter_{number}.safetensors").write_bytes(weights.read_bytes())
    weights.unlink()
    (hit,) = [each for each in check(tmp_path / "x").findings if each.severity == "reject"]
    assert (hit.code, "adapter_1" in hit.seen) == ("L017", True)


def test_gguf_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "lora-f16.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    with pytest.raises(AdapterError, match="GGUF") as caught:
        find_sources([folder])
    assert "converted from" in (caught.value.fix or "")
    found = check(folder / "lora-f16.gguf")
    assert codes(found.findings, "reject") == ["L011"]  # to look for its config would lead nowhere


def test_a_base_that_another_tools_config_names_otherwise_is_not_missed(tmp_path: Path) -> None:
    """mlx-vlm's adapter_config.json holds three numbers."""
    vlm = make(tmp_path / "x", {"adapters.safetensors": OF_MLX}, {"rank": 8, "alpha": 0.1, "dropout": 0.0})
    assert not {"L156", "L058"} & set(codes(check(vlm).findings))
