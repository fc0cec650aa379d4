"""Seconds of rows: the sum of the engine's own, whatever interrupts a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.pipeline.test_infer import Dying, rows

from lorica.data.journal import Journal
from lorica.engines import fake
from lorica.engines.fake import FakeEngine
from lorica.models.locate import locate_model
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.pipeline.infer import answer_file
from lorica.pipeline.row_timer import RowTimer
from lorica.prompts.encoder import Encoder
from lorica.records import RowTiming
from lorica.tasks import load_task


class Clock:
    """Each look at it is a second later."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def timed_pipeline(engine: FakeEngine) -> Pipeline:
    encoder = Encoder.load(locate_model("embedded:lorica_tiny", environ={}))
    return Pipeline(load_task("rules"), encoder, engine, (), AnswerSettings(), Clock())


def test_rows_share_the_seconds_of_their_batch_by_computed_tokens() -> None:
    engine = FakeEngine()
    row_timer = RowTimer(engine, Clock())
    row_timer._add({"a": 30, "b": 10}, 8.0)
    row_timer._add({"b": 1}, 0.5)
    assert (row_timer.take("a"), row_timer.take("b"), row_timer.take("b")) == (6.0, 2.5, 0.0)
    row_timer._add({"c": 0, "d": 0}, 3.0)
    assert row_timer.take("c") == 1.5
    row_timer.clear()
    assert row_timer.take("d") == 0.0


def test_rows_sum_to_the_engines_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "_BATCH_ROWS", 8)
    answers, timings = timed_pipeline(FakeEngine()).answer_timed(rows())
    assert [timing.id for timing in timings] == [answer.id for answer in answers]
    assert sum(timing.seconds for timing in timings) == pytest.approx(7.0)  # seven batches of one tick each
    assert all(timing.prompt_tokens > 0 and timing.generated_tokens == 0 for timing in timings)
    assert {timing.adapter for timing in timings} == {"base"}


def test_a_warm_up_is_marked_and_counts_for_nothing() -> None:
    pipeline = timed_pipeline(FakeEngine())
    warm = pipeline.warm_up(rows()[:3], part=2)
    assert [(timing.warmup, timing.part) for timing in warm] == [(True, 2)] * 3
    _, timings = pipeline.answer_timed(rows())
    assert sum(timing.seconds for timing in timings) == pytest.approx(1.0)


def run_timed(folder: Path, output: Path, engine: FakeEngine) -> list[RowTiming]:
    with Journal.open(folder, {"run": "1"}, resume=True) as journal:
        answer_file(timed_pipeline(engine), iter(rows()), journal, output, window_rows=20)
        return list(journal.timings())


@pytest.mark.parametrize("left", [1, 3, 4, 7])
def test_a_resumed_run_has_the_seconds_of_all_its_parts(
    tmp_path: Path, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "_BATCH_ROWS", 5)
    with pytest.raises(KeyboardInterrupt):
        run_timed(tmp_path / "run", tmp_path / "out.jsonl", Dying(left))
    timings = run_timed(tmp_path / "run", tmp_path / "out.jsonl", Dying(-1))
    assert [timing.id for timing in timings] == [row.id for row in rows()]
    assert sum(timing.seconds for timing in timings) == pytest.approx(10.0)  # ten batches, none counted twice
    assert [timing.part for timing in timings] == [1] * (5 * left) + [2] * (50 - 5 * left)
