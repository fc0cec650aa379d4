"""`lorica kb`: the commands as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorica.cli import main
from lorica.commands.kb import SUBCOMMANDS


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Two documents."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "rivers.md").write_text("# Rivers\n\nThe Danube flows into the Black Sea.")
    (folder / "facts.jsonl").write_text('{"module": "m1", "text": "Water boils at 100 degrees.", "tags": ["easy"]}\n')
    return folder


def test_build_query_update_and_info(tmp_path: Path, documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kb = str(tmp_path / "kb")
    assert main(["kb", "build", "--subject", "World Geography", "--out", kb, str(documents), "--tag", "chapter=1"]) == 0
    output = capsys.readouterr().out
    assert "built: 2 passages of 2 files" in output
    command = output.split("-> lorica ")[1].strip().replace("'World Geography'", "world-geography").split(" ")
    assert main([*command[:-1], "Where does the Danube end?"]) == 0
    assert capsys.readouterr().out.startswith("1. ")
    query = ["kb", "query", "--subject", "world geography", "--kb", kb, "--json"]
    assert main([*query, "boiling water", "--tag", "chapter=1", "--tag", "easy"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [passage["source"] for passage in result["passages"]] == ["m1"]
    assert (result["mode"], result["passages"][0]["tags"]) == ("bm25", ["chapter=1", "easy"])
    assert main([*query[:-1], "Danube", "--tag", "chapter=9"]) == 0
    assert "no passage has the tag 'chapter=9'" in capsys.readouterr().out
    (tmp_path / "question.txt").write_text("Danube\n" * 1000, "utf-8-sig")
    assert main([*query, "--file", str(tmp_path / "question.txt")]) == 0
    assert json.loads(capsys.readouterr().out)["passages"][0]["title"] == "Rivers"
    (tmp_path / "lakes.txt").write_text("Lake Baikal is deep.")
    update = ["kb", "update", "--subject", "world geography", "--out", kb]
    assert main([*update, "--add", "--tag", "chapter=2", str(tmp_path / "lakes.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 3
    assert main(["kb", "info", "--kb", kb, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["indexes"]
    assert (entry["subject"], entry["passages"]) == ("World Geography", 3)
    assert entry["tags"] == {"chapter=1": 2, "chapter=2": 1, "easy": 1}
    assert main([*update, str(tmp_path / "lakes.txt"), "--tag", "chapter=2"]) == 0
    assert "gone 2 (facts.jsonl, rivers.md)" in capsys.readouterr().out
    (tmp_path / "kb" / "world_geography" / "index.json").write_text("{}")
    assert main(["kb", "info", "--kb", kb]) == 3
    assert "cannot be used" in capsys.readouterr().out


def test_left_out_documents_are_named(tmp_path: Path, documents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (documents / "empty.txt").write_text(" ")
    build = ["kb", "build", "--subject", "s", "--out", str(tmp_path / "kb"), str(documents)]
    assert main(build) == 3
    assert "empty.txt: it holds no text" in capsys.readouterr().err
    assert main([*build, "--bad-documents", "skip"]) == 0
    captured = capsys.readouterr()
    assert "left out: " in captured.err
    assert "left out, as they cannot be used: 1 documents and rows" in captured.out
    assert main(build) == 3
    assert "there is an index of 's' already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kb", "biuld"], "did you mean `lorica kb build`?"),
        (["kb", "query", "--subject", "s", "--kb", "x"], "one question"),
        (["kb", "query", "--subject", "s", "--kb", "x", "question"], "holds no index of the subject 's'"),
        (["kb", "query", "--subject", "s", "--kb", "x", "--file", "nowhere.txt"], "the question cannot be read"),
        (["kb", "build", "--subject", "s", "--out", "x", "--column", "body", "y"], "--column body; allowed: ROLE=NAME"),
        (["kb", "build", "--out", "x", "y"], "--subject"),
        (["kb", "info", "--kb", "nowhere"], "there is no such folder of indexes"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) in (2, 3)
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [[], *([name] for name in SUBCOMMANDS)], ids=lambda words: " ".join(words) or "kb")
def test_help_has_examples(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    try:
        code = main(["kb", *words, "--help"])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 0
    assert "examples:\n  lorica kb" in capsys.readouterr().out
