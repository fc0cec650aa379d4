"""MLX's adapters as PEFT's: the same update, computed by numpy on its own, and what PEFT itself makes of the folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorica.adapters.convert import read_foreign, write_converted
from lorica.adapters.folder import WEIGHTS_NAME, open_adapter
from lorica.adapters.mlx import read_npz
from lorica.adapters.stored_tensors import read_stored
from lorica.errors import AdapterError

HIDDEN, RANK = 16, 4
CONFIG: dict[str, Any] = {
    "fine_tune_type": "lora", "num_layers": 2, "model": "mlx-community/Tiny-4bit",
    "lora_parameters": {"rank": RANK, "scale": 20.0, "dropout": 0.05},
}  # fmt: skip
Arrays = dict[str, Any]


def arrays(*paths: str, dora: bool = False, dtype: str = "float32") -> Arrays:
    draw = np.random.default_rng(3)
    made = {}
    for path in paths or [f"model.layers.{n}.self_attn.{kind}_proj" for n in (0, 1) for kind in "qv"]:
        out = HIDDEN // 2 if path.endswith("v_proj") else HIDDEN
        made[f"{path}.lora_a"] = draw.standard_normal((HIDDEN, RANK)).astype(dtype)
        made[f"{path}.lora_b"] = draw.standard_normal((RANK, out)).astype(dtype) / 50
        if dora:
            made[f"{path}.m"] = draw.uniform(0.5, 2, out).astype(dtype)
    return made


def convert(folder: Path, tensors: Arrays, config: dict[str, Any] | None, *, npz: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    name = "adapters.npz" if npz else "adapters.safetensors"
    if npz:
        np.savez(folder / name, **tensors)
    else:
        save_file(tensors, folder / name)
    raw = None if config is None else json.dumps(config).encode()
    output = folder.parent / "out"
    write_converted(read_foreign(folder / name, raw), output, {})
    return output


def updates(output: Path) -> Arrays:
    """scaling * B A of each module, from the files alone."""
    config = json.loads((output / "adapter_config.json").read_text())
    tensors = load_file(output / WEIGHTS_NAME)
    made = {}
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[name.replace("lora_A", "lora_B")]
            made[path] = config["lora_alpha"] / config["r"] * (b.astype(np.float64) @ a.astype(np.float64))
    return made


@pytest.mark.parametrize("npz", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("scale", [20.0, 0.1, 3])
def test_the_update_is_the_same(npz: bool, dtype: str, scale: float, tmp_path: Path) -> None:
    given = arrays(dtype=dtype)
    config = CONFIG | {"lora_parameters": {"rank": RANK, "scale": scale}}
    output = convert(tmp_path / "mlx", given, config, npz=npz)
    found = updates(output)
    assert len(found) == 4
    for path, update in found.items():
        a, b = (given[f"{path}.lora_{part}"].astype(np.float64) for part in "ab")
        np.testing.assert_allclose(update, (scale * b.T) @ a.T, rtol=1e-12)
    opened = open_adapter(output)
    assert (opened.config.r, opened.config.base_model_name_or_path) == (RANK, "mlx-community/Tiny-4bit")
    assert opened.config.target_modules == ["self_attn.q_proj", "self_attn.v_proj"]
    assert opened.config.layers_to_transform is None


def bfloat16(values: Any) -> Any:
    """The upper halves of float32, as MLX writes them into an npz: two bytes of no kind."""
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2").view("V2")


def test_bfloat16_of_an_npz_keeps_its_bits(tmp_path: Path) -> None:
    given = {name: bfloat16(values) for name, values in arrays().items()}
    output = convert(tmp_path / "mlx", given, CONFIG, npz=True)
    from safetensors import safe_open

    with safe_open(output / WEIGHTS_NAME, "pt") as file:
        found = file.get_tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    import torch

    bits = given["model.layers.0.self_attn.q_proj.lora_a"].view("<u2").T
    assert found.dtype == torch.bfloat16
    assert np.array_equal(found.view(torch.uint16).numpy(), bits)


def test_an_array_in_the_other_order(tmp_path: Path) -> None:
    given = arrays()
    turned = {name: np.asfortranarray(values) for name, values in given.items()}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    output = convert(tmp_path / "a" / "mlx", turned, CONFIG, npz=True)
    other = convert(tmp_path / "b" / "mlx", given, CONFIG)
    assert (output / WEIGHTS_NAME).read_bytes() == (other / WEIGHTS_NAME).read_bytes()


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_what_peft_makes_of_it(dora: bool, tmp_path: Path) -> None:
    """mlx_lm's own formulas on the base's weights, against the model that PEFT merges."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": HIDDEN, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=3, **shape)).eval()
    before = {name: values.double().numpy().copy() for name, values in base.state_dict().items()}
    paths = [f"model.layers.{n}.{kind}" for n in (1, 2) for kind in ("self_attn.q_proj", "self_attn.v_proj")]
    given = arrays(*paths, dora=dora)
    output = convert(tmp_path / "mlx", given, CONFIG | {"fine_tune_type": "dora" if dora else "lora"})
    assert open_adapter(output, applied=["use_dora"]).config.layers_to_transform == [1, 2]
    merged = peft.PeftModel.from_pretrained(base, output).merge_and_unload().state_dict()
    for name, values in merged.items():
        weight, path = before[name], name.removesuffix(".weight")
        if path in paths:
            weight = weight + 20.0 * given[f"{path}.lora_b"].astype(np.float64).T @ given[f"{path}.lora_a"].T
            if dora:
                weight = (given[f"{path}.m"] / np.linalg.norm(weight, axis=1))[:, None] * weight
        np.testing.assert_allclose(values.double().numpy(), weight, atol=2e-6)


def changed(**parts: Any) -> dict[str, Any]:
    return CONFIG | {"lora_parameters": CONFIG["lora_parameters"] | parts}


def without(key: str) -> dict[str, Any]:
    return CONFIG | {"lora_parameters": {k: v for k, v in CONFIG["lora_parameters"].items() if k != key}}


Q = "model.layers.0.self_attn.q_proj"
REFUSED: dict[str, tuple[Arrays, dict[str, Any] | None, str]] = {
    "no config": (arrays(), None, "the scale of the update"),
    "no scale": (arrays(), without("scale"), "no scale above 0"),
    "a scale of text": (arrays(), changed(scale="20"), "no scale above 0"),
    "a scale of 0": (arrays(), changed(scale=0), "no scale above 0"),
    "a scale beyond any": (arrays(), changed(scale=1e300), "up to 10000"),
    "a dropout of text": (arrays(), changed(dropout="x"), "dropout"),
    "another rank": (arrays(), changed(rank=8), "rank 4"),
    "a whole model": ({f"{Q}.weight": np.ones((4, 4))}, CONFIG | {"fine_tune_type": "full"}, "whole model"),
    "a bias beside": (arrays() | {f"{Q}.linear.bias": np.ones(4)}, CONFIG, "no factor of LoRA"),
    "half a pair": ({f"{Q}.lora_a": np.ones((4, 2))}, changed(rank=2), "has no lora_b"),
    "ranks that differ": (arrays() | {f"{Q}.lora_a": np.ones((4, 2)), f"{Q}.lora_b": np.ones((2, 4))}, CONFIG, "ranks"),
    "halves that differ": (arrays() | {f"{Q}.lora_a": np.ones((4, 2))}, CONFIG, "do not belong together"),
    "experts": (arrays() | {f"{Q}.lora_a": np.ones((2, 4, 4))}, CONFIG, "experts"),
    "an embedding": (arrays("model.embed_tokens", Q), CONFIG, "embedding"),
    "other names": (arrays("model.h.0.attn.c_attn"), CONFIG, "not called so by transformers"),
    "a model of images": (arrays(f"language_model.{Q}"), CONFIG, "not called so by transformers"),
    "magnitudes without dora": (arrays(dora=True), CONFIG, "DoRA's m"),
    "dora without magnitudes": (arrays(), CONFIG | {"fine_tune_type": "dora"}, "DoRA's m"),
    "an old alpha": (
        arrays(),
        {"lora_layers": 16, "lora_parameters": {"rank": 4, "alpha": 16.0, "scale": 10.0}},
        "alpha 16.0 beside scale 10",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_peft_cannot_say_is_refused_by_name(name: str, tmp_path: Path) -> None:
    tensors, config, said = REFUSED[name]
    with pytest.raises(AdapterError, match=re.escape(said)) as caught:
        convert(tmp_path / "mlx", tensors, config)
    assert caught.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"model": "BASE", "lora_parameters": {"scale": 20.0}}, 20.0),  # as the advice writes it
        ({"lora_layers": 16, "lora_parameters": {"rank": 4, "alpha": 4, "scale": 10.0}}, 10.0),
        ({"lora_layers": 16, "lora_parameters": {"rank": 4, "scale": 40.0}}, 40.0),  # as the advice of an alpha says
        (CONFIG | {"lora_parameters": {"rank": 4, "alpha": 16, "scale": 10.0}}, 10.0),  # an alpha that did nothing
    ],
)
def test_what_the_scale_is(config: dict[str, Any], scaling: float, tmp_path: Path) -> None:
    made = open_adapter(convert(tmp_path / "mlx", arrays(), config)).config
    assert made.scaling(Q) == scaling


def test_modules_that_differ_between_layers_are_named_in_full(tmp_path: Path) -> None:
    paths = [Q, "model.layers.1.mlp.up_proj", "lm_head"]
    made = open_adapter(convert(tmp_path / "mlx", arrays(*paths), CONFIG)).config
    assert made.target_modules == sorted(paths)
    assert made.layers_to_transform is None


@pytest.mark.filterwarnings("ignore::UserWarning")  # numpy looks for marks of Python 2 in what it cannot read
def test_headers_that_are_damaged(tmp_path: Path) -> None:
    """300 of numpy's headers, spoilt: refused, or read as numpy reads them."""
    import io
    import random
    import zipfile

    draw, path, refused = random.Random(4), tmp_path / "adapters.npz", 0
    for _ in range(300):
        with zipfile.ZipFile(path, "w") as archive:
            for name, values in arrays(Q).items():
                file = io.BytesIO()
                np.save(file, values)
                raw = bytearray(file.getvalue())
                for _ in range(draw.randint(0, 2)):
                    at = draw.randrange(128)
                    raw[at : at + draw.randint(0, 1)] = draw.choice(
                        (b"(", b"9" * 20, b"-", b"{", b"'", b"x()", b"1", b"")
                    )
                archive.writestr(f"{name}.npy", bytes(raw))
        try:
            tensors = read_npz(path)
        except AdapterError:
            refused += 1
            continue
        with np.load(path) as expected, path.open("rb") as opened:
            for name, tensor in tensors.items():
                assert read_stored(opened, path, tensor) == expected[name].tobytes()
    assert 100 < refused < 300


@pytest.mark.parametrize("name", ["objects", "packed", "cut", "float64 beside int"])
def test_arrays_that_are_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "adapters.npz"
    if name == "objects":
        np.savez(path, x=np.array([{"a": 1}], dtype=object))
    elif name == "packed":
        np.savez_compressed(path, **arrays())
    else:
        np.savez(path, x=np.ones(4, np.int64), y=np.ones(4))
        if name == "cut":
            path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(AdapterError, match=r"object|is compressed|damaged|int64"):
        read_foreign(path, json.dumps(CONFIG).encode())
