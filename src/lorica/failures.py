"""What ended a command, as one message: what happened, what to do, what was kept, and where the traceback is."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import traceback

from lorica.errors import LoricaError
from lorica.signals import last_line

DEBUG = "LORICA_DEBUG"
"""The environment variable that shows tracebacks."""

_FIXES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or use another file system",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "let this user read and write there, or name another folder",
    errno.EPERM: "let this user read and write there, or name another folder",
    errno.ENOTDIR: "name a folder where a file stands in the way",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: "mend the links, which lead in a circle",
    errno.EIO: "the disk or its connection fails: use another one",
    errno.EMFILE: "let a process open more files: ulimit -n 4096",
    errno.ENFILE: "this machine has too many open files: end other programs",
    errno.ENOMEM: "end other programs, or use a machine with more memory",
}
_LESS_MEMORY = (
    "end other programs; or compute less at once: inference.batch_tokens, inference.window_rows, training.batch_size"
)
_QUOTED_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")
_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


def explain(error: BaseException) -> str:
    """The message for an exception that ends a command; notes (PEP 678) that it carries are its last lines."""
    error_text = _message(error)
    note_lines = [f"  -> {error_note}" for error_note in getattr(error, "__notes__", ())]
    # Messages that quote a name have Python's own spelling of such bytes in it.
    return _QUOTED_BYTE.sub(r"\\x\1", "\n".join([error_text, *note_lines]))


def lacks_memory(error: BaseException) -> bool:
    """Whether this machine, or its accelerator, had too little memory."""
    return isinstance(error, MemoryError) or any(memory_word in str(error).lower() for memory_word in _MEMORY)


def _message(error: BaseException) -> str:
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    if isinstance(error, LoricaError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return last_line(error)
    if lacks_memory(error):
        return f"there is not enough memory ({str(error) or type(error).__name__})\n  -> {_LESS_MEMORY}"
    if isinstance(error, FileNotFoundError) and _working_folder_is_gone():
        return "the working folder was removed\n  -> cd to a folder that exists, and give full paths"
    if isinstance(error, OSError) and error.errno in _FIXES:
        return f"{_at(error)}{error.strerror}\n  -> {_FIXES[error.errno]}"
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding() != "utf-8":
        return (
            f"{error.object!r} cannot be the name of a file in this locale ({error.encoding})\n  -> set LC_ALL=C.UTF-8"
        )
    if str(error) == "embedded null byte":
        return "a path holds a null character\n  -> remove it"
    description = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"a fault of Lorica's own, not of yours: {description}\n  -> {_traceback(error)}"


def _working_folder_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _at(error: OSError) -> str:
    return f"{error.filename}: " if isinstance(error.filename, str) else ""


def _traceback(error: BaseException) -> str:
    """Where the traceback is: in a file, so that no long run is repeated to see it; printed where that fails."""
    if os.environ.get(DEBUG):
        return "please report it with the traceback above"
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="lorica-", suffix=".traceback", delete=False
        ) as log_file:
            traceback.print_exception(error, file=log_file)
    except OSError:
        traceback.print_exception(error)
        return "please report it with the traceback above"
    return f"please report it with the traceback in {log_file.name}; {DEBUG}=1 prints it"
