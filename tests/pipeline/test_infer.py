"""Going on inside a window: what was finished is not computed again, and the file is the same to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.pipeline.stub_index import StubIndex, passages

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import AdapterFolder
from lorica.data.journal import Journal
from lorica.data.read import rows_from_memory
from lorica.engines import fake
from lorica.engines.base import EngineInfo, OnDone, OnOutputs
from lorica.engines.fake import FakeEngine
from lorica.models.locate import locate_model
from lorica.pipeline import resumable
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.pipeline.infer import answer_file
from lorica.pipeline.retrieve import Retriever
from lorica.prompts.encoder import Encoder
from lorica.records import Output, Request, Row
from lorica.tasks import load_task


class Dying(FakeEngine):
    """Dies once `left` batches were finished; remembers what it was asked."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left, self.asked = left, 0

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """As `FakeEngine.run`, until it dies."""
        self.asked += len(requests)

        def count(finished: Sequence[tuple[int, Output]]) -> None:
            if on_outputs is not None:
                on_outputs(finished)
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

        return super().run(requests, on_done, count)


def rows() -> list[Row]:
    task = load_task("rules")
    return rows_from_memory([{"body": f"post {i}", "rule": "No numbers."} for i in range(50)], task.schemas)


def answer(folder: Path, output: Path, engine: FakeEngine) -> None:
    encoder = Encoder.load(locate_model("embedded:lorica_tiny", environ={}))
    pipeline = Pipeline(load_task("rules"), encoder, engine, (), AnswerSettings())
    with Journal.open(folder, {"run": "1"}, resume=True) as journal:
        done: list[int] = []
        answer_file(pipeline, iter(rows()), journal, output, window_rows=20, on_done=done.append)
        assert sum(done) == 50
        journal.remove()


@pytest.mark.parametrize("left", [1, 3, 4, 7])
def test_only_the_batch_under_way_is_computed_again(tmp_path: Path, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "_BATCH_ROWS", 5)  # four batches a window
    answer(tmp_path / "whole", tmp_path / "whole.jsonl", FakeEngine())
    with pytest.raises(KeyboardInterrupt):
        answer(tmp_path / "run", tmp_path / "out.jsonl", Dying(left))
    second = Dying(-1)
    answer(tmp_path / "run", tmp_path / "out.jsonl", second)
    assert second.asked == 50 - 5 * left
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "run").exists()


def test_what_an_engine_cannot_repeat_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "_BATCH_ROWS", 5)
    monkeypatch.setattr(FakeEngine, "info", EngineInfo("fake"))
    with pytest.raises(KeyboardInterrupt):
        answer(tmp_path / "run", tmp_path / "out.jsonl", Dying(2))
    second = Dying(-1)
    answer(tmp_path / "run", tmp_path / "out.jsonl", second)
    assert second.asked == 50


def look_up_and_answer(folder: Path, output: Path, engine: FakeEngine, index: StubIndex) -> None:
    encoder = Encoder.load(locate_model("embedded:lorica_tiny", environ={}))
    task = load_task("rules")
    records = [{"body": f"post {i}", "rule": "No numbers.", "subject": "geography"} for i in range(20)]
    retriever = Retriever({"geography": index}, top_k=1, max_tokens=200)
    pipeline = Pipeline(task, encoder, engine, (), AnswerSettings(), retriever=retriever)
    with Journal.open(folder, {"run": "1"}, resume=True) as journal:
        answer_file(pipeline, iter(rows_from_memory(records, task.schemas)), journal, output, window_rows=20)
        journal.remove()


def test_a_row_whose_look_up_failed_only_before_the_kill_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "_BATCH_ROWS", 5)
    sea = passages("The sea is salty and deep.")
    look_up_and_answer(tmp_path / "whole", tmp_path / "whole.jsonl", FakeEngine(), StubIndex(sea))
    with pytest.raises(KeyboardInterrupt):
        look_up_and_answer(tmp_path / "run", tmp_path / "out.jsonl", Dying(2), StubIndex(sea, fails_at=(3,)))
    second = Dying(-1)
    look_up_and_answer(tmp_path / "run", tmp_path / "out.jsonl", second, StubIndex(sea))
    assert second.asked == 11  # the row without its passage, and the two batches that were not reached
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


class Writing(Dying):
    """Gives texts, which it could not give again; remembers each company in which it was asked for some."""

    def __init__(self, left: int) -> None:
        super().__init__(left)
        self.companies: list[list[tuple[str | None, str]]] = []

    @property
    def info(self) -> EngineInfo:
        """Nothing is batch-invariant."""
        return EngineInfo("fake")

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """As `Dying.run`."""
        self.companies.append([(request.adapter, request.id) for request in requests])
        return super().run(requests, on_done, on_outputs)


def write(folder: Path, output: Path, engine: FakeEngine) -> None:
    encoder = Encoder.load(locate_model("embedded:lorica_tiny", environ={}))
    task = load_task("saq")
    for name in ("a", "b"):
        engine.add_adapter(name, AdapterFolder(folder, AdapterConfig(), {}, digest=name))
    given = [{"question": f"What is {i}?", "subject": "ab"[i % 2]} for i in range(24)]
    asked = iter(rows_from_memory(given, task.schemas))
    pipeline = Pipeline(task, encoder, engine, ("a", "b"), AnswerSettings(validate=False))
    with Journal.open(folder, {"run": "1"}, resume=True) as journal:
        answer_file(pipeline, asked, journal, output, window_rows=12)
        journal.remove()


@pytest.mark.parametrize("left", [1, 2, 4, 6])
def test_texts_are_asked_in_the_same_company_again_and_only_a_group_is_lost(
    tmp_path: Path, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "GENERATION_GROUP", 4)  # three groups a window
    whole, first, second = Writing(-1), Writing(left), Writing(-1)
    write(tmp_path / "whole", tmp_path / "whole.jsonl", whole)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "run", tmp_path / "out.jsonl", first)
    write(tmp_path / "run", tmp_path / "out.jsonl", second)
    assert len(whole.companies) == 6
    assert first.companies + second.companies == [*whole.companies[:left], *whole.companies[left - 1 :]]
    assert [adapter for adapter, _ in whole.companies[0]] == ["a"] * 4
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
