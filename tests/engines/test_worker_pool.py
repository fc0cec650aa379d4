"""Batches side by side: results in order, errors told, threads as before."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from lorica.engines.native.engine import NativeEngine  # noqa: E402
from lorica.engines.native.model_runner import ModelRunner  # noqa: E402
from lorica.engines.native.worker_pool import WorkerPool, count_workers  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.models.weights import load_decoder  # noqa: E402
from lorica.records import ScoreChoices  # noqa: E402


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield None
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_submission(count: int) -> None:
    done: list[int] = []
    with WorkerPool[int](count) as workers:
        results: list[int] = []
        for number in range(20):
            workers.submit(lambda number=number: number, lambda number=number: done.append(number))  # type: ignore[misc]
            results += workers.results()
            assert number - len(results) < 2 * count
        results += workers.results(wait_for_all=True)
    assert results == done == list(range(20))


def test_work_runs_beside_other_work(threads: object) -> None:
    meeting = threading.Barrier(2, timeout=30)
    with WorkerPool[bool](2) as workers:
        for _ in range(2):
            workers.submit(lambda: meeting.wait() >= 0 and torch.is_inference_mode_enabled())
        assert list(workers.results(wait_for_all=True)) == [True, True]


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_is_raised_where_results_are_taken(count: int, threads: object) -> None:
    def broken() -> int:
        raise ValueError("broken")

    with WorkerPool[int](count) as workers:
        workers.submit(broken)
        with pytest.raises(ValueError, match="broken"):
            list(workers.results(wait_for_all=True))
        workers.submit(lambda: 1)
        assert list(workers.results(wait_for_all=True)) == [1]
    assert torch.get_num_threads() == 2


def test_a_shared_prefix_that_fails_stops_the_run(threads: object, monkeypatch: pytest.MonkeyPatch) -> None:
    base: Path = locate_model("embedded:lorica_tiny", environ={})
    engine = NativeEngine(CpuDecoder(load_decoder(BaseFolder(base)), "float32"), batch_tokens=512)
    assert count_workers(torch.device("cpu")) == 2

    def broken(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(ModelRunner, "prefill", broken)
    shared = tuple(range(40))
    requests = [ScoreChoices(str(i), (*shared, 50 + i, 60), ((1,), (2,))) for i in range(60)]
    assert engine.plan(requests).nodes
    with pytest.raises(ValueError, match="broken"):
        engine.run(requests)
