"""An adapter in memory, to be altered: its config and float32 arrays; and writing it in any dtype, or wrongly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Floats = NDArray[np.float32]
Raw = tuple[str, tuple[int, ...], bytes]  # dtype as safetensors names it, shape, little-endian bytes


@dataclass
class Bundle:
    """An adapter's config and tensors by the names in its file."""

    config: dict[str, Any]
    tensors: dict[str, Floats]

    def save(self, folder: Path, dtype: str = "F32") -> Path:
        """Write both files, and nothing else, into a new folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, self.config)
        write_tensors(folder / WEIGHTS, {name: encode(array, dtype) for name, array in self.tensors.items()})
        return folder

    def modules(self) -> list[str]:
        """The adapted modules in the file's spelling, sorted."""
        return sorted({name.split(".lora_")[0] for name in self.tensors if ".lora_" in name})

    def names(self, part: str) -> list[str]:
        """The names of all `lora_A` or `lora_B` tensors, sorted."""
        return sorted(name for name in self.tensors if f".{part}." in name)


def read_bundle(folder: Path) -> Bundle:
    """Read a healthy adapter of the zoo; its records of training stay behind."""
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    return Bundle(config, {name: array.astype(np.float32) for name, array in load_file(folder / WEIGHTS).items()})


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write adapter_config.json as PEFT lays it out."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")


def encode(array: Floats, dtype: str) -> Raw:
    """Bytes of an array rounded to a dtype."""
    if dtype == "BF16":
        bits = array.astype("<f4").view("<u4").astype(np.uint64)
        data = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    else:
        with np.errstate(over="ignore"):
            data = array.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).tobytes()
    return dtype, array.shape, data


def write_tensors(path: Path, tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file whose header agrees with its data."""
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for *_, data in tensors.values()))


def data_start(raw: bytes | bytearray) -> int:
    """Where the data of a safetensors file begins."""
    return 8 + int.from_bytes(raw[:8], "little")
