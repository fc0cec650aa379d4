"""Seconds of batches: exact under a stub clock, and of every engine that computes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from lorica.engines.base import TimedEngine
from lorica.engines.batch_timer import BatchTimer
from lorica.engines.fake import FakeEngine
from lorica.records import Generate, Sampling, ScoreChoices


class Batches:
    """What a timer reported."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.tokens: list[Mapping[str, float]] = []

    def __call__(self, tokens: Mapping[str, float], seconds: float) -> None:
        self.seconds.append(seconds)
        self.tokens.append(tokens)


def ticking(*moments: float) -> Any:
    times: Iterator[float] = iter(moments)
    return lambda: next(times)


def test_one_batch_after_another_counts_in_full() -> None:
    batches = Batches()
    timer = BatchTimer(batches, ticking(10.0, 12.5, 20.0, 21.0))
    with timer.batch({"a": 3}):
        pass
    with timer.batch({"b": 1}):
        pass
    assert batches.seconds == [2.5, 1.0]
    assert batches.tokens == [{"a": 3}, {"b": 1}]


def test_batches_side_by_side_share_the_time() -> None:
    batches = Batches()
    timer = BatchTimer(batches, ticking(0.0, 2.0, 6.0, 9.0))
    with timer.batch({"long": 1}), timer.batch({"short": 1}):  # 0-2 alone, 2-6 two, 6-9 alone
        pass
    assert batches.seconds == [2.0, 7.0]
    assert sum(batches.seconds) == 9.0


def test_a_batch_of_nothing_is_not_counted_and_one_that_fails_is() -> None:
    batches = Batches()
    timer = BatchTimer(batches, ticking(0.0, 4.0))
    with timer.batch({}):
        pass
    with pytest.raises(MemoryError), timer.batch({"a": 1}):
        raise MemoryError
    assert batches.seconds == [4.0]


def test_threads_sum_to_the_time_in_which_any_computed() -> None:
    batches = Batches()
    timer = BatchTimer(batches)
    barrier = threading.Barrier(4)

    def compute() -> None:
        barrier.wait()
        for _ in range(200):
            with timer.batch({"a": 1}):
                sum(range(50))

    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(batches.seconds) == 800
    assert all(seconds >= 0 for seconds in batches.seconds)


def requests() -> list[ScoreChoices | Generate]:
    shared = tuple(range(5, 35))
    scores = [ScoreChoices(f"s{index}", (*shared, 40 + index), ((1,), (2,))) for index in range(6)]
    texts = [Generate(f"g{index}", (*shared, 50 + index), Sampling(max_new_tokens=3)) for index in range(5)]
    return [*scores, *texts]


def test_the_fake_engine_reports_its_batches() -> None:
    engine, batches = FakeEngine(), Batches()
    assert isinstance(engine, TimedEngine)
    engine.set_timer(BatchTimer(batches, ticking(1.0, 3.0)))
    engine.run(requests())
    assert batches.seconds == [2.0]
    assert set(batches.tokens[0]) == {request.id for request in requests()}


@pytest.mark.parametrize("engine_name", ["native", "transformers"])
def test_an_engine_reports_every_row_and_answers_as_without(engine_name: str) -> None:
    pytest.importorskip("torch")
    import os

    from lorica.engines import load_engine
    from lorica.engines.base import EngineSettings
    from lorica.models.base_folder import BaseFolder
    from lorica.models.locate import locate_model

    base = BaseFolder(locate_model("embedded:lorica_tiny", environ=os.environ))
    settings = EngineSettings(dtype="float32", device="cpu")
    untimed = load_engine(engine_name, base, settings).run(requests())
    engine, batches = load_engine(engine_name, base, settings), Batches()
    assert isinstance(engine, TimedEngine)
    engine.set_timer(BatchTimer(batches))
    assert engine.run(requests()) == untimed
    assert {row_id for tokens in batches.tokens for row_id in tokens} == {request.id for request in requests()}
    assert all(seconds > 0 for seconds in batches.seconds)
    if engine_name == "native":  # all prompts begin alike, and each row computes what is left, and its choices or steps
        computed = sum(sum(tokens.values()) for tokens in batches.tokens)
        assert computed < sum(len(request.prompt) for request in requests())
