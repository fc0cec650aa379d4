"""Adapters of known values, made in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorica.adapters.config import AdapterConfig
from lorica.adapters.header import header_bytes, read_header
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap, map_tensors

Arrays = dict[str, npt.NDArray[np.float32]]
PREFIX = "base_model.model.model.layers"


def healthy(seed: int = 0, *, layers: int = 6, rank: int = 8, inputs: int = 64, outputs: int = 96) -> Arrays:
    """A as PEFT initialises it, B as a few hundred steps of Adam leave it; q_proj and v_proj."""
    draw = np.random.default_rng(seed)
    found: Arrays = {}
    for layer in range(layers):
        for kind in ("q_proj", "v_proj"):
            path = f"{PREFIX}.{layer}.self_attn.{kind}"
            found[f"{path}.lora_A.weight"] = (draw.uniform(-1, 1, (rank, inputs)) / inputs**0.5).astype(np.float32)
            found[f"{path}.lora_B.weight"] = (draw.standard_normal((outputs, rank)) * 5e-3).astype(np.float32)
    return found


def factors(arrays: Arrays, half: str) -> list[str]:
    """The names of all lora_A ("A") or lora_B ("B")."""
    return [name for name in arrays if f".lora_{half}." in name]


def change(arrays: Arrays, half: str, how: Callable[[npt.NDArray[np.float32]], Any]) -> Arrays:
    """The same with every A or B changed."""
    return {name: np.asarray(how(x)) if f".lora_{half}." in name else x for name, x in arrays.items()}


def encode(array: npt.NDArray[np.float32], dtype: str) -> bytes:
    """The bytes of an array as F32, F16, BF16 (rounded to nearest) or, as torch rounds it, F8."""
    if dtype == "F32":
        return np.ascontiguousarray(array, "<f4").tobytes()
    if dtype == "F16":
        return array.astype("<f2").tobytes()
    if dtype == "BF16":
        return ((np.ascontiguousarray(array, "<f4").view("<u4") + 0x8000) >> 16).astype("<u2").tobytes()
    import torch

    kind = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}[dtype]
    return torch.from_numpy(np.ascontiguousarray(array)).to(kind).view(torch.uint8).numpy().tobytes()


def write(folder: Path, arrays: Arrays, *, dtype: str = "F32", config: AdapterConfig | None = None) -> Path:
    """Write the tensors, and a config of their ranks (given: that one). Nothing is checked."""
    head, order = header_bytes({name: (dtype, x.shape) for name, x in arrays.items()}, {"format": "pt"})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(head + b"".join(encode(arrays[name], dtype) for name in order))
    rank = next((x.shape[0] for name, x in arrays.items() if ".lora_A." in name), 8)
    config = config or AdapterConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"])
    (folder / "adapter_config.json").write_bytes(config.to_json())
    return folder


def specimen(folder: Path, name: str = "") -> tuple[RawAdapter, TensorMap]:
    """What the checks are given."""
    from lorica.adapters.config import read_adapter_config

    weights = folder / "adapter_model.safetensors"
    header = read_header(weights)
    found = RawAdapter(
        name=name or folder.name,
        given=folder,
        kind="folder",
        folder=folder,
        weights=weights,
        config=read_adapter_config(folder),
        header=header,
    )
    return found, map_tensors(header)
