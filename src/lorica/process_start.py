"""When a command began: with its process, before Python and the first import, whose seconds a time limit counts."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

COMMAND_STARTED: ContextVar[float] = ContextVar("COMMAND_STARTED")
"""By `time.monotonic`; set where the process is the command's own."""

_STARTTIME = 22 - 3  # of /proc/PID/stat (proc(5)), counted from the field behind the name
_LONGEST = 60.0  # seconds until a command is called; a system that tells more tells something else


def command_started() -> float:
    """When the command of this process began, by `time.monotonic`; now, where the process is not its own."""
    return COMMAND_STARTED.get(time.monotonic())


def process_started() -> float:
    """When this process began, by `time.monotonic`. Where the system does not tell, the processor time that it has
    used stands for its age, for no less has passed."""
    age = time.process_time()
    with suppress(OSError, ValueError, IndexError, AttributeError):  # no /proc, another form of it, no such clock
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        began = int(fields[_STARTTIME]) / os.sysconf("SC_CLK_TCK")  # seconds after the machine
        told_age = time.clock_gettime(time.CLOCK_BOOTTIME) - began
        if age < told_age < _LONGEST:
            age = told_age
    return time.monotonic() - age
