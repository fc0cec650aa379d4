"""The store of LanceDB: the answers of the embedded one, and its guarantees."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tools.stored_passages import all_passages

from lorica.cli import main
from lorica.config.retrieval_section import PassageSearch
from lorica.errors import MissingExtraError, RetrievalError
from lorica.retrieval.build_index import BuildOptions, build_index, update_index
from lorica.retrieval.index import Index
from lorica.retrieval.index_manifest import FileStamp, data_digest, read_manifest
from lorica.retrieval.passage_store import open_store
from lorica.retrieval.passages import Passage

from .conftest import CountingEncoder

lancedb = pytest.importorskip("lancedb")
MODES: tuple[PassageSearch, ...] = ("bm25", "dense", "fused")


def _build_both(folder: Path, documents: Path, options: BuildOptions) -> None:
    for store in ("sqlite", "lancedb"):
        build_index(folder, store, [documents], msgspec.structs.replace(options, store=store))


def _ask_both(
    folder: Path, mode: PassageSearch, encoder: CountingEncoder, question: str, count: int, tags: tuple[str, ...] = ()
) -> tuple[list[Passage], list[Passage]]:
    answers = []
    for store in ("sqlite", "lancedb"):
        with Index.open(folder, store, mode=mode, encoder=encoder) as index:
            answers.append(index.query(question, count, tags=tags))
    return answers[0], answers[1]


def _assert_alike(embedded: list[Passage], larger: list[Passage]) -> None:
    assert [passage.id for passage in larger] == [passage.id for passage in embedded]
    assert [passage.score for passage in larger] == pytest.approx([passage.score for passage in embedded], abs=1e-6)
    assert [(p.text, p.source, p.title, p.tags, p.digest) for p in larger] == [
        (p.text, p.source, p.title, p.tags, p.digest) for p in embedded
    ]


def test_it_answers_as_the_embedded_store(tmp_path: Path, shared: Path, encoder: CountingEncoder) -> None:
    rows, questions = [], []
    for language in ("en", "zh"):
        for article in json.loads((shared / "xquad" / f"xquad.{language}.json").read_text("utf-8"))["data"]:
            texts = [paragraph["context"] for paragraph in article["paragraphs"]]
            rows += [{"text": text, "title": article["title"], "tags": [language]} for text in texts]
            questions.append(article["paragraphs"][0]["qas"][0]["question"])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _build_both(tmp_path / "kb", tmp_path / "rows.jsonl", BuildOptions(length=60, overlap=0, encoder=encoder))
    for mode in MODES:
        indexes = [Index.open(tmp_path / "kb", store, mode=mode, encoder=encoder) for store in ("sqlite", "lancedb")]
        assert indexes[0].passage_count > 500
        assert indexes[0].tag_counts() == indexes[1].tag_counts()
        for question in questions:
            for count, tags in ((10, ()), (5, ("zh",))):
                embedded, larger = (index.query(question, count, tags=tags) for index in indexes)
                _assert_alike(embedded, larger)
                assert mode == "bm25" or len(embedded) == count
        for index in indexes:
            index.close()


def test_nothing_in_a_question_or_a_tag_is_syntax(tmp_path: Path, documents: Path, encoder: CountingEncoder) -> None:
    (documents / "odd.jsonl").write_text(
        json.dumps({"text": "It's an 'odd' passage of the Danube.", "tags": ["it's", 'a"b', "100%"]}) + "\n"
    )
    _build_both(tmp_path / "kb", documents, BuildOptions(encoder=encoder))
    hard = (
        "'",
        '"',
        "AND OR NOT",
        "danube*",
        "a\0b",
        "\ud800",
        "'; DROP TABLE terms",
        "-",
        "danube " * 9999,
        "長江 沸腾",
    )
    for mode in MODES:
        for question in hard:
            _assert_alike(*_ask_both(tmp_path / "kb", mode, encoder, question, 3))
        for tags in (("it's",), ('a"b',), ("100%", "it's"), ("a' OR '1'='1",), ("chapter=1",)):
            _assert_alike(*_ask_both(tmp_path / "kb", mode, encoder, "the Danube boils", 9, tags))


def test_equal_scores_go_by_id_also_where_the_list_ends(tmp_path: Path, encoder: CountingEncoder) -> None:
    rows = [{"text": f"river number{number} flows"} for number in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = BuildOptions(near_duplicates=True, encoder=encoder)
    _build_both(tmp_path / "kb", tmp_path / "rows.jsonl", options)
    for count in (1, 7, 100, 300):
        embedded, larger = _ask_both(tmp_path / "kb", "bm25", encoder, "where a river flows", count)
        _assert_alike(embedded, larger)
        assert [passage.id for passage in larger] == sorted(passage.id for passage in larger)
        _assert_alike(*_ask_both(tmp_path / "kb", "dense", encoder, "river flows", count))


def _contents(folder: Path, encoder: CountingEncoder) -> Any:
    store = open_store(folder, "s", read_manifest(folder, "s"))
    vectors = store.vectors
    assert vectors is not None
    contents = (store.ids(), store.source_files(), store.tag_counts(), vectors.tobytes(), all_passages(folder, "s"))
    store.close()
    with Index.open(folder, "s", encoder=encoder) as index:
        return (*contents, [index.query(question, 5) for question in ("Danube", "a lake in Siberia", "长江")])


def test_an_update_encodes_what_is_new_and_holds_what_a_build_holds(
    tmp_path: Path, documents: Path, encoder: CountingEncoder
) -> None:
    options = BuildOptions(encoder=encoder, store="lancedb")
    build_index(tmp_path / "kb", "s", [documents], options)
    (documents / "rivers.md").unlink()
    (documents / "lakes.txt").rename(documents / "deeper" / "waters.md")
    (documents / "new.txt").write_text("The Aral Sea has almost dried up.")
    encoder.texts.clear()
    result = update_index(tmp_path / "kb", "s", [documents], BuildOptions(encoder=encoder))
    assert encoder.texts == ["The Aral Sea has almost dried up."]
    assert (result.read, result.reused, result.encoded, result.removed) == (1, 3, 1, ("lakes.txt", "rivers.md"))
    build_index(tmp_path / "anew", "s", [documents], options)
    assert _contents(tmp_path / "kb", encoder) == _contents(tmp_path / "anew", encoder)
    names = sorted(path.name for path in (tmp_path / "kb" / "s").iterdir())
    assert len(names) == 3, names  # the manifest, a folder and vectors: what was deleted is in no file
    manifest = read_manifest(tmp_path / "kb", "s")
    assert update_index(tmp_path / "kb", "s", [documents], BuildOptions(encoder=encoder)).unchanged
    assert read_manifest(tmp_path / "kb", "s") == manifest


KILLED_UPDATE = """
import os, signal, sys
from pathlib import Path
from lorica.retrieval.build_index import update_index

folder, documents, remaining = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def watch(event, arguments):
    global remaining
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(folder) in str(arguments):
        remaining -= 1
        if remaining < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
update_index(folder, "s", [documents])
"""


def test_an_update_that_is_killed_leaves_the_old_index_or_the_new_one(
    tmp_path: Path, documents: Path, encoder: CountingEncoder
) -> None:
    build_index(tmp_path / "kb", "s", [documents], BuildOptions(store="lancedb"))
    old = read_manifest(tmp_path / "kb", "s")
    (documents / "new.txt").write_text("The Aral Sea has almost dried up.")
    codes, documents_digests = [], []
    for remaining in (3, 45, 70):
        words = [sys.executable, "-c", KILLED_UPDATE, str(tmp_path / "kb"), str(documents), str(remaining)]
        codes.append(subprocess.run(words, capture_output=True, check=False).returncode)
        documents_digests.append(read_manifest(tmp_path / "kb", "s").documents)
        with Index.open(tmp_path / "kb", "s") as index:
            assert index.query("Danube", 1)[0].source == "rivers.md"
            assert bool(index.query("Aral", 1)) == (documents_digests[-1] != old.documents)
    assert codes[0] == -signal.SIGKILL
    assert documents_digests[0] == old.documents
    update_index(tmp_path / "kb", "s", [documents])
    assert len(list((tmp_path / "kb" / "s").iterdir())) == 2


def test_a_reader_goes_on_with_what_an_update_replaces(tmp_path: Path, documents: Path) -> None:
    build_index(tmp_path / "kb", "s", [documents], BuildOptions(store="lancedb"))
    held = Index.open(tmp_path / "kb", "s")
    (documents / "rivers.md").write_text("The Rhine passes Basel.")
    update_index(tmp_path / "kb", "s", [documents])
    assert held.query("Danube", 1)[0].source == "rivers.md"
    assert len(list((tmp_path / "kb" / "s").glob("*.lancedb"))) == 2
    held.close()
    with Index.open(tmp_path / "kb", "s") as index:
        assert index.query("Danube", 1) == []
    update_index(tmp_path / "kb", "s", [documents])
    assert len(list((tmp_path / "kb" / "s").glob("*.lancedb"))) == 1


@pytest.mark.parametrize("change", ["flip", "remove", "add", "no folder"])
def test_a_changed_folder_is_refused_and_can_be_built_again(change: str, tmp_path: Path, documents: Path) -> None:
    options = BuildOptions(store="lancedb")
    build_index(tmp_path / "kb", "s", [documents], options)
    (folder,) = (tmp_path / "kb" / "s").glob("*.lancedb")
    victim = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if change == "flip":
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif change == "remove":
        victim.unlink()
    elif change == "add":
        (folder / "more").write_text("x")
    else:
        folder.rename(tmp_path / "elsewhere")
    message = "is missing" if change == "no folder" else "was changed or cut off"
    with pytest.raises(RetrievalError, match=message):
        Index.open(tmp_path / "kb", "s")
    build_index(tmp_path / "kb", "s", [documents], options, force=True)
    with Index.open(tmp_path / "kb", "s") as index:
        assert index.query("Danube", 1)


def test_tables_of_another_program_are_refused(tmp_path: Path, documents: Path) -> None:
    build_index(tmp_path / "kb", "s", [documents], BuildOptions(store="lancedb"))
    manifest = read_manifest(tmp_path / "kb", "s")
    folder = tmp_path / "kb" / "s" / manifest.passages_file.name
    (folder / "terms.lance").rename(folder / "words.lance")
    stamp = FileStamp(folder.name, data_digest(folder))
    restamped = msgspec.structs.replace(manifest, passages_file=stamp).stamped()
    (folder.parent / "index.json").write_bytes(restamped.encoded())
    with pytest.raises(RetrievalError, match="cannot be read as an index"):
        Index.open(tmp_path / "kb", "s")


def test_without_the_package_it_is_named(tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = BuildOptions(store="lancedb")
    build_index(tmp_path / "kb", "s", [documents], options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for action in (
        lambda: Index.open(tmp_path / "kb", "s"),
        lambda: update_index(tmp_path / "kb", "s", [documents]),
        lambda: build_index(tmp_path / "kb", "t", [documents], options),
    ):
        with pytest.raises(MissingExtraError, match="the store lancedb needs the package 'lancedb'") as error:
            action()
        assert "lorica[lancedb]" in error.value.fix
    with pytest.raises(RetrievalError, match="there is no store 'lance'; allowed: sqlite, lancedb"):
        build_index(tmp_path / "kb", "t", [documents], BuildOptions(store="lance"))


def test_the_commands(tmp_path: Path, documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--subject", "s", "--out", str(tmp_path / "kb"), str(documents), "--json"]
    assert main(["kb", "build", "--store", "lancedb", *words]) == 0
    assert json.loads(capsys.readouterr().out)["store"] == "lancedb"
    assert main(["kb", "update", *words]) == 0
    assert json.loads(capsys.readouterr().out)["unchanged"]
    assert main(["kb", "query", "--subject", "s", "--kb", str(tmp_path / "kb"), "the Danube", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passages"][0]["source"] == "rivers.md"
    assert main(["kb", "info", "--kb", str(tmp_path / "kb")]) == 0
    assert "lancedb" in capsys.readouterr().out
