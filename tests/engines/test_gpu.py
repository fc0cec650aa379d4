"""Runs the tests on an emulated GPU in a process of their own: torch cannot forget a device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("on_emulated_gpu.py")


@pytest.mark.parametrize("chosen", ["scores", "texts", "not scores and not texts"])
def test_on_an_emulated_gpu(chosen: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-k",
        chosen,
        str(CASES),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CASES.parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
