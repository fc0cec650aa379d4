"""Building, asking and updating an index: equal to a reference, to a rebuild, and to itself after a kill."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tools.bm25_reference import ReferenceBm25
from tools.stored_passages import all_passages

from lorica.errors import ResumeError, RetrievalError
from lorica.retrieval.build_index import BuildOptions, build_index, update_index
from lorica.retrieval.dense_encoder import Vectors
from lorica.retrieval.index import Index, fuse_ranks, subjects
from lorica.retrieval.passages import Chunk
from lorica.retrieval.read_sources import SourceReader
from lorica.retrieval.table_documents import RawDocument
from lorica.retrieval.vectors import nearest

from .conftest import CountingEncoder  # isort: skip


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_question_finds_its_passage_in_every_kind_of_document(tmp_path: Path, documents: Path) -> None:
    result = build_index(tmp_path / "kb", "Geography", [documents])
    assert (result.read, result.manifest.passages) == (4, 5)
    with Index.open(tmp_path / "kb", "geography") as index:
        assert index.mode == "bm25"
        questions = ("Where does the Danube end?", "lake in SIBERIA?", "its deepest point", "boiling: at 100 degrees")
        best = {question: index.query(question, 1)[0] for question in questions}
    assert [passage.source for passage in best.values()] == ["rivers.md", "lakes.txt", "deeper/seas.html", "m1"]
    seas = best["its deepest point"]
    assert (seas.title, seas.text) == ("Seas", "The Black Sea is salty.\n\nIts deepest point is 2,212 m down.")
    assert best["boiling: at 100 degrees"].tags == ("chapter=1", "easy")
    assert subjects(tmp_path / "kb") == ["geography"]


def test_chinese_is_found_by_words_inside_a_sentence(tmp_path: Path, documents: Path) -> None:
    build_index(tmp_path / "kb", "geography", [documents])
    with Index.open(tmp_path / "kb", "geography") as index:
        for question in ("长江", "亚洲的河流", "沸腾", "河"):
            assert [passage.source for passage in index.query(question, 3)] == ["m2"]
        assert index.query("海洋", 3) == []


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("القاهِرةُ هي عاصمةُ مصر", "القاهرة"),
        ("القـــاهرة", "القاهِرةُ"),
        ("יְרוּשָׁלַיִם היא בירת ישראל", "ירושלים"),
        ("İSTANBUL ve IĞDIR", "istanbul"),
        ("İSTANBUL ve IĞDIR", "ığdır"),
        ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "เมืองหลวง"),
        ("プログラミング言語を学ぶ。", "ﾌﾟﾛｸﾞﾗﾐﾝｸﾞ"),
    ],
)
def test_a_word_is_found_in_every_way_to_write_it(tmp_path: Path, text: str, question: str) -> None:
    (tmp_path / "d.txt").write_text(text)
    build_index(tmp_path / "kb", "s", [tmp_path / "d.txt"])
    with Index.open(tmp_path / "kb", "s") as index:
        assert [passage.text for passage in index.query(question, 1)] == [text]


QUESTIONS = (
    *('"', "AND OR NOT", "NEAR(a b)", "tokens: danube*", "^danube", "{danube}", "a\0b", "\ud800", "'; DROP TABLE x"),
    *("-", "()" * 500, "danube " * 200_000, " ".join(f"word{number}" for number in range(100_000))),
)


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
def test_no_question_is_syntax(tmp_path: Path, documents: Path, question: str) -> None:
    build_index(tmp_path / "kb", "geography", [documents])
    with Index.open(tmp_path / "kb", "geography") as index:
        sources = {passage.source for passage in index.query(question, 5)}
    assert sources == ({"rivers.md"} if "danube" in question else set())


def test_bm25_is_that_of_the_reference(tmp_path: Path, shared: Path) -> None:
    paragraphs, questions = [], []
    for language in ("en", "zh"):
        data = json.loads((shared / "xquad" / f"xquad.{language}.json").read_text("utf-8"))["data"]
        entries = [paragraph for article in data for paragraph in article["paragraphs"]]
        paragraphs += [entry["context"] for entry in entries]
        questions += [entry["qas"][0]["question"] for entry in entries][::5]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in paragraphs))
    build_index(tmp_path / "kb", "xquad", [tmp_path / "rows.jsonl"], BuildOptions(length=2000, overlap=0))
    texts = [passage.text for passage in all_passages(tmp_path / "kb", "xquad")]
    with Index.open(tmp_path / "kb", "xquad") as index:
        assert len(texts) > 200
        reference = ReferenceBm25(texts)
        for question in questions:
            expected = reference.scores(question)
            order = sorted((-score, number) for number, score in enumerate(expected) if score)
            passages = index.query(question, len(texts))
            assert [passage.score for passage in passages] == pytest.approx([-score for score, _ in order], abs=1e-6)
            assert {passage.text for passage in passages[:5]} == {texts[position] for _, position in order[:5]}


def test_tags_filter_before_the_best_are_taken(tmp_path: Path, documents: Path, encoder: CountingEncoder) -> None:
    build_index(tmp_path / "kb", "geography", [documents], BuildOptions(encoder=encoder, tags=("all",)))
    for mode in ("bm25", "dense", "fused"):
        with Index.open(tmp_path / "kb", "geography", mode=mode, encoder=encoder) as index:
            passages = index.query("water of the Danube, a lake and 长江", 5, tags=["chapter=1"])
            assert [passage.source for passage in passages] == ["m1"]
            assert index.query("water", 5, tags=["chapter=1", "chapter=2"]) == []
            assert all("all" in passage.tags for passage in index.query("water", 5))
            assert index.tag_counts() == {"all": 5, "chapter=1": 1, "chapter=2": 1, "easy": 1}


def test_vectors_of_a_language_that_the_encoder_does_not_know_do_not_count(
    tmp_path: Path, encoder: CountingEncoder
) -> None:
    (tmp_path / "docs.jsonl").write_text(
        "".join(json.dumps({"id": word, "text": word}, ensure_ascii=False) + "\n" for word in ("ねこがねる", "cat")),
        "utf-8",
    )
    build_index(tmp_path / "kb", "pets", [tmp_path / "docs.jsonl"], BuildOptions(encoder=encoder))
    with Index.open(tmp_path / "kb", "pets", mode="fused", encoder=encoder) as index:
        assert index.query("the cat", 2)[0].source == "cat"
        assert "the cat" in encoder.texts
        assert [passage.source for passage in index.query("ねこ", 2)] == ["ねこがねる"]
        assert "ねこ" not in encoder.texts


def test_reciprocal_ranks_are_added_and_ties_go_by_number() -> None:
    fused = fuse_ranks([[(7, 9.0), (3, 8.0)], [(3, 0.5), (7, 0.4)], [(1, 0.1)]])
    assert fused == [(3, 1 / 61 + 1 / 62), (7, 1 / 61 + 1 / 62), (1, 1 / 61)]


def test_nearest_vectors_equal_a_full_sort(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.integers(-2, 3, (500, 4)).astype(np.float32)  # many ties
    question = np.array([1, 2, 0, 1], dtype=np.float32)
    scored = [(number, float(score)) for number, score in enumerate(vectors @ question, 1)]
    expected = sorted(scored, key=lambda pair: (-pair[1], pair[0]))
    for count in (1, 7, 499, 500, 600):
        assert nearest(vectors, question, count) == expected[:count]
    assert nearest(vectors, question, 2, [5, 6]) == [
        pair for pair in nearest(vectors, question, 500) if pair[0] in (5, 6)
    ]


def test_an_update_encodes_what_is_new_and_has_the_bytes_of_a_build(
    tmp_path: Path, documents: Path, encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BuildOptions(encoder=encoder)
    build_index(tmp_path / "kb", "Geography", [documents], options)
    (documents / "lakes.txt").rename(documents / "deeper" / "waters.md")
    (documents / "rivers.md").unlink()
    (documents / "new.txt").write_text("The Aral Sea has almost dried up.")
    splits: list[str] = []
    real_split = SourceReader._split

    def split(reader: SourceReader, raw: RawDocument) -> list[Chunk]:
        splits.append(raw.text)
        return real_split(reader, raw)

    monkeypatch.setattr(SourceReader, "_split", split)
    encoder.texts.clear()
    result = update_index(tmp_path / "kb", "Geography", [documents], options)
    assert encoder.texts == ["The Aral Sea has almost dried up."] == splits
    assert (result.read, result.reused, result.encoded) == (1, 3, 1)
    assert result.removed == ("lakes.txt", "rivers.md")
    monkeypatch.undo()
    build_index(tmp_path / "anew", "Geography", [documents], options)
    assert all_bytes(tmp_path / "kb") == all_bytes(tmp_path / "anew")
    with Index.open(tmp_path / "kb", "geography", encoder=encoder) as index:
        assert "Danube" not in " ".join(passage.text for passage in index.query("Danube flows", 5))
    encoder.texts.clear()
    before = all_bytes(tmp_path / "kb")
    assert update_index(tmp_path / "kb", "geography", [documents], options).unchanged
    assert (encoder.texts, all_bytes(tmp_path / "kb")) == ([], before)


def _growing(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number}.txt").write_text(
            f"Document {number} tells of {' '.join(f'w{number}x{i}' for i in range(50))}."
        )
    return folder


# In a process without threads, which forks a child for each moment and lets it kill itself there.
KILLED_UPDATES = """
import json, os, shutil, signal, sys
from pathlib import Path
from lorica.retrieval.build_index import update_index
from lorica.retrieval.index import Index

before, documents, trial = map(Path, sys.argv[1:])

def update(remaining):
    def watch(event, arguments):  # every file of the index that is opened, renamed, removed or cut
        nonlocal remaining
        if event in ("open", "os.rename", "os.remove", "sqlite3.connect") and str(trial) in str(arguments):
            remaining -= 1
            if remaining < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    update_index(trial, "s", [documents])
    os._exit(0)

status = None
while status != 0:
    shutil.rmtree(trial, ignore_errors=True)
    shutil.copytree(before, trial)
    kill = 0 if status is None else kill + 1
    child = os.fork() or update(kill)
    status = os.waitpid(child, 0)[1]
    with Index.open(trial, "s") as index:
        source = index.query("w2x7", 1)[0].source
        digest = index.digest
    update_index(trial, "s", [documents])
    files = sorted((file.name, file.read_bytes().hex()) for file in (trial / "s").iterdir())
    print(json.dumps([status, digest, source, files]))
"""


def test_an_update_killed_at_any_file_leaves_the_old_index_and_the_next_ends_as_a_build(tmp_path: Path) -> None:
    documents = _growing(tmp_path / "documents", 3)
    old = build_index(tmp_path / "kb", "s", [documents]).manifest.digest
    _growing(documents, 6)
    new = build_index(tmp_path / "anew", "s", [documents]).manifest.digest
    words = [sys.executable, "-c", KILLED_UPDATES, str(tmp_path / "kb"), str(documents), str(tmp_path / "trial")]
    process = subprocess.run(words, check=True, capture_output=True, text=True, timeout=300)
    outcomes = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(outcomes) > 12
    assert [status for status, *_ in outcomes] == [signal.SIGKILL] * (len(outcomes) - 1) + [0]
    switch = [digest for _, digest, *_ in outcomes].index(new)
    assert [digest for _, digest, *_ in outcomes] == [old] * switch + [new] * (len(outcomes) - switch)
    assert {source for _, _, source, _ in outcomes} == {"2.txt"}
    anew = sorted([file.name, file.read_bytes().hex()] for file in (tmp_path / "anew" / "s").iterdir())
    assert all(files == anew for *_, files in outcomes)


def test_what_a_killed_build_had_encoded_is_not_encoded_again(
    tmp_path: Path, encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = _growing(tmp_path / "documents", 100)
    options = BuildOptions(encoder=encoder)
    real_encode, calls = encoder.encode, 0

    def encode(texts: Sequence[str], advance: Callable[[int], None]) -> Vectors:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real_encode(texts, advance)

    monkeypatch.setattr(encoder, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "kb", "s", [documents], options)
    monkeypatch.undo()
    (partial,) = (tmp_path / "kb" / "s").glob(".encoded-*")
    content = bytearray(partial.read_bytes())
    content[-5] ^= 1  # the last record is damaged
    partial.write_bytes(content + b"torn")
    assert len(encoder.texts) == 64
    result = build_index(tmp_path / "kb", "s", [documents], options)
    passage_count = result.manifest.passages
    assert (result.encoded, len(encoder.texts)) == (passage_count - 63, passage_count + 1)
    build_index(tmp_path / "anew", "s", [documents], options)
    assert all_bytes(tmp_path / "kb") == all_bytes(tmp_path / "anew")


@pytest.mark.parametrize("function", ["_named_by_content", "atomic_file", "_remove_unnamed", "write_store"])
def test_a_failure_at_any_step_leaves_a_whole_index(
    tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    build_index(tmp_path / "kb", "s", [documents])
    (documents / "more.txt").write_text("The Rhine passes Basel.")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"lorica.retrieval.build_index.{function}", fail)
    with pytest.raises((RetrievalError, OSError), match="No space left"):
        update_index(tmp_path / "kb", "s", [documents])
    monkeypatch.undo()
    with Index.open(tmp_path / "kb", "s") as index:
        assert index.query("Danube", 1)
    update_index(tmp_path / "kb", "s", [documents])
    build_index(tmp_path / "anew", "s", [documents])
    assert all_bytes(tmp_path / "kb") == all_bytes(tmp_path / "anew")


def test_readers_go_on_while_it_is_updated(tmp_path: Path) -> None:
    documents = _growing(tmp_path / "documents", 10)
    build_index(tmp_path / "kb", "s", [documents])
    held = Index.open(tmp_path / "kb", "s")
    stop, failures = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                with Index.open(tmp_path / "kb", "s") as index:
                    assert index.query("w3x3", 1)[0].source == "3.txt"
            except Exception as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for count in range(11, 41):
        (documents / f"{count}.txt").write_text(f"Document {count} is new.")
        update_index(tmp_path / "kb", "s", [documents])
    stop.set()
    reader.join()
    assert failures == []
    assert held.query("w3x3", 1)[0].source == "3.txt"  # its files are gone, and it has them open
    assert held.query("document 40 is new", 1)[0].source != "40.txt"


def test_two_writers_do_not_meet(tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(tmp_path / "kb", "s", [documents])

    def second(*arguments: object) -> None:
        with pytest.raises(ResumeError, match="another process is working"):
            build_index(tmp_path / "kb", "s", [documents], force=True)
        raise RetrievalError("enough")

    monkeypatch.setattr("lorica.retrieval.build_index.write_store", second)
    (documents / "more.txt").write_text("The Rhine passes Basel.")
    with pytest.raises(RetrievalError, match="enough"):
        update_index(tmp_path / "kb", "s", [documents])


def test_no_passage_crosses_subjects(tmp_path: Path) -> None:
    names = ["History", "World History", "history 2", "歴史"]
    for name in names:
        (tmp_path / "d.jsonl").write_text(f'{{"id": "{name}", "text": "the battle of {name}"}}\n')
        build_index(tmp_path / "kb", name, [tmp_path / "d.jsonl"])
    for name in names:
        with Index.open(tmp_path / "kb", name) as index:
            for other in names:
                assert {passage.source for passage in index.query(f"the battle of {other}", 10)} <= {name}
    shutil.copytree(tmp_path / "kb" / "history", tmp_path / "kb" / "physics")
    with pytest.raises(RetrievalError, match="holds the index of the subject 'History'"):
        Index.open(tmp_path / "kb", "Physics")
    (tmp_path / "kb").rename(tmp_path / "renamed")
    assert Index.open(tmp_path / "renamed", "WORLD-history").query("battle", 1)
