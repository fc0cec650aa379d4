"""Retrieval from the outside: which rows get passages, what a run that is resumed must share, and every way to fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorica import load_pipeline
from lorica.adapters.passport import read_passport
from lorica.cli import main
from lorica.commands import build
from lorica.data.write import read_answers
from lorica.errors import LoricaError, RetrievalError
from lorica.pipeline.retrieve import Retriever
from lorica.records import Answer
from lorica.retrieval.build_index import build_index
from lorica.retrieval.index import Index
from tests.commands.conftest import QUICK

SUBJECTS = ("World History", "geography", "chemistry")
TOPICS = ("salt", "iron", "rivers", "kings", "bridges", "winters")


@pytest.fixture(scope="session")
def made_kb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base of three subjects, six documents each, which name their subject."""
    folder = tmp_path_factory.mktemp("kb")
    for subject in SUBJECTS:
        documents = folder / f"{subject}.jsonl"
        texts = [
            {"id": f"{subject}/{topic}", "text": f"In {subject} all about {topic} is told of {topic} and the sea."}
            for topic in TOPICS
        ]
        documents.write_text("".join(json.dumps(text) + "\n" for text in texts))
        build_index(folder / "kb", subject, [documents])
    return folder / "kb"


@pytest.fixture
def kb(made_kb: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(made_kb, tmp_path / "kb"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    records = [
        {
            "id": f"{subject}-{number}",
            "subject": subject,
            "question": f"What is told of {TOPICS[number % 6]}?",
            "answer": "much",
            "module": f"{subject}/{TOPICS[number % 6]}",
        }
        for subject in ("world history", "geography", "algebra")
        for number in range(8)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def infer(rows: Path, *words: str, output: str = "out.jsonl") -> int:
    return main(["infer", "engine=fake", "task=saq", f"input={rows}", f"output={rows.parent / output}", *words])


def answers(rows: Path, output: str = "out.jsonl") -> dict[str, Answer]:
    return {answer.id: answer for answer in read_answers(rows.parent / output)}


def sources(answer: Answer) -> set[str]:
    return {passage.source.split("/")[0] for passage in answer.passages or ()}


@pytest.mark.parametrize(
    ("switches", "on"),
    [
        (("retrieval.enabled=true",), {"world history", "geography"}),
        (("retrieval.enabled.GEOGRAPHY=true",), {"geography"}),
        (("retrieval.enabled={World-History:true,geography:false}",), {"world history"}),
        (("retrieval.enabled=true", "retrieval.enabled.geography=false"), {"world history"}),
    ],
)
def test_only_the_subjects_that_are_switched_on_get_passages(
    kb: Path, rows: Path, switches: tuple[str, ...], on: set[str]
) -> None:
    assert infer(rows, f"retrieval.dir={kb}", *switches) == 0
    for answer in answers(rows).values():
        subject = answer.id.rpartition("-")[0]
        assert ("no_retrieval" in answer.flags) == (subject not in on)
        assert {source.casefold() for source in sources(answer)} == ({subject} if subject in on else set())
        assert "retrieval_failed" not in answer.flags


def test_the_environment_switches_on_too(kb: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_KNOWLEDGE_BASE_DIR", str(kb))
    monkeypatch.setenv("RAG_ENABLED_SUBJECTS", "geography")
    monkeypatch.setenv("RAG_TOP_K", "1")
    assert infer(rows) == 0
    assert {len(answer.passages) for answer in answers(rows).values() if answer.passages is not None} == {1}
    pipeline = load_pipeline("saq", settings={"engine.name": "fake"})
    (answer,) = pipeline([{"questionID": "1", "subject": "Geography", "question": "What is told of salt?"}])
    assert [passage.source for passage in answer.passages or ()] == ["geography/salt"]


def test_without_retrieval_the_output_has_its_bytes(kb: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("csv", "jsonl"):
        assert infer(rows, output=f"plain.{suffix}") == 0
        assert infer(rows, f"retrieval.dir={kb}", output=f"off.{suffix}") == 0
        assert (rows.parent / f"plain.{suffix}").read_bytes() == (rows.parent / f"off.{suffix}").read_bytes()
    assert "no subject is switched on" in capsys.readouterr().err


def test_no_passage_crosses_subjects(kb: Path) -> None:
    """10,000 look-ups of the pipeline's own, of words that every subject has."""
    indexes = {subject: Index.open(kb, subject) for subject in ("world_history", "geography", "chemistry")}
    retriever = Retriever(indexes, top_k=5, max_tokens=500)
    for number in range(10_000):
        subject = SUBJECTS[number % 3]
        look_up = retriever.look_up(subject.upper(), f"What is told of {TOPICS[number % 6]} and the sea?")
        assert look_up.passages
        assert {passage.source.split("/")[0] for passage in look_up.passages} == {subject}


# A run that is resumed


def test_a_run_is_resumed_with_its_own_index_alone(
    kb: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"retrieval.dir={kb}", "retrieval.enabled=true", "inference.window_rows=4")
    assert infer(rows, *words, output="whole.jsonl") == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        assert infer(rows, *words) == 1
    moved = kb.rename(kb.with_name("renamed"))
    other = build_other(rows.parent / "other")
    resumed = (*words, "inference.resume=true")
    for changed in (f"retrieval.dir={other}", "retrieval.top_k=2", "retrieval.max_tokens=99", "retrieval.min_score=1"):
        assert infer(rows, *resumed, f"retrieval.dir={moved}", changed) == 6
        assert "retrieval." in capsys.readouterr().err
    assert infer(rows, *resumed, f"retrieval.dir={moved}") == 0  # a folder may be renamed
    assert (rows.parent / "out.jsonl").read_bytes() == (rows.parent / "whole.jsonl").read_bytes()


def stop_after(monkeypatch: pytest.MonkeyPatch, look_ups: int) -> None:
    count = iter(range(1, 10_000))
    original = Retriever.look_up

    def stopping(self: Retriever, *arguments: Any) -> object:
        if next(count) > look_ups:
            raise MemoryError("stopped")
        return original(self, *arguments)

    monkeypatch.setattr(Retriever, "look_up", stopping)


def build_other(folder: Path) -> Path:
    folder.mkdir()
    (folder / "other.txt").write_text("Other words of salt and iron.")
    for subject in ("world history", "geography"):
        build_index(folder / "kb", subject, [folder / "other.txt"])
    return folder / "kb"


# Every way to fail: refused before any row, or answered without passages and counted


def data_file(kb: Path, subject: str = "geography") -> Path:
    (path,) = (kb / subject).glob("passages-*.sqlite")
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def edit_manifest(kb: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = kb / "geography" / "index.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def untouched(kb: Path) -> None:
    """The fault is in the words."""


def make_file(kb: Path) -> None:
    shutil.rmtree(kb)
    kb.write_text("x")


def make_empty(kb: Path) -> None:
    shutil.rmtree(kb)
    kb.mkdir()


REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "no folder": (shutil.rmtree, ("retrieval.enabled=true",), "is no folder"),
    "a file": (
        make_file,
        ("retrieval.enabled=true",),
        "is no folder",
    ),
    "an empty folder": (
        make_empty,
        ("retrieval.enabled=true",),
        "holds no index",
    ),
    "a subject without an index": (untouched, ("retrieval.enabled.geologie=true",), "has no index of it"),
    "a subject misspelt": (untouched, ("retrieval.enabled.geografy=true",), "did you mean geography?"),
    "two spellings": (
        untouched,
        ("retrieval.enabled.Geography=true", "retrieval.enabled.geography=false"),
        "one subject in 2 spellings",
    ),
    "a flipped byte": (lambda kb: flip(data_file(kb)), ("retrieval.enabled=true",), ""),
    "a shortened file": (
        lambda kb: data_file(kb).write_bytes(data_file(kb).read_bytes()[:5000]),
        ("retrieval.enabled=true",),
        "",
    ),
    "an empty file": (lambda kb: data_file(kb).write_bytes(b""), ("retrieval.enabled=true",), ""),
    "a file that is gone": (lambda kb: data_file(kb).unlink(), ("retrieval.enabled=true",), "is missing"),
    "another subject's file": (
        lambda kb: shutil.copy(data_file(kb, "chemistry"), data_file(kb)),
        ("retrieval.enabled=true",),
        "",
    ),
    "another digest": (
        lambda kb: edit_manifest(kb, lambda manifest: manifest.update(digest="sha256:" + "0" * 64)),
        ("retrieval.enabled=true",),
        "",
    ),
    "another version": (
        lambda kb: edit_manifest(kb, lambda manifest: manifest.update(version=99)),
        ("retrieval.enabled=true",),
        "",
    ),
    "a manifest that is no JSON": (
        lambda kb: (kb / "geography" / "index.json").write_text("{"),
        ("retrieval.enabled=true",),
        "",
    ),
    "an index without an encoder": (
        untouched,
        ("retrieval.enabled=true", "retrieval.search=dense"),
        "has no vectors",
    ),
    "fused without vectors": (
        untouched,
        ("retrieval.enabled=true", "retrieval.search=fused"),
        "has no vectors",
    ),
    "no index at all": (untouched, ("retrieval.enabled=true", "retrieval.dir="), "retrieval.dir is not"),
    "top_k 0": (untouched, ("retrieval.enabled=true", "retrieval.top_k=0"), "at least 1"),
    "an unknown search": (untouched, ("retrieval.search=bm52",), "did you mean bm25?"),
    "a switch that is none": (untouched, ("retrieval.enabled.geography=sometimes",), "true or false"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_row(
    case: str, kb: Path, rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, words, message = REFUSED[case]
    damage(kb)
    monkeypatch.setattr(build, "build_engine", lambda *_: pytest.fail("the model was loaded first"))
    assert infer(rows, f"retrieval.dir={kb}", *words) in (2, 3)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (rows.parent / "out.jsonl").exists()


def delete_folder(kb: Path) -> None:
    shutil.rmtree(kb)


def overwrite(kb: Path) -> None:
    path = data_file(kb)
    path.write_bytes(b"\xff" * len(path.read_bytes()))


@pytest.mark.parametrize("damage", [delete_folder, overwrite, lambda kb: data_file(kb).write_bytes(b"")])
def test_an_index_that_is_lost_on_the_way_stops_no_run(damage: Callable[[Path], None], kb: Path, rows: Path) -> None:
    pipeline = load_pipeline("saq", settings={"engine.name": "fake", "retrieval.dir": kb, "retrieval.enabled": True})
    records = [{"id": str(i), "subject": "geography", "question": f"{TOPICS[i]} of the sea?"} for i in range(6)]
    assert all(answer.passages for answer in pipeline(records))
    damage(kb)
    for answer in pipeline(records):
        assert "error" not in answer.flags
        assert answer.answer is not None or "invalid" in answer.flags
        assert answer.passages or ("retrieval_failed" in answer.flags and answer.problem)


def test_every_failed_look_up_is_counted(
    kb: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(self: Index, text: str, top_k: int) -> list[object]:
        raise RetrievalError("the page is malformed", fix="build it again") if "salt" in text else OSError(5, "no disk")

    monkeypatch.setattr(Index, "query", fails)
    assert infer(rows, f"retrieval.dir={kb}", "retrieval.enabled=true", "--json") == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["flags"]["retrieval_failed"] == 16
    assert result["first_failed_look_up"].startswith("world history-0: ")
    assert "malformed" in result["first_failed_look_up"]
    assert "16 rows were asked without passages" in printed.err


@pytest.mark.parametrize(
    "question", ["?", "!!! ...", "x" * 1_000_000, "salt " * 200_000, 'a" OR "b*', "盐 है नमक", "\x00"]
)
def test_any_question_is_answered(kb: Path, question: str) -> None:
    pipeline = load_pipeline("saq", settings={"engine.name": "fake", "retrieval.dir": kb, "retrieval.enabled": True})
    (answer,) = pipeline([{"id": "1", "subject": "geography", "question": question}])
    assert answer.passages is not None
    assert "retrieval_failed" not in answer.flags


def test_an_empty_index_is_said_and_gives_nothing(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kb: Path
) -> None:
    monkeypatch.setattr(Index, "passage_count", property(lambda self: 0))
    assert infer(rows, f"retrieval.dir={kb}", "retrieval.enabled.geography=true") == 0
    assert "the index of geography holds no passage" in capsys.readouterr().err
    assert answers(rows)["geography-0"].passages == ()


# Training, and the adapter that came of it


def test_an_adapter_trained_with_passages_says_so(
    kb: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"retrieval.dir={kb}", "retrieval.enabled=true"]
    train = ["train", "task=saq", f"input={rows}", f"run_dir={tmp_path / 'run'}", *QUICK, "training.epochs=1"]
    trained = [*train, *words, "retrieval.train=true", "retrieval.source_column=module"]
    assert main(trained) == 0
    error = capsys.readouterr().err
    assert "Passage: In World History all about salt" in error
    passport = read_passport(tmp_path / "run" / "saq")
    assert passport is not None
    assert passport.prompt.settings["retrieval"] == "passages"
    use = ["infer", "task=saq", f"input={rows}", f"output={tmp_path / 'o.jsonl'}", f"adapters.dir={tmp_path / 'run'}"]
    assert main([*use, "inference.max_new_tokens=2"]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "retrieval" in line]
    assert len(warned) == 1
    assert "was trained with retrieval 'passages', and is used with 'none'" in warned[0]
    assert main([*use, "inference.max_new_tokens=2", *words]) == 0
    assert "was trained with retrieval" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["retrieval.train=true"], 2, "no subject is switched on"),
        (["retrieval.train=true", "retrieval.enabled=true", "retrieval.source_column=modul"], 3, "module"),
    ],
)
def test_training_without_what_it_needs(
    kb: Path, rows: Path, tmp_path: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "task=saq", f"input={rows}", f"run_dir={tmp_path / 'run'}", f"retrieval.dir={kb}", *QUICK]
    assert main([*command, *words]) == code
    assert message in capsys.readouterr().err


def test_the_api_raises_what_the_command_says(kb: Path) -> None:
    with pytest.raises(LoricaError, match="has no index of it"):
        load_pipeline("saq", settings={"engine.name": "fake", "retrieval.dir": kb, "retrieval.enabled.maths": True})
