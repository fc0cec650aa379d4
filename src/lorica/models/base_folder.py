"""A base model's folder or GGUF file, opened once: what it says, each part read when first asked for, and once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lorica.adapters.classifier_config import claims_head
from lorica.encoder_families import EncoderFamily, encoder_family
from lorica.gguf.file_header import is_gguf, read_header
from lorica.gguf.metadata import metadata_notes, read_config
from lorica.models.families import DecoderConfig, config_notes, parse_decoder_config, parse_json_object, read_model_file
from lorica.models.weight_files import weight_files

_EDGE = 1 << 20  # bytes
_MAX_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len")


@dataclass(frozen=True)
class BaseFolder:
    """A folder with `config.json`, safetensors files and a tokenizer, or a GGUF file, which holds all of these.
    Attributes raise ModelError for what is missing or broken. Two of one path are equal."""

    path: Path

    @cached_property
    def is_gguf(self) -> bool:
        """Whether the path is a GGUF file."""
        return is_gguf(self.path)

    @cached_property
    def has_blocks(self) -> bool:
        """Whether it is a GGUF file with quantized weights."""
        return self.is_gguf and any(tensor.block_type.quantized for tensor in read_header(self.path).tensors.values())

    @cached_property
    def has_4_bit_blocks(self) -> bool:
        """Whether it is a GGUF file that keeps a weight in blocks of 4 bits."""
        return self.is_gguf and any(
            tensor.block_type.name.startswith("Q4_") for tensor in read_header(self.path).tensors.values()
        )

    @cached_property
    def stored_numbers(self) -> int:
        """How many numbers the tensors of a GGUF file have."""
        return sum(math.prod(tensor.shape) for tensor in read_header(self.path).tensors.values())

    @property
    def config_path(self) -> Path:
        """Where `config.json` is; the file itself, of a GGUF file."""
        return self.path if self.is_gguf else self.path / "config.json"

    @cached_property
    def config_bytes(self) -> bytes:
        """`config.json` as it is stored, or as the metadata of a GGUF file makes it: what is parsed is what the digest
        speaks of."""
        if self.is_gguf:
            return json.dumps(read_config(self.path), sort_keys=True).encode()
        return read_model_file(self.config_path)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """`config.json` as an object."""
        return parse_json_object(self.config_bytes, self.config_path)

    @cached_property
    def decoder_config(self) -> DecoderConfig:
        """The shape of the model, where the native decoder knows its family."""
        return parse_decoder_config(self.config, self.config_path)

    @cached_property
    def encoder_family(self) -> EncoderFamily | None:
        """Which encoder it is; None for a decoder and for what is not known."""
        return encoder_family(self.config.get("model_type"))

    @cached_property
    def has_head(self) -> bool:
        """Whether it is an encoder that classifies by itself, without an adapter."""
        return claims_head(self.config)

    @cached_property
    def max_positions(self) -> int | None:
        """Tokens that the model sees at once, whatever its family; None where the config does not say."""
        positions = next(filter(None, map(self._size, _MAX_POSITIONS)), None)
        family = self.encoder_family
        return positions if positions is None or family is None else positions - family.position_offset

    @cached_property
    def vocabulary_size(self) -> int | None:
        """Rows of the embedding; None where the config does not say."""
        return self._size("vocab_size")

    def _size(self, key: str) -> int | None:
        inner = self.config.get("text_config")
        value = self.config.get(key, inner.get(key) if isinstance(inner, dict) else None)
        return value if type(value) is int and value > 0 else None

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What `config.json` or the metadata of a GGUF file says in vain; see `families.config_notes`."""
        return (*(metadata_notes(self.path) if self.is_gguf else ()), *config_notes(self.config, self.config_path))

    @cached_property
    def weight_files(self) -> list[Path]:
        """The safetensors files, in order, or the GGUF file."""
        return weight_files(self.path)

    @cached_property
    def digest(self) -> str:
        """sha256 of `config.json` and of the weight files' sizes, headers and first and last megabyte.

        Reading all of a large model takes minutes; this takes milliseconds and still tells every re-training,
        conversion, truncation and change of shape apart, though not an edit of a few values in the middle of a file.
        """
        return self._digest_after(self.config_bytes)

    @cached_property
    def weights_digest(self) -> str:
        """As `digest`, of the weight files alone: equal when only `config.json` was edited or saved anew."""
        return self._digest_after(b"")

    def _digest_after(self, prefix: bytes) -> str:
        state = hashlib.sha256(prefix)
        for path in self.weight_files:
            size = path.stat().st_size
            # A GGUF file may have any name; its vocabulary stands before what tells its tensors apart.
            state.update(f"{'gguf' if self.is_gguf else path.name} {size}".encode())
            with path.open("rb") as file:
                state.update(file.read(max(_EDGE, read_header(path).data_start) if self.is_gguf else _EDGE))
                file.seek(max(0, size - _EDGE))
                state.update(file.read(_EDGE))
        return "sha256:" + state.hexdigest()
