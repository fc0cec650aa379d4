"""Compiles the kernels with the C compiler of the machine; needs nothing but that, and no torch.

Run when Lorica is installed (see `hatch_build.py`), and by hand: `python -m lorica.models.compiled.build`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "_kernels.so"
_COMPILERS = ("cc", "gcc", "clang")
_OPTIONS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")


def sources() -> list[Path]:
    """All files that the library is made of."""
    return sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")])


def digest() -> str:
    """What the sources are: a library that was made of others is not used."""
    state = hashlib.sha256()
    for source_path in sources():
        state.update(source_path.name.encode() + b"\0" + source_path.read_bytes() + b"\0")
    return state.hexdigest()[:16]


def why_not() -> str:
    """Why nothing can be compiled here, or ""."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"the kernels are written for x86-64, this is {platform.machine()}"
    if sys.platform == "win32":
        return "the kernels are not built on Windows"
    return "" if _compiler() else f"no C compiler was found: none of {', '.join(_COMPILERS)}, nor $CC"


def build() -> str:
    """Compile the library beside its sources. Returns "", or why that failed; an old library is deleted then, too."""
    LIBRARY.unlink(missing_ok=True)
    failure_reason = why_not()
    if failure_reason:
        return failure_reason
    # Compiled under another name and renamed, so that a process loads all of it or nothing.
    unfinished = LIBRARY.with_suffix(f".{os.getpid()}.so")
    source_paths = [str(source_path) for source_path in sources() if source_path.suffix == ".c"]
    command = [*_compiler(), *_OPTIONS, f'-DLORICA_DIGEST="{digest()}"', *source_paths, "-o", str(unfinished), "-lm"]
    try:
        compiled = subprocess.run(command, capture_output=True, text=True, check=False)
        if compiled.returncode != 0:
            return f"the compiler failed: {shlex.join(command)}\n{compiled.stderr}"
        unfinished.replace(LIBRARY)
    except OSError as error:
        return f"{shlex.join(command)}: {error}"
    finally:
        unfinished.unlink(missing_ok=True)
    return ""


def _compiler() -> list[str]:
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen if shutil.which(chosen[0]) else []
    return next(([name] for name in _COMPILERS if shutil.which(name)), [])


def main() -> int:
    """Build, and say how it went."""
    failure_reason = build()
    print(
        failure_reason or f"built {LIBRARY.name} of {len(sources())} files",
        file=sys.stderr if failure_reason else sys.stdout,
    )
    return 1 if failure_reason else 0


if __name__ == "__main__":
    sys.exit(main())
