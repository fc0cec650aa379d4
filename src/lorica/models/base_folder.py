"""A base model's folder, opened once: what its files say, each of them read when it is first asked for, and once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lorica.models.families import (
    DecoderConfig,
    config_notes,
    parse_decoder_config,
    parse_json_object,
    read_model_file,
)
from lorica.models.weight_files import weight_files

_EDGE = 1 << 20  # bytes
_MAX_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len")


@dataclass(frozen=True)
class BaseFolder:
    """A folder with `config.json`, safetensors files and a tokenizer. Attributes raise ModelError for what is missing
    or broken. Two of one path are equal."""

    path: Path

    @property
    def config_path(self) -> Path:
        """Where `config.json` is."""
        return self.path / "config.json"

    @cached_property
    def config_bytes(self) -> bytes:
        """`config.json` as it is stored: what is parsed is what the digest speaks of."""
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
    def max_positions(self) -> int | None:
        """Tokens that the model sees at once, whatever its family; None where the config does not say."""
        return next(filter(None, map(self._size, _MAX_POSITIONS)), None)

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
        """What `config.json` says in vain; see `families.config_notes`."""
        return config_notes(self.config, self.config_path)

    @cached_property
    def weight_files(self) -> list[Path]:
        """The safetensors files, in order."""
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
            state.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                state.update(file.read(_EDGE))
                file.seek(max(0, size - _EDGE))
                state.update(file.read(_EDGE))
        return "sha256:" + state.hexdigest()
