"""An adapter's folder: `adapter_config.json` beside `adapter_model.safetensors`, as PEFT writes them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from lorica.adapters.config import CONFIG_NAME, AdapterConfig, read_adapter_config
from lorica.adapters.header import TensorInfo, byte_count, header_bytes, read_header
from lorica.adapters.methods import method_of_files
from lorica.adapters.passport import PASSPORT_NAME
from lorica.adapters.registry import TRAINING_RECORD
from lorica.adapters.tensor_names import module_of, parse_tensor_name
from lorica.errors import AdapterError
from lorica.locks import describe, lock_owner
from lorica.names import shell_word

WEIGHTS_NAME = "adapter_model.safetensors"
# What appears together when an adapter is published.
_PUBLISHED = frozenset({CONFIG_NAME, WEIGHTS_NAME, PASSPORT_NAME, TRAINING_RECORD})
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
    def weights(self) -> Path:
        """The file that holds the tensors."""
        return self.path / WEIGHTS_NAME

    def modules(self) -> list[str]:
        """The adapted modules of the base model, sorted."""
        return sorted({module_of(name)[0] for name in self.tensors})

    @property
    def is_plain(self) -> bool:
        """Whether its tensors are plain LoRA pairs and nothing else."""
        return all(module_of(name)[1] in ("lora_A", "lora_B") for name in self.tensors)

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
        allowed = {parameter for key in applied for parameter in MORE_THAN_PAIRS[key]}
        tensors = {
            name: (info.dtype, info.shape) for name, info in self.tensors.items() if _parameter_of(name) not in allowed
        }
        if tensors or not allowed:
            check_structure(self.config, tensors, where=str(self.weights))


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
            stats = {entry.name: entry.stat() for entry in entries if entry.name in _PUBLISHED and entry.is_file()}
    except OSError:
        return {}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def open_adapter(path: Path, *, applied: Collection[str] = ()) -> AdapterFolder:
    """Read and check an adapter: config, header, names, pairs and ranks. No tensor is interpreted.

    applied: keys of MORE_THAN_PAIRS that the caller applies; their tensors are let through unchecked.

    Raises AdapterError when the folder or a file is missing, a file is broken or something else than its name
    says, the method is not LoRA, a feature is used that Lorica does not apply, or tensors and config
    contradict each other.
    """
    path = Path(path)
    before = snapshot(path)
    _check_files(path)
    config = read_adapter_config(path)
    _refuse_unsupported(path, config, applied)  # before a header that may be of another format
    adapter = AdapterFolder(path, config, read_header(path / WEIGHTS_NAME).tensors, "", before)
    adapter.check_applied(applied)
    return msgspec.structs.replace(adapter, digest=_digest_files(path))


def _refuse_unsupported(path: Path, config: AdapterConfig, applied: Collection[str]) -> None:
    if reasons := config.unsupported(applied):
        raise AdapterError(
            f"{path}: uses what Lorica does not apply: {'; '.join(reasons)}",
            fix="use a plain LoRA adapter, or merge this one into its base model with PEFT",
        )


def _parameter_of(name: str) -> str:
    try:
        return module_of(name)[1]
    except AdapterError:
        return ""  # for `check_structure` to refuse


def _check_files(path: Path) -> None:
    if not path.exists():
        raise AdapterError(f"{path}: no such folder", fix="name the folder that holds " + CONFIG_NAME)
    if not path.is_dir():
        raise AdapterError(f"{path}: is a file, not an adapter's folder", fix=f"name its folder: {path.parent}")
    if not (path / CONFIG_NAME).exists():
        if owner := lock_owner(path):
            raise AdapterError(f"{path}: is being written now: {describe(owner)}", fix="wait until it ends")
        inside = sorted(entry.parent.name for entry in path.glob(f"*/{CONFIG_NAME}"))
        fix = f"did you mean {path / inside[0]}?" if inside else "is this really an adapter saved by PEFT?"
        raise AdapterError(f"{path}: holds no {CONFIG_NAME}", fix=fix)
    if (path / WEIGHTS_NAME).exists():
        return
    if (path / "adapter_model.bin").exists():
        raise AdapterError(
            f"{path}: holds adapter_model.bin, a pickle, which can run any code and is never loaded",
            fix=f"`lorica convert {shell_word(str(path))}` reads its tensors and runs nothing of it",
        )
    tool = method_of_files(entry.name for entry in path.iterdir())
    if tool is not None:
        problem = f"its files are called as in {tool[1].title}"
        raise AdapterError(f"{path}: holds no {WEIGHTS_NAME}; {problem}", fix=tool[1].reader)
    shards = sorted(entry.name for entry in path.glob("adapter_model*safetensors*"))
    listing = f"; there is {', '.join(shards)}" if shards else ""
    raise AdapterError(f"{path}: holds no {WEIGHTS_NAME}{listing}", fix="copy the whole folder again")


def check_structure(config: AdapterConfig, tensors: Mapping[str, tuple[str, tuple[int, ...]]], *, where: str) -> None:
    """Check that tensors (name -> dtype, shape) are complete LoRA pairs of the config's ranks and targets.

    Raises AdapterError beginning with `where`.
    """
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, (dtype, shape) in tensors.items():
        try:
            module, parameter = module_of(name)
        except AdapterError as error:
            raise AdapterError(f"{where}: {error.message}", fix=error.fix) from None
        if parameter in _PARTS:
            raise AdapterError(
                f"{where}: tensor {name!r}: {_PARTS[parameter]}, which Lorica does not apply",
                fix="use a plain LoRA adapter, or merge this one into its base model with PEFT",
            )
        if dtype not in FLOATS:
            raise AdapterError(
                f"{where}: tensor {name!r} is stored as {dtype}; allowed: {', '.join(FLOATS)}",
                fix="save the adapter in one of these",
            )
        if len(shape) != 2 or 0 in shape:
            raise AdapterError(f"{where}: tensor {name!r} has shape {list(shape)}; a LoRA factor has two dimensions")
        if parameter in pairs.setdefault(module, {}):
            adapters = sorted({parse_tensor_name(other_name).adapter for other_name in tensors})
            raise AdapterError(
                f"{where}: {module} has {parameter} twice (adapter names in the file: {adapters})",
                fix="save each adapter into its own folder",
            )
        pairs[module][parameter] = shape
    if not pairs:
        raise AdapterError(f"{where}: holds no tensors", fix="copy or save the adapter again")
    for module, factors in pairs.items():
        _check_pair(config, module, factors, where)


def _check_pair(config: AdapterConfig, module: str, factors: Mapping[str, tuple[int, ...]], where: str) -> None:
    if len(factors) != 2:
        (has,) = factors
        missing = "lora_B" if has == "lora_A" else "lora_A"
        raise AdapterError(f"{where}: {module} has {has} and no {missing}", fix="copy or save the adapter again")
    rank_a, rank_b = factors["lora_A"][0], factors["lora_B"][1]
    if rank_a != rank_b:
        raise AdapterError(f"{where}: {module}: lora_A has rank {rank_a}, lora_B has rank {rank_b}")
    expected = config.rank(module)
    if rank_a != expected:
        raise AdapterError(
            f"{where}: {module} has rank {rank_a}, {CONFIG_NAME} says {expected}",
            fix="config and weights come from different adapters, or rank_pattern was lost",
        )
    if config.targets(module) is False:
        raise AdapterError(
            f"{where}: {module} has tensors, but {CONFIG_NAME} does not target it "
            f"(target_modules {config.target_modules}); PEFT would ignore them without a word",
            fix="restore target_modules, or remove the tensors",
        )


def read_tensor(folder: AdapterFolder, name: str) -> bytes:
    """The raw little-endian bytes of one tensor, row-major; nothing else of the file is read.

    Raises AdapterError when there is no such tensor, or when the file has become shorter since it was opened.
    """
    info = folder.tensors.get(name)
    if info is None:
        raise AdapterError(f"{folder.path}: holds no tensor {name!r}")
    try:
        with folder.weights.open("rb", buffering=0) as file:  # a buffer would read on behind the tensor
            file.seek(info.start)
            raw = file.read(info.stop - info.start)
    except OSError as error:
        raise AdapterError(f"{folder.weights}: cannot be read ({error.strerror})") from error
    if len(raw) != info.stop - info.start:
        raise AdapterError(f"{folder.weights}: changed while it was in use", fix="open the adapter again")
    return raw


def save_adapter(
    path: Path,
    config: AdapterConfig,
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    *,
    extra_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write an adapter's folder that PEFT loads. Equal input gives equal bytes.

    tensors: PEFT's name -> (dtype such as "F32", shape, little-endian bytes). extra_files: further files, by
    name. A new folder appears complete or not at all. In an existing one other files stay, and the config is
    taken away first and put back last: a folder with a config is always whole. Raises AdapterError for
    tensors that contradict the config or that Lorica would not load back, and for a place that cannot be
    written.
    """
    path = Path(path)
    extra = dict(extra_files or {})
    for name in extra:
        if name != Path(name).name or name in ("", ".", "..", CONFIG_NAME, WEIGHTS_NAME):
            raise ValueError(f"extra file {name!r}: a plain file name other than {CONFIG_NAME} and {WEIGHTS_NAME}")
    shapes = {name: (dtype, tuple(shape)) for name, (dtype, shape, _) in tensors.items()}
    check_structure(config, shapes, where=str(path))
    for name, (dtype, shape, raw) in tensors.items():
        if len(raw) != byte_count(dtype, tuple(shape)):
            raise AdapterError(f"{path}: tensor {name!r}: {len(raw)} bytes are not {dtype} {list(shape)}")
    head, order = header_bytes(shapes, {"format": "pt"})
    files = {WEIGHTS_NAME: [head, *(tensors[name][2] for name in order)]}
    files |= {name: [content] for name, content in sorted(extra.items())}
    files[CONFIG_NAME] = [config.to_json()]
    try:
        write_files(path, files)
    except OSError as error:
        raise AdapterError(f"{path}: cannot be written ({error.strerror})") from error


def write_files(path: Path, files: Mapping[str, Iterable[bytes]]) -> None:
    """Write a folder's files from their parts: all or, in a new folder, none of them. Raises OSError.

    In a folder that is there its config goes first, and the last of `files`, an adapter's config, comes last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder that is there may lie in another file system than its parent, from which nothing can be renamed into it.
    inside = path if path.exists() else path.parent
    stage = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=inside))
    try:
        # mkdtemp makes the folder private; an adapter is as readable as any other new folder.
        stage.chmod(0o777 & ~_umask())
        for name, chunks in files.items():
            with (stage / name).open("wb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
        if path.exists():
            (path / CONFIG_NAME).unlink(missing_ok=True)
            for name in files:
                os.replace(stage / name, path / name)
        else:
            os.rename(stage, path)
        _sync_folder(path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can sync a folder
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _digest_files(path: Path) -> str:
    state = hashlib.sha256()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        with (path / name).open("rb") as file:
            state.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{state.hexdigest()}"
