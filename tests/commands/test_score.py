"""`lorica score`: runs ranked by accuracy and latency, and what cannot be put on one scale."""

from __future__ import annotations

import csv
import html
import json
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import lorica
from lorica.cli import main
from lorica.commands import scored_run
from lorica.data.digest import file_digest
from lorica.engines import fake
from lorica.errors import LoricaError
from lorica.metrics.run_scores import score_runs
from lorica.pipeline.answer import Pipeline
from tests.pipeline.test_row_timer import Clock

ROWS = 60


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the fake engine over the same rows, with and without a warm-up."""
    folder = tmp_path_factory.mktemp("runs")
    lines = [f"{i},post {i},rule {i % 2},{int(i % 3 == 0)}" for i in range(ROWS)]
    (folder / "rows.csv").write_text("row_id,body,rule,rule_violation\n" + "\n".join(lines) + "\n")
    for name, words in {"a": ["inference.warmup=true"], "b": ["inference.max_input_tokens=512"]}.items():
        answer(folder, name, *words)
    return folder


def answer(folder: Path, name: str, *words: str, rows: str = "rows.csv") -> None:
    settings = ["task=rules", "engine=fake", f"input={folder / rows}", f"output={folder / name}.csv", *words]
    assert main(["infer", *settings]) == 0


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """A copy of the runs that a test may spoil."""
    shutil.copytree(runs, tmp_path / "runs")
    for record_path in (tmp_path / "runs").glob("*.run/run.json"):
        record_path.write_text(record_path.read_text().replace(str(runs), str(tmp_path / "runs")))
    return tmp_path / "runs"


def test_the_record_counts_the_seconds_of_scoring(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_score(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return score_runs(*arguments, **options)

    monkeypatch.setattr("lorica.commands.score.score_runs", slow_score)
    assert main(["score", str(runs / "a.csv"), str(runs / "b.csv"), "--run", str(tmp_path / "scored")]) == 0
    assert json.loads((tmp_path / "scored" / "run.json").read_text())["seconds"] >= 0.3


def timings_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.csv.run" / "timings.jsonl").read_text().splitlines()]


def test_infer_leaves_the_timings_of_its_rows(runs: Path) -> None:
    warm, cold = timings_of(runs, "a"), timings_of(runs, "b")
    assert [timing["warmup"] for timing in warm] == [True] * 16 + [False] * ROWS
    assert [timing["id"] for timing in cold] == [str(i) for i in range(ROWS)]
    assert all(timing["seconds"] > 0 and timing["prompt_tokens"] > 0 for timing in cold)
    record = json.loads((runs / "a.csv.run" / "run.json").read_text())
    assert [file["role"] for file in record["outputs"]] == ["answers", "timings"]
    assert (runs / "a.csv").read_bytes() == (runs / "b.csv").read_bytes()  # a warm-up changes no answer


def test_latency_is_the_sum_of_the_engines_seconds(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(runs / "a.csv"), str(runs / "b.csv.run"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    for name, score in zip(("a", "b"), sorted(result["runs"], key=lambda run: run["run"]), strict=True):
        seconds = sum(timing["seconds"] for timing in timings_of(runs, name) if not timing["warmup"])
        assert score["latency"]["value"] * ROWS == pytest.approx(seconds, rel=1e-9)
    assert result["n"] == ROWS
    fastest = min(run["latency"]["value"] for run in result["runs"])
    for run in result["runs"]:
        expected = 0.6 * run["accuracy"]["value"] + 0.4 * fastest / run["latency"]["value"]
        assert run["score"]["value"] == pytest.approx(expected)


def test_under_a_stub_clock_the_latency_is_exact(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lorica.commands.build.Pipeline", partial(Pipeline, clock=Clock()))
    monkeypatch.setattr(fake, "_BATCH_ROWS", 7)
    answer(runs, "ticking", "inference.warmup=true")
    capsys.readouterr()
    assert main(["score", str(runs / "ticking.csv"), "--json"]) == 0
    (score,) = json.loads(capsys.readouterr().out)["runs"]
    assert score["seconds"] == pytest.approx(9.0)  # nine batches of 7 rows, a tick each; three of the warm-up beside
    assert score["latency"]["value"] == pytest.approx(9.0 / ROWS)


def test_the_leaderboard_as_text_and_csv_and_run(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(runs / "a.csv"), str(runs / "b.csv"), str(runs / "rows.csv")]
    table = tmp_path / "board.csv"
    assert main(["score", *words, "--csv", str(table), "--run", str(tmp_path / "scored")]) == 0
    text = capsys.readouterr().out
    assert "accuracy-latency front" in text
    assert "b.csv: a cold run" in text
    assert "a.csv: a cold run" not in text
    with table.open() as lines:
        board = list(csv.DictReader(lines))
    assert {row["run"] for row in board} == set(words[:2])
    assert float(board[0]["score_low"]) <= float(board[0]["score"]) <= float(board[0]["score_high"])
    record = json.loads((tmp_path / "scored" / "run.json").read_text())
    assert (record["command"], record["status"], record["rows"]) == ("score", "finished", ROWS)


def test_a_leaderboard_never_replaces_answers(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = runs / "a.csv"
    before = answers.read_bytes()
    assert main(["score", str(answers), str(runs / "b.csv"), "--csv", str(answers)]) == 2
    assert "would replace a file that this command reads" in capsys.readouterr().err
    assert answers.read_bytes() == before


def test_the_page_says_who_leads_and_draws_the_front(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--html", str(tmp_path / "score.html"), "--run", str(tmp_path / "run"), "--json"]
    assert main(["score", str(runs / "a.csv"), str(runs / "b.csv"), *words]) == 0
    result = json.loads(capsys.readouterr().out)
    page = (tmp_path / "score.html").read_text("utf-8")
    assert html.escape(result["verdict"]) in page.partition("<nav")[0]
    for score in result["runs"]:
        assert f"{score['score']['value']:.3f} [{score['score']['low']:.3f}, {score['score']['high']:.3f}]" in page
    assert page.count("<circle") == 2 * (2 + 2)  # the front once for wide and once for narrow screens
    assert page.count('class="dot hollow"') == 2 * (2 - len(result["front"]))
    assert (tmp_path / "run" / "report.html").read_text("utf-8") == page
    assert len((tmp_path / "score.html.csv").read_text().splitlines()) == 3


def test_from_python(runs: Path) -> None:
    result = lorica.score([runs / "a.csv", runs / "b.csv"], weights=(1, 0))
    assert isinstance(result, lorica.ScoreResult)
    assert [run.score.value for run in result.runs] == [run.accuracy.value for run in result.runs]
    assert set(result.facts[str(runs / "a.csv")].settings) >= {"inference.max_input_tokens"}
    assert lorica.score(runs / "a.csv").runs[0].latency_score.value == 1.0


def test_runs_of_one_command_measure_how_much_they_vary(copied: Path) -> None:
    answer(copied, "twin", "inference.max_input_tokens=512", "inference.warmup=true")  # as `b`, and warm
    edit_timings(copied, lambda timings: [timing | {"seconds": 0.002} for timing in timings])
    twin = copied / "twin.csv.run"
    lines = [json.loads(line) | {"seconds": 0.001} for line in (twin / "timings.jsonl").read_text().splitlines()]
    (twin / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = json.loads((twin / "run.json").read_text())
    record["outputs"][1]["digest"] = file_digest(twin / "timings.jsonl")
    (twin / "run.json").write_text(json.dumps(record))
    result = lorica.score([copied / "b.csv", copied / "twin.csv"])
    assert result.rules.run_noise == pytest.approx(math.log(2) / math.sqrt(2))
    assert [run.rank for run in result.runs] == [1, 1]  # twice as slow, and nothing but the machine
    assert lorica.score([copied / "a.csv", copied / "b.csv"]).rules.run_noise == 0.05


def edit_timings(folder: Path, change: Callable[[list[dict[str, Any]]], list[Any]]) -> None:
    """Change the timings of run `b`, and its record so that the digest fits."""
    path = folder / "b.csv.run" / "timings.jsonl"
    lines = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    edit_record(folder, lambda record: record["outputs"][1].update(digest=file_digest(path)))


def edit_record(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "b.csv.run" / "run.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def set_seconds(seconds: Any) -> Callable[[Path], None]:
    return lambda folder: edit_timings(folder, lambda timings: [timings[0] | {"seconds": seconds}, *timings[1:]])


def other_rows(folder: Path) -> None:
    text = (folder / "rows.csv").read_text()
    (folder / "others.csv").write_text(text.replace("post 7,", "another post,"))
    answer(folder, "b", rows="others.csv")


DEFECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no timings": (lambda f: (f / "b.csv.run" / "timings.jsonl").unlink(), "has no timings"),
    "killed": (lambda f: edit_record(f, lambda r: r.update(status="running")), "not finished (interrupted)"),
    "failed": (lambda f: edit_record(f, lambda r: r.update(status="failed", error="x")), "not finished (failed: x)"),
    "another command": (lambda f: edit_record(f, lambda r: r.update(command="eval")), "`lorica eval` has no latency"),
    "damaged record": (lambda f: (f / "b.csv.run" / "run.json").write_text("{"), "run.json"),
    "edited timings": (
        lambda f: (f / "b.csv.run" / "timings.jsonl").write_bytes(b"{}\n"),
        "was changed since its run",
    ),
    "edited answers": (lambda f: (f / "b.csv").write_text("id,answer\n0,Yes\n"), "was changed since its run"),
    "no answers": (lambda f: (f / "b.csv").unlink(), "cannot be read"),
    "negative seconds": (set_seconds(-1.0), "seconds is -1.0"),
    "text for seconds": (set_seconds("fast"), "is no timing of a row"),
    "no number": (set_seconds(math.nan), "is no timing of a row"),
    "endless seconds": (set_seconds(math.inf), "is no timing of a row"),
    "too large a number": (
        lambda f: edit_timings(f, lambda t: [json.dumps(t[0] | {"seconds": 1}).replace(": 1,", ": 1e999,", 1), *t[1:]]),
        "timings.jsonl:1",
    ),
    "negative tokens": (
        lambda f: edit_timings(f, lambda t: [t[0] | {"prompt_tokens": -5}, *t[1:]]),
        "-5 tokens",
    ),
    "a row twice": (lambda f: edit_timings(f, lambda t: [*t, t[3]]), "stands in line 4 already"),
    "a row missing": (lambda f: edit_timings(f, lambda t: t[1:]), "only one of them has '0'"),
    "no rows": (lambda f: edit_timings(f, lambda t: []), "the run has no rows"),
    "nothing measured": (
        lambda f: edit_timings(f, lambda t: [timing | {"seconds": 0.0} for timing in t]),
        "all its rows took 0 seconds",
    ),
    "another machine": (
        lambda f: edit_record(f, lambda r: r["machine"].update(digest="sha256:0", processor="Another")),
        "different machines: processor",
    ),
    "another task": (lambda f: edit_record(f, lambda r: r.update(task="mcq")), "different tasks: rules and mcq"),
    "other rows": (other_rows, "different rows"),
    "edited rows": (lambda f: (f / "rows.csv").write_text("row_id,body\n"), "was changed since its run"),
    "rows gone": (lambda f: (f / "rows.csv").unlink(), "the rows that were answered are gone"),
    "record without answers": (lambda f: edit_record(f, lambda r: r.update(outputs=[])), "names no answers"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_run_that_cannot_be_scored(defect: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, problem = DEFECTS[defect]
    spoil(copied)
    capsys.readouterr()
    assert main(["score", str(copied / "a.csv"), str(copied / "b.csv")]) == 3
    captured = capsys.readouterr()
    assert problem in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("words", "problem", "code"),
    [
        ([], "needs a run or more", 2),
        (["a.csv", "b.csv", "--weights", "0.7,0.4"], "--weights 0.7,0.4 (their sum is 1.1)", 2),
        (["a.csv", "--weights", "0.5,0.3,0.2"], "two, of accuracy and latency", 2),
        (["a.csv", "--weights", "1.4,-0.4"], "--weights 1.4,-0.4", 2),
        (["a.csv", "--min-accuracy", "10"], "--min-accuracy 10", 2),
        (["a.csv", "--run-noise", "-1"], "--run-noise -1", 2),
        (["a.csv", "--per", "token"], "no row has generated a token", 3),
        (["a.csv", "a.csv.run"], "are one run", 2),
        (["a.csv", "a.csv"], "are one run", 2),
        (["a.csv", "missing.csv"], "there is no such run", 3),
        (["rows.csv"], "there is no run folder beside it", 3),
        (["a.csv", "task=rules"], "takes no configuration", 2),
        (["a.csv", "--machines", "any"], "--machines", 2),
    ],
)
def test_words_that_cannot_be_meant(
    runs: Path, words: list[str], problem: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(runs)
    assert main(["score", *words]) == code
    assert problem in capsys.readouterr().err


def test_gold_of_other_rows(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = tmp_path / "gold.csv"
    gold.write_text("row_id,rule_violation\n0,1\nstranger,0\n")
    assert main(["score", str(runs / "a.csv"), str(gold)]) == 3
    assert "row 'stranger'" in capsys.readouterr().err
    gold.write_text("row_id,rule_violation\n" + "".join(f"{i},{int(i % 3 == 0)}\n" for i in range(ROWS)))
    assert main(["score", str(runs / "a.csv"), str(gold)]) == 0


def test_an_unfinished_run_tells_how_to_go_on(copied: Path) -> None:
    edit_record(copied, lambda record: record.update(status="interrupted"))
    with pytest.raises(LoricaError, match="not finished") as error:
        scored_run.open_run(copied / "b.csv")
    assert "inference.resume=true" in error.value.fix
