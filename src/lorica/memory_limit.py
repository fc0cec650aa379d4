"""How much memory this process may have: the machine's, or less where a container limits it. It never changes."""

from __future__ import annotations

from pathlib import Path

NO_LIMIT = 1 << 60
"""A cgroup without a limit states a number near 2 ** 63."""


def memory_limit(*, root: Path = Path("/")) -> int | None:
    """Bytes; None where the system does not tell. root: where proc and sys are."""
    sizes = [meminfo_bytes(root, "MemTotal")]
    sizes += [_read_limit(folder / limit_name) for folder, limit_name, _ in cgroup_files(root)]
    return min((size for size in sizes if size is not None), default=None)


def meminfo_bytes(root: Path, entry: str) -> int | None:
    """An entry of proc/meminfo."""
    try:
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:")), None)


def cgroup_files(root: Path) -> list[tuple[Path, str, str]]:
    """The cgroups that this process is in, of either version: folder, and the names of the files of limit and usage."""
    try:
        lines = (root / "proc/self/cgroup").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return []
    files: list[tuple[Path, str, str]] = []
    base = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files.append((base / path.lstrip("/"), "memory.max", "memory.current"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            files += [(base / "memory" / path.lstrip("/"), *names), (base / "memory", *names)]
    return files


def _read_limit(path: Path) -> int | None:
    try:
        limit = path.read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    return int(limit) if limit.isdecimal() and int(limit) < NO_LIMIT else None
