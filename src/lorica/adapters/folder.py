"""An adapter's folder: `adapter_config.json` beside `adapter_model.safetensors`, as PEFT writes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.classifier_config import MODEL_CONFIG, MODEL_WEIGHTS
from lorica.adapters.config import CONFIG_NAME, AdapterConfig, read_adapter_config
from lorica.adapters.effective_settings import effective_settings
from lorica.adapters.header import TensorInfo, byte_count, header_bytes, read_header
from lorica.adapters.methods import method_of_files
from lorica.adapters.passport import PASSPORT_NAME
from lorica.adapters.registry import SHALLOW_CONFIG, SHALLOW_WEIGHTS, TRAINING_RECORD, VOCABULARY
from lorica.adapters.tensor_names import module_of, parse_tensor_name
from lorica.errors import AdapterError
from lorica.locks import describe, lock_owner
from lorica.names import shell_word

WEIGHTS_NAME = "adapter_model.safetensors"
# What appears together when an adapter is published.
_PUBLISHED = frozenset(
    {
        *(CONFIG_NAME, WEIGHTS_NAME, MODEL_CONFIG, MODEL_WEIGHTS, PASSPORT_NAME, TRAINING_RECORD),
        *(SHALLOW_CONFIG, SHALLOW_WEIGHTS, VOCABULARY),
    }
)
PAIR_PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
"""The tensors of a pair, as `module_of` names them."""
FLOATS = ("F16", "BF16", "F32", "F64")

_PARTS = {
    "lora_A.bias": "lora_A has a bias",
    "lora_B.bias": "lora_B has a bias (lora_bias)",
    "lora_embedding_A": "the embedding is adapted",
    "lora_embedding_B": "the embedding is adapted",
    "lora_magnitude_vector": "DoRA rescales each row of the base weights",
    "saved": "a whole parameter of the base model is replaced (modules_to_save or bias)",
}


Snapshot = dict[str, tuple[int, int, int]]
"""File name -> (inode, bytes, time of the last change in ns) of the files that an adapter is made of."""


class AdapterFolder(msgspec.Struct, frozen=True):
    """An adapter on disk, opened and hashed once. tensors: by their names in the file. digest: of config and weights
    together. before: its files as they were before the first of them was read."""

    path: Path
    config: AdapterConfig
    tensors: dict[str, TensorInfo]
    digest: str
    before: Snapshot = {}

    @property
    def config_path(self) -> Path:
        """The file that says how the tensors are applied."""
        return self.path / CONFIG_NAME

    @property
    def weights(self) -> Path:
        """The file that holds the tensors."""
        return self.path / WEIGHTS_NAME

    @property
    def settings(self) -> dict[str, Any]:
        """What its config says that decides its answers, for a passport."""
        return effective_settings(json.loads(self.config.to_json()))

    def modules(self) -> list[str]:
        """The adapted modules of the base model, sorted."""
        return sorted({module_of(tensor_name)[0] for tensor_name in self.tensors})

    @property
    def is_plain(self) -> bool:
        """Whether its tensors are plain LoRA pairs and nothing else."""
        return all(module_of(tensor_name)[1] in ("lora_A", "lora_B") for tensor_name in self.tensors)

    @property
    def changed(self) -> bool:
        """Whether a file was written since it was opened: then what was read may be of two adapters."""
        return snapshot(self.path) != self.before

    def check_applied(self, applied: Collection[str] = ()) -> None:
        """Check that config and tensors ask for nothing beyond plain LoRA pairs and `applied`, and agree.

        applied: keys of MORE_THAN_PAIRS that the caller applies; their tensors are let through unchecked. Raises
        AdapterError.
        """
        _refuse_unsupported(self.path, self.config, applied)
        tensors = {name: (info.dtype, info.shape) for name, info in self.tensors.items()}
        _check_pairs(self.config, tensors, applied, location_text=str(self.weights))


# What PEFT applies beyond plain pairs -> the parts of it that stand in the file.
MORE_THAN_PAIRS = {
    "use_dora": ("lora_magnitude_vector",),
    "modules_to_save": ("saved",),
    "lora_bias": ("lora_B.bias",),
    "embedding": ("lora_embedding_A", "lora_embedding_B"),
}


def snapshot(folder: Path) -> Snapshot:
    """Equal before and after reading an adapter when what was read is of one moment; {} for what cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            file_stats = {entry.name: entry.stat() for entry in entries if entry.name in _PUBLISHED and entry.is_file()}
    except OSError:
        return {}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in file_stats.items()}


def open_adapter(adapter_path: Path, *, applied: Collection[str] = ()) -> AdapterFolder:
    """Read and check an adapter: config, header, names, pairs and ranks. No tensor is interpreted.

    applied: keys of MORE_THAN_PAIRS that the caller applies; their tensors are let through unchecked.

    Raises AdapterError when the folder or a file is missing, a file is broken or something else than its name says, the
    method is not LoRA, a feature is used that Lorica does not apply, or tensors and config contradict each other.
    """
    adapter_path = Path(adapter_path)
    before = snapshot(adapter_path)
    _check_files(adapter_path)
    config = read_adapter_config(adapter_path)
    _refuse_unsupported(adapter_path, config, applied)  # before a header that may be of another format
    adapter = AdapterFolder(adapter_path, config, read_header(adapter_path / WEIGHTS_NAME).tensors, "", before)
    adapter.check_applied(applied)
    return msgspec.structs.replace(adapter, digest=digest_files(adapter_path))


def _refuse_unsupported(adapter_path: Path, config: AdapterConfig, applied: Collection[str]) -> None:
    if reasons := config.unsupported(applied):
        raise AdapterError(
            f"{adapter_path}: uses what Lorica does not apply: {'; '.join(reasons)}",
            fix="use a plain LoRA adapter, or merge this one into its base model with PEFT",
        )


def _parameter_of(tensor_name: str) -> str:
    try:
        return module_of(tensor_name)[1]
    except AdapterError:
        return ""  # for `check_structure` to refuse


def _check_files(adapter_path: Path) -> None:
    if not adapter_path.exists():
        raise AdapterError(f"{adapter_path}: no such folder", fix="name the folder that holds " + CONFIG_NAME)
    if not adapter_path.is_dir():
        raise AdapterError(
            f"{adapter_path}: is a file, not an adapter's folder", fix=f"name its folder: {adapter_path.parent}"
        )
    if not (adapter_path / CONFIG_NAME).exists():
        if owner := lock_owner(adapter_path):
            raise AdapterError(f"{adapter_path}: is being written now: {describe(owner)}", fix="wait until it ends")
        of_member = {SHALLOW_CONFIG: "a shallow model", MODEL_CONFIG: "a model of its own"}
        for config_name, description in of_member.items():
            if (adapter_path / config_name).is_file():
                raise AdapterError(
                    f"{adapter_path}: is {description} ({config_name}), and no adapter",
                    fix="name an adapter of a base; members of any kind are blended by `lorica ensemble`",
                )
        inside = sorted(folder_entry.parent.name for folder_entry in adapter_path.glob(f"*/{CONFIG_NAME}"))
        fix = f"did you mean {adapter_path / inside[0]}?" if inside else "is this really an adapter saved by PEFT?"
        raise AdapterError(f"{adapter_path}: holds no {CONFIG_NAME}", fix=fix)
    if (adapter_path / WEIGHTS_NAME).exists():
        return
    if (adapter_path / "adapter_model.bin").exists():
        raise AdapterError(
            f"{adapter_path}: holds adapter_model.bin, a pickle, which can run any code and is never loaded",
            fix=f"`lorica convert {shell_word(str(adapter_path))}` reads its tensors and runs nothing of it",
        )
    other_method = method_of_files(folder_entry.name for folder_entry in adapter_path.iterdir())
    if other_method is not None:
        problem = f"its files are called as in {other_method[1].title}"
        raise AdapterError(f"{adapter_path}: holds no {WEIGHTS_NAME}; {problem}", fix=other_method[1].reader)
    shards = sorted(folder_entry.name for folder_entry in adapter_path.glob("adapter_model*safetensors*"))
    listing = f"; there is {', '.join(shards)}" if shards else ""
    raise AdapterError(f"{adapter_path}: holds no {WEIGHTS_NAME}{listing}", fix="copy the whole folder again")


def _check_pairs(
    config: AdapterConfig,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    applied: Collection[str],
    *,
    location_text: str,
) -> None:
    """`check_structure` of the tensors that are of no method in `applied`."""
    allowed = {parameter for method_key in applied for parameter in MORE_THAN_PAIRS[method_key]}
    pairs = {name: facts for name, facts in tensors.items() if _parameter_of(name) not in allowed}
    if pairs or not allowed:
        check_structure(config, pairs, location_text=location_text)


def check_structure(
    config: AdapterConfig, tensors: Mapping[str, tuple[str, tuple[int, ...]]], *, location_text: str
) -> None:
    """Check that tensors (name -> dtype, shape) are complete LoRA pairs of the config's ranks and targets.

    Raises AdapterError beginning with `location_text`.
    """
    module_pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor_name, (element_type, tensor_shape) in tensors.items():
        try:
            module, parameter = module_of(tensor_name)
        except AdapterError as error:
            raise AdapterError(f"{location_text}: {error.message}", fix=error.fix) from None
        if parameter in _PARTS:
            raise AdapterError(
                f"{location_text}: tensor {tensor_name!r}: {_PARTS[parameter]}, which Lorica does not apply",
                fix="use a plain LoRA adapter, or merge this one into its base model with PEFT",
            )
        if element_type not in FLOATS:
            raise AdapterError(
                f"{location_text}: tensor {tensor_name!r} is stored as {element_type}; allowed: {', '.join(FLOATS)}",
                fix="save the adapter in one of these",
            )
        if len(tensor_shape) != 2 or 0 in tensor_shape:
            raise AdapterError(
                f"{location_text}: tensor {tensor_name!r} has shape {list(tensor_shape)}; "
                "a LoRA factor has two dimensions"
            )
        if parameter in module_pairs.setdefault(module, {}):
            adapters = sorted({parse_tensor_name(other_name).adapter for other_name in tensors})
            raise AdapterError(
                f"{location_text}: {module} has {parameter} twice (adapter names in the file: {adapters})",
                fix="save each adapter into its own folder",
            )
        module_pairs[module][parameter] = tensor_shape
    if not module_pairs:
        raise AdapterError(f"{location_text}: holds no tensors", fix="copy or save the adapter again")
    for module, factors in module_pairs.items():
        _check_pair(config, module, factors, location_text)


def _check_pair(config: AdapterConfig, module: str, factors: Mapping[str, tuple[int, ...]], location_text: str) -> None:
    if len(factors) != 2:
        (present_factor,) = factors
        missing = "lora_B" if present_factor == "lora_A" else "lora_A"
        raise AdapterError(
            f"{location_text}: {module} has {present_factor} and no {missing}", fix="copy or save the adapter again"
        )
    rank_a, rank_b = factors["lora_A"][0], factors["lora_B"][1]
    if rank_a != rank_b:
        raise AdapterError(f"{location_text}: {module}: lora_A has rank {rank_a}, lora_B has rank {rank_b}")
    expected = config.rank(module)
    if rank_a != expected:
        raise AdapterError(
            f"{location_text}: {module} has rank {rank_a}, {CONFIG_NAME} says {expected}",
            fix="config and weights come from different adapters, or rank_pattern was lost",
        )
    if config.targets(module) is False:
        raise AdapterError(
            f"{location_text}: {module} has tensors, but {CONFIG_NAME} does not target it "
            f"(target_modules {config.target_modules}); PEFT would ignore them without a word",
            fix="restore target_modules, or remove the tensors",
        )


def read_tensor(folder: AdapterFolder, tensor_name: str) -> bytes:
    """The raw little-endian bytes of one tensor, row-major; nothing else of the file is read.

    Raises AdapterError when there is no such tensor, or when the file has become shorter since it was opened.
    """
    tensor_info = folder.tensors.get(tensor_name)
    if tensor_info is None:
        raise AdapterError(f"{folder.path}: holds no tensor {tensor_name!r}")
    try:
        with folder.weights.open("rb", buffering=0) as weights_file:  # a buffer would read on behind the tensor
            weights_file.seek(tensor_info.start)
            raw_bytes = weights_file.read(tensor_info.stop - tensor_info.start)
    except OSError as error:
        raise AdapterError(f"{folder.weights}: cannot be read ({error.strerror})") from error
    if len(raw_bytes) != tensor_info.stop - tensor_info.start:
        raise AdapterError(f"{folder.weights}: changed while it was in use", fix="open the adapter again")
    return raw_bytes


def save_adapter(
    adapter_path: Path,
    config: AdapterConfig,
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    *,
    extra_files: Mapping[str, bytes] | None = None,
    applied: Collection[str] = (),
) -> None:
    """Write an adapter's folder that PEFT loads. Equal input gives equal bytes.

    tensors: PEFT's name -> (dtype such as "F32", shape, little-endian bytes). extra_files: further files, by name.
    applied: as `open_adapter` takes it. A new folder appears complete or not at all. In an existing one other files
    stay, and the config is taken away first and put back last: a folder with a config is always whole. Raises
    AdapterError for tensors that contradict the config or that Lorica would not load back, and for a place that cannot
    be written.
    """
    adapter_path = Path(adapter_path)
    extra_contents = dict(extra_files or {})
    for file_name in extra_contents:
        if file_name != Path(file_name).name or file_name in ("", ".", "..", CONFIG_NAME, WEIGHTS_NAME):
            raise ValueError(f"extra file {file_name!r}: a plain file name other than {CONFIG_NAME} and {WEIGHTS_NAME}")
    shapes = {name: (element_type, tuple(shape)) for name, (element_type, shape, _) in tensors.items()}
    _check_pairs(config, shapes, applied, location_text=str(adapter_path))
    for tensor_name, (element_type, shape, raw_bytes) in tensors.items():
        if len(raw_bytes) != byte_count(element_type, tuple(shape)):
            raise AdapterError(
                f"{adapter_path}: tensor {tensor_name!r}: {len(raw_bytes)} bytes are not {element_type} {list(shape)}"
            )
    header_prefix, tensor_order = header_bytes(shapes, {"format": "pt"})
    file_contents = {WEIGHTS_NAME: [header_prefix, *(tensors[tensor_name][2] for tensor_name in tensor_order)]}
    file_contents |= {file_name: [content] for file_name, content in sorted(extra_contents.items())}
    file_contents[CONFIG_NAME] = [config.to_json()]
    try:
        write_files(adapter_path, file_contents)
    except OSError as error:
        raise AdapterError(f"{adapter_path}: cannot be written ({error.strerror})") from error


def write_files(adapter_path: Path, file_contents: Mapping[str, Iterable[bytes]]) -> None:
    """Write a folder's files from their parts: all or, in a new folder, none of them. Raises OSError.

    In a folder that is there the last of `file_contents`, a member's config, goes first and comes last.
    """
    config_name = list(file_contents)[-1]
    adapter_path.parent.mkdir(parents=True, exist_ok=True)
    # A folder that is there may lie in another file system than its parent, from which nothing can be renamed into it.
    inside = adapter_path if adapter_path.exists() else adapter_path.parent
    staging_folder = Path(tempfile.mkdtemp(prefix=f".{adapter_path.name}.", suffix=".tmp", dir=inside))
    try:
        # mkdtemp makes the folder private; an adapter is as readable as any other new folder.
        staging_folder.chmod(0o777 & ~_umask())
        for file_name, chunks in file_contents.items():
            with (staging_folder / file_name).open("wb") as staged_file:
                staged_file.writelines(chunks)
                staged_file.flush()
                os.fsync(staged_file.fileno())
        if adapter_path.exists():
            (adapter_path / config_name).unlink(missing_ok=True)
            for file_name in file_contents:
                os.replace(staging_folder / file_name, adapter_path / file_name)
        else:
            os.rename(staging_folder, adapter_path)
        _sync_folder(adapter_path)
        _sync_folder(adapter_path.parent)
    finally:
        shutil.rmtree(staging_folder, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync_folder(folder_path: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can sync a folder
        handle = os.open(folder_path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def digest_files(adapter_path: Path, file_names: Sequence[str] = (CONFIG_NAME, WEIGHTS_NAME)) -> str:
    """The digest of an adapter, or of another member: of its config's and its weights' bytes."""
    digest_state = hashlib.sha256()
    for file_name in file_names:
        with (adapter_path / file_name).open("rb") as opened_file:
            digest_state.update(hashlib.file_digest(opened_file, "sha256").digest())
    return f"sha256:{digest_state.hexdigest()}"
