"""GPTQ and AWQ checkpoints, packed here number by number as their formats say, against the plain weights they hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from lorica.errors import ModelError  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402

Numbers = NDArray[np.int64]


def words(rows: list[list[int]], bits: int) -> Any:
    """Each list is one word, the lowest bits first -> int32."""
    values = [sum(value << (bits * place) for place, value in enumerate(row)) for row in rows]
    return torch.from_numpy(np.array(values, dtype=np.uint32).view(np.int32))


def pack_down(codes: Numbers, bits: int) -> Any:
    """[in, out] -> [in / n, out]: a word holds n inputs of one output (GPTQ's qweight)."""
    n = 32 // bits
    packed = [
        words([codes[i : i + n, o].tolist() for o in range(codes.shape[1])], bits) for i in range(0, len(codes), n)
    ]
    return torch.stack(packed)


def pack_across(codes: Numbers, bits: int, order: list[int]) -> Any:
    """[in, out] -> [in, out / n]: a word holds n outputs of one input, the order[k]-th in place k."""
    n = 32 // bits
    return torch.stack([words([[row[o + k] for k in order] for o in range(0, len(row), n)], bits) for row in codes])


def packed_layer(
    method: str, bits: int, group: int, shape: tuple[int, int], seed: int, *, order: bool, v2: bool
) -> tuple[dict[str, Any], Any]:
    """The parts of a random layer, and the weight that they stand for, by the definition."""
    random = np.random.default_rng(seed)
    out, into = shape
    size = into if group == -1 else group
    groups = -(-into // size)
    codes = random.integers(0, 1 << bits, (into, out))
    zeros = random.integers(1, 1 << bits, (groups, out))
    scales = random.uniform(0.001, 0.01, (groups, out)).astype(np.float16)
    owner = random.permutation(into) // size if order else np.arange(into) // size
    weight = np.empty((out, into), dtype=np.float32)
    for i in range(into):
        for o in range(out):
            weight[o, i] = np.float32(codes[i, o] - zeros[owner[i], o]) * np.float32(scales[owner[i], o])
    parts = {"scales": torch.from_numpy(scales)}
    if method == "awq":
        awq = [0, 2, 4, 6, 1, 3, 5, 7]
        parts |= {"qweight": pack_across(codes, bits, awq), "qzeros": pack_across(zeros, bits, awq)}
    else:
        straight = list(range(32 // bits))
        parts["qweight"] = pack_down(codes, bits)
        parts["qzeros"] = pack_across(zeros if v2 else zeros - 1, bits, straight)
        parts["g_idx"] = torch.from_numpy(owner.astype(np.int32))
    return parts, torch.from_numpy(weight)


def pack_folder(
    source: Path, target: Path, shapes: dict[str, tuple[int, int]], stated: dict[str, Any], *, order: bool = False
) -> dict[str, Any]:
    """A packed copy of a model's folder; returns the plain weights it stands for."""
    shutil.copytree(source, target)
    tensors, plain = load_file(target / "model.safetensors"), {}
    for seed, (path, shape) in enumerate(shapes.items()):
        v2 = stated.get("checkpoint_format") == "gptq_v2"
        method, bits, group = stated["quant_method"], stated["bits"], stated["group_size"]
        parts, plain[f"{path}.weight"] = packed_layer(method, bits, group, shape, seed, order=order, v2=v2)
        del tensors[f"{path}.weight"]
        tensors |= {f"{path}.{name}": each for name, each in parts.items()}
        tensors.setdefault(f"{path}.bias", torch.zeros(shape[0]))
    save_file(tensors, target / "model.safetensors")
    config = json.loads((target / "config.json").read_text("utf-8"))
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": stated}), "utf-8")
    return plain


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16}


@pytest.mark.parametrize(
    ("stated", "order"),
    [
        (GPTQ, False),
        (GPTQ, True),
        (GPTQ | {"bits": 8, "group_size": -1}, False),
        (GPTQ | {"bits": 2, "checkpoint_format": "gptq_v2"}, True),
        ({"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}, False),
    ],
)
def test_packed_weights_are_restored_exactly(
    stated: dict[str, Any], order: bool, tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    made = tiny("llama")
    plain = pack_folder(made.folder, tmp_path / "packed", made.decoder.config.linear_shapes(), stated, order=order)
    found = load_decoder(BaseFolder(tmp_path / "packed"), dtype=torch.float32).state_dict()
    usual = made.decoder.state_dict()
    assert found.keys() == usual.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, plain.get(name, usual[name])), name
    stored = load_decoder(BaseFolder(tmp_path / "packed"), dtype=torch.bfloat16, as_stored=True).state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(stored[name], plain[name].bfloat16())
    assert stored["model.norm.weight"].dtype == torch.float32, "the file's own"


def test_the_engine_answers_from_a_packed_checkpoint(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    from lorica.engines.base import EngineSettings
    from lorica.engines.native.engine import load_native
    from lorica.records import ScoreChoices

    made = tiny("qwen2")
    pack_folder(made.folder, tmp_path / "packed", made.decoder.config.linear_shapes(), GPTQ)
    for dtype in ("float32", "int8"):
        engine = load_native(BaseFolder(tmp_path / "packed"), EngineSettings(dtype=dtype, device="cpu"))
        assert not engine.run([ScoreChoices("r", (1, 2, 3), ((4,), (5,)))])[0].error


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors, name: tensors.pop(f"{name}.scales"), "1 of 30 weights are missing"),
        (lambda tensors, name: tensors.update({f"{name}.scales": torch.zeros(1, 32)}), "scales has shape [1, 32]"),
        (lambda tensors, name: tensors[f"{name}.g_idx"].fill_(7), "g_idx names groups beyond the 2"),
        (lambda tensors, name: tensors.update({f"{name}.bias": torch.ones(32)}), "holds model.layers.0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    change: Callable[..., object], said: str, tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    made = tiny("llama")
    pack_folder(made.folder, tmp_path / "packed", made.decoder.config.linear_shapes(), GPTQ)
    path = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(path)
    change(tensors, "model.layers.0.self_attn.o_proj")
    save_file(tensors, path)
    with pytest.raises(ModelError) as caught:
        load_decoder(BaseFolder(tmp_path / "packed"))
    assert said in caught.value.message
    assert caught.value.fix
