"""`timings.jsonl`: what an engine computed for each row of a run, one `RowTiming` a line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from lorica.data.write import atomic_file
from lorica.errors import DataError
from lorica.records import RowTiming

_RUN_AGAIN = "answer the rows again: timings are not to be edited"


def write_timings(path: Path, timings: Iterable[RowTiming]) -> None:
    """Write timings, whole or not at all. Raises DataError when the disk refuses."""
    encoder = msgspec.json.Encoder()
    with atomic_file(path) as timings_file:
        for timing in timings:
            timings_file.write(encoder.encode(timing) + b"\n")


def read_timings(path: Path) -> list[RowTiming]:
    """All timings of a file, warm-ups included. Raises DataError as `stream_timings`."""
    return list(stream_timings(path))


def stream_timings(path: Path) -> Iterator[RowTiming]:
    """The timings of a file one by one, warm-ups included.

    Raises DataError naming the line for what is no timing, for seconds or tokens that cannot be, and for a row that is
    there twice.
    """
    decoder = msgspec.json.Decoder(RowTiming)
    line_of: dict[str, int] = {}
    for line_number, line in enumerate(_lines(path), 1):
        try:
            timing = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DataError(f"is no timing of a row: {error}", path=path, line=line_number, fix=_RUN_AGAIN) from error
        problem = _problem(timing)
        if not timing.warmup and timing.id in line_of:
            problem = f"the row stands in line {line_of[timing.id]} already"
        if problem:
            raise DataError(problem, path=path, line=line_number, row_id=timing.id, fix=_RUN_AGAIN)
        if not timing.warmup:
            line_of[timing.id] = line_number
        yield timing


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as timings_file:
            yield from timings_file
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path, fix=_RUN_AGAIN) from error


def _problem(timing: RowTiming) -> str:
    if not math.isfinite(timing.seconds) or timing.seconds < 0:
        return f"seconds is {timing.seconds}; allowed: numbers from 0 on"
    if timing.prompt_tokens < 0 or timing.generated_tokens < 0:
        return f"{min(timing.prompt_tokens, timing.generated_tokens)} tokens; allowed: numbers from 0 on"
    return ""
