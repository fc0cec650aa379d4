"""The folder of a shallow model (TF-IDF, centroids): `member.json` beside `member.safetensors`.

No pickle: names and figures are JSON, arrays are float64 in safetensors. `member.json` holds the digest of every other
file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from lorica.adapters.arrays import TensorReader
from lorica.adapters.folder import Snapshot, digest_files, snapshot
from lorica.adapters.header import Header, TensorInfo, header_bytes, read_header
from lorica.adapters.json_document import convert_document, read_capped, read_document
from lorica.adapters.passport import Digest
from lorica.adapters.registry import SHALLOW_CONFIG, SHALLOW_WEIGHTS, VOCABULARY
from lorica.errors import AdapterError

FORMAT: Literal[1] = 1
_MAX_CONFIG_BYTES = 16 * 1024 * 1024
_MAX_VOCABULARY_BYTES = 1024 * 1024 * 1024
_AGAIN = "copy the whole folder again, or train it again"

Doubles = npt.NDArray[np.float64]
ShallowKind = Literal["tfidf", "centroids"]


class ShallowConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of member.json.

    task, answer_type: whose rows it answers, and how. files: name -> sha256 of its other files. encoder: digest of what
    made the embeddings, "" where there are none. facts: what else a model of this kind consists of.
    """

    format: Literal[1]
    kind: ShallowKind
    made_by: str
    task: str
    answer_type: Literal["score", "option"]
    files: dict[str, Digest]
    settings: dict[str, Any] = {}
    encoder: str = ""
    facts: dict[str, Any] = {}


class ShallowFolder(msgspec.Struct, frozen=True):
    """A shallow model on disk, opened and hashed once. digest: of member.json, which has those of all other files, and
    of the arrays. before: its files as they were before the first of them was read."""

    path: Path
    config: ShallowConfig
    header: Header
    digest: str
    before: Snapshot = {}

    @property
    def config_path(self) -> Path:
        """The file that says what the model is."""
        return self.path / SHALLOW_CONFIG

    @property
    def weights(self) -> Path:
        """The file that holds the arrays."""
        return self.path / SHALLOW_WEIGHTS

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Its arrays by name."""
        return self.header.tensors

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its answers beside its arrays, for a passport."""
        return {"kind": self.config.kind, **self.config.settings}

    @property
    def changed(self) -> bool:
        """Whether a file was written since it was opened."""
        return snapshot(self.path) != self.before

    def arrays(self) -> dict[str, Doubles]:
        """Name -> array. Raises AdapterError for one that is not of finite float64 values."""
        arrays = {}
        with TensorReader(self.weights) as reader:
            for name, tensor_info in self.header.tensors.items():
                if tensor_info.dtype != "F64":
                    raise AdapterError(f"{self.weights}: {name!r} is {tensor_info.dtype}, not F64", fix=_AGAIN)
                content = b"".join(block.tobytes() for block in reader.raw_blocks(tensor_info))
                arrays[name] = np.frombuffer(content, "<f8").reshape(tensor_info.shape)
        if broken := sorted(name for name, values in arrays.items() if not np.isfinite(values).all()):
            raise AdapterError(f"{self.weights}: holds values that are not finite: {', '.join(broken)}", fix=_AGAIN)
        return arrays

    def vocabularies(self) -> dict[str, list[str]]:
        """Feature set -> its n-grams, in the order of their columns. Raises AdapterError for a broken file."""
        try:
            return msgspec.json.decode((self.path / VOCABULARY).read_bytes(), type=dict[str, list[str]])
        except (OSError, msgspec.DecodeError) as error:
            raise AdapterError(f"{self.path / VOCABULARY}: cannot be read ({error})", fix=_AGAIN) from error


def open_shallow_folder(folder: Path) -> ShallowFolder:
    """Read and check a model: its config, the digests of its files, and the header of its arrays. Raises AdapterError
    for a file that is missing, broken, or not the one that was trained."""
    before = snapshot(folder)
    config_path = folder / SHALLOW_CONFIG
    config = read_document(config_path, _MAX_CONFIG_BYTES, _to_config, fix=_AGAIN)
    if config is None:
        raise AdapterError(f"{folder}: holds no {SHALLOW_CONFIG}", fix="name the folder that holds it")
    expected = {SHALLOW_WEIGHTS, *([VOCABULARY] if config.kind == "tfidf" else [])}
    if set(config.files) != expected:
        raise AdapterError(
            f"{config_path}: names the files {sorted(config.files)}, and {config.kind} has {sorted(expected)}",
            fix=_AGAIN,
        )
    for file_name, expected_digest in config.files.items():
        if _file_digest(folder / file_name) != expected_digest:
            raise AdapterError(f"{folder / file_name}: is not the file that was trained", fix=_AGAIN)
    digest = digest_files(folder, (SHALLOW_CONFIG, SHALLOW_WEIGHTS))
    return ShallowFolder(folder, config, read_header(folder / SHALLOW_WEIGHTS), digest, before)


def shallow_files(
    config: ShallowConfig, arrays: Mapping[str, Doubles], vocabularies: Mapping[str, list[str]] | None = None
) -> dict[str, bytes]:
    """The files of a model by name, `member.json` last, with the digests of the others in it. Equal input gives equal
    bytes. config: its `files` are filled in here."""
    stored = {name: np.ascontiguousarray(values, dtype="<f8") for name, values in arrays.items()}
    prefix, order = header_bytes({name: ("F64", values.shape) for name, values in stored.items()}, {"format": "np"})
    files = {SHALLOW_WEIGHTS: b"".join([prefix, *(stored[name].tobytes() for name in order)])}
    if vocabularies is not None:
        files[VOCABULARY] = msgspec.json.encode(dict(vocabularies))
    digests = {name: "sha256:" + hashlib.sha256(content).hexdigest() for name, content in files.items()}
    complete = msgspec.structs.replace(config, files=digests)
    files[SHALLOW_CONFIG] = msgspec.json.format(msgspec.json.encode(complete, order="deterministic"), indent=1) + b"\n"
    return files


def _to_config(values: Any) -> ShallowConfig:
    return convert_document(values, ShallowConfig, title="shallow model", format_number=FORMAT, fix=_AGAIN)


def _file_digest(file_path: Path) -> str:
    try:
        content = read_capped(file_path, _MAX_VOCABULARY_BYTES)
    except OSError as error:
        raise AdapterError(f"{file_path}: cannot be read ({error.strerror})", fix=_AGAIN) from error
    return "sha256:" + hashlib.sha256(content).hexdigest()
