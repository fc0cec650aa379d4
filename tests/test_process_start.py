"""The seconds of a process before its command is called, which a time limit counts."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import time

import pytest

from lorica.cli import main
from lorica.commands.tune import StudyCall
from lorica.errors import ConfigError
from lorica.process_start import COMMAND_STARTED, command_started, process_started


def test_the_age_of_a_process_is_that_which_its_parent_measures() -> None:
    code = (
        "import time; time.sleep(0.5)\n"
        "from lorica.process_start import process_started\n"
        "print(time.monotonic() - process_started())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    began = time.monotonic()
    printed = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stdout
    a_tick = 1 / os.sysconf("SC_CLK_TCK")
    assert 0.5 <= float(printed) <= time.monotonic() - began + a_tick


def test_a_system_that_tells_nonsense_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "process_time", lambda: 2.5)
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 1e9)
    assert time.monotonic() - process_started() == pytest.approx(2.5, abs=0.5)


def test_a_command_that_is_not_called_by_its_own_process_begins_when_it_is_called() -> None:
    before = time.monotonic()
    assert before <= command_started() <= time.monotonic()


def test_the_clock_of_a_study_starts_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[StudyCall] = []

    def study(call: StudyCall) -> None:
        calls.append(call)
        raise ConfigError("seen", fix="nothing")

    monkeypatch.setattr("lorica.commands.tune.find_settings", study)
    monkeypatch.setattr("lorica.cli.process_started", lambda: -40.0)
    monkeypatch.setattr(sys, "argv", ["lorica", "tune", "task=rules", "input=rows.csv"])
    assert contextvars.copy_context().run(main) == 2
    assert calls[0].started == -40.0
    assert COMMAND_STARTED.get(None) is None
    assert main(["tune", "task=rules", "input=rows.csv"]) == 2
    assert calls[1].started is not None
    assert calls[1].started > 0
