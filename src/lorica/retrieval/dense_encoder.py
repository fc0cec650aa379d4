"""Texts to vectors by a transformer encoder from disk: the mean of its last layer, of length 1.

A text is computed alone, never in a padded batch: its vector depends on nothing else, so that an update has the very
bytes of a new build.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lorica.data.digest import bytes_digest, file_digest
from lorica.errors import MissingExtraError, ModelError, RetrievalError
from lorica.models.families import read_json_object
from lorica.models.packaged_model import PACKAGE, locate_in_package
from lorica.retrieval.index_manifest import EncoderStamp
from lorica.retrieval.split_tokenizer import SplitTokenizer, open_tokenizer

Vectors = npt.NDArray[np.float32]

_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_PROBES = ("The cat sleeps on the mat.", "Interest rates rose by two percent.", "猫 42")


class DenseEncoder(Protocol):
    """What an index needs of an encoder. digest: over weights, configuration, tokenizer and pooling."""

    @property
    def digest(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def package(self) -> str: ...

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] = ...) -> Vectors:
        """Vectors [texts, dimension] of length 1. advance: is told of texts that are done."""

    def unknown_share(self, text: str) -> float:
        """The share of a text's tokens that stand for what the encoder's vocabulary lacks, 0 to 1."""


def open_encoder(name: str) -> DenseEncoder:
    """The encoder in a folder, or in the installed package of `package:NAME`, after it was seen to work.

    Raises RetrievalError, ModelError for a package without one, and MissingExtraError without transformers."""
    package = name.removeprefix(PACKAGE) if name.startswith(PACKAGE) else ""
    folder = locate_in_package(package) if package else Path(name)
    encoder = TransformerEncoder(folder, package)
    check_encoder(encoder, str(folder))
    return encoder


def stamped_encoder(folder: Path, stamp: EncoderStamp, encoder: DenseEncoder | str) -> DenseEncoder:
    """The encoder that made the vectors of an index: as `open_encoder` takes it, one that is open, or "" for the
    installed package that made them. folder: of the index. Raises RetrievalError for "" without such a package and for
    another encoder."""
    if encoder == "":
        if not stamp.package:
            raise RetrievalError(
                f"{folder}: its vectors need the encoder that they were made with ({stamp.digest[:19]}..., "
                f"{stamp.dimension} numbers each)",
                fix="name its folder: --encoder FOLDER, or retrieval.encoder=FOLDER; to look up by bm25 needs none",
            )
        encoder = PACKAGE + stamp.package
    opened = open_encoder(encoder) if isinstance(encoder, str) else encoder
    if opened.digest != stamp.digest:
        raise RetrievalError(
            f"{folder}: its vectors were made by the encoder {stamp.digest[:19]}..., and this one is "
            f"{opened.digest[:19]}...",
            fix="name the encoder that the index was built with, or build it again: lorica kb build --force",
        )
    return opened


def check_encoder(encoder: DenseEncoder, origin: str) -> None:
    """Raise RetrievalError unless an encoder's vectors are finite, of its dimension and length 1, the same twice, and
    differ for different texts."""
    first, second = encoder.encode(_PROBES), encoder.encode(_PROBES)
    problem = ""
    if first.shape != (len(_PROBES), encoder.dimension) or not np.isfinite(first).all():
        problem = f"its vectors are not finite, or have another shape than {(len(_PROBES), encoder.dimension)}"
    elif not np.array_equal(first, second):
        problem = "it gives the same text different vectors"
    elif np.abs(np.linalg.norm(first, axis=1) - 1).max() > 1e-3:
        problem = "its vectors do not have the length 1"
    elif (first @ first.T - np.eye(len(_PROBES))).max() > 0.9999:
        problem = "it gives different texts the same vector"
    if problem:
        raise RetrievalError(f"{origin}: no usable encoder: {problem}", fix="download the encoder's folder again")


class TransformerEncoder:
    """A folder in Hugging Face's layout: config.json, model.safetensors, tokenizer.json, perhaps 1_Pooling."""

    def __init__(self, folder: Path, package: str = "") -> None:
        """Raises RetrievalError for a folder that is no encoder's, MissingExtraError without transformers."""
        config = _read_config(folder)
        self.package = package
        self.dimension = int(config.get("hidden_size") or 0)
        self._pooling = _read_pooling(folder)
        self._tokenizer = open_tokenizer(str(folder))
        self._window = _window(folder, config, self._tokenizer)
        self._model = _load(folder)
        weights = sorted(folder.glob("*.safetensors"))
        parts = [self._tokenizer.digest, self._pooling, str(self._window)]
        parts += [file_digest(folder / "config.json"), *map(file_digest, weights)]
        self.digest = bytes_digest(json.dumps(parts).encode())

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] = lambda count: None) -> Vectors:
        """See `DenseEncoder`."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._encode(text)
            advance(1)
        return vectors

    def unknown_share(self, text: str) -> float:
        """See `DenseEncoder`."""
        ids = self._tokenizer.ids(text)
        return ids.count(self._tokenizer.unknown_id) / len(ids) if ids else 0.0

    def _encode(self, text: str) -> Vectors:
        import torch

        ids = self._tokenizer.ids(text)
        windows = [ids[start : start + self._window] for start in range(0, len(ids), self._window)] or [[]]
        total = np.zeros(self.dimension, dtype=np.float64)
        with torch.inference_mode():
            for window in windows:  # of a text longer than the encoder takes
                hidden = self._model(input_ids=torch.tensor([self._tokenizer.with_special(window)])).last_hidden_state
                pooled = hidden[0].mean(dim=0) if self._pooling == "mean" else hidden[0, 0]
                total += pooled.to(torch.float64).numpy() * max(len(window), 1)
        norm = float(np.linalg.norm(total))
        return (total / norm if norm > 0 else total).astype(np.float32)


def _load(folder: Path) -> Any:
    try:
        import torch
        from transformers import AutoModel
    except ImportError as error:
        raise MissingExtraError("transformers", extra="local", needed_for="a dense encoder") from error
    from lorica.models.offline import offline

    again = "download the encoder's folder again"
    try:
        with offline():
            model, loaded = AutoModel.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises whatever its models raise
        raise RetrievalError(f"{folder}: the encoder cannot be loaded: {error}", fix=again) from error
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
    if missing or loaded["mismatched_keys"]:
        names = ", ".join(missing[:3]) or "of other shapes"
        raise RetrievalError(f"{folder}: the encoder's weights are incomplete: {names}", fix=again)
    return model.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise RetrievalError(
            f"{folder}: there is no such folder of an encoder", fix="--encoder FOLDER, or package:NAME"
        )
    if not list(folder.glob("*.safetensors")):
        raise RetrievalError(
            f"{folder}: holds no *.safetensors (weights in a pickle are not loaded)", fix="save it as safetensors"
        )
    config = _read_json(folder / "config.json")
    if not config.get("hidden_size"):
        raise RetrievalError(f"{folder}: its config.json names no hidden_size", fix="give an encoder such as MiniLM")
    return config


def _read_pooling(folder: Path) -> str:
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    values = _read_json(path)
    chosen = [key for key, value in values.items() if key.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise RetrievalError(
            f"{path}: the pooling {chosen} is not supported; allowed: mean or cls", fix="another encoder"
        )
    return _POOLINGS[chosen[0]]


def _window(folder: Path, config: dict[str, Any], tokenizer: SplitTokenizer) -> int:
    """Tokens of text that the encoder takes at once."""
    path = folder / "sentence_bert_config.json"
    positions = int(config.get("max_position_embeddings") or 512)
    limit = min(positions, int(_read_json(path).get("max_seq_length") or positions) if path.is_file() else positions)
    return max(limit - len(tokenizer.with_special([])), 1)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except ModelError as error:
        raise RetrievalError(error.message, fix="download the encoder's folder again") from error
