"""GGUF files for tests and benches, written byte by byte as the format says, so that they can also be wrong."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorica.gguf.block_types import BLOCK_TYPES, BlockType

Bytes = NDArray[np.uint8]

TYPE_NUMBERS = {block_type.name: number for number, block_type in BLOCK_TYPES.items()}
_STRUCT_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
# Where the float16 numbers of a block stand.
_SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2),
           "Q6_K": (208,)}  # fmt: skip
# So large that weights are about 0.1.
_SCALE_SIZES = {"Q8_0": 1e-3, "Q6_K": 5e-5, "Q4_K": 2e-4, "Q5_K": 1e-4}


def text(value: str | bytes) -> bytes:
    """Length and bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value_bytes(value: Any) -> bytes:
    """Value type and value, as a writer chooses the type by Python's."""
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<I", UINT32) + struct.pack("<I", value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str | bytes):
        return struct.pack("<I", STRING) + text(value)
    element_type = STRING if isinstance(value[0], str | bytes) else INT32 if isinstance(value[0], int) else FLOAT32
    head = struct.pack("<IIQ", ARRAY, element_type, len(value))
    if element_type == STRING:
        return head + b"".join(map(text, value))
    return head + struct.pack(f"<{len(value)}{_STRUCT_CODES[element_type]}", *value)


def gguf_bytes(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, Sequence[int], bytes]],
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A whole file. tensors: name -> (type, shape with the rows first, the blocks)."""
    entries = b"".join(text(key) + value_bytes(value) for key, value in metadata.items())
    infos, data = b"", bytearray()
    for name, (type_name, shape, blocks) in tensors.items():
        data += bytes(-len(data) % alignment)
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos += text(name) + dimensions + struct.pack("<IQ", TYPE_NUMBERS[type_name], len(data))
        data += blocks
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + entries + infos
    return head + bytes(-len(head) % alignment) + data


def random_blocks(block_type: BlockType, rows: int, width: int, seed: int) -> Bytes:
    """[rows, bytes of a row] blocks whose weights are about 0.1; the codes are any."""
    generator = np.random.default_rng(seed)
    if not block_type.quantized:
        values = (generator.standard_normal((rows, width)) * 0.1).astype(np.float32)
        if block_type.name == "F32":
            return values.view(np.uint8)
        if block_type.name == "F16":
            return values.astype(np.float16).view(np.uint8)
        return np.ascontiguousarray(values.view(np.uint16)[:, 1::2]).view(np.uint8)
    blocks = generator.integers(0, 256, (rows * width // block_type.weights, block_type.size), dtype=np.uint8)
    for index, start in enumerate(_SCALES[block_type.name]):
        size = _SCALE_SIZES.get(block_type.name, 0.01)
        numbers = generator.uniform(0.5, 1.5, len(blocks)) * size * (-8 if index and "K" not in block_type.name else 1)
        blocks[:, start : start + 2] = numbers.astype(np.float16).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def model_metadata(family: str, shape: Mapping[str, int], **more: Any) -> dict[str, Any]:
    """What a converter writes of a small model. shape: layers, hidden, ffn, heads, kv_heads, head_dim, vocab."""
    return {
        "general.architecture": family,
        "general.type": "model",
        "general.name": "Tiny",
        f"{family}.block_count": shape["layers"],
        f"{family}.context_length": 128,
        f"{family}.embedding_length": shape["hidden"],
        f"{family}.feed_forward_length": shape["ffn"],
        f"{family}.attention.head_count": shape["heads"],
        f"{family}.attention.head_count_kv": shape["kv_heads"],
        f"{family}.attention.key_length": shape["head_dim"],
        f"{family}.attention.value_length": shape["head_dim"],
        f"{family}.rope.dimension_count": shape["head_dim"],
        f"{family}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{family}.rope.freq_base": 10000.0,
        f"{family}.vocab_size": shape["vocab"],
        "general.quantization_version": 2,
        **more,
    }


SHAPE = {"layers": 2, "hidden": 256, "ffn": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "vocab": 80}
"""Rows of one block of 256 weights."""


def model_tensors(
    family: str, type_name: str, *, head_type: str | None = None, tied: bool = True, shape: Mapping[str, int] = SHAPE
) -> dict[str, tuple[str, Sequence[int], bytes]]:
    """Random tensors of a small model, matrices in blocks of one type; head_type: of embedding and head."""
    hidden, query, key = shape["hidden"], shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    tensors: dict[str, tuple[str, Sequence[int], bytes]] = {}

    def add(name: str, rows: int, width: int, block_type_name: str = type_name) -> None:
        block_type = BLOCK_TYPES[TYPE_NUMBERS[block_type_name]]
        tensors[name] = block_type_name, (rows, width), random_blocks(block_type, rows, width, len(tensors)).tobytes()

    def add_vector(name: str, width: int, center: float) -> None:
        values = center + 0.1 * np.random.default_rng(len(tensors)).standard_normal(width)
        tensors[name] = "F32", (width,), values.astype(np.float32).tobytes()

    add("token_embd.weight", shape["vocab"], hidden, head_type or type_name)
    for layer in range(shape["layers"]):
        block = f"blk.{layer}."
        add_vector(f"{block}attn_norm.weight", hidden, 1.0)
        for name, rows, width in (
            ("attn_q", query, hidden), ("attn_k", key, hidden), ("attn_v", key, hidden), ("attn_output", hidden, query),
            ("ffn_gate", shape["ffn"], hidden), ("ffn_up", shape["ffn"], hidden), ("ffn_down", hidden, shape["ffn"]),
        ):  # fmt: skip
            add(f"{block}{name}.weight", rows, width)
            if family == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                add_vector(f"{block}{name}.bias", rows, 0.0)
        if family == "qwen3":
            add_vector(f"{block}attn_q_norm.weight", shape["head_dim"], 1.0)
            add_vector(f"{block}attn_k_norm.weight", shape["head_dim"], 1.0)
        add_vector(f"{block}ffn_norm.weight", hidden, 1.0)
    add_vector("output_norm.weight", hidden, 1.0)
    if not tied:
        add("output.weight", shape["vocab"], hidden, head_type or type_name)
    return tensors


def byte_tokens(count: int) -> dict[str, Any]:
    """The metadata of a byte-level vocabulary of so many entries with ChatML's markers, without merges to speak of."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(chr(code) for code in range(33, 127))][: count - 1]
    tokens += ["ab", *(f"[PAD{number}]" for number in range(count))]
    tokens = tokens[:count]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token.startswith("<|") else 5 if "PAD" in token else 1 for token in tokens],
        "tokenizer.ggml.merges": ["a b"] if {"a", "b", "ab"} <= set(tokens) else [],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_model(path: Path, family: str = "llama", type_name: str = "Q4_0", **options: Any) -> Path:
    """A small random model as a GGUF file. options: of `model_tensors`; metadata: more of it."""
    metadata = model_metadata(family, options.get("shape", SHAPE), **options.pop("metadata", {}))
    path.write_bytes(gguf_bytes(metadata, model_tensors(family, type_name, **options)))
    return path
