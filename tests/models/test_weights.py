"""Every way a folder of weights can be wrong gives one ModelError with a way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from lorica.errors import ModelError  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tiny: Callable[[str], Any], tmp_path: Path) -> Path:
    """A whole copy of a tiny model, one file."""
    return Path(shutil.copytree(tiny("llama").folder, tmp_path / "model"))


@pytest.fixture
def sharded(folder: Path) -> Path:
    """The same in two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    placed = {}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / shard)
        placed.update(dict.fromkeys(names, shard))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}), "utf-8")
    return folder


def change(folder: Path, changes: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    changes(tensors)
    save_file(tensors, folder / "model.safetensors")


def refused(folder: Path, said: str, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_decoder(BaseFolder(folder), **options)
    assert said in caught.value.message, caught.value.message
    assert caught.value.fix
    return caught.value


def test_a_whole_sharded_folder_loads(sharded: Path) -> None:
    assert load_decoder(BaseFolder(sharded)).config.layers == 3


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors: not found")


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    refused(sharded, "model-00002-of-00002.safetensors: not found (1 of 2 weight files missing)")


def test_a_shard_missing_from_the_index_is_missed_by_its_weights(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text("utf-8"))
    index["weight_map"] = {
        name: shard for name, shard in index["weight_map"].items() if shard.startswith("model-00001")
    }
    (sharded / INDEX).write_text(json.dumps(index), "utf-8")
    refused(sharded, "weights are missing, the first is ")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": 3}'])
def test_an_index_without_a_map(content: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(content, "utf-8")
    refused(sharded, "no weight_map")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", 7, ["a"], ""])
def test_an_index_that_points_elsewhere(name: Any, sharded: Path) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": name}}), "utf-8")
    refused(sharded, "allowed are file names of the same folder")


def test_an_index_that_is_no_json(sharded: Path) -> None:
    (sharded / INDEX).write_text("{", "utf-8")
    refused(sharded, "not valid JSON")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_never_opened(name: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x02cos\nsystem\n(S'false'\ntR.")
    assert "safetensors" in refused(folder, "pickled weights").fix


def test_a_git_lfs_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "utf-8"
    )
    assert "git lfs pull" in refused(folder, "Git LFS pointer").fix


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, -1])
def test_a_truncated_file(keep: float, folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw)) if keep == 0.5 else int(keep)])
    refused(folder, "not a whole safetensors file")


def test_a_weight_of_the_wrong_shape(folder: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change(folder, lambda tensors: tensors.update({name: torch.zeros(48, 31)}))
    refused(folder, f"{name} has shape [48, 31], config.json implies [48, 32]")


def test_a_weight_that_is_missing(folder: Path) -> None:
    change(folder, lambda tensors: tensors.pop("model.norm.weight"))
    refused(folder, "1 of 30 weights are missing, the first is model.norm.weight")


@pytest.mark.parametrize(
    "name", ["model.layers.3.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias", "score.weight"]
)
def test_a_weight_without_a_place(name: str, folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({name: torch.zeros(32)}))
    refused(folder, f"holds {name}")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.int64])
def test_a_weight_that_is_no_plain_float(dtype: Any, folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(32).to(dtype)}))
    refused(folder, f"model.norm.weight is stored as {str(dtype).removeprefix('torch.')}")


def test_a_weight_in_two_shards(sharded: Path) -> None:
    path = sharded / "model-00002-of-00002.safetensors"
    tensors = load_file(sharded / "model-00001-of-00002.safetensors")
    name = sorted(tensors)[0]
    save_file({**load_file(path), name: tensors[name]}, path)
    refused(sharded, f"{name} is in two shards")


def test_derived_tensors_of_old_checkpoints_are_ignored(folder: Path, tiny: Callable[[str], Any]) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(folder, lambda tensors: tensors.update({name: torch.zeros(4)}))
    loaded, whole = load_decoder(BaseFolder(folder)).state_dict(), tiny("llama").decoder.state_dict()
    assert loaded.keys() == whole.keys()
    assert all(torch.equal(loaded[name], whole[name]) for name in whole)


def test_a_copy_of_a_tied_head_is_ignored(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("qwen2").folder, tmp_path / "model"))
    change(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    decoder = load_decoder(BaseFolder(folder))
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight
    assert decoder.lm_head.weight.abs().sum() > 0


def test_another_head_of_a_tied_model_is_refused_and_the_advice_leads_on(
    tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = Path(shutil.copytree(tiny("qwen2").folder, tmp_path / "model"))
    change(folder, lambda tensors: tensors.update({"lm_head.weight": torch.ones(67, 32)}))
    error = refused(folder, "lm_head.weight is another than model.embed_tokens.weight")
    assert "tie_word_embeddings to false" in error.fix
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}), "utf-8")
    assert torch.equal(load_decoder(BaseFolder(folder)).lm_head.weight, reference.lm_head.weight)


def test_a_tied_model_saved_with_its_head_alone_loads(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny("qwen2").folder, tmp_path / "model"))
    change(folder, lambda tensors: tensors.update({"lm_head.weight": tensors.pop("model.embed_tokens.weight")}))
    decoder = load_decoder(BaseFolder(folder))
    assert torch.equal(decoder.model.embed_tokens.weight, tiny("qwen2").decoder.model.embed_tokens.weight)
    assert decoder.lm_head.weight is decoder.model.embed_tokens.weight


def test_a_missing_head_alone_and_an_adapter_inside_have_advice_of_their_own(
    tiny: Callable[[str], Any], folder: Path, tmp_path: Path
) -> None:
    tied = Path(shutil.copytree(tiny("qwen2").folder, tmp_path / "tied"))
    config = json.loads((tied / "config.json").read_text("utf-8"))
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}), "utf-8")
    assert "tie_word_embeddings true" in refused(tied, "the first is lm_head.weight").fix
    name = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    change(folder, lambda tensors: tensors.update({name: torch.zeros(2, 32)}))
    assert "merge_and_unload" in refused(folder, f"holds {name}").fix


def test_an_adapter_in_the_folder_of_the_base_is_refused(folder: Path) -> None:
    # transformers with PEFT makes it part of the base without a word.
    (folder / "adapter_config.json").write_text("{}", "utf-8")
    assert "folder of their own" in refused(folder, "an adapter in the folder of a base model").fix


def test_mixed_precisions_become_those_of_the_embedding(folder: Path) -> None:
    def widen_norms(tensors: dict[str, Any]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(torch.float32 if "norm" in name else torch.bfloat16)

    change(folder, widen_norms)
    assert {each.dtype for each in load_decoder(BaseFolder(folder)).parameters()} == {torch.bfloat16}


def test_a_device_that_is_not_there(folder: Path) -> None:
    refused(folder, "device 'gpu' is none that torch knows", device="gpu")
    refused(folder, f"this machine has {torch.cuda.device_count()} CUDA devices", device="cuda:99")


def test_the_weights_need_no_gradient(folder: Path) -> None:
    decoder = load_decoder(BaseFolder(folder))
    assert not decoder.training
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
    assert not any(parameter.is_meta for parameter in decoder.parameters())


def test_weights_that_a_file_overwrites_are_not_drawn_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing them on the meta device imported torch's compiler: most of the seconds a start took.
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("drew a table that is loaded")

    monkeypatch.setattr(torch.nn.init, "normal_", forbidden)
    load_decoder(BaseFolder(folder))
