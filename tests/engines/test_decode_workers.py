"""Decode workers: how sequences are divided among them, and that no text depends on it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

torch = pytest.importorskip("torch")

from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native import decode_workers  # noqa: E402
from lorica.engines.native.decode import DecodeBatch  # noqa: E402
from lorica.engines.native.engine import NativeEngine, load_native  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.compiled import bindings, library  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.records import Generate, Request, Sampling, ScoreChoices  # noqa: E402

compiled = pytest.mark.skipif(not bindings.is_available(), reason=f"no compiled kernels: {library.why_unavailable()}")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def engine(budget: int = 4096) -> NativeEngine:
    base: Path = locate_model("embedded:lorica_tiny", environ={})
    return load_native(BaseFolder(base), EngineSettings(dtype="bfloat16", device="cpu", batch_tokens=budget))


def texts(count: int) -> list[Request]:
    """Of very different lengths, greedy and drawn, behind two shared prefixes."""
    rng = random.Random(5)
    shared = [tuple(rng.randrange(6144) for _ in range(60)) for _ in range(2)]
    requests: list[Request] = []
    for number in range(count):
        sampling = Sampling(max_new_tokens=rng.randrange(1, 40), do_sample=number % 2 == 0, temperature=1.3)
        own = tuple(rng.randrange(6144) for _ in range(rng.randrange(1, 30)))
        requests.append(Generate(f"t{number}", shared[number % 2] + own, sampling))
    return requests


@compiled
@pytest.mark.parametrize("budget", [64, 4096])
def test_texts_are_those_of_one_thread(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    requests = texts(70)
    threads(1)
    expected = engine().run(requests)
    thread_ids: set[int] = set()
    migrations: list[int] = []
    step, migrate_to = DecodeBatch.decode_step, DecodeBatch.migrate_to

    def recorded_step(self: DecodeBatch) -> Any:
        thread_ids.add(threading.get_ident())
        return step(self)

    def recorded_migration(self: DecodeBatch, target: DecodeBatch, count: int) -> None:
        migrations.append(count)
        migrate_to(self, target, count)

    monkeypatch.setattr(DecodeBatch, "decode_step", recorded_step)
    monkeypatch.setattr(DecodeBatch, "migrate_to", recorded_migration)
    for thread_count in (2, 3):
        threads(thread_count)
        thread_ids.clear()
        migrations.clear()
        scored: list[Request] = [ScoreChoices("s", (1, 2, 3), ((4,), (5,)))]
        outputs = engine(budget).run(requests + scored)
        assert outputs[:-1] == expected
        assert len(outputs[-1].logprobs) == 2
        assert thread_count <= len(thread_ids) <= thread_count + 1, (
            "decode workers, and the calling thread for the last block"
        )
        assert migrations or budget == 64, "groups that wait for room do not migrate"
        assert torch.get_num_threads() == thread_count


@compiled
def test_outputs_come_as_they_are_finished(threads: Callable[[int], None]) -> None:
    threads(2)
    native, requests = engine(), texts(48)
    finished = [index for outputs in native.execute(native.plan(requests)) for index, _ in outputs]
    assert sorted(finished) == list(range(48))
    limit = [request.sampling.max_new_tokens for request in requests if isinstance(request, Generate)]
    assert sum(limit[index] for index in finished[:12]) < sum(limit[index] for index in finished[-12:])


@compiled
def test_an_error_in_a_decode_worker_ends_the_run(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(2)
    step = DecodeBatch.decode_step
    calls: list[int] = []

    def broken(self: DecodeBatch) -> Any:
        calls.append(1)
        if len(calls) == 20:
            raise ValueError("broken")
        return step(self)

    monkeypatch.setattr(DecodeBatch, "decode_step", broken)
    with pytest.raises(ValueError, match="broken"):
        engine().run(texts(48))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("rows", "threads", "workers"),
    [(1, 2, 1), (31, 2, 1), (32, 2, 2), (64, 2, 2), (64, 16, 2), (500, 16, 8), (64, 1, 1), (0, 8, 1)],
)
def test_decode_workers_have_a_block_of_rows_each(rows: int, threads: int, workers: int) -> None:
    assert decode_workers.count_decode_workers(rows, threads, min(threads, 8)) == workers


class Rows:
    """A decode batch, as far as migrating goes."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def migrate_to(self, target: Rows, count: int) -> None:
        assert 0 < count <= self.rows
        self.rows -= count
        target.rows += count


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((20, 20), (16, 24)),
        ((5, 9), (0, 14)),
        ((40, 0), (16, 24)),
        ((33, 31, 1, 7), (16, 16, 16, 24)),
        ((1, 1, 1, 0), (0, 0, 0, 3)),
        ((64, 1), (32, 33)),
    ],
)
def test_rows_are_rebalanced_in_whole_blocks(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    assert decode_workers._needs_rebalancing(before)
    batches = [Rows(batch) for batch in before]
    decode_workers._rebalance(cast(list[DecodeBatch], batches))
    assert tuple(sorted(batch.rows for batch in batches)) == after
    assert not decode_workers._needs_rebalancing([batch.rows for batch in batches])


@compiled
def test_rows_stay_where_there_is_no_room_for_them(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    prompts = [tuple(rng.randrange(6144) for _ in range(count)) for count in [1800, *[8] * 80]]
    requests: list[Request] = [
        Generate(str(i), prompt, Sampling(max_new_tokens=200 if i == 0 else 40 + i % 60))
        for i, prompt in enumerate(prompts)
    ]
    threads(1)
    expected = engine().run(requests)
    migrate_to = DecodeBatch.migrate_to
    cache_tokens: list[int] = []

    def recorded_migration(self: DecodeBatch, target: DecodeBatch, count: int) -> None:
        before = target.rows
        migrate_to(self, target, count)
        if target.rows > before:
            cache_tokens.append(target.rows * max(row.max_cached for row in target._active) if before else 0)

    monkeypatch.setattr(DecodeBatch, "migrate_to", recorded_migration)
    threads(2)
    assert engine().run(requests) == expected
    assert cache_tokens, "some migrate"
    assert all(tokens <= 2 * 4096 for tokens in cache_tokens)


@pytest.mark.parametrize("rows", [(16, 16), (24, 16), (32, 16), (16, 0), (3, 0), (0, 0), (16, 16, 15)])
def test_what_would_be_padded_alike_stays(rows: tuple[int, ...]) -> None:
    assert not decode_workers._needs_rebalancing(rows)
