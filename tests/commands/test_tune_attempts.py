"""`lorica tune attempts=...`: studies one after another that end in a written decision."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path

import pytest

from lorica.commands.tune import DECISION_NAME, DECISION_TEXT, StudyCall, run_attempts
from lorica.commands.tune_result import AttemptsResult
from lorica.runs.run_clock import RunClock
from tests.commands.tune_stub import Stub, plan_of, write_rows


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows with gold, in a folder that is the working one."""
    monkeypatch.chdir(tmp_path)
    return write_rows(tmp_path)


def test_attempts_end_in_a_written_decision(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub()
    decision = decided(stub, monkeypatch, "attempts=3", "minutes_per_attempt=3", "trials=8")
    assert stub.now <= 3 * 180
    assert decision.adopted is not None
    assert decision.command == decision.attempts[decision.adopted - 1].commands["best"]
    first, second = decision.attempts[:2]
    assert first.best is not None
    assert second.trials[1].settings == first.best.settings
    assert second.trials[1].origin == "earlier attempt"
    text = Path("study", DECISION_TEXT).read_text()
    assert "# Decision: adopt the settings of attempt" in text
    assert f"```sh\n{decision.command}\n```" in text
    assert json.loads(Path("study", DECISION_NAME).read_text())["adopted"] == decision.adopted
    corrected = [p_value for p_value in decision.p_corrected if not math.isnan(p_value)]
    raw = [result.comparison.test.p_value for result in decision.attempts if result.comparison is not None]
    assert all(p_value >= least for p_value, least in zip(corrected, raw, strict=True))


def decided(stub: Stub, monkeypatch: pytest.MonkeyPatch, *words: str) -> AttemptsResult:
    monkeypatch.setattr(
        "lorica.commands.tune.RunClock",
        lambda folder, *, limit, started: RunClock(folder, limit=limit, now=lambda: stub.now),
    )
    call = StudyCall((), words, "lorica tune ...")
    return run_attempts(plan_of(*words), call, make_runner=stub.of)


def test_a_decision_to_keep_the_defaults_says_what_was_found(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(quality=lambda settings: 0.3, luck=True)
    decision = decided(stub, monkeypatch, "attempts=2", "minutes_per_attempt=3", "trials=6")
    assert decision.adopted is None
    assert decision.decision == "keep the defaults"
    assert decision.command == decision.attempts[-1].commands["defaults"]
    text = Path("study", DECISION_TEXT).read_text().replace("\\", "")
    assert re.search(
        r"On up to 60 rows that no trial saw, .* beat them by more than chance: roc_auc [+-]0\.\d+ \(", text
    )
    best = decision.attempts[0].best
    assert best is not None
    assert f"{best.value:.3f} [{best.low:.3f}, {best.high:.3f}]" in text


def test_nothing_is_decided_where_too_little_was_tried(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decision = decided(Stub(update=30.0), monkeypatch, "attempts=2", "minutes_per_attempt=1")
    assert decision.decision == "none yet, for too little was tried"
    assert "give more minutes_per_attempt" in decision.verdict
    assert "minutes_per_attempt=2" in shlex.split(decision.command)
    assert "attempts=2" in shlex.split(decision.command)


def test_attempts_go_on_with_more_minutes(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where that lets an attempt find settings that a later one was not told of."""
    stub = Stub(update=2.0)
    words = ("attempts=2", "tune.prune=false")
    first = decided(stub, monkeypatch, *words, "minutes_per_attempt=0.7")
    begun = [result.trials for result in first.attempts]
    second = decided(stub, monkeypatch, *words, "minutes_per_attempt=4", "training.resume=true")
    earlier, later = second.attempts
    assert first.attempts[0].best != earlier.best, "another one is the best now"
    assert len(later.trials) > len(begun[1])
    assert "earlier attempt" not in {trial.origin for trial in later.trials}, "it stays with what it began with"
    again = decided(stub, monkeypatch, *words, "minutes_per_attempt=4", "training.resume=true")
    assert [result.trials for result in again.attempts] == [result.trials for result in second.attempts]
