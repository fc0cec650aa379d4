"""A stand-in for what `lorica tune` trains and asks: seconds and qualities that a test chooses."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lorica.commands.arguments import resolve
from lorica.commands.tune import StudyCall, run_study
from lorica.commands.tune_plan import StudyPlan, plan_study
from lorica.commands.tune_result import TuneResult
from lorica.commands.tune_trial import TRIALS
from lorica.errors import LoricaError
from lorica.records import Answer, Row
from lorica.runs.run_clock import RunClock
from lorica.training.types import Listener, StepReport, TrainingStopped
from lorica.tuning.dimensions import Settings

ROWS = 300
UPDATES = 10


def write_rows(folder: Path) -> Path:
    """Rows with gold."""
    words = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(ROWS)]
    lines = [f"{i},{word[:20]} {word[20:40]},rule {i % 2},{int(word, 16) % 2}" for i, word in enumerate(words)]
    (folder / "rows.csv").write_text("row_id,body,rule,rule_violation\n" + "\n".join(lines) + "\n")
    return folder / "rows.csv"


def quality_of(settings: Settings) -> float:
    """From 0 to 1: best at a learning rate of 1e-3; the defaults have 1e-4."""
    return 1 - 0.3 * abs(math.log10(float(settings.get("training.learning_rate", 1e-4))) + 3)


@dataclass
class Stub:
    """Trains and answers in seconds of a clock that only this moves; `disk` outlasts a session. luck: whether each
    setting errs on rows of its own.

    update, tail, answering: seconds of an update, of what follows the last one, of a row's answer. killed_at: (trial,
    update) before which the session dies.
    """

    quality: Callable[[Settings], float] = quality_of
    now: float = 0.0
    luck: bool = False
    update: float = 1.0
    tail: float = 2.0
    answering: float = 0.01
    disk: dict[tuple[str, int], int] = field(default_factory=dict)
    folder: Path = Path()
    killed_at: tuple[int, int] | None = None
    trained: list[tuple[int, Settings, int]] = field(default_factory=list)
    fails: Callable[[Settings], LoricaError | None] = lambda settings: None

    def of(self, plan: StudyPlan) -> Stub:
        self.folder = plan.folder
        return self

    def train(self, number: int, settings: Settings, listener: Listener) -> Path:
        saved = str(self.folder), number
        done = self.disk.get(saved, 0)
        self.trained.append((number, settings, done))
        if (error := self.fails(settings)) is not None:
            raise error
        folder = self.folder / TRIALS / f"{number:04}" / "rules"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "quality.txt").write_text(str(self.quality(settings)))
        listener.started("rules", done, UPDATES)
        if not done:
            self.now += 0.5
            listener.evaluated(0, 0.7, False)
        for step in range(done + 1, UPDATES + 1):
            if self.killed_at == (number, step):
                raise KeyboardInterrupt
            self.now += self.update
            listener.stepped(StepReport(step, UPDATES, 0.5, 1e-4, 1.0, 100.0))
            if step % 2 == 0:
                listener.evaluated(step, 0.7 - 0.05 * step * self.quality(settings), True)
            self.disk[saved] = step
            if step < UPDATES and (reason := listener.stop_reason()):
                listener.closed()
                raise TrainingStopped(reason)
        listener.closed()
        self.now += self.tail
        return folder

    def open(self, folder: Path, settings: Settings) -> StubPipeline:
        assert float((folder / "quality.txt").read_text()) == self.quality(settings)
        return StubPipeline(self, self.quality(settings), str(settings) if self.luck else "")


@dataclass
class StubPipeline:
    """Scores rows right, but for noise that is the larger the worse the settings are."""

    stub: Stub
    quality: float
    luck: str

    def answer(self, rows: Sequence[Row]) -> list[Answer]:
        self.stub.now += self.stub.answering * len(rows)
        return [Answer(id=row.id, answer="Yes", score=self._score(row), stage="choice") for row in rows]

    def _score(self, row: Row) -> float:
        noise = int(hashlib.sha256(f"noise {row.id} {self.luck}".encode()).hexdigest(), 16) % 1000 / 1000
        assert isinstance(row.gold, int)
        return (0.6 * self.quality * row.gold + noise) / 1.6


def plan_of(*words: str) -> StudyPlan:
    overrides = ["task=rules", "input=rows.csv", "run_dir=study", "tune.vary=[training.learning_rate,lora.r]", *words]
    return plan_study(resolve(overrides), overrides)


def studied(stub: Stub, monkeypatch: pytest.MonkeyPatch, *words: str) -> TuneResult:
    """A session on the stub's clock."""
    started = stub.now
    monkeypatch.setattr(
        "lorica.commands.tune.RunClock",
        lambda folder, *, limit, started: RunClock(folder, limit=limit, now=lambda: stub.now),
    )
    result = run_study(plan_of(*words), StudyCall(words, words, "lorica tune ..."), make_runner=stub.of)
    assert stub.now >= started
    return result
