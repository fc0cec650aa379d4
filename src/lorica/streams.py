"""The standard streams of a command: every text fits their encoding, and one that is gone stops nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, cast

from lorica.names import visible

if TYPE_CHECKING:
    from rich.progress import Progress

# What Lorica's own tables and reports draw with, for encodings that lack it.
_PLAIN = str.maketrans({
    "─": "-", "├": "|", "└": "`", "·": ".", "…": "...", "–": "-", "—": "-", "−": "-", "±": "+-", "√": "sqrt",
    "∞": "inf", "“": '"', "”": '"', "‘": "'", "’": "'",
})  # fmt: skip


class SturdyStream:
    """A text stream whose writes never raise: what its encoding lacks is spelt in ASCII, and once it cannot be written
    to (closed, disk full, no reader any more), what is written is lost. Everything else is the stream's own.

    failure: why something was lost, or None.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """stream: None where the process was started with this one closed."""
        self._stream: TextIO = stream or cast(TextIO, _Closed())
        self.failure: Exception | None = None

    def write(self, output_text: str) -> int:
        """Write as much of the text as can be written; returns its length all the same, as if all had been."""
        if self.failure is None:
            try:
                self._stream.write(fitting(output_text, self._stream.encoding))
            except (OSError, ValueError) as error:  # ValueError: it was closed in this process
                self.failure = error
        return len(output_text)

    def writelines(self, text_lines: Iterable[str]) -> None:
        """Write one text after the other."""
        for text_line in text_lines:
            self.write(text_line)

    def flush(self) -> None:
        """Hand over what is buffered."""
        if self.failure is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.failure = error

    def __getattr__(self, attribute_name: str) -> Any:
        return getattr(self._stream, attribute_name)

    def settle(self) -> None:
        """Flush; what could not be written is thrown away, for Python would complain of it again when it ends."""
        self.flush()
        if self.failure is not None:
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


class _Closed:
    """A standard stream that the process was started without."""

    encoding = "utf-8"

    def write(self, output_text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@contextlib.contextmanager
def sturdy_streams() -> Iterator[SturdyStream]:
    """A block in which `sys.stdout` and `sys.stderr` are sturdy; yields the former, settled when the block ends."""
    _fill_gaps()
    before = sys.stdout, sys.stderr
    output, errors = SturdyStream(sys.stdout), SturdyStream(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, errors)
    try:
        yield output
    finally:
        output.settle()
        errors.settle()
        sys.stdout, sys.stderr = before


def fitting(output_text: str, encoding: str | None) -> str:
    """The text as a stream of this encoding can carry it: characters that it lacks become ASCII that looks alike, or
    escapes such as `\\u2713`."""
    output_text = visible(output_text)
    try:
        output_text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return output_text.translate(_PLAIN).encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")
    return output_text


def carries_unicode(stream: TextIO) -> bool:
    """Whether every text fits the stream as it is."""
    return (stream.encoding or "utf-8").lower().replace("_", "-").startswith("utf")


def terminal_columns(stream: TextIO) -> int | None:
    """Columns of the terminal that the stream is; None where it is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _fill_gaps() -> None:
    """Put the null device where 0, 1 or 2 is closed: else the next file that is opened takes the number, and whatever
    writes to standard error below Python would write into a user's file."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def progress_bar(stream: TextIO, *, transient: bool = False) -> Progress:
    """A bar with its count, the field `detail` and the time left. transient: it goes when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=transient,
    )
