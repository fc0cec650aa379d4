"""An adapter in another form (a PyTorch pickle, MLX's arrays) -> PEFT's folder with safetensors, its values untouched;
and a model whose weights are a pickle -> the same folder with safetensors.

What is wrong with the adapter itself stays wrong: `lorica check` tells, once it can be read.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from lorica.adapters.classifier_config import MODEL_CONFIG, MODEL_WEIGHTS
from lorica.adapters.config import CONFIG_NAME, MAX_CONFIG_BYTES
from lorica.adapters.folder import WEIGHTS_NAME, write_files
from lorica.adapters.header import MAX_HEADER_BYTES, foreign_format, header_bytes, read_header
from lorica.adapters.json_document import read_capped, read_object
from lorica.adapters.methods import FORMATS, method_of_config, method_of_files, method_of_names
from lorica.adapters.mlx import read_npz, to_peft
from lorica.adapters.stored_tensors import StoredTensor, check_budget, of_header, read_stored
from lorica.adapters.tensor_names import PREFIX
from lorica.adapters.torch_files import read_torch_file
from lorica.errors import AdapterError
from lorica.file_signatures import HEAD_BYTES, Content, recognise

NUMPY = "arrays of numpy"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class Conversion(msgspec.Struct, frozen=True):
    """What will be written. weights: the file it comes from; version: what tells whether it is still the same. form:
    what it is. config: bytes of adapter_config.json, None where there is none; of a model config.json. written: whether
    they were made here and not copied. notes: what a person has to know. of_model: whether it is a model's."""

    weights: Path
    version: tuple[int, int, int]
    form: str
    tensors: dict[str, StoredTensor]
    config: bytes | None
    written: bool
    notes: list[str]
    of_model: bool = False


def read_pickled_model(weights: Path, config: bytes) -> Conversion:
    """Find the tensors of a model's pickle. config: of the config.json beside it. Raises AdapterError, naming the file,
    for one that is damaged, no pickle of tensors, or made to harm. No code of it is ever run; no value is read.
    """
    try:
        version = _version(weights.stat())
        if read_capped(weights, HEAD_BYTES)[8:9] == b"{":
            raise AdapterError("is safetensors already", fix=f"rename it to {MODEL_WEIGHTS}")
        file_format, tensors, conversion_notes = _read_tensors(weights)
        check_budget(tensors.values(), version[1])
    except OSError as error:
        raise AdapterError(f"{weights}: cannot be read ({error.strerror})") from error
    except AdapterError as error:
        raise AdapterError(f"{weights}: {error.message.removeprefix(f'{weights}: ')}", fix=error.fix) from None
    return Conversion(weights, version, file_format, tensors, config, False, conversion_notes, of_model=True)


def read_foreign(weights: Path, config: bytes | None) -> Conversion:
    """Find the tensors of a weights file, and their names in PEFT. config: of the adapter_config.json beside it.

    Raises AdapterError, naming the file, for one that is damaged, of another kind or made to harm, and for an adapter
    that PEFT has no form for. No code of a pickle is ever run; no value is read.
    """
    try:
        version = _version(weights.stat())
        file_format, tensors, conversion_notes = _read_tensors(weights)
        check_budget(tensors.values(), version[1])
        values = None if config is None else read_object(config, MAX_CONFIG_BYTES)[0]
        other_tool = _tool_of(weights, tensors, values)
        if other_tool == "mlx" or file_format == NUMPY:
            peft_tensors, peft_config, conversion_notes = _of_mlx(tensors, config)
            return Conversion(weights, version, "MLX adapter", peft_tensors, peft_config, True, conversion_notes)
        if other_tool in FORMATS:
            raise AdapterError(
                f"is {FORMATS[other_tool].title}, which has no form in PEFT here", fix=FORMATS[other_tool].reader
            )
        if file_format == "safetensors":
            _refuse_safetensors(weights)
    except OSError as error:
        raise AdapterError(f"{weights}: cannot be read ({error.strerror})") from error
    except AdapterError as error:
        error_text = error.message.removeprefix(f"{weights}: ")
        raise AdapterError(f"{weights}: {error_text}", fix=error.fix) from None
    if config is None:
        conversion_notes.append(f"there is no {CONFIG_NAME}: copy it from where the adapter was trained")
    return Conversion(weights, version, file_format, tensors, config, False, conversion_notes)


def _tool_of(weights: Path, tensors: Mapping[str, StoredTensor], config: Mapping[str, Any] | None) -> str:
    """The key of the tool whose format this is: tensors tell, or the config, or the file's name; "" for PEFT's."""
    method_by_names, method_by_config = method_of_names(tensors), method_of_config(config or {})
    method_by_files = None if any(name.startswith(PREFIX) for name in tensors) else method_of_files([weights.name])
    methods = (method_by_names, method_by_config, method_by_files)
    return next((method[0] for method in methods if method is not None and method[0] in FORMATS), "")


def _read_tensors(weights: Path) -> tuple[str, dict[str, StoredTensor], list[str]]:
    """(what the file is, its tensors, what is to be told), by its first bytes or, where these do not tell, its name."""
    header_prefix = read_capped(weights, HEAD_BYTES)
    content = None if header_prefix[4:9] == b"\0\0\0\0{" else recognise(header_prefix)
    suffix = weights.suffix.lower()
    if content is Content.ZIP and suffix == ".npz":
        return NUMPY, read_npz(weights), []
    safetensors = header_prefix[8:9] == b"{" and content is None
    if content in (Content.ZIP, Content.PICKLE) or (content is None and suffix in PICKLE_SUFFIXES and not safetensors):
        torch_content = read_torch_file(weights)
        conversion_notes = []
        if torch_content.nested:
            beside = f"; left out: {', '.join(torch_content.left_out[:8])}" if torch_content.left_out else ""
            conversion_notes.append(f"its tensors stand under {torch_content.nested!r}{beside}")
        return (
            f"PyTorch pickle ({'zip' if torch_content.form == 'zip' else 'before torch 1.6'})",
            torch_content.tensors,
            conversion_notes,
        )
    if content is not None and (foreign := foreign_format(header_prefix)) is not None:
        raise AdapterError(f"is {foreign[0]}", fix=foreign[1])
    header = read_header(weights)
    return "safetensors", {name: of_header(info) for name, info in header.tensors.items()}, []


def _of_mlx(
    tensors: Mapping[str, StoredTensor], config: bytes | None
) -> tuple[dict[str, StoredTensor], bytes, list[str]]:
    """(tensors under PEFT's names, bytes of PEFT's config, what is to be told)."""
    values: dict[str, Any] | None = None
    if config is not None:
        values, problems = read_object(config, MAX_CONFIG_BYTES)
        if problems:
            raise AdapterError(f"{CONFIG_NAME} beside it {problems[0].message}", fix=problems[0].fix)
    peft_tensors, peft_config, conversion_notes = to_peft(tensors, values)
    return peft_tensors, peft_config.to_json(), conversion_notes


def _refuse_safetensors(weights: Path) -> None:
    has_peft_name = weights.name == WEIGHTS_NAME
    raise AdapterError(
        "is safetensors already, and its tensors are not named as another tool names them: nothing is to be converted",
        fix=f"`lorica check` reads it{'' if has_peft_name else f'; if it is of PEFT, rename it to {WEIGHTS_NAME}'}",
    )


def write_converted(conversion: Conversion, output: Path, extra_files: Mapping[str, bytes]) -> int:
    """Write PEFT's folder, or a model's: the tensors one after the other, config, and further files by name. Returns
    the bytes of the weights. The new folder appears whole or not at all.

    Raises AdapterError for names that safetensors does not allow, for a file that was changed meanwhile, and for a
    place that cannot be written.
    """
    weights, tensors = conversion.weights, conversion.tensors
    try:
        prefix, tensor_order = header_bytes(
            {tensor_name: (tensor.dtype, tensor.shape) for tensor_name, tensor in tensors.items()}, {"format": "pt"}
        )
    except ValueError as error:
        raise AdapterError(f"{weights}: {error}", fix="save the adapter again with PEFT") from None
    if len(prefix) > MAX_HEADER_BYTES:
        raise AdapterError(f"{weights}: the names of its tensors take {len(prefix)} bytes; allowed: {MAX_HEADER_BYTES}")
    file_contents: dict[str, Any] = {file_name: [content] for file_name, content in sorted(extra_files.items())}
    weights_name, config_name = (MODEL_WEIGHTS, MODEL_CONFIG) if conversion.of_model else (WEIGHTS_NAME, CONFIG_NAME)
    if conversion.config is not None:
        file_contents[config_name] = [conversion.config]
    try:
        weights_file = weights.open("rb")
    except OSError as error:
        raise AdapterError(f"{weights}: cannot be read ({error.strerror})", fix="convert it again") from error
    with weights_file:
        try:
            write_files(
                output,
                {
                    weights_name: itertools.chain([prefix], _values(conversion, weights_file, tensor_order)),
                    **file_contents,
                },
            )
        except OSError as error:
            raise AdapterError(
                f"{output}: cannot be written ({error.strerror})", fix="name a folder that can be, with room for it"
            ) from error
    return len(prefix) + sum(tensor.count * tensor.itemsize for tensor in tensors.values())


def _values(conversion: Conversion, weights_file: BinaryIO, tensor_order: Sequence[str]) -> Iterator[bytes]:
    """The tensors' bytes. Raises AdapterError at their end when the file is another one than it was."""
    for tensor_name in tensor_order:
        yield read_stored(weights_file, conversion.weights, conversion.tensors[tensor_name])
    if _version(os.fstat(weights_file.fileno())) != conversion.version:
        raise AdapterError(f"{conversion.weights}: changed while it was read", fix="convert it again")


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
