"""`lorica infer` from the outside: formats, order, and that a kill loses and doubles nothing."""

from __future__ import annotations

import contextlib
import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorica import load_pipeline
from lorica.cli import main
from lorica.data.journal import Journal
from lorica.data.write import read_answers
from lorica.locks import lock_folder
from lorica.pipeline.answer import Pipeline
from lorica.records import Answer, Generate, RowTiming, ScoreChoices


def _many(path: Path, count: int) -> Path:
    with path.open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["row_id", "body", "rule"])
        writer.writerows([f"r{i:06}", f"post number {i} of many", f"Rule {i % 4}: be kind."] for i in range(count))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".jsonl.gz"])
def test_every_format_holds_every_row_in_order(tmp_path: Path, suffix: str) -> None:
    rows = _many(tmp_path / "rows.csv", 50)
    output = tmp_path / f"out{suffix}"
    assert (
        main(["infer", "engine=fake", "task=rules", f"input={rows}", f"output={output}", "inference.window_rows=7"])
        == 0
    )
    assert [answer.id for answer in read_answers(output)] == [f"r{i:06}" for i in range(50)]
    assert not list(tmp_path.glob("*.partial"))
    record = json.loads((tmp_path / f"out{suffix}.run/run.json").read_text())
    assert record["summary"]["rows"] == 50
    assert record["manifest"]["input"].startswith("sha256:")


@pytest.mark.parametrize(
    "setting", ["inference.window_rows=5", "inference.batch_tokens=150", "engine.share_prefixes=false"]
)
def test_how_rows_are_batched_changes_no_score(posts: Path, trained: Path, tmp_path: Path, setting: str) -> None:
    (tmp_path / "rows.csv").write_text("\n".join(posts.read_text("utf-8").splitlines()[:41]) + "\n")
    command = ["infer", "task=rules", f"input={tmp_path / 'rows.csv'}", f"adapters.dir={trained}"]
    assert main([*command, f"output={tmp_path / 'a.jsonl'}"]) == 0
    assert main([*command, f"output={tmp_path / 'b.jsonl'}", setting]) == 0
    for one, other in zip(read_answers(tmp_path / "a.jsonl"), read_answers(tmp_path / "b.jsonl"), strict=True):
        assert one.id == other.id
        assert one.score == pytest.approx(other.score, abs=1e-5)


def test_a_killed_run_loses_and_doubles_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _many(tmp_path / "rows.csv", 3000)
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"

    def command(output: Path) -> list[str]:
        arguments = ["engine=fake", "task=rules", f"input={rows}", f"output={output}", "inference.window_rows=50"]
        return ["infer", *arguments, "inference.resume=true"]

    assert main(command(whole)) == 0
    chance = random.Random(5)
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "lorica.cli", *command(broken)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        journal = tmp_path / "broken.csv.partial" / "journal.sqlite-wal"
        before = journal.stat().st_size if journal.exists() else 0
        while process.poll() is None and time.monotonic() < deadline:
            if journal.exists() and journal.stat().st_size > before:
                break
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.15))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert main(command(broken)) == 0
    assert broken.read_bytes() == whole.read_bytes()
    assert kills > 0
    capsys.readouterr()
    assert main(command(broken)) == 0
    assert "already complete" in capsys.readouterr().out


def test_an_unfinished_run_is_not_mixed_with_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _many(tmp_path / "rows.csv", 30)
    output = tmp_path / "out.csv"
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={output}", "inference.window_rows=10"]
    folder = tmp_path / "out.csv.partial"
    with Journal.open(folder, {"input": "sha256:other"}, resume=False) as journal:
        journal.commit([Answer(id="r000000")])
    assert main(command) == 6
    assert "inference.resume=true" in capsys.readouterr().err
    assert main([*command, "inference.resume=true"]) == 6
    assert "input" in capsys.readouterr().err


def test_a_finished_file_that_was_changed_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _many(tmp_path / "rows.csv", 5)
    output = tmp_path / "out.csv"
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={output}", "inference.resume=true"]
    assert main(command) == 0
    whole = output.read_bytes()
    assert main(command) == 0
    assert "already complete" in capsys.readouterr().out
    output.write_text("junk")
    assert main(command) == 0
    assert "was changed after its run had ended" in capsys.readouterr().err
    assert output.read_bytes() == whole


@pytest.mark.parametrize("rows_kept", [0, 10])
def test_a_second_run_that_is_interrupted_costs_nothing_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rows_kept: int
) -> None:
    rows, output = _many(tmp_path / "rows.csv", 30), tmp_path / "out.csv"
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={output}", "inference.window_rows=10"]
    assert main(command) == 0
    whole, record = output.read_bytes(), (tmp_path / "out.csv.run/run.json").read_bytes()

    def interrupted(pipeline: object, rows: object, journal: Journal, *arguments: object, **settings: object) -> None:
        if rows_kept:
            journal.commit([Answer(id=f"r{row:06}") for row in range(rows_kept)])
        raise KeyboardInterrupt

    monkeypatch.setattr("lorica.commands.infer.answer_file", interrupted)
    assert main(command) == 130
    status = json.loads((tmp_path / "out.csv.run/run.json").read_text())["status"]
    assert status == ("interrupted" if rows_kept else "finished")
    capsys.readouterr()
    assert main([*command, "inference.resume=true"]) == 0
    assert "already complete" in capsys.readouterr().out
    assert output.read_bytes() == whole
    assert (tmp_path / "out.csv.run/run.json").read_bytes() == record
    assert not list(tmp_path.glob("*.partial"))
    assert sorted(path.name for path in (tmp_path / "out.csv.run").iterdir()) == [
        "log.jsonl",
        "metrics.json",
        "run.json",
        "timings.jsonl",
    ]


def test_the_record_of_an_earlier_version_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, output = _many(tmp_path / "rows.csv", 3), tmp_path / "out.csv"
    output.write_text("id,answer\n")
    (tmp_path / "out.csv.run.json").write_text("{}")
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={output}"]
    assert main([*command, "inference.resume=true"]) == 6
    told = capsys.readouterr().err
    assert "out.csv.run.json is the record of an earlier version" in told
    assert "without inference.resume=true" in told
    assert output.read_text() == "id,answer\n"
    assert main(command) == 0
    assert json.loads((tmp_path / "out.csv.run/run.json").read_text())["inputs"][0]["rows"] == 3


@pytest.mark.parametrize("damage", [b"", b'{"schema": "lorica.run/1"', b"[]", b'{"schema": "lorica.run/2"}'])
def test_a_damaged_record_of_a_finished_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes
) -> None:
    rows, output = _many(tmp_path / "rows.csv", 3), tmp_path / "out.csv"
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={output}"]
    assert main(command) == 0
    whole = output.read_bytes()
    (tmp_path / "out.csv.run/run.json").write_bytes(damage)
    assert main([*command, "inference.resume=true"]) == 6
    assert "out.csv.run/run.json: " in capsys.readouterr().err
    assert output.read_bytes() == whole
    assert main(command) == 0, "without resume it is answered anew"
    assert json.loads((tmp_path / "out.csv.run/run.json").read_text())["status"] == "finished"


def test_two_runs_into_one_output_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, output = _many(tmp_path / "rows.csv", 3), tmp_path / "out.csv"
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={output}", f"run_dir={tmp_path / 'j'}"]
    with lock_folder(tmp_path / "out.csv.run", doing="a run", fix=""):
        assert main(command) == 6
    assert "another process is working on" in capsys.readouterr().err
    assert not output.exists()
    assert main(command) == 0


def test_a_resume_does_not_write_over_another_run_that_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, output = _many(tmp_path / "rows.csv", 5), tmp_path / "out.csv"
    command = ["infer", "engine=fake", "task=rules", f"output={output}"]
    assert main([*command, f"input={rows}"]) == 0
    whole = output.read_bytes()
    more = _many(tmp_path / "more.csv", 6)
    for other in (f"input={more}", "inference.seed=7"):
        assert main([*command, f"input={rows}", other, "inference.resume=true"]) == 6
        said = capsys.readouterr().err
        assert f"{other.split('=')[0].removeprefix('inference.')}: was" in said
        assert "seed=" not in said, "only what differs is named"
        assert output.read_bytes() == whole
        assert not list(tmp_path.glob("*.partial"))
    # The journal of a run that was begun after it is gone on with.
    with Journal.open(tmp_path / "out.csv.partial", {"input": "other"}, resume=False) as journal:
        journal.commit([Answer(id="r000000")])
    assert main([*command, f"input={rows}", "inference.resume=true"]) == 0
    assert "already complete" in capsys.readouterr().out
    assert main([*command, f"input={more}", "inference.resume=true"]) == 6
    assert "out.csv.partial belongs to a different run" in capsys.readouterr().err


@pytest.mark.parametrize("repeats", [True, False])
def test_a_run_may_go_on_with_other_threads_where_no_bit_depends_on_them(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repeats: bool
) -> None:
    import torch

    from lorica.engines.native.engine import NativeEngine

    info = vars(NativeEngine)["info"].fget
    kinds = (ScoreChoices, Generate) if repeats else ()
    monkeypatch.setattr(NativeEngine, "info", property(lambda self: replace(info(self), batch_invariant=kinds)))
    rows, before = _many(tmp_path / "rows.csv", 12), torch.get_num_threads()
    command = ["infer", "task=rules", f"adapters.dir={trained}", f"input={rows}", "inference.window_rows=4"]
    commit, kept = Journal.commit, [0]

    def stopped(self: Journal, answers: Sequence[Answer], timings: Sequence[RowTiming]) -> None:
        if kept[0] == 2:
            raise KeyboardInterrupt
        kept[0] += 1
        commit(self, answers, timings)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "commit", stopped)
        with contextlib.suppress(KeyboardInterrupt):
            main([*command, f"output={tmp_path / 'out.csv'}", "engine.threads=1"])
    other = ["engine.threads=2", "inference.batch_tokens=300"]
    ended = main([*command, f"output={tmp_path / 'out.csv'}", "inference.resume=true", *other])
    assert ended == (0 if repeats else 6)
    torch.set_num_threads(before)
    if repeats:
        assert "(8 from before)" in capsys.readouterr().out
        assert main([*command, f"output={tmp_path / 'whole.csv'}"]) == 0
        assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    else:
        assert "engine.threads: was '1', is now '2'" in capsys.readouterr().err


def test_only_the_adapter_that_is_used_must_prove_itself(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _many(tmp_path / "rows.csv", 3)
    broken = shutil.copytree(trained / "rules", tmp_path / "broken")
    (broken / "adapter_config.json").write_text("{")
    command = ["infer", "task=rules", f"input={rows}", f"output={tmp_path / 'out.csv'}", f"adapters.dir={trained}"]
    command.append(f"adapters.paths.broken={broken}")
    assert main(command) == 4
    assert "broken" in capsys.readouterr().err
    assert main([*command, "adapters.use=rules"]) == 0
    assert main([*command, "adapters.use=ruls"]) == 4
    assert "did you mean 'rules'?" in capsys.readouterr().err


def test_words_may_stand_before_and_behind_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _many(tmp_path / "rows.csv", 3)
    given = [f"input={rows}", f"output={tmp_path / 'out.csv'}", "engine=fake"]
    assert main(["infer", "task=rules", "--json", *given]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert main(["config", "lora.r=4", "--json", "task=mcq"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_a_run_in_which_every_row_fails_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _many(tmp_path / "rows.csv", 3)
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={tmp_path / 'out.csv'}"]
    assert main([*command, "inference.max_input_tokens=5"]) == 5
    assert "3 rows failed, first r000000" in capsys.readouterr().err


def test_an_adapter_used_otherwise_than_trained_is_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _many(tmp_path / "rows.csv", 3)
    command = ["infer", "task=rules", f"input={rows}", f"output={tmp_path / 'out.csv'}", f"adapters.dir={trained}"]
    assert main(command) == 0
    assert "warning" not in capsys.readouterr().err
    assert main([*command, "task.style=structured"]) == 0
    assert "adapter rules: was trained with style 'plain', and is used with 'structured'" in capsys.readouterr().err


def test_rows_that_change_while_they_are_answered_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _many(tmp_path / "rows.csv", 6)
    command = ["infer", "task=rules", "engine=fake", f"input={rows}", f"output={tmp_path / 'a.csv'}"]
    assert main(command) == 0
    assert "was changed" not in capsys.readouterr().err
    answer = Pipeline.answer_timed

    def editing(*arguments: Any, **options: Any) -> Any:
        _many(rows, 7)
        return answer(*arguments, **options)

    monkeypatch.setattr(Pipeline, "answer_timed", editing)
    assert main(command) == 0
    assert f"{rows} was changed while it was answered" in capsys.readouterr().err


def test_records_in_memory_keep_their_order(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_NEW_TOKENS", "4")
    pipeline = load_pipeline(settings={"inference.validation.enabled": False})
    records = [{"questionID": f"q{i}", "subject": "s", "question": f"Who has {i} boats?"} for i in (3, 1, 2)]
    answers = pipeline(records)
    assert [answer.id for answer in answers] == ["q3", "q1", "q2"]
    assert {answer.adapter for answer in answers} == {"base"}
    scores = load_pipeline("rules", adapters=trained)
    (scored,) = scores([{"row_id": "1", "body": "buy now", "rule": "No advertising."}])
    assert scored.adapter == "rules"
    assert scored.score is not None


def test_a_run_killed_after_its_output_was_written_leaves_no_journal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, output = _many(tmp_path / "rows.csv", 30), tmp_path / "out.csv"
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={output}"]
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "remove", Journal.close)
        assert main(command) == 0
    assert Journal.is_in(tmp_path / "out.csv.partial")
    assert main([*command, "inference.resume=true"]) == 0
    assert "already complete" in capsys.readouterr().out
    assert not (tmp_path / "out.csv.partial").exists()


def test_an_adapter_that_answers_no_row_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [{"id": str(n), "subject": subject, "question": "Who?"} for n, subject in enumerate(["algebra", "art"])]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folders = [f"adapters.paths.{name}={trained / 'rules'}" for name in ("Algebra", "geografy", "general", "music")]
    command = ["infer", "task=saq", "engine=fake", "adapters.gate=off", f"input={rows}", f"output={tmp_path / 'o.csv'}"]
    assert main([*command, *folders]) == 0
    assert "no row is answered by the adapters geografy, music: " in capsys.readouterr().err
    assert main([*command, *folders[:1], *folders[2:3]]) == 0
    assert main([*command, *folders, "adapters.use=music"]) == 0
    assert "no row is answered" not in capsys.readouterr().err
