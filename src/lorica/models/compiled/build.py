"""Compiles the kernels with the C compiler of the machine, once for every target; needs nothing but that, and no torch.

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
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "_kernels.so"
_COMPILERS = ("cc", "gcc", "clang")
# Without contraction, which rounds a product and a sum once or twice as the compiler likes.
_OPTIONS = ("-O3", "-std=gnu11", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra")
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")

_X86_64 = {
    "avx2": _AVX2,
    "avx-vnni": (*_AVX2, "-mavxvnni"),
    "avx512": _AVX512,
    "avx512-bf16": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
}

TARGETS_BY_MACHINE: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": _X86_64,
    "amd64": _X86_64,
    "aarch64": {"neon": ()},
}
"""What the compiler is told for each target, a set of instructions that a processor has or lacks; from slow to fast: a
processor that has one mostly has those before it."""

TARGET_OPTIONS = TARGETS_BY_MACHINE.get(platform.machine().lower(), _X86_64)
"""Those of this machine."""

_ONCE = "library.c"  # for all targets; runs on every processor


def sources() -> list[Path]:
    """All files that the library is made of."""
    return sorted([*FOLDER.glob("*.c"), *FOLDER.glob("*.h")])


def digest() -> str:
    """What the sources are: a library that was made of others is not used."""
    state = hashlib.sha256()
    for source_path in [*sources(), Path(__file__)]:
        state.update(source_path.name.encode() + b"\0" + source_path.read_bytes() + b"\0")
    return state.hexdigest()[:16]


def suffix(target: str) -> str:
    """What the names of a target's functions end in."""
    return target.replace("-", "_")


def why_not() -> str:
    """Why nothing can be compiled here, or ""."""
    if platform.machine().lower() not in TARGETS_BY_MACHINE:
        return f"the kernels are written for x86-64 and AArch64, this is {platform.machine()}"
    if sys.platform == "win32":
        return "the kernels are not built on Windows"
    return "" if _compiler() else f"no C compiler was found: none of {', '.join(_COMPILERS)}, nor $CC"


def build() -> str:
    """Compile the library beside its sources. Returns "", or why that failed; an old library is deleted then, too."""
    LIBRARY.unlink(missing_ok=True)
    failure_reason = why_not()
    if failure_reason:
        return failure_reason
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as threads:
        targets = [target for target in TARGET_OPTIONS if _can_compile(target, Path(folder))]
        if not targets:
            return f"{shlex.join(_compiler())} compiles for none of {', '.join(TARGET_OPTIONS)}"
        shared_options = [f'-DLORICA_DIGEST="{digest()}"', f'-DLORICA_TARGETS="{",".join(targets)}"']
        jobs = [(Path(folder) / "all", shared_options)]
        for target in targets:
            jobs.append((Path(folder) / target, [*TARGET_OPTIONS[target], f"-DLORICA_TARGET={suffix(target)}"]))
        failures = [failure for failure in threads.map(lambda job: _compile(*job), jobs) if failure]
        return failures[0] if failures else _link(Path(folder))


def _can_compile(target: str, folder: Path) -> bool:
    """Whether the compiler knows a target's instructions."""
    probe = folder / "probe.c"
    probe.write_text("int probe;\n")
    return not _run([*_compiler(), *TARGET_OPTIONS[target], "-c", probe.name], folder)


def _compile(folder: Path, options: list[str]) -> str:
    """Compile the sources of a target, or those of all, into a new folder that is named so."""
    folder.mkdir()
    names = [str(path) for path in sources() if path.suffix == ".c" and (path.name == _ONCE) == (folder.name == "all")]
    return _run([*_compiler(), *_OPTIONS, *options, "-c", *names], folder)


def _link(folder: Path) -> str:
    # Linked under another name and renamed, so that a process loads all of it or nothing.
    unfinished = LIBRARY.with_suffix(f".{os.getpid()}.so")
    objects = [str(path) for path in sorted(folder.rglob("*/*.o"))]
    try:
        failure = _run([*_compiler(), "-shared", *objects, "-o", str(unfinished), "-lm"], folder)
        if not failure:
            unfinished.replace(LIBRARY)
    finally:
        unfinished.unlink(missing_ok=True)
    return failure


def _run(command: list[str], folder: Path) -> str:
    """Run a compiler, which writes into a folder. Returns "", or why it failed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{shlex.join(command)}: {error}"
    return f"the compiler failed: {shlex.join(command)}\n{done.stderr}" if done.returncode else ""


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
