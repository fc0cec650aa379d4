"""`lorica kb test`: proposes what helps, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorica import measure_retrieval
from lorica.cli import main
from lorica.commands.kb_test import configuration
from lorica.config.compose import compose
from lorica.config.retrieval_section import RetrievalConfig
from lorica.data.read import rows_from_memory
from lorica.pipeline.infer import answer_file
from lorica.pipeline.retrieval_gain import RetrievalGain, retrieval_gain
from lorica.records import Answer, Row, UsedPassage
from lorica.retrieval.build_index import build_index
from lorica.tasks import load_task

TASK = load_task("saq")
PASSAGES = (UsedPassage("p", "m1", 1.0, "sha256:1"),)


def rows(counts: Mapping[str, int]) -> list[Row]:
    records = [
        {"id": f"{subject}-{number}", "subject": subject, "question": "Who?", "answer": "Ann"}
        for subject, count in counts.items()
        for number in range(count)
    ]
    return rows_from_memory(records, TASK.schemas)


def answers(
    chosen: Sequence[Row], right: Mapping[str, Sequence[bool]], passages: tuple[UsedPassage, ...] | None
) -> dict[str, Answer]:
    """right: subject -> whether each of its rows is answered right, cycling."""
    made = {}
    for row in chosen:
        hits = right[row.subject]
        text = "Ann" if hits[int(row.id.rpartition("-")[2]) % len(hits)] else "Bob"
        flags = () if row.subject != "unknown" else ("no_retrieval",)
        made[row.id] = Answer(row.id, answer=text, stage="text", passages=passages, flags=flags if passages else ())
    return made


def gain(counts: Mapping[str, int], with_: Mapping[str, Any], without: Mapping[str, Any], **more: Any) -> RetrievalGain:
    chosen = rows(counts)
    documents = {row.id: "m1" if row.id.endswith("0") else "m2" for row in chosen}
    return retrieval_gain(
        TASK, chosen, answers(chosen, with_, PASSAGES), answers(chosen, without, None), documents=documents, **more
    )


def test_only_what_helps_is_switched_on() -> None:
    counts = {"Geography": 60, "History": 60, "Algebra": 60, "Music": 8}
    without = {"Geography": [True, False, False], "History": [True, False], "Algebra": [True, True, True, False]}
    with_ = {"Geography": [True, True, False], "History": [False, True], "Algebra": [True, False, False, False]}
    result = gain(counts, with_ | {"Music": [True]}, without | {"Music": [True]})
    assert result.switches == {"geography": True, "history": False, "algebra": False, "music": False}
    assert [subject.verdict for subject in result.subjects] == [
        "helps: on",
        "no evidence: off",
        "hurts: off",
        "no evidence: off",
    ]
    geography = result.subjects[0]
    assert (geography.pair.mcnemar.only_first, geography.pair.mcnemar.only_second) == (20, 0)
    assert geography.pair.test.difference.value == pytest.approx(1 / 3)
    assert (geography.documents, geography.own_shown, geography.shown) == (60, 6, 60)
    assert result.overall is not None
    assert result.overall.rows == 188


def test_of_many_subjects_chance_switches_none_on() -> None:
    """Answers that differ by coin alone: with 20 subjects tested at 5%, one would be found nearly always."""
    generator, switched, excluded = np.random.default_rng(3), 0, 0
    for _ in range(6):
        counts = {f"s{number}": 40 for number in range(20)}
        coins = [{subject: list(generator.random(40) < 0.5) for subject in counts} for _ in range(2)]
        result = gain(counts, coins[0], coins[1])
        switched += sum(result.switches.values())
        excluded += sum(subject.pair.test.difference.low > 0 for subject in result.subjects)
    assert excluded > 0
    assert switched == 0


def test_subjects_in_two_spellings_are_one_and_unindexed_ones_are_named() -> None:
    right = {"World History": [True], "world-history": [True], "unknown": [False]}
    result = gain({"World History": 3, "world-history": 2, "unknown": 4}, right, right)
    assert [(subject.subject, subject.rows) for subject in result.subjects] == [("World History", 5)]
    assert result.unindexed == {"unknown": 4}


def test_no_subject_with_an_index() -> None:
    result = gain({"unknown": 4}, {"unknown": [False]}, {"unknown": [False]})
    assert (result.subjects, result.overall, result.switches) == ((), None, {})


def test_the_configuration_can_be_copied() -> None:
    result = gain(
        {"World History": 40, "Art": 9},
        {"World History": [True], "Art": [True]},
        {key: [False, True] for key in ("World History", "Art")},
    )
    section = RetrievalConfig(dir="my kb", top_k=5, source_column="module")
    words = configuration(result, section)
    copied = compose(words, environ={}).config.retrieval
    assert copied == replace(section, source_column="", enabled=result.switches)
    assert copied.enabled["world_history"]
    worse = gain({"Art": 9}, {"Art": [False]}, {"Art": [True]})
    assert configuration(worse, section) == []


@pytest.fixture
def material(tmp_path: Path) -> tuple[Path, Path]:
    """Rows, and the folder of a knowledge base."""
    (tmp_path / "m1.txt").write_text("Ann built the bridge over the river.")
    build_index(tmp_path / "kb", "Geography", [tmp_path / "m1.txt"])
    path = tmp_path / "rows.jsonl"
    records = [
        {
            "id": str(n),
            "subject": "geography" if n % 4 else "art",
            "question": "Who built it?",
            "answer": "Ann",
            "module": "m1.txt",
        }
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path, tmp_path / "kb"


def _command(material: tuple[Path, Path], run_folder: Path) -> list[str]:
    path, kb = material
    return ["kb", "test", str(path), "task=saq", "engine=fake", f"retrieval.dir={kb}", "--run", str(run_folder)]


def test_the_command(material: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = _command(material, tmp_path / "run")
    page_words = ["--html", str(tmp_path / "gain.html")]
    assert main([*command, "retrieval.source_column=module", "--json", *page_words]) == 0
    result = json.loads(capsys.readouterr().out)
    (subject,) = result["subjects"]
    assert (subject["rows"], subject["own_shown"], subject["documents"], subject["switch"]) == (9, 9, 9, False)
    assert result["unindexed"] == {"art": 3}
    assert result["configuration"] == []
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    assert "gain" in json.loads((tmp_path / "run" / "metrics.json").read_text())
    page = (tmp_path / "gain.html").read_text("utf-8")
    assert "No evidence that passages help in any subject" in page.partition("<nav")[0]
    assert "9 of 9" in page
    for heading in ("By subject", "Rows to read", "Latency", "Configuration and digests"):
        assert f">{heading}</h2>" in page
    assert len(list(csv.reader(io.StringIO((tmp_path / "gain.html.csv").read_text("utf-8"))))) == 12 + 1
    assert (tmp_path / "run" / "report.html").read_text("utf-8") == page
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "no evidence that passages help" in text
    assert "art 3" in text


def test_a_test_that_is_stopped_goes_on(
    material: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = _command(material, tmp_path / "run")

    def stopping(pipeline: Any, *arguments: Any, **options: Any) -> Any:
        if pipeline.retriever is not None:
            raise KeyboardInterrupt
        return answer_file(pipeline, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("lorica.commands.infer.answer_file", stopping)
        assert main(command) == 130
    first = (tmp_path / "run" / "without.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    assert main([*command, "inference.resume=true"]) == 0
    assert (tmp_path / "run" / "without.jsonl").stat().st_mtime_ns == first
    assert (tmp_path / "run" / "with.jsonl").exists()


# Kills itself once so many windows of answers are in journals.
KILLED_TEST = """
import os, signal, sys
from lorica.cli import main
from lorica.data.journal import Journal

commit, remaining = Journal.commit, int(sys.argv[1])

def counted(journal, *arguments):
    global remaining
    commit(journal, *arguments)
    remaining -= 1
    if not remaining:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.commit = counted
main(sys.argv[2:])
"""


@pytest.mark.parametrize("windows", [2, 8], ids=["without passages", "with passages"])
def test_a_test_that_is_killed_goes_on_where_it_was(
    material: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], windows: int
) -> None:
    command = [*_command(material, tmp_path / "run"), "inference.window_rows=2"]  # 12 rows: 6 windows for each answer
    process = [sys.executable, "-c", KILLED_TEST, str(windows), *command]
    assert subprocess.run(process, capture_output=True, check=False).returncode == -signal.SIGKILL
    journal = tmp_path / "run" / ("without.jsonl.partial" if windows < 6 else "with.jsonl.partial")
    assert journal.is_dir()
    assert (tmp_path / "run" / "without.jsonl").exists() == (windows > 6)
    assert main([*command, "inference.resume=true", "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert not journal.exists()
    anew = [*_command(material, tmp_path / "anew"), "inference.window_rows=2"]
    assert main([*anew, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == resumed
    for name in ("without.jsonl", "with.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "anew" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["task=saq"], 2, "needs one file of rows"),
        (["ROWS", "ROWS", "task=saq"], 2, "needs one file of rows; got 2"),
        (["ROWS", "task=saq"], 2, "retrieval.dir is not set"),
        (["ROWS", "task=saq", "retrieval.dir=nowhere"], 2, "is no folder"),
        (["ROWS", "task=saq", "retrieval.dir=KB", "retrieval.enabled.maths=true"], 2, "has no index of it"),
        (["ROWS", "task=saq", "retrieval.dir=KB", "retrieval.source_column=modul"], 3, "modul"),
        (["missing.jsonl", "task=saq", "retrieval.dir=KB"], 3, "missing.jsonl"),
        (["UNLABELLED", "task=saq", "retrieval.dir=KB"], 3, "gold"),
        (["ROWS", "task=saq", "retrieval.dir=KB", "run_dir=ROWS"], 3, "nothing can be written here (File exists)"),
    ],
)
def test_what_cannot_be_tested(
    words: list[str], code: int, message: str, material: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, kb = material
    unlabelled = path.with_name("unlabelled.jsonl")
    unlabelled.write_text('{"id": "1", "question": "Who?", "subject": "geography"}\n')
    places = {"ROWS": str(path), "UNLABELLED": str(unlabelled)}
    given_words = [places.get(word, word.replace("=KB", f"={kb}").replace("=ROWS", f"={path}")) for word in words]
    assert main(["kb", "test", "engine=fake", *given_words]) == code
    assert message in capsys.readouterr().err


def test_rows_that_no_index_is_for_compare_nothing(
    material: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = material
    path.write_text('{"id": "1", "subject": "art", "question": "Who built it?", "answer": "Ann"}\n')
    assert main(_command(material, tmp_path / "run")) == 0
    assert "no row is of a subject with an index: nothing was compared" in capsys.readouterr().out


def test_from_python(material: tuple[Path, Path], tmp_path: Path) -> None:
    path, kb = material
    settings = {"engine.name": "fake"}
    result = measure_retrieval(path, kb, tmp_path / "run", task="saq", source_column="module", settings=settings)
    (subject,) = result.subjects
    assert (subject.rows, subject.own_shown, result.switches) == (9, 9, {"geography": False})
    assert measure_retrieval(path, kb, tmp_path / "run", task="saq", resume=True, settings=settings).subjects
