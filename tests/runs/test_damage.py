"""Run folders that are damaged, foreign, half-written or of another version: named with the reason, never a
traceback."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runs.conftest import MakeRun

from lorica.cli import main
from lorica.errors import DataError
from lorica.locks import lock_folder
from lorica.runs.run_record import RunRecord
from lorica.runs.stored_run import find_runs, load_run


def _edit(folder: Path, change: Callable[[dict[str, Any]], object], file_name: str = "run.json") -> None:
    values = json.loads((folder / file_name).read_text())
    change(values)
    (folder / file_name).write_text(json.dumps(values))


def _set(key: str, value: object) -> Callable[[Path], None]:
    return lambda folder: _edit(folder, lambda values: values.__setitem__(key, value))


def _write(content: bytes, file_name: str = "run.json") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / file_name).write_bytes(content)

    return write


def _pipe(folder: Path) -> None:
    (folder / "run.json").unlink()
    os.mkfifo(folder / "run.json")


def _folder(folder: Path) -> None:
    (folder / "run.json").unlink()
    (folder / "run.json").mkdir()


def _half(folder: Path) -> None:
    content = (folder / "run.json").read_bytes()
    (folder / "run.json").write_bytes(content[: len(content) // 2])


def _dangling(folder: Path) -> None:
    (folder / "run.json").unlink()
    (folder / "run.json").symlink_to(folder / "nothing")


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (_write(b""), "not JSON"),
    "half written": (_half, "not JSON"),
    "zeros": (_write(b"\0" * 400), "not JSON"),
    "a list": (_write(b"[]"), "no JSON object"),
    "null": (_write(b"null"), "no JSON object"),
    "not UTF-8": (_write(b'{"schema": "\xff"}'), "not UTF-8"),
    "lone surrogate": (_write(b'{"schema": "\\ud800"}'), "broken text"),
    "nested deeply": (_write(b'{"a":' * 5000 + b"1" + b"}" * 5000), "nested"),
    "too many values": (_write(b"[" + b"1," * 600_000 + b"1]"), "more than 500000 values"),
    "too large": (_write(b'"' + b"x" * (33 * 2**20) + b'"'), "larger than"),
    "NaN": (_write(b'{"schema": "lorica.run/1", "seconds": NaN}'), "NaN"),
    "a key twice": (_write(b'{"schema": "lorica.run/1", "schema": "lorica.run/1"}'), "twice"),
    "another program's": (_write(b'{"run": 1, "state": "ok"}'), "not a record of Lorica"),
    "git lfs pointer": (
        _write(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
        "Git LFS",
    ),
    "a pickle": (_write(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00."), "run.json"),
    "a later version": (_set("schema", "lorica.run/2"), "lorica.run/2"),
    "no command": (lambda folder: _edit(folder, lambda values: values.pop("command")), "command"),
    "unknown status": (_set("status", "exploded"), "exploded"),
    "seconds as text": (_set("seconds", "fast"), "seconds"),
    "inputs as text": (_set("inputs", "rows.csv"), "inputs"),
    "an input without digest": (_set("inputs", [{"role": "rows", "path": "a.csv"}]), "digest"),
    "adapters as a list": (_set("adapters", ["a"]), "adapters"),
    "machine as text": (_set("machine", "big"), "machine"),
    "metrics damaged": (_write(b"{", "metrics.json"), "metrics.json: is not JSON"),
    "metrics of another program": (_write(b'{"accuracy": 0.9}', "metrics.json"), "metrics.json: damaged"),
    "seconds beyond numbers": (_write(b'{"schema": "lorica.run/1", "command": "infer", "seconds": 1e400}'), "finite"),
    "a metric beyond numbers": (
        _write(b'{"accuracy": {"value": 1e400}}', "metrics.json"),
        "metrics.json: damaged: inf",
    ),
    "a pipe": (_pipe, "pipe"),
    "a folder": (_folder, "cannot be read"),
    "a link to nothing": (_dangling, "no such file"),
    "removed": (lambda folder: (folder / "run.json").unlink(), "no such file"),
}


@pytest.mark.parametrize("damage", UNUSABLE)
def test_a_folder_that_cannot_be_read_is_listed_with_the_reason(
    damage: str, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("whole")
    folder = make_run("broken.run")
    destroy, reason = UNUSABLE[damage]
    destroy(folder)
    assert main(["runs", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [Path(run["run"]).name for run in result["runs"]] == ["whole"]
    (broken,) = result["unusable"]
    assert Path(broken["run"]) == folder
    assert reason in broken["reason"]
    assert main(["runs", str(tmp_path)]) == 0
    assert "1 cannot be read:" in capsys.readouterr().out
    for command in (["show", str(folder)], ["compare", str(tmp_path / "whole"), str(folder)]):
        assert main(["runs", *command]) == 3
        message = capsys.readouterr().err
        assert reason in message
        assert "Traceback" not in message
        assert "->" in message


def test_a_run_whose_process_is_gone_is_interrupted(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run("killed", status="running")
    with lock_folder(folder, doing="a run", fix=""):
        assert load_run(folder).status == "running"
    assert load_run(folder).status == "interrupted"
    assert main(["runs", "show", str(folder)]) == 0
    assert "interrupted: its process is gone" in capsys.readouterr().out


def test_what_is_missing_or_new_in_a_record_does_no_harm(make_run: MakeRun) -> None:
    folder = make_run("old")
    (folder / "run.json").write_text('{"schema": "lorica.run/1", "command": "eval", "a later key": [1]}')
    (folder / "metrics.json").unlink()
    run = load_run(folder)
    assert run.record == RunRecord(command="eval", status="running")
    assert (run.status, run.metrics, run.main_metric) == ("interrupted", {}, None)
    assert main(["runs", str(folder.parent)]) == 0
    assert main(["runs", "show", str(folder)]) == 0
    assert main(["runs", "compare", str(folder), str(make_run("new"))]) == 0


@pytest.mark.parametrize("log", [b"", b'{"event": "mess', b"\xff\xfe\n[1]\n3\n{}\n", b"[" * 100_000])
def test_a_damaged_log_is_passed_over(log: bytes, make_run: MakeRun) -> None:
    folder = make_run("run")
    (folder / "log.jsonl").write_bytes(log)
    assert main(["runs", "show", str(folder)]) == 0


def test_a_log_that_is_a_pipe_is_not_waited_for(make_run: MakeRun) -> None:
    folder = make_run("run")
    (folder / "log.jsonl").unlink(missing_ok=True)
    os.mkfifo(folder / "log.jsonl")
    assert main(["runs", "show", str(folder)]) == 0


def test_terminal_codes_of_a_record_reach_no_terminal(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run("run", task="\x1b[31mred", status="failed", error="\x1b]0;title\x07 no", started="\x1b[2J")
    assert main(["runs", str(folder.parent)]) == 0
    assert main(["runs", "show", str(folder)]) == 0
    assert main(["runs", "compare", str(folder), str(make_run("other \x1b[31m", rows=10**400))]) == 0
    assert main(["runs", str(folder.parent), "--sort", "rows"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_what_is_hidden_linked_or_too_deep_is_not_entered(make_run: MakeRun, tmp_path: Path) -> None:
    for name in ("a/b", ".hidden/b", "node_modules/b", "env/b", "1/2/3/4/5/6/7/8"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_run(name)
    (tmp_path / "env/pyvenv.cfg").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path)
    runs, unusable = find_runs([tmp_path])
    assert [run.path for run in runs] == [tmp_path / "a/b"]
    assert unusable == []
    runs, _ = find_runs([tmp_path, tmp_path / "a", tmp_path / ".hidden"], max_depth=8)
    assert [str(run.path.relative_to(tmp_path)) for run in runs] == ["1/2/3/4/5/6/7/8", "a/b", ".hidden/b"]


def test_a_record_of_an_earlier_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.csv.run.json").write_text("{}")
    (tmp_path / "new.csv.run.json").write_text("{}")
    (tmp_path / "new.csv.run").mkdir()
    runs, unusable = find_runs([tmp_path])
    assert runs == []
    assert [(broken.name, "earlier version" in broken.reason) for broken in unusable] == [
        (str(tmp_path / "out.csv.run.json"), True)
    ]


@pytest.mark.parametrize("path", ["nothing", "file.txt"])
def test_what_is_no_run_folder_is_told(path: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(DataError, match=re.escape(path)):
        load_run(tmp_path / path)
    with pytest.raises(DataError, match="there is no such folder"):
        find_runs([tmp_path / path])


def test_an_output_and_a_record_stand_for_their_run(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("answers.csv.run")
    (tmp_path / "answers.csv").write_text("")
    for path in (folder, tmp_path / "answers.csv", folder / "run.json"):
        assert load_run(path).path == folder
