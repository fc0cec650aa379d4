"""The tensors of a GGUF file under the names, and in the order of rows, of the published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import numpy as np
import numpy.typing as npt

from lorica.errors import ModelError
from lorica.gguf.block_types import Blocks, Floats, dequantize
from lorica.gguf.file_header import GgufTensor, read_header

ROPE_FACTORS = "rope_freqs.weight"
"""A tensor [head_dim / 2] by which angular speeds are divided: how llama.cpp states the scaling of Llama 3.1."""

_OUTSIDE_LAYERS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_LAYERS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([a-z_]+)\.(weight|bias)")
_INTERLEAVED = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}


_mapped_files: WeakValueDictionary[tuple[Path, int, int, int], np.memmap[Any, np.dtype[np.uint8]]] = (
    WeakValueDictionary()
)


class CheckpointTensor(msgspec.Struct, frozen=True):
    """One tensor of a GGUF file as a tensor of the checkpoint.

    interleaved_heads: llama.cpp rotates neighbouring dimensions of a head, the checkpoints those half a head apart, so
    its converter interleaves the rows of query and key; the number of heads where that is to be undone, else 0.
    """

    path: Path
    tensor: GgufTensor
    interleaved_heads: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the checkpoint."""
        return self.tensor.shape

    def blocks(self) -> Blocks:
        """[rows, bytes of a row], mapped from the file, in the file's order."""
        return map_blocks(self.path, self.tensor)

    def row_order(self) -> npt.NDArray[np.int64] | None:
        """Which of the file's rows is each of the checkpoint's; None where they lie in its order."""
        if not self.interleaved_heads:
            return None
        order = np.arange(self.shape[0], dtype=np.int64).reshape(self.interleaved_heads, -1, 2)
        return order.swapaxes(1, 2).reshape(-1)

    def values(self) -> Floats:
        """All values in their shape, as float32."""
        values, order = read_tensor(self.path, self.tensor), self.row_order()
        return values if order is None else values[order]

    def rows(self, row_numbers: Sequence[int]) -> Floats:
        """These rows of a matrix, as float32."""
        order = self.row_order()
        return dequantize(self.blocks()[row_numbers if order is None else order[row_numbers]], self.tensor.block_type)


def stored_tensors(gguf_path: Path) -> dict[str, CheckpointTensor]:
    """Name in the published checkpoints -> tensor; a name that no checkpoint has stays as it is.

    Raises ModelError for a file that cannot be read, or two tensors of one name.
    """
    header = read_header(gguf_path)
    family = header.metadata.get("general.architecture")
    tensors: dict[str, CheckpointTensor] = {}
    for gguf_name, tensor in header.tensors.items():
        if gguf_name == ROPE_FACTORS:
            continue  # read as a part of the config
        heads_key = _INTERLEAVED.get(gguf_name.split(".")[-2]) if family == "llama" and "." in gguf_name else None
        heads = 0 if heads_key is None else _head_count(gguf_path, heads_key, tensor.shape[0])
        tensors[checkpoint_name(gguf_name)] = CheckpointTensor(gguf_path, tensor, heads)
    return tensors


def checkpoint_name(gguf_name: str) -> str:
    """The name that the published checkpoints have for a tensor; one that none has stays as it is."""
    outside, _, leaf = gguf_name.rpartition(".")
    if outside in _OUTSIDE_LAYERS:
        return f"{_OUTSIDE_LAYERS[outside]}.{leaf}"
    layer_match = _LAYER.fullmatch(gguf_name)
    if layer_match is None or layer_match[2] not in _IN_LAYERS:
        return gguf_name
    return f"model.layers.{layer_match[1]}.{_IN_LAYERS[layer_match[2]]}.{layer_match[3]}"


def map_blocks(gguf_path: Path, tensor: GgufTensor) -> Blocks:
    """[rows, bytes of a row] uint8 of a tensor, mapped from the file; a vector is one row. Raises ModelError."""
    row_bytes = tensor.block_type.row_bytes(tensor.shape[-1])
    return _map_file(gguf_path)[tensor.start : tensor.stop].reshape(-1, row_bytes)


def _map_file(gguf_path: Path) -> Blocks:
    """The bytes of a file: mapped once, since pages that two tensors lie in would count twice; while they are used."""
    try:
        status = gguf_path.stat()
        key = (gguf_path, status.st_ino, status.st_mtime_ns, status.st_size)
        mapped = _mapped_files.get(key)
        if mapped is None:
            # Copy on write: torch takes no arrays that cannot be written.
            mapped = _mapped_files[key] = np.memmap(gguf_path, np.uint8, "c")
    except (OSError, ValueError) as error:
        raise ModelError(f"{gguf_path}: cannot be read ({error})", fix="download the file again") from None
    return np.asarray(mapped)


def read_tensor(gguf_path: Path, tensor: GgufTensor) -> Floats:
    """The values of a tensor in its shape, as float32. Raises ModelError."""
    return dequantize(map_blocks(gguf_path, tensor), tensor.block_type).reshape(tensor.shape)


def _head_count(gguf_path: Path, heads_key: str, rows: int) -> int:
    metadata = read_header(gguf_path).metadata
    heads = metadata.get(f"llama.{heads_key}", metadata.get("llama.attention.head_count"))
    if isinstance(heads, np.ndarray) and len(heads):
        heads = heads[0].item()
    if type(heads) is not int or heads < 1 or rows % (2 * heads):
        raise ModelError(
            f"{gguf_path}: {str(heads)[:40]} heads do not divide {rows} rows", fix="download the file again"
        )
    return heads
