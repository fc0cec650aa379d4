"""An adapter's folder as a list of files that are safe to open: no pipes or devices, no links that lead out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lorica.adapters.json_document import short_text
from lorica.vetting.files.listing import checkpoint_like, entries_of
from lorica.vetting.files.sources import AdapterSource
from lorica.vetting.findings import Finding, finding

MAX_FILES = 2_000
_LEVELS = 3
_FILE_SUFFIXES = (".safetensors", ".json", ".bin", ".md", ".gguf")
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
        self._limits = [os.path.realpath(root_folder) for root_folder in (folder, limit) if root_folder is not None]

    def find(self, wanted_name: str) -> str | None:
        """The entry of the folder itself with this name, else one that differs in capitals only, else None."""
        file_names = self.names()
        if wanted_name in file_names:
            return wanted_name
        return next((file_name for file_name in file_names if file_name.lower() == wanted_name.lower()), None)

    def names(self) -> list[str]:
        """Everything that may be asked for: files, and what was refused."""
        return sorted({*self.files, *self._refused})

    def top_level(self) -> list[str]:
        """The same of the folder itself, without what lies in its subfolders."""
        return [file_name for file_name in self.names() if "/" not in file_name]

    def allows(self, file_name: str) -> bool:
        """Whether a file may be read; where not, a finding is added."""
        refusal = self.refusal(file_name)
        self._findings += [] if refusal is None else [refusal]
        return refusal is None

    def refusal(self, file_name: str) -> Finding | None:
        """Why a file may not be read; None for one that may."""
        if file_name not in self._refused:
            return None
        finding_code, actual = self._refused[file_name]
        return finding(finding_code, actual, file=file_name)

    def describe(self) -> str:
        """What is there, for a message."""
        shown_names = [short_text(file_name, max_chars=60) for file_name in self.names()[:5]]
        unlisted = len(self.files) + len(self._refused) - len(shown_names)
        return (", ".join(shown_names) + (f" and {unlisted} more" if unlisted else "")) or "nothing"

    def add(self, entry: os.DirEntry[str], file_name: str) -> bool:
        """List one entry; True for a folder of the adapter, to be looked into."""
        try:
            status = entry.stat()
        except OSError as error:
            problem = "a broken link" if entry.is_symlink() else f"not readable ({error.strerror})"
            self._refused[file_name] = ("L009" if entry.is_symlink() else "L008", f"it is {problem}")
            return False
        if stat.S_ISREG(status.st_mode):
            if entry.is_symlink() and not self._contains(entry.path):
                target = short_text(os.path.realpath(entry.path))
                self._refused[file_name] = ("L009", f"it leads to {target}")
            else:
                self.files[file_name] = status.st_size
            return False
        looks_like_file = "/" not in file_name and file_name.lower().endswith(_FILE_SUFFIXES)
        if stat.S_ISDIR(status.st_mode) and not looks_like_file:
            return not entry.is_symlink()
        self._refused[file_name] = ("L007", f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}")
        return False

    def _contains(self, file_path: str) -> bool:
        target = os.path.realpath(file_path)
        if any(target.startswith(limit_folder.rstrip(os.sep) + os.sep) for limit_folder in self._limits):
            return True
        # A download into a folder of one's own may be links into the hub's cache.
        blob_folder = Path(target).parent
        return blob_folder.name == "blobs" and blob_folder.parent.name.startswith("models--")


def open_safe_folder(source: AdapterSource, findings: list[Finding]) -> SafeFolder:
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
    waiting = [(folder, "", 0)]
    while waiting:
        subfolder, prefix, depth = waiting.pop(0)
        try:
            entries = entries_of(subfolder)
        except OSError:
            if not prefix:
                raise
            continue
        for entry in entries:
            if len(safe_folder.files) >= MAX_FILES:
                findings.append(finding("L016", f"the first {MAX_FILES} are"))
                return safe_folder
            file_name = f"{prefix}{entry.name}"
            is_apart = entry.name.startswith(".") or checkpoint_like(entry.name)
            if safe_folder.add(entry, file_name) and depth < _LEVELS and not is_apart:
                waiting.append((Path(entry.path), f"{file_name}/", depth + 1))
    return safe_folder
