"""Where adapters are: a folder, a checkpoint, a run, a file, an archive, a Hugging Face cache entry, a folder of many.

Finding opens nothing but folders (and the list of contents of an archive that has one), so that a thousand adapters
cost a thousand listings.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.document import short_text
from lorica.adapters.registry import BEST, CHECKPOINTS, training_owner
from lorica.adapters.specimen import Kind
from lorica.errors import AdapterError
from lorica.names import closest, visible
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


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter to look at. name: unique among those found together. given: the path for people. place: its folder,
    its one file, or the archive.

    inner: the folder within the archive. limit: the folder that links may lead about in. run: the folder of the
    training run it is a checkpoint of. checkpoints: those beside a published adapter, by their paths below `place`.
    unpacked, members, findings: for an opened archive, whether `place` is now where it was unpacked, names -> bytes of
    what was left packed, and what unpacking found.
    """

    name: str
    given: Path
    kind: Kind
    place: Path
    inner: str = ""
    limit: Path | None = None
    run: Path | None = None
    checkpoints: tuple[str, ...] = ()
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


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """Every adapter at these places, in their order, names made unique; the same one twice is there once.

    Raises AdapterError for a path that does not exist (naming the nearest that does), cannot be read, or holds no
    adapter, saying what it holds instead.
    """
    return search_sources(paths)[0]


def search_sources(paths: Sequence[Path]) -> tuple[list[Source], list[Path]]:
    """The same, and the folders that were not looked at: checkpoints and other adapters within an adapter's folder, and
    what lies too deep."""
    search = _Search()
    sources = [source for path in paths for source in _at(Path(path), search)]
    found = _distinct([msgspec.structs.replace(source, name=visible(source.name)) for source in sources])
    taken = {os.path.realpath(source.place) for source in found}
    passed = {os.path.realpath(each): each for each in search.passed}
    return found, [each for real, each in passed.items() if real not in taken]


def _at(given: Path, search: _Search) -> list[Source]:
    try:
        mode = given.stat().st_mode
        if stat.S_ISDIR(mode):
            found = _one(given, _folder_name(given), search, given) or _many(given, "", 0, search)
            if not found:
                raise _nothing_in(given, search.passed)
            return found
    except FileNotFoundError:
        raise _missing(given) from None
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise AdapterError(f"{str(given)!a}: cannot be read ({why})", fix="correct the path") from error
    if not stat.S_ISREG(mode):
        raise AdapterError(f"{given}: is a pipe, a device or a socket", fix="name an adapter's folder or file")
    return _file(given)


def _file(place: Path) -> list[Source]:
    lower = place.name.lower()
    folder = place.parent
    if lower == CONFIG_NAME or (lower.startswith("adapter_model.") and (folder / CONFIG_NAME).exists()):
        return [_adapter(folder, _folder_name(folder), place, _Search())]
    if is_archive(place):
        return _archive(place, place.name)
    if lower.endswith(WEIGHT_SUFFIXES):
        return [Source(name=place.name, given=place, kind="file", place=place)]
    raise AdapterError(
        f"{place}: is no adapter, nor an archive of one",
        fix="name an adapter's folder, its .safetensors file, or a .zip or .tar of it",
    )


def _archive(place: Path, name: str) -> list[Source]:
    inside = peek(place)
    if len(inside) < 2:
        return [Source(name=name, given=place, kind="archive", place=place)]
    return [
        Source(name=f"{name}/{inner}", given=place / inner, kind="archive", place=place, inner=inner)
        for inner in inside
    ]


def _one(place: Path, name: str, search: _Search, given: Path | None = None) -> list[Source]:
    """The adapter, or the cache entry's adapters, that this folder is; [] where it is only a place of others."""
    if place.name.startswith("models--") and (place / "snapshots").is_dir():
        return _cached(place, search)
    entries = entries_of(place)
    # Of a training that goes on, checkpoints come and go: it is one adapter that is not there yet.
    if (is_adapter(entries) and not is_hollow(place, entries)) or training_owner(place):
        return [_adapter(place, name, given or place, search)]
    folders = {entry.name for entry in entries if is_folder(entry)}
    if BEST in folders and is_adapter(entries_of(place / BEST)):
        others = (each for each in folders if not checkpoint_like(each))
        if not any(holds_adapter(place / each) for each in others):
            best = _adapter(place / BEST, name, (given or place) / BEST, search)
            checkpoints = tuple(each for each in checkpoints_in(place) if each != BEST)
            search.passed += [place / each for each in checkpoints]
            return [msgspec.structs.replace(best, checkpoints=checkpoints, run=place)]
    return []


def _adapter(place: Path, name: str, given: Path, search: _Search) -> Source:
    cache = _cache_entry(place)
    run = _run_of(place)
    inner = (place / each for each in inner_folders(place))
    search.passed += [each for each in inner if search.may_list(each) and holds_adapter(each)]
    return Source(
        name=name,
        given=given,
        kind="cache" if cache else "checkpoint" if run else "folder",
        place=place,
        limit=cache,
        run=run,
        checkpoints=checkpoints_in(place),
    )


def _many(place: Path, prefix: str, level: int, search: _Search) -> list[Source]:
    """The adapters below a folder, sorted by name; hidden folders and base models are passed over. level: its own."""
    found: list[Source] = []
    if not search.may_list(place):
        return found
    entries = entries_of(place)
    if is_base(entries):
        return found
    for entry in entries:
        path, name = place / entry.name, f"{prefix}{entry.name}"
        if entry.name.startswith(".") or (entry.is_symlink() and leads_back(path)):
            continue
        if not is_folder(entry):
            if entry.name.lower().endswith(".safetensors"):
                found.append(Source(name=name, given=path, kind="file", place=path))
            elif is_archive(path) and (not path.name.lower().endswith(".zip") or peek(path)):
                found += _archive(path, name)
            continue
        try:
            found += _below(path, name, level + 1, search)
        except AdapterError:
            continue  # a cached base model beside cached adapters
        except OSError:
            found.append(Source(name=name, given=path, kind="folder", place=path))  # examining it says why
    return found


def _below(place: Path, name: str, level: int, search: _Search) -> list[Source]:
    if not search.may_list(place):
        return []
    if found := _one(place, name, search):
        return found
    entries = entries_of(place)
    of_run = place.name == CHECKPOINTS or is_adapter(entries)
    if level < _LEVELS + (_MORE_FOR_RUNS if of_run else 0):
        return _many(place, f"{name}/", level, search)
    if not is_base(entries) and any(is_folder(entry) and not entry.name.startswith(".") for entry in entries):
        search.passed.append(place)
    return []


def _cached(place: Path, search: _Search) -> list[Source]:
    """The adapters of a Hugging Face cache entry: of its main revision, else of the newest snapshot."""
    snapshots = {entry.name: entry.stat().st_mtime for entry in entries_of(place / "snapshots") if is_folder(entry)}
    name = "/".join(place.name.split("--")[1:])
    if not snapshots:
        raise AdapterError(f"{place}: the cache entry holds no snapshot", fix=f"download {name} again")
    chosen = max(snapshots, key=lambda each: (snapshots[each], each))
    main = place / "refs" / "main"
    if main.is_file() and main.stat().st_size < 256:
        revision = main.read_text("utf-8", "replace").strip()
        chosen = revision if revision in snapshots else chosen
    snapshot = place / "snapshots" / chosen
    if is_adapter(entries_of(snapshot)):
        return [_adapter(snapshot, name, place, search)]
    found = _many(snapshot, f"{name}/", 0, search)
    if not found:
        raise _nothing_in(snapshot, search.passed)
    return found


def _run_of(place: Path) -> Path | None:
    whole = place.absolute()
    if whole.parent.name == CHECKPOINTS:
        return place.parent.parent if len(place.parts) > 2 else whole.parent.parent
    return whole.parent if CHECKPOINT.fullmatch(whole.name) else None


def _cache_entry(place: Path) -> Path | None:
    parts = place.absolute().parts
    for number in range(len(parts) - 2, 0, -1):
        if parts[number] == "snapshots" and parts[number - 1].startswith("models--"):
            return Path(*parts[:number])
    return None


def _folder_name(place: Path) -> str:
    whole = Path(os.path.abspath(place))
    cache = _cache_entry(whole)
    if cache is not None and whole.parent == cache / "snapshots":
        return "/".join(cache.name.split("--")[1:])  # people know the repository, not the commit
    run = _run_of(whole)
    return str(whole.relative_to(run.parent)) if run and run.name else whole.name or str(whole)


def _distinct(sources: list[Source]) -> list[Source]:
    once = {(os.path.realpath(source.place), source.inner): source for source in reversed(sources)}
    kept = list(reversed(once.values()))
    for rename in (lambda source, _: f"{source.place.absolute().parent.name}/{source.name}", _numbered):
        counts: dict[str, int] = {}
        for source in kept:
            counts[source.name] = counts.get(source.name, 0) + 1
        seen: dict[str, int] = {}
        for place, source in enumerate(kept):
            if counts[source.name] > 1:
                seen[source.name] = number = seen.get(source.name, 0) + 1
                kept[place] = msgspec.structs.replace(source, name=rename(source, number))
    return kept


def _numbered(source: Source, number: int) -> str:
    return f"{source.name} ({number})"


def _missing(given: Path) -> AdapterError:
    parent = given.parent
    try:
        beside = [entry.name for entry in entries_of(parent)]
    except OSError:
        beside = []
    near = closest(given.name, beside)
    fix = f"did you mean {parent / near}?" if near else "correct the path"
    if not near and re.fullmatch(r"[\w.-]+/[\w.-]+", str(given)):
        cached = _hub_cache() / f"models--{str(given).replace('/', '--')}"
        fix = f"did you mean {cached}?" if cached.is_dir() else "nothing is downloaded; download the adapter first"
    return AdapterError(f"{given}: no such file or folder", fix=fix)


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _nothing_in(place: Path, passed: Sequence[Path]) -> AdapterError:
    entries = entries_of(place)
    if not entries:
        return AdapterError(f"{place}: is empty", fix="name an adapter's folder")
    if is_base(entries):
        return AdapterError(
            f"{place}: is a base model, not an adapter", fix=f"name an adapter, and this with --base {place}"
        )
    other = next((entry.name for entry in entries if entry.name.lower().endswith(".gguf")), "")
    if other:
        return AdapterError(
            f"{place}: holds GGUF ({short_text(other)}), which llama.cpp reads, and no adapter of PEFT's",
            fix="name the PEFT adapter that it was converted from",
        )
    deeper = f"; deeper ones were not looked at, name them: {passed[0]}" if passed else ""
    return AdapterError(
        f"{place}: holds no adapter, nor do its subfolders down to {_LEVELS} levels{deeper}",
        fix=f"name a folder that holds {CONFIG_NAME} and adapter_model.safetensors",
    )
