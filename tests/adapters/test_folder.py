"""Adapter folders, with PEFT as the other side of every exchange."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import open_adapter, read_tensor, save_adapter
from lorica.adapters.header import read_header
from lorica.errors import AdapterError

# transformers 5 warns about its own property when PEFT reads it.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def pair(module: str, rank: int, seed: int = 0, width: int = 16) -> Tensors:
    random = np.random.default_rng(seed)
    a = random.normal(size=(rank, width)).astype("<f4")
    b = random.normal(size=(width, rank)).astype("<f4")
    return {
        f"base_model.model.{module}.lora_A.weight": ("F32", a.shape, a.tobytes()),
        f"base_model.model.{module}.lora_B.weight": ("F32", b.shape, b.tobytes()),
    }


CONFIG = AdapterConfig(r=4, lora_alpha=8, target_modules=["q_proj"])


def test_saving_twice_gives_identical_bytes(tmp_path: Path) -> None:
    tensors = pair(Q0, 4, 0) | pair(Q1, 4, 1)
    save_adapter(tmp_path / "a", CONFIG, tensors, extra_files={"README.md": b"hello"})
    save_adapter(tmp_path / "b", CONFIG, dict(reversed(tensors.items())), extra_files={"README.md": b"hello"})
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert open_adapter(tmp_path / "a").digest == open_adapter(tmp_path / "b").digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    tensors = pair(Q0, 4)
    save_adapter(tmp_path / "a", CONFIG, tensors)
    folder = open_adapter(tmp_path / "a")
    assert folder.config == CONFIG
    assert folder.modules() == [Q0]
    for name, (dtype, shape, raw) in tensors.items():
        assert (folder.tensors[name].dtype, folder.tensors[name].shape) == (dtype, shape)
        assert read_tensor(folder, name) == raw
    with pytest.raises(AdapterError, match="holds no tensor"):
        read_tensor(folder, "x")


def test_replacing_an_adapter_keeps_other_files_and_changes_the_digest(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", CONFIG, pair(Q0, 4, 0))
    before = open_adapter(tmp_path / "a").digest
    (tmp_path / "a" / "log.jsonl").write_text("kept")
    save_adapter(tmp_path / "a", CONFIG, pair(Q0, 4, 1))
    assert open_adapter(tmp_path / "a").digest != before
    assert (tmp_path / "a" / "log.jsonl").read_text() == "kept"


def test_an_interrupted_replacement_leaves_no_half_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_adapter(tmp_path / "a", CONFIG, pair(Q0, 4, 0))

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lorica.adapters.folder.os.replace", broken)
    with pytest.raises(AdapterError, match="No space left"):
        save_adapter(tmp_path / "a", CONFIG, pair(Q0, 4, 1))
    with pytest.raises(AdapterError, match=r"holds no adapter_config\.json"):
        open_adapter(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_shrank_since_it_was_opened(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", CONFIG, pair(Q0, 4))
    folder = open_adapter(tmp_path / "a")
    folder.weights.write_bytes(folder.weights.read_bytes()[:-8])
    with pytest.raises(AdapterError, match="changed while it was in use"):
        read_tensor(folder, f"base_model.model.{Q0}.lora_B.weight")


@pytest.mark.parametrize("name", ["", "..", "a/b", "adapter_config.json"])
def test_extra_files_are_plain_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="extra file"):
        save_adapter(tmp_path / "a", CONFIG, pair(Q0, 4), extra_files={name: b""})


def half(part: str) -> Tensors:
    return {name: value for name, value in pair(Q0, 4).items() if part in name}


def floats(shape: tuple[int, ...]) -> tuple[str, tuple[int, ...], bytes]:
    return "F32", shape, np.zeros(shape, "<f4").tobytes()


A, B = (f"base_model.model.{Q0}.lora_{side}.weight" for side in "AB")
CONTRADICTIONS: dict[str, tuple[Tensors, str]] = {
    "no tensors": ({}, "holds no tensors"),
    "A alone": (half("lora_A"), "has lora_A and no lora_B"),
    "B alone": (half("lora_B"), "has lora_B and no lora_A"),
    "ranks of the halves": ({A: floats((4, 16)), B: floats((16, 3))}, "lora_A has rank 4, lora_B has rank 3"),
    "rank against config": (pair(Q0, 8), r"has rank 8, adapter_config.json says 4"),
    "three dimensions": ({A: floats((4, 4, 4)), B: floats((16, 4))}, "two dimensions"),
    "no width": ({A: floats((4, 0)), B: floats((16, 4))}, "two dimensions"),
    "int8": ({A: ("I8", (4, 16), bytes(64)), B: floats((16, 4))}, "stored as I8"),
    "outside the targets": (pair("model.layers.0.self_attn.v_proj", 4), "does not target it"),
    "magnitude": (
        pair(Q0, 4) | {f"base_model.model.{Q0}.lora_magnitude_vector": floats((16,))},
        "DoRA",
    ),
    "whole layer": (pair(Q0, 4) | {"base_model.model.lm_head.weight": floats((4, 4))}, "whole parameter"),
    "embedding": ({"base_model.model.model.wte.lora_embedding_A": floats((4, 9))}, "embedding is adapted"),
    "two adapters": (
        pair(Q0, 4) | {A.replace("weight", "second.weight"): floats((4, 16))},
        "has lora_A twice",
    ),
    "foreign name": ({"layers.0.lora_a": floats((4, 16))}, "MLX"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_neither_written_nor_read(case: str, tmp_path: Path) -> None:
    tensors, reason = CONTRADICTIONS[case]
    with pytest.raises(AdapterError, match=reason):
        save_adapter(tmp_path / "a", CONFIG, tensors)
    assert not (tmp_path / "a").exists()
    # The same tensors, written by the library, are refused when they are opened.
    from safetensors.numpy import save_file

    kinds = {"F32": "<f4", "I8": "i1"}
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(CONFIG.to_json())
    arrays = {n: np.frombuffer(raw, kinds[dtype]).reshape(shape) for n, (dtype, shape, raw) in tensors.items()}
    save_file(arrays, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=reason):
        open_adapter(folder)


def test_wrong_byte_count_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="bytes are not F32"):
        save_adapter(tmp_path / "a", CONFIG, {A: ("F32", (4, 16), bytes(8)), B: floats((16, 4))})


def missing_folder(path: Path) -> Path:
    return path / "nowhere"


def a_file(path: Path) -> Path:
    return path / "adapter_model.safetensors"


def without_config(path: Path) -> Path:
    (path / "adapter_config.json").unlink()
    return path


def one_level_up(path: Path) -> Path:
    return path.parent


def without_weights(path: Path) -> Path:
    (path / "adapter_model.safetensors").unlink()
    return path


def pickled(path: Path) -> Path:
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    return path


def pointer(path: Path) -> Path:
    (path / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid")
    return path


def dora(path: Path) -> Path:
    (path / "adapter_config.json").write_bytes(AdapterConfig(r=4, target_modules=["q_proj"], use_dora=True).to_json())
    return path


def ia3(path: Path) -> Path:
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    return path


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (missing_folder, "no such folder"),
        (a_file, "is a file"),
        (without_config, r"holds no adapter_config\.json"),
        (one_level_up, "did you mean .*a"),
        (without_weights, r"holds no adapter_model\.safetensors"),
        (pickled, "pickle, which can run any code"),
        (pointer, "git lfs pull"),
        (dora, "use_dora"),
        (ia3, "is a IA3 adapter"),
    ],
)
def test_broken_folders_are_refused(breaks: Any, reason: str, tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", CONFIG, pair(Q0, 4))
    with pytest.raises(AdapterError, match=reason):
        open_adapter(breaks(tmp_path / "a"))


def tiny_llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).eval()  # fmt: skip


PEFT_CASES = {
    "plain": AdapterConfig(r=4, lora_alpha=8, target_modules=["q_proj"]),
    "rslora": AdapterConfig(r=4, lora_alpha=8, target_modules=["q_proj"], use_rslora=True),
    "patterns": AdapterConfig(
        r=4, lora_alpha=8, target_modules=["q_proj"], rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"^model.layers.0.self_attn.q_proj": 32},
    ),
    "one layer": AdapterConfig(r=4, lora_alpha=8, target_modules=["q_proj"], layers_to_transform=[1]),
}  # fmt: skip


@pytest.mark.parametrize("case", PEFT_CASES)
def test_peft_loads_what_was_saved_and_applies_the_same_update(case: str, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    config = PEFT_CASES[case]
    modules = [module for module in (Q0, Q1) if config.targets(module)]
    tensors = {
        name: value for n, module in enumerate(modules) for name, value in pair(module, config.rank(module), n).items()
    }
    save_adapter(tmp_path / "a", config, tensors)
    base = tiny_llama()
    before = {module: base.get_submodule(module).weight.detach().clone() for module in (Q0, Q1)}
    model = PeftModel.from_pretrained(base, tmp_path / "a").merge_and_unload()
    for module in (Q0, Q1):
        update = (model.get_submodule(module).weight.detach() - before[module]).numpy()
        expected = np.zeros((16, 16), np.float32)
        if module in modules:
            a, b = (np.frombuffer(tensors[f"base_model.model.{module}.lora_{side}.weight"][2], "<f4") for side in "AB")
            rank = config.rank(module)
            expected = config.scaling(module) * (b.reshape(16, rank) @ a.reshape(rank, 16))
        np.testing.assert_allclose(update, expected, atol=1e-5)
    assert torch.is_tensor(before[Q0])


def test_what_peft_saves_is_opened(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2},
        task_type="CAUSAL_LM", use_rslora=False,
    )  # fmt: skip
    model = get_peft_model(tiny_llama(), config)
    model.save_pretrained(tmp_path / "a")
    folder = open_adapter(tmp_path / "a")
    assert folder.modules() == sorted(
        f"model.layers.{n}.{name}" for n in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")
    )
    assert folder.config.rank("model.layers.0.mlp.down_proj") == 2
    state = model.state_dict()
    for name in folder.tensors:
        theirs = state[name.replace(".weight", ".default.weight")].numpy()
        assert read_tensor(folder, name) == theirs.tobytes()
    # Saving PEFT's own tensors again changes nothing about them.
    again = {name: (info.dtype, info.shape, read_tensor(folder, name)) for name, info in folder.tensors.items()}
    save_adapter(tmp_path / "b", folder.config, again)
    assert open_adapter(tmp_path / "b").config == folder.config
    assert read_header(tmp_path / "b" / "adapter_model.safetensors").metadata == {"format": "pt"}
