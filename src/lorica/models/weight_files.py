"""Which safetensors files, or which GGUF file, hold a base model. No torch: naming and hashing must not load it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from lorica.adapters.header import Header, TensorInfo, read_header
from lorica.errors import ModelError
from lorica.gguf.file_header import is_gguf
from lorica.gguf.tensors import stored_tensors
from lorica.models.families import read_json_object
from lorica.names import shell_word

AGAIN = "download the model again, all shards"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in order; a GGUF file itself. Raises ModelError when there are none, or
    one is missing.
    """
    if is_gguf(folder):
        return [folder]
    single_path, index_path = folder / "model.safetensors", folder / "model.safetensors.index.json"
    file_paths = [single_path] if single_path.is_file() or not index_path.is_file() else _indexed(index_path)
    missing_paths = [file_path for file_path in file_paths if not file_path.is_file()]
    if not missing_paths:
        return file_paths
    if missing_paths == [single_path] and [*folder.glob("*.bin"), *folder.glob("*.pth"), *folder.glob("*.pt")]:
        raise ModelError(
            f"{folder}: holds pickled weights (*.bin, *.pth, *.pt), which are never loaded",
            fix=f"`lorica convert {shell_word(str(folder))} OUTPUT` reads their tensors and runs nothing; or use "
            "the repository's safetensors revision",
        )
    missing_count = f"{len(missing_paths)} of {len(file_paths)} weight files missing"
    raise ModelError(f"{missing_paths[0]}: not found ({missing_count})", fix=AGAIN)


def refuse_adapter_inside(folder: Path) -> None:
    """Raises ModelError for an adapter in a base's own folder: to transformers it is part of the base."""
    file_path = folder / "adapter_config.json"
    if file_path.is_file():
        raise ModelError(
            f"{file_path}: an adapter in the folder of a base model, where transformers would make it part of the base",
            fix="move adapter_config.json and the adapter's weights to a folder of their own, and name it as adapter",
        )


Stamps = tuple[tuple[Path, int, int, int], ...]
"""Of files: path, inode, time of the last change in ns, bytes. Equal ones mean that nothing was changed."""


def weight_stamps(folder: Path) -> Stamps:
    """Of a model's weight files. Raises ModelError as `weight_files`, OSError for a file that vanished."""
    stats = [(file_path, file_path.stat()) for file_path in weight_files(folder)]
    return tuple((file_path, stat.st_ino, stat.st_mtime_ns, stat.st_size) for file_path, stat in stats)


def weight_headers(folder: Path) -> dict[Path, Header]:
    """The header of each weight file, read once as long as the files stay as they are: one base is held against many
    adapters. Raises ModelError as `weight_files`, AdapterError for a file that is no safetensors, OSError.

    Of a GGUF file with the names of the published checkpoints, and ggml's names of element types.
    """
    if is_gguf(folder):
        tensors = {name: stored.tensor for name, stored in stored_tensors(folder).items()}
        entries = {
            name: TensorInfo(tensor.block_type.name, tensor.shape, tensor.start, tensor.stop)
            for name, tensor in tensors.items()
        }
        return {folder: Header(entries, {})}
    return _headers(weight_stamps(folder))


@lru_cache(maxsize=4)
def _headers(stamps: Stamps) -> dict[Path, Header]:
    return {path: read_header(path) for path, *_ in stamps}


def _indexed(index_path: Path) -> list[Path]:
    weight_map = read_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index_path}: no weight_map, so not an index of shards", fix="download the file again")
    shard_names = set()
    for shard_name in weight_map.values():
        if not isinstance(shard_name, str) or not shard_name or Path(shard_name).name != shard_name:
            raise ModelError(
                f"{index_path}: names the shard {shard_name!r}; allowed are file names of the same folder",
                fix="download the file again",
            )
        shard_names.add(shard_name)
    return [index_path.parent / shard_name for shard_name in sorted(shard_names)]
