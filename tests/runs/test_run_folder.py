"""Run folders as they are written: whole at every moment, one process at a time, without secrets."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorica.errors import DataError, ResumeError
from lorica.locks import lock_owner
from lorica.metrics.bootstrap import Estimate
from lorica.runs.former_run import former_record, restore_former
from lorica.runs.redaction import Redactor, is_secret
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RunFile, RunRecord, read_metrics, read_record, record_json

KEY = "sk-proj-0123456789abcdefghij"


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def test_a_run_says_what_it_was_given_where_it_ran_and_how_it_ended(tmp_path: Path) -> None:
    record = RunRecord(command="eval", task="rules", config={"lora": {"r": 8}}, origins={"lora.r": "command line"})
    with RunFolder.create(tmp_path / "r", record, words=["a.csv", "my gold.csv", "task=rules"]) as run_folder:
        assert _json(tmp_path / "r/run.json")["status"] == "running"
        assert lock_owner(tmp_path / "r") is not None
        run_folder.log("retry", {"row": "r1"})
        run_folder.write_metrics(
            {"roc_auc": Estimate(0.9, 0.8, 0.95, 40), "rows": 40, "mcc": Estimate(math.nan, math.nan, math.nan, 40)},
            main="roc_auc",
        )
        run_folder.update(rows=40, outputs=[RunFile(role="page", path="p.html", digest="sha256:0")])
    written = _json(tmp_path / "r/run.json")
    assert written["status"] == "finished"
    assert written["command_line"] == "lorica eval a.csv 'my gold.csv' task=rules"
    assert written["main_metric"] == "roc_auc"
    assert written["rows"] == 40
    assert written["config"] == {"lora": {"r": 8}}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", written["started"])
    assert {"lorica", "python", "numpy", "torch"} <= set(written["versions"])
    assert written["machine"]["cores"] >= 1
    assert written["machine"]["processor"]
    assert os.uname().nodename not in (tmp_path / "r/run.json").read_text("utf-8")
    assert _json(tmp_path / "r/metrics.json") == {
        "roc_auc": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40},
        "rows": {"value": 40.0, "low": None, "high": None, "n": None},
        "mcc": {"value": None, "low": None, "high": None, "n": 40},
    }
    assert read_metrics(tmp_path / "r")["roc_auc"].high == 0.95
    (event,) = _events(tmp_path / "r")
    assert (event["event"], event["row"]) == ("retry", "r1")
    assert lock_owner(tmp_path / "r") is None


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), "interrupted", "interrupted."),
        (DataError("no such row", path="g.csv"), "failed", "g.csv: no such row"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
    ],
)
def test_what_ends_a_run_is_recorded(tmp_path: Path, error: BaseException, status: str, text: str) -> None:
    with pytest.raises(type(error)), RunFolder.create(tmp_path, RunRecord(command="eval")):
        raise error
    record = read_record(tmp_path)
    assert (record.status, record.error) == (status, text)


def test_two_processes_do_not_share_a_run_folder(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "r", RunRecord(command="eval")):
        script = (
            "from lorica.runs.run_folder import RunFolder; from lorica.runs.run_record import RunRecord\n"
            f"RunFolder.create({str(tmp_path / 'r')!r}, RunRecord(command='eval'))"
        )
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ResumeError: another process is working on" in second.stderr
    assert read_record(tmp_path / "r").status == "finished"


def test_another_commands_run_and_another_programs_files_are_left_alone(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a", RunRecord(command="train")).finish()
    before = (tmp_path / "a/run.json").read_bytes()
    with pytest.raises(ResumeError, match="holds a run of `lorica train`"):
        RunFolder.create(tmp_path / "a", RunRecord(command="eval"))
    assert (tmp_path / "a/run.json").read_bytes() == before
    assert lock_owner(tmp_path / "a") is None
    for name, content in (("run.json", "{}"), ("metrics.json", "{}"), ("log.jsonl", ""), ("posts.csv", "id")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(content)
        with pytest.raises(DataError, match=re.escape(name)):
            RunFolder.create(tmp_path / name, RunRecord(command="eval"))
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]
        assert (tmp_path / name / name).read_text() == content


def test_a_second_run_of_a_command_takes_the_place_of_the_first(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, RunRecord(command="eval")) as first:
        first.write_metrics({"accuracy": 0.5})
    with pytest.raises(ValueError, match="x"), RunFolder.create(tmp_path, RunRecord(command="eval")):
        raise ValueError("x")
    assert read_record(tmp_path).status == "failed"
    assert read_metrics(tmp_path) == {}, "metrics of another run would be taken for this one's"


def test_a_resumed_run_keeps_its_start_and_counts_its_calls(tmp_path: Path) -> None:
    record = RunRecord(command="infer")
    first = RunFolder.create(tmp_path, record, owned=True)
    started = first.record.started
    first.finish("interrupted")
    with RunFolder.create(tmp_path, record, owned=True, resume=True):
        pass
    assert (read_record(tmp_path).calls, read_record(tmp_path).started) == (2, started)


def test_a_finished_run_whose_output_is_still_there_is_kept_until_another_has_finished(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, RunRecord(command="infer", base="first"), owned=True) as first:
        first.write_metrics({"rows": 3})
    second = RunFolder.create(tmp_path, RunRecord(command="infer", base="second"), owned=True)
    assert read_record(tmp_path).base == "second"
    former = former_record(tmp_path)
    assert former is not None
    assert former.base == "first"
    second.withdraw()
    assert read_record(tmp_path).base == "first"
    assert read_metrics(tmp_path)["rows"].value == 3
    assert not (tmp_path / ".former").exists()
    with pytest.raises(KeyboardInterrupt), RunFolder.create(tmp_path, RunRecord(command="infer"), owned=True):
        raise KeyboardInterrupt
    assert former_record(tmp_path) is not None, "an interrupted run has not replaced the output"
    restore_former(tmp_path)
    assert read_record(tmp_path).base == "first"
    with RunFolder.create(tmp_path, RunRecord(command="infer", base="third"), owned=True):
        pass
    assert former_record(tmp_path) is None
    assert not (tmp_path / ".former").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("OPENAI_API_KEY", "api_key", "judge.api-key", "--api-key", "HF_TOKEN", "db.password", "openaiApiKey"),
        *(
            "PGPASSWORD",
            "MYSQL_PWD",
            "DB_PASS",
            "GITHUB_PAT",
            "AZURE_OPENAI_KEY",
            "NPM_AUTH",
            "SSH_PASSPHRASE",
            "cookie",
        ),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "tokenizer", "inference.batch_tokens", "key", "task.columns.key", "bypass", "format", "author"],
)
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret(name)


def test_secrets_are_in_no_file_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEY", "correct-horse-battery")
    monkeypatch.setenv("PLAIN_NAME", "named-by-an-option")
    words = [
        "--api-key-env",
        "PLAIN_NAME",
        "--api-key",
        "hunter2",
        f"judge.api_key={KEY}",
        "url=https://me:pass-word@host/v1?api_key=abc123&n=1",
    ]
    record = RunRecord(command="judge", config={"judge": {"api_key": "hunter2", "url": "https://me:pass-word@host/v1"}})
    run_folder = RunFolder.create(tmp_path, record, words=words)
    run_folder.log("retry", {"said": "401: correct-horse-battery is no key", "password": "x"})
    run_folder.log("retry", {"said": "401: named-by-an-option"})
    with pytest.raises(DataError), run_folder:
        raise DataError(f"the endpoint refused {KEY} and hunter2", path="url")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode()
    for secret in ("hunter2", KEY, "pass-word", "abc123", "correct-horse-battery", "named-by-an-option", '"x"'):
        assert secret not in written, secret
    assert "--api-key '***' 'judge.api_key=***'" in read_record(tmp_path).command_line
    assert "n=1" in written


@pytest.mark.parametrize(
    "word",
    [
        "https://me:hunter@2222@host/v1",
        "https://me:hunter/2222@host/v1",
        "postgres://me:hunter2222@host/db",
        "https://host/v1?n=1;token=hunter2222",
        "https://host/v1#access_token=hunter2222",
        "Authorization: Bearer hunter2222",
        "--header=X-Api-Key: hunter2222",
        'judge={"api_key": "hunter2222"}',
        "judge={api_key: hunter2222}",
        "OPENAI_KEY=hunter2222 python judge.py",
        "env KEY=hunter2222",
        "export DB_PASS='hunter2222'",
    ],
)
def test_secrets_within_a_word_are_hidden(word: str) -> None:
    hidden = Redactor([], {}).text(word)
    assert "hunter" not in hidden
    assert "2222" not in hidden
    assert "***" in hidden


@pytest.mark.parametrize("name", ["-k", "-key", "--key", "-p", "-pw", "--pin", "-sig"])
def test_secrets_behind_short_options_are_hidden(name: str) -> None:
    for words, hidden in (
        ([name, "hunter2222", "--json"], [name, "***", "--json"]),
        ([f"{name}=hunter2222", "--json"], [f"{name}=***", "--json"]),
        ([f"{name.lstrip('-').upper()}=hunter2222"], [f"{name.lstrip('-').upper()}=***"]),
    ):
        assert Redactor(words, {}).words(words) == hidden
        assert "hunter" not in Redactor(words, {}).text("401: hunter2222 is no key")
    assert Redactor([name, "7"], {}).words([name, "7"]) == [name, "***"]


def test_words_that_are_no_secrets_stay_as_typed() -> None:
    words = ["http://host:8000/a@b", "https://host/Talk:a@b", "bearer tokens", "basic authentication"]
    assert Redactor(words, {}).words(words) == words
    words = ["task.columns.key=code", "PRIMARY KEY of the table", "-1", "0.5", "MONKEY=", "task=rules"]
    assert Redactor(words, {}).words(words) == words
    words = ["task=rules", "inference.max_new_tokens=20", "input=a@b.csv", "adapters.dir=runs/skills", "--json"]
    assert Redactor(words, {}).words(words) == words


def test_numbers_that_json_lacks_become_null() -> None:
    assert json.loads(record_json({"a": math.nan, "b": [math.inf, 1.5]})) == {"a": None, "b": [None, 1.5]}


def test_a_full_disk_is_told_and_leaves_the_former_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder = RunFolder.create(tmp_path, RunRecord(command="eval"))

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DataError, match="No space left on device"):
        run_folder.finish()
    monkeypatch.undo()
    assert read_record(tmp_path).status == "running"
    assert lock_owner(tmp_path) is None
