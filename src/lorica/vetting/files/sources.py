"""Where adapters are: a folder, a checkpoint, a run, a file, an archive, a Hugging Face cache entry, a folder of many.

Finding opens nothing but folders (and the list of contents of an archive that has one), so that a thousand adapters
cost a thousand listings.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.json_document import short_text
from lorica.adapters.raw_adapter import Kind
from lorica.adapters.registry import BEST, CHECKPOINTS, is_own_model, training_owner
from lorica.errors import AdapterError
from lorica.names import closest_file, visible
from lorica.vetting.files.archives import is_archive, peek
from lorica.vetting.files.listing import (
    CHECKPOINT,
    WEIGHT_SUFFIXES,
    checkpoint_like,
    checkpoints_in,
    entries_of,
    holds_adapter,
    inner_folders,
    is_adapter,
    is_base,
    is_folder,
    is_hollow,
    leads_back,
)
from lorica.vetting.findings import Finding

# A folder of adapters is searched so many levels below the one that was named, and a run's checkpoints below that; in
# all so many folders are listed, whatever links lead round in circles.
_LEVELS, _MORE_FOR_RUNS = 3, 2
MAX_FOLDERS = 100_000


class AdapterSource(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter to look at. name: unique among those found together. user_path: the path for people. path: its
    folder, its one file, or the archive.

    inner: the folder within the archive. limit: the folder that links may lead about in. run: the folder of the
    training run it is a checkpoint of. unpacked, members, findings: for an opened archive, whether `path` is now where
    it was unpacked, names -> bytes of what was left packed, and what unpacking found.
    """

    name: str
    user_path: Path
    kind: Kind
    path: Path
    inner: str = ""
    limit: Path | None = None
    run: Path | None = None
    unpacked: bool = False
    members: dict[str, int] = {}
    findings: tuple[Finding, ...] = ()


class _Search:
    """What a search may still list, and the folders that it leaves alone."""

    def __init__(self) -> None:
        self.left = MAX_FOLDERS
        self.passed: list[Path] = []

    def may_list(self, folder: Path) -> bool:
        """Whether one folder more may be listed; else it counts as passed over."""
        self.left -= 1
        if self.left < 0 and len(self.passed) < MAX_FOLDERS:
            self.passed.append(folder)
        return self.left >= 0


def find_sources(user_paths: Sequence[Path]) -> list[AdapterSource]:
    """Every adapter at these places, in their order, names made unique; the same one twice is there once.

    Raises AdapterError for a path that does not exist (naming the nearest that does), cannot be read, or holds no
    adapter, saying what it holds instead.
    """
    return search_sources(user_paths)[0]


def search_sources(user_paths: Sequence[Path]) -> tuple[list[AdapterSource], list[Path]]:
    """The same, and the folders that were not looked at: checkpoints and other adapters within an adapter's folder, and
    what lies too deep."""
    search = _Search()
    sources = [source for user_path in user_paths for source in _sources_at(Path(user_path), search)]
    distinct = _distinct([msgspec.structs.replace(source, name=visible(source.name)) for source in sources])
    distinct_paths = {os.path.realpath(source.path) for source in distinct}
    passed = {os.path.realpath(folder): folder for folder in search.passed}
    return distinct, [folder for real_path, folder in passed.items() if real_path not in distinct_paths]


def _sources_at(user_path: Path, search: _Search) -> list[AdapterSource]:
    try:
        file_mode = user_path.stat().st_mode
        if stat.S_ISDIR(file_mode):
            sources = _adapter_at(user_path, _folder_name(user_path), search, user_path)
            sources = sources or _adapters_below(user_path, "", 0, search)
            if not sources:
                raise _nothing_in(user_path, search.passed)
            return sources
    except FileNotFoundError:
        raise _missing(user_path) from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AdapterError(f"{str(user_path)!a}: cannot be read ({reason})", fix="correct the path") from error
    if not stat.S_ISREG(file_mode):
        raise AdapterError(f"{user_path}: is a pipe, a device or a socket", fix="name an adapter's folder or file")
    return _file(user_path)


def _file(file_path: Path) -> list[AdapterSource]:
    lower_name = file_path.name.lower()
    folder = file_path.parent
    if lower_name == CONFIG_NAME or (lower_name.startswith("adapter_model.") and (folder / CONFIG_NAME).exists()):
        return [_adapter(folder, _folder_name(folder), file_path, _Search())]
    if is_archive(file_path):
        return _archive(file_path, file_path.name)
    if lower_name.endswith(WEIGHT_SUFFIXES):
        return [AdapterSource(name=file_path.name, user_path=file_path, kind="file", path=file_path)]
    raise AdapterError(
        f"{file_path}: is no adapter, nor an archive of one",
        fix="name an adapter's folder, its .safetensors file, or a .zip or .tar of it",
    )


def _archive(archive_path: Path, adapter_name: str) -> list[AdapterSource]:
    source = AdapterSource(name=adapter_name, user_path=archive_path, kind="archive", path=archive_path)
    inside = peek(archive_path)
    if len(inside) < 2:
        return [source]
    return [
        msgspec.structs.replace(source, name=f"{adapter_name}/{inner}", user_path=archive_path / inner, inner=inner)
        for inner in inside
    ]


def _adapter_at(folder: Path, adapter_name: str, search: _Search, user_path: Path | None = None) -> list[AdapterSource]:
    """The adapter, or the cache entry's adapters, that this folder is; [] where it is only a place of others."""
    if folder.name.startswith("models--") and (folder / "snapshots").is_dir():
        return _cached(folder, search)
    entries = entries_of(folder)
    # Of a training that goes on, checkpoints come and go: it is one adapter that is not there yet.
    if (is_adapter(entries) and not is_hollow(folder, entries)) or training_owner(folder) or is_own_model(folder):
        return [_adapter(folder, adapter_name, user_path or folder, search)]
    folders = {entry.name for entry in entries if is_folder(entry)}
    if BEST in folders and is_adapter(entries_of(folder / BEST)):
        subfolders = (folder_name for folder_name in folders if not checkpoint_like(folder_name))
        if not any(holds_adapter(folder / folder_name) for folder_name in subfolders):
            best_source = _adapter(folder / BEST, adapter_name, (user_path or folder) / BEST, search)
            search.passed += [folder / checkpoint for checkpoint in checkpoints_in(folder) if checkpoint != BEST]
            return [msgspec.structs.replace(best_source, run=folder)]
    return []


def _adapter(folder: Path, adapter_name: str, user_path: Path, search: _Search) -> AdapterSource:
    cache_entry = _cache_entry(folder)
    run_folder = _run_of(folder)
    subfolders = (folder / folder_name for folder_name in inner_folders(folder))
    search.passed += [subfolder for subfolder in subfolders if search.may_list(subfolder) and holds_adapter(subfolder)]
    return AdapterSource(
        name=adapter_name,
        user_path=user_path,
        kind="cache" if cache_entry else "checkpoint" if run_folder else "folder",
        path=folder,
        limit=cache_entry,
        run=run_folder,
    )


def _adapters_below(folder: Path, prefix: str, depth: int, search: _Search) -> list[AdapterSource]:
    """The adapters below a folder, sorted by name; hidden folders and base models are passed over. depth: its own."""
    sources: list[AdapterSource] = []
    if not search.may_list(folder):
        return sources
    entries = entries_of(folder)
    if is_base(entries):
        return sources
    for entry in entries:
        entry_path, adapter_name = folder / entry.name, f"{prefix}{entry.name}"
        if entry.name.startswith(".") or (entry.is_symlink() and leads_back(entry_path)):
            continue
        if not is_folder(entry):
            if entry.name.lower().endswith(".safetensors"):
                sources.append(AdapterSource(name=adapter_name, user_path=entry_path, kind="file", path=entry_path))
            elif is_archive(entry_path) and (not entry_path.name.lower().endswith(".zip") or peek(entry_path)):
                sources += _archive(entry_path, adapter_name)
            continue
        try:
            sources += _subfolder_sources(entry_path, adapter_name, depth + 1, search)
        except AdapterError:
            continue  # a cached base model beside cached adapters
        except OSError:  # examining it says why
            sources.append(AdapterSource(name=adapter_name, user_path=entry_path, kind="folder", path=entry_path))
    return sources


def _subfolder_sources(folder: Path, adapter_name: str, depth: int, search: _Search) -> list[AdapterSource]:
    if not search.may_list(folder):
        return []
    if sources := _adapter_at(folder, adapter_name, search):
        return sources
    entries = entries_of(folder)
    of_run = folder.name == CHECKPOINTS or is_adapter(entries)
    if depth < _LEVELS + (_MORE_FOR_RUNS if of_run else 0):
        return _adapters_below(folder, f"{adapter_name}/", depth, search)
    if not is_base(entries) and any(is_folder(entry) and not entry.name.startswith(".") for entry in entries):
        search.passed.append(folder)
    return []


def _cached(cache_entry: Path, search: _Search) -> list[AdapterSource]:
    """The adapters of a Hugging Face cache entry: of its main revision, else of the newest snapshot."""
    folders = filter(is_folder, entries_of(cache_entry / "snapshots"))
    snapshots = {entry.name: entry.stat().st_mtime for entry in folders}
    adapter_name = "/".join(cache_entry.name.split("--")[1:])
    if not snapshots:
        raise AdapterError(f"{cache_entry}: the cache entry holds no snapshot", fix=f"download {adapter_name} again")
    revision = max(snapshots, key=lambda commit: (snapshots[commit], commit))
    main_ref = cache_entry / "refs" / "main"
    if main_ref.is_file() and main_ref.stat().st_size < 256:
        main_commit = main_ref.read_text("utf-8", "replace").strip()
        revision = main_commit if main_commit in snapshots else revision
    snapshot = cache_entry / "snapshots" / revision
    if is_adapter(entries_of(snapshot)):
        return [_adapter(snapshot, adapter_name, cache_entry, search)]
    sources = _adapters_below(snapshot, f"{adapter_name}/", 0, search)
    if not sources:
        raise _nothing_in(snapshot, search.passed)
    return sources


def _run_of(folder: Path) -> Path | None:
    absolute = folder.absolute()
    if absolute.parent.name == CHECKPOINTS:
        return folder.parent.parent if len(folder.parts) > 2 else absolute.parent.parent
    return absolute.parent if CHECKPOINT.fullmatch(absolute.name) else None


def _cache_entry(folder_path: Path) -> Path | None:
    components = folder_path.absolute().parts
    for number in range(len(components) - 2, 0, -1):
        if components[number] == "snapshots" and components[number - 1].startswith("models--"):
            return Path(*components[:number])
    return None


def _folder_name(folder: Path) -> str:
    absolute = Path(os.path.abspath(folder))
    cache_entry = _cache_entry(absolute)
    if cache_entry is not None and absolute.parent == cache_entry / "snapshots":
        return "/".join(cache_entry.name.split("--")[1:])  # people know the repository, not the commit
    run_folder = _run_of(absolute)
    if run_folder and run_folder.name:
        return str(absolute.relative_to(run_folder.parent))
    return absolute.name or str(absolute)


def _distinct(sources: list[AdapterSource]) -> list[AdapterSource]:
    by_path = {(os.path.realpath(source.path), source.inner): source for source in reversed(sources)}
    distinct = list(reversed(by_path.values()))
    for pattern in ("{parent}/{name}", "{name} ({number})"):
        counts = Counter(source.name for source in distinct)
        numbers: Counter[str] = Counter()
        for source_index, source in enumerate(distinct):
            if counts[source.name] > 1:
                numbers[source.name] += 1
                parent, number = source.path.absolute().parent.name, numbers[source.name]
                name = pattern.format(parent=parent, name=source.name, number=number)
                distinct[source_index] = msgspec.structs.replace(source, name=name)
    return distinct


def _missing(user_path: Path) -> AdapterError:
    parent = user_path.parent
    closest_name = closest_file(user_path)
    suggested_fix = f"did you mean {parent / closest_name}?" if closest_name else "correct the path"
    if not closest_name and re.fullmatch(r"[\w.-]+/[\w.-]+", str(user_path)):
        hub_home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
        hub_cache = Path(os.environ.get("HF_HUB_CACHE") or Path(hub_home) / "hub").expanduser()
        cached = hub_cache / f"models--{str(user_path).replace('/', '--')}"
        absent = "nothing is downloaded; download the adapter first"
        suggested_fix = f"did you mean {cached}?" if cached.is_dir() else absent
    return AdapterError(f"{user_path}: no such file or folder", fix=suggested_fix)


def _nothing_in(folder: Path, passed: Sequence[Path]) -> AdapterError:
    entries = entries_of(folder)
    if not entries:
        return AdapterError(f"{folder}: is empty", fix="name an adapter's folder")
    if is_base(entries):
        fix = f"name an adapter, and this with --base {folder}"
        return AdapterError(f"{folder}: is a base model, not an adapter", fix=fix)
    gguf_name = next((entry.name for entry in entries if entry.name.lower().endswith(".gguf")), "")
    if gguf_name:
        return AdapterError(
            f"{folder}: holds GGUF ({short_text(gguf_name)}), which llama.cpp reads, and no adapter of PEFT's",
            fix="name the PEFT adapter that it was converted from",
        )
    deeper = f"; deeper ones were not looked at, name them: {passed[0]}" if passed else ""
    return AdapterError(
        f"{folder}: holds no adapter, nor do its subfolders down to {_LEVELS} levels{deeper}",
        fix=f"name a folder that holds {CONFIG_NAME} and adapter_model.safetensors",
    )
