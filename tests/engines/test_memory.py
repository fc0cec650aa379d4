"""Memory: how much there is, and what becomes of rows when it runs out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native import decode, memory, scheduler  # noqa: E402
from lorica.engines.native import engine as native  # noqa: E402
from lorica.engines.native.decode import DecodeBatch  # noqa: E402
from lorica.engines.native.kv_cache import KVCache  # noqa: E402
from lorica.engines.native.model_runner import ModelRunner  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.compiled import bindings  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.families import read_decoder_config  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.records import Generate, Request, Sampling, ScoreChoices  # noqa: E402

CPU = torch.device("cpu")
# Texts repeat to the last bit in bfloat16 beside the compiled kernels, and as good as always in float32.
REPEATS = "bfloat16" if bindings.is_available() else "float32"
Prompts = Callable[[int], list[tuple[str | None, tuple[int, ...]]]]


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "ascii")
    return root


def test_the_machine_tells_what_is_free(tmp_path: Path) -> None:
    root = write_files(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2048 kB\n"})
    assert memory.free_memory(CPU, root=root) == 2048 * 1024


def test_the_limit_of_a_container_counts_without_its_cached_files(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/box"
    files = {
        "proc/meminfo": "MemAvailable: 999999 kB\n",
        "proc/self/cgroup": "0::/box\n",
        f"{group}/memory.max": "10000\n",
        f"{group}/memory.current": "9000\n",
        f"{group}/memory.stat": "anon 5\ninactive_file 3000\n",
    }
    assert memory.free_memory(CPU, root=write_files(tmp_path, files)) == 4000


def test_older_limits_count_too_and_none_is_none(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/a/b\n3:cpu:/\n",
        "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes": "5\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "700\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "100\n",
    }
    assert memory.free_memory(CPU, root=write_files(tmp_path, files)) == 600
    assert memory.free_memory(CPU, root=tmp_path / "nothing") is None


def test_little_memory_makes_small_batches(benches: Any) -> None:
    config = read_decoder_config(benches("qwen3").base)
    assert memory.max_batch_tokens(config, torch.float32, 0) == memory.MIN_BATCH_TOKENS
    many = memory.max_batch_tokens(config, torch.float32, 1 << 30)
    assert memory.MIN_BATCH_TOKENS < many < memory.max_batch_tokens(config, torch.float32, None)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 5 bytes"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error: Exception, is_memory: bool) -> None:
    assert memory.is_out_of_memory(error) is is_memory


def test_halves_until_it_fits() -> None:
    calls: list[int] = []

    def work(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        if sum(items) > 10:
            raise MemoryError
        return [10 * item for item in items]

    assert memory.split_on_out_of_memory(work, [1, 2, 3, 4, 5], lambda item: -item) == [10, 20, 30, 40, 50]
    assert calls == [5, 2, 3, 1, 2]
    assert memory.split_on_out_of_memory(work, [1, 50, 2], lambda item: -item) == [10, -50, 20]
    assert memory.split_on_out_of_memory(work, [], lambda item: item) == []
    with pytest.raises(RuntimeError, match="something else"):
        memory.split_on_out_of_memory(
            lambda _: (_ for _ in ()).throw(RuntimeError("something else")), [1], lambda item: item
        )


def _engine(bench: Any) -> native.NativeEngine:
    engine = native.load_native(BaseFolder(bench.base), EngineSettings(dtype="float32", device="cpu"))
    for name, folder in bench.adapters.items():
        engine.add_adapter(name, open_adapter(folder))
    return engine


def test_a_row_that_does_not_fit_fails_alone_and_the_others_keep_their_bits(
    benches: Any, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "MIN_SAVED_TOKENS", 16)
    requests: list[Request] = [
        ScoreChoices(f"r{i}", prompt, ((1,), (2, 3)), name) for i, (name, prompt) in enumerate(prompts(12))
    ]
    requests += [
        Generate(f"g{i}", prompt, Sampling(max_new_tokens=3), (), name) for i, (name, prompt) in enumerate(prompts(6))
    ]
    large: Request = ScoreChoices("large", tuple(range(90)), ((1,),))
    engine = _engine(benches("qwen3"))
    expected = engine.run(requests)
    score, read, join = ModelRunner.score, ModelRunner.prefill, DecodeBatch._prefill

    def refuse(count: int, most: int) -> None:
        if count > most:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 5 bytes")

    def hard_score(self: ModelRunner, sequences: Any, requests: Any) -> Any:
        refuse(sum(piece.length for piece in sequences), 85)
        return score(self, sequences, requests)

    def hard_read(self: ModelRunner, sequences: Any) -> Any:
        refuse(len(sequences), 1)
        return read(self, sequences)

    def hard_join(self: DecodeBatch, waiting: Any) -> Any:
        refuse(len(waiting), 2)
        return join(self, waiting)

    monkeypatch.setattr(ModelRunner, "score", hard_score)
    monkeypatch.setattr(ModelRunner, "prefill", hard_read)
    monkeypatch.setattr(DecodeBatch, "_prefill", hard_join)
    *outputs, last = engine.run([*requests, large])
    assert outputs == expected
    assert (last.id, last.finish) == ("large", "error")
    assert "memory" in last.error


def texts(count: int) -> list[Request]:
    return [
        Generate(f"t{i}", tuple(range(3, 9 + i)), Sampling(max_new_tokens=4 + i % 9, do_sample=i % 2 == 0))
        for i in range(count)
    ]


def tiny(dtype: str, threads: int = 1) -> native.NativeEngine:
    return native.load_native(
        BaseFolder(locate_model("embedded:lorica_tiny", environ={})),
        EngineSettings(dtype=dtype, device="cpu", threads=threads),
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("function", ["logits", "sample"])
def test_memory_that_runs_out_anywhere_in_a_step_costs_no_row(
    monkeypatch: pytest.MonkeyPatch, dtype: str, function: str
) -> None:
    engine, requests = tiny(dtype), texts(24)
    expected = engine.run(requests)
    owner: Any = CpuDecoder if function == "logits" else decode
    original = getattr(owner, function)
    calls: list[int] = []

    def short_of_memory(*args: Any) -> Any:
        calls.append(1)
        outputs = original(*args)
        if len(calls) % 3 == 1:
            raise MemoryError
        return outputs

    monkeypatch.setattr(owner, function, short_of_memory)
    finished: list[int] = []
    outputs = engine.run(requests, on_outputs=lambda outputs: finished.extend(index for index, _ in outputs))
    if dtype == "float32" or engine.info.is_batch_invariant(requests[0]):
        assert outputs == expected
    else:  # in another batch it may be another text, but a complete one
        assert [(len(output.tokens), output.finish) for output in outputs] == [
            (len(output.tokens), output.finish) for output in expected
        ]
    assert sorted(finished) == list(range(24)), "each once"


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_fail_whose_prefix_does_not_fit_and_no_others(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    rng = random.Random(4)

    def some(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(6144) for _ in range(count))

    small, large = some(70), some(90)
    larger = large + some(60)
    prompts = [(small, large, larger)[i % 3] + some(9) for i in range(90)]
    requests: list[Request] = [ScoreChoices(f"c{i}", prompt, ((1,), (2, 3))) for i, prompt in enumerate(prompts)]
    requests += [Generate(f"g{i}", prompt, Sampling(max_new_tokens=5)) for i, prompt in enumerate(prompts)]
    expected = tiny(REPEATS).run(requests)
    read = ModelRunner.prefill

    def hard(self: ModelRunner, sequences: Any) -> Any:
        if any(len(piece.tokens) == 90 for piece in sequences):
            raise MemoryError
        return read(self, sequences)

    monkeypatch.setattr(ModelRunner, "prefill", hard)
    outputs = tiny(REPEATS, threads).run(requests)
    for request, output, expected_outputs in zip(requests, outputs, expected, strict=True):
        if request.prompt[:70] == small:
            assert output == expected_outputs
        else:
            assert "memory" in output.error, "what lies behind it can not be computed either"


def test_a_text_that_does_not_fit_any_more_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, requests = tiny(REPEATS), texts(20)
    expected = engine.run(requests)
    logits = DecodeBatch._logits

    def hard(self: DecodeBatch, rows: Any) -> Any:
        if any(row.index == 7 and row.cached > 16 for row in rows):
            raise MemoryError
        return logits(self, rows)

    monkeypatch.setattr(DecodeBatch, "_logits", hard)
    outputs = engine.run(requests)
    assert outputs[:7] + outputs[8:] == expected[:7] + expected[8:]
    assert "memory" in outputs[7].error


def test_the_prefix_cache_is_evicted_before_rows_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny(REPEATS)
    ask: list[Request] = [ScoreChoices(f"{i}", (*range(100), i), ((1,), (2,))) for i in range(4)]
    expected = engine.run(ask)
    assert engine._prefix_cache._entries
    score = ModelRunner.score

    def hard(self: ModelRunner, sequences: Any, requests: Any) -> Any:
        if engine._prefix_cache._entries:
            raise MemoryError
        return score(self, sequences, requests)

    monkeypatch.setattr(ModelRunner, "score", hard)
    assert engine.run(ask) == expected
    assert not engine._prefix_cache._entries


@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_row_does_not_make_the_cache_long_for_all(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    rng = random.Random(1)
    engine = tiny(REPEATS, threads)
    reserve = KVCache.reserve
    largest: list[int] = []

    def recorded_reserve(self: KVCache, slots: int, length: int, final_length: int) -> None:
        reserve(self, slots, length, final_length)
        largest.append(self.keys[0].shape[0] * self.keys[0].shape[1])

    monkeypatch.setattr(KVCache, "reserve", recorded_reserve)
    prompts = [tuple(rng.randrange(6144) for _ in range(count)) for count in [1700, *[8] * 300]]
    requests: list[Request] = [
        Generate(str(i), prompt, Sampling(max_new_tokens=90 if i == 0 else 9 + i % 40))
        for i, prompt in enumerate(prompts)
    ]
    engine.run(requests)
    workers = threads if engine.info.is_batch_invariant(requests[0]) else 1
    assert max(largest) <= 4 * engine._available_batch_tokens() // workers


def test_a_long_row_is_prefilled_in_chunks(benches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MIN_CHUNK_TOKENS", 20)
    bench = benches("mistral")
    prompt = tuple(i % 97 for i in range(130))
    requests: list[Request] = [
        ScoreChoices("a", prompt, ((1,), (2, 3)), "algebra"),
        ScoreChoices("b", prompt[:100] + (5,) * 40, ((1,),), "algebra"),
        Generate("c", prompt, Sampling(max_new_tokens=4)),
    ]
    expected = _engine(bench).run(requests)
    settings = EngineSettings(dtype="float32", device="cpu", batch_tokens=30)
    engine = native.load_native(BaseFolder(bench.base), settings)
    for name, folder in bench.adapters.items():
        engine.add_adapter(name, open_adapter(folder))
    plan = engine.plan(requests)
    assert max(len(node.tokens) for node in plan.nodes) <= 30
    rows = [row for batch in plan.batches for row in batch.rows]
    assert max(scheduler.suffix_length(plan.requests[row.request_index], row.prefix_length) for row in rows) <= 30
    assert engine.run(requests) == expected
