"""Large buffers that are freed and made again: whether the system is asked for each."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from lorica.models.allocator import is_chosen, keep_buffers

_PROGRAM = """
import resource, sys
from lorica.models.allocator import keep_buffers
import torch
torch.set_num_threads(1)
print(keep_buffers())
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(20):
        a = torch.zeros(1 << 21); b = a + 1; c = b * 2  # 8 MiB each
def asked():
    before = faults()
    work()
    return faults() - before
work()
# A round may still find a hole too small and go on in fresh memory; what is given back is asked for in every round.
print(min(asked() for _ in range(4)))
"""


def run(**variables: str) -> tuple[bool, int]:
    environ = {name: value for name, value in os.environ.items() if not is_chosen({name: value})}
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environ | variables, capture_output=True, text=True, check=True
    )
    took, faults = found.stdout.split()
    return took == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_buffers_are_kept_unless_the_user_has_chosen() -> None:
    took, faults = run()
    assert took
    assert faults < 2000  # 60 buffers of 2048 pages each: 122,880 where each page is asked for anew
    took, more = run(MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="65536")
    assert not took
    assert more > 10 * max(faults, 100)


_RELEASING = """
import torch
from pathlib import Path
from lorica.models.allocator import keep_buffers, release_free_pages
assert keep_buffers()
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
buffers = [torch.ones(1 << 18) for _ in range(64)]  # 1 MiB each
del buffers[::2]
before = resident()
release_free_pages()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_pages_between_buffers_are_given_back() -> None:
    environ = {name: value for name, value in os.environ.items() if not is_chosen({name: value})}
    output = subprocess.run([sys.executable, "-c", _RELEASING], env=environ, capture_output=True, text=True, check=True)
    assert int(output.stdout) > 24 << 20  # of the 32 MiB that were freed


def test_what_counts_as_a_choice() -> None:
    assert is_chosen({"MALLOC_TOP_PAD_": "1"})
    assert is_chosen({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"})
    assert not is_chosen({"MALLOC_CHECK_": "3", "GLIBC_TUNABLES": "glibc.pthread.rseq=0"})
    assert keep_buffers() in (True, False)
