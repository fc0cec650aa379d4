"""The library of compiled kernels: built or not, which of its targets this processor runs, and which one is used.

A target is a set of instructions (`build.TARGET_OPTIONS`). The library holds the kernels of every target that the
compiler knew, so that a copied one is right on every processor; the fastest that the processor runs is used.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

from lorica.errors import ConfigError
from lorica.models.compiled.build import LIBRARY, TARGET_OPTIONS, digest, suffix

TARGET_VARIABLE = "LORICA_CPU_TARGET"
"""In the environment: the target to use instead of the fastest, or none for torch's operators."""

NO_TARGET = "none"

_FEATURES = {"avx2": 1, "avx-vnni": 2, "avx512": 4, "avx512-bf16": 8, "neon": 16}  # bits of `lorica_features`


def target() -> str:
    """The target whose kernels are used; "" where none are. Raises ConfigError where the environment names one that is
    not available.
    """
    return _choose()[0]


def is_switched_off() -> bool:
    """Whether the environment asks for none."""
    return os.environ.get(TARGET_VARIABLE, "").strip().lower() == NO_TARGET


def why_unavailable() -> str:
    """Why no kernels are used here, or ""."""
    return _choose()[1]


@cache
def available_targets() -> tuple[str, ...]:
    """The targets that were compiled and run on this processor, from slow to fast."""
    return _load()[0]


@cache
def _choose() -> tuple[str, str]:
    """A target, or "" and the reason."""
    chosen = os.environ.get(TARGET_VARIABLE, "").strip().lower()
    names, failure_reason = _load()
    if is_switched_off():
        return "", f"{TARGET_VARIABLE} is {NO_TARGET}"
    if not chosen:
        return (names[-1], "") if names else ("", failure_reason)
    if chosen in names:
        return chosen, ""
    if chosen not in TARGET_OPTIONS:
        message = f"{TARGET_VARIABLE}={chosen!r} is none of {', '.join(TARGET_OPTIONS)}, {NO_TARGET}"
    elif failure_reason:
        message = f"{TARGET_VARIABLE}={chosen} needs compiled kernels: {failure_reason}"
    else:
        message = f"{TARGET_VARIABLE}={chosen}: not on this processor or by this compiler; there are {', '.join(names)}"
    raise ConfigError(message, fix=f"set it to one of {', '.join((*names, NO_TARGET))}, or unset it for the fastest")


@cache
def _load() -> tuple[tuple[str, ...], str]:
    """The targets that run here, and why there are none."""
    if not LIBRARY.exists():
        return (), "not built"
    try:
        library = open_library()
        if library.lorica_digest() != digest().encode():
            return (), "built from other sources"
        compiled = library.lorica_targets().decode().split(",")
        features = library.lorica_features()
    except (OSError, AttributeError):
        return (), "the library cannot be loaded"
    names = tuple(name for name, bit in _FEATURES.items() if features & bit and name in compiled)
    return names, "" if names else f"this processor has no {next(iter(TARGET_OPTIONS)).upper()}"


@cache
def open_library() -> ctypes.CDLL:
    """The library as it lies on the disk. Raises OSError, and AttributeError for another program's."""
    library = ctypes.CDLL(str(LIBRARY))
    library.lorica_digest.restype = library.lorica_targets.restype = ctypes.c_char_p
    library.lorica_features.restype = ctypes.c_int
    return library


class Kernel:
    """A function of the library for the target in use: `lorica_<name>_<target>`."""

    def __init__(self, name: str, *argument_types: Any, returns: Any = None) -> None:
        self._name, self._argument_types, self._returns = name, argument_types, returns
        self._functions: dict[str, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Call it with ctypes' arguments."""
        name = target()
        if name not in self._functions:
            function = getattr(open_library(), f"lorica_{self._name}_{suffix(name)}")
            function.argtypes, function.restype = self._argument_types, self._returns
            self._functions[name] = function
        return self._functions[name](*arguments)


def clear_caches() -> None:
    """Look at the environment and the library again."""
    for function in (_choose, _load, available_targets, open_library):
        function.cache_clear()
