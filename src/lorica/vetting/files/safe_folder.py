"""An adapter's folder as a list of files, with those refused that are no files or that links lead out of it to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lorica.adapters.json_document import short_text
from lorica.vetting.files.listing import checkpoint_like
from lorica.vetting.files.sources import Source
from lorica.vetting.finding_codes import Severity
from lorica.vetting.findings import Finding, finding

MAX_FILES = 2_000
_LEVELS = 3
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class SafeFolder:
    """The files of one adapter. files: names below `folder`, with "/" -> bytes. single: only one file is meant."""

    def __init__(self, folder: Path, *, single: bool, limit: Path | None, findings: list[Finding]) -> None:
        self.path = folder
        self.single = single
        self.files: dict[str, int] = {}
        self._refused: dict[str, tuple[str, str]] = {}
        self._findings = findings
        self._limits = [os.path.realpath(root) for root in (folder, limit) if root is not None]

    def find(self, name: str) -> str | None:
        """The entry of the folder itself with this name, else one that differs in capitals only, else None."""
        names = self.names()
        if name in names:
            return name
        return next((file_name for file_name in names if file_name.lower() == name.lower()), None)

    def names(self) -> list[str]:
        """Everything that may be asked for: files, and what was refused."""
        return sorted({*self.files, *self._refused})

    def top_level(self) -> list[str]:
        """The same of the folder itself, without what lies in its subfolders."""
        return [name for name in self.names() if "/" not in name]

    def allows(self, name: str, severity: Severity = "warn") -> bool:
        """Whether a file may be read; where not, a finding of this severity is added."""
        refusal = self.refusal(name, severity)
        self._findings += [] if refusal is None else [refusal]
        return refusal is None

    def refusal(self, name: str, severity: Severity = "warn") -> Finding | None:
        """Why a file may not be read; None for one that may."""
        if name not in self._refused:
            return None
        code, actual = self._refused[name]
        return finding(code, actual, file=name, severity=severity)

    def describe(self) -> str:
        """What is there, for a message."""
        names = [short_text(name, most=60) for name in self.names()[:5]]
        unlisted = len(self.files) + len(self._refused) - len(names)
        return (", ".join(names) + (f" and {unlisted} more" if unlisted else "")) or "nothing"

    def add(self, entry: os.DirEntry[str], name: str) -> bool:
        """List one entry; True for a folder of the adapter, to be looked into."""
        try:
            status = entry.stat()
        except OSError as error:
            problem = "a broken link" if entry.is_symlink() else f"not readable ({error.strerror})"
            self._refused[name] = ("L009" if entry.is_symlink() else "L008", f"it is {problem}")
            return False
        if stat.S_ISREG(status.st_mode):
            if entry.is_symlink() and not self._contains(entry.path):
                target = short_text(os.path.realpath(entry.path))
                self._refused[name] = ("L009", f"it leads to {target}")
            else:
                self.files[name] = status.st_size
            return False
        if stat.S_ISDIR(status.st_mode) and not _looks_like_file(name):
            return not entry.is_symlink()
        self._refused[name] = ("L007", f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}")
        return False

    def _contains(self, path: str) -> bool:
        target = os.path.realpath(path)
        if any(target.startswith(limit.rstrip(os.sep) + os.sep) for limit in self._limits):
            return True
        # A download into a folder of one's own may be links into the hub's cache.
        store = Path(target).parent
        return store.name == "blobs" and store.parent.name.startswith("models--")


def open_safe_folder(source: Source, findings: list[Finding]) -> SafeFolder:
    """List an adapter's files. Raises OSError when its folder cannot be listed.

    Checkpoints and hidden folders below it are left out.
    """
    single = source.path.is_file()
    folder = source.path.parent if single else source.path
    safe_folder = SafeFolder(folder, single=single, limit=source.limit, findings=findings)
    if single:
        with os.scandir(folder) as listing:
            for entry in listing:
                if entry.name in (source.path.name, "adapter_config.json"):
                    safe_folder.add(entry, entry.name)
        return safe_folder
    waiting = [(str(folder), "", 0)]
    while waiting:
        where, prefix, level = waiting.pop(0)
        try:
            with os.scandir(where) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            if not prefix:
                raise
            continue
        for entry in entries:
            if len(safe_folder.files) >= MAX_FILES:
                findings.append(finding("L016", f"the first {MAX_FILES} are", expected="the files of one adapter"))
                return safe_folder
            name = f"{prefix}{entry.name}"
            if safe_folder.add(entry, name) and level < _LEVELS and not _is_apart(entry.name):
                waiting.append((entry.path, f"{name}/", level + 1))
    return safe_folder


def _is_apart(name: str) -> bool:
    return name.startswith(".") or checkpoint_like(name)


def _looks_like_file(name: str) -> bool:
    return "/" not in name and name.lower().endswith((".safetensors", ".json", ".bin", ".md", ".gguf"))
