"""Standard streams: any encoding carries all that is printed, and one that is gone stops nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorica.cli import main
from lorica.names import shell_word, visible, visible_values
from lorica.streams import fitting

ROWS = "id,body,rule,rule_violation\n1,Buy now,No ads,1\n2,Nice day,No ads,0\n"
ANSWERS = "id,answer,score\n1,Yes,0.9\n2,No,0.2\n"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    return path


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A shell's command in which `lorica` is this one."""
    script = f'lorica() {{ "{sys.executable}" -m lorica "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False)


def infer(folder: Path, streams: str) -> subprocess.CompletedProcess[str]:
    return shell(f"lorica infer engine=fake task=rules input=rows.csv output=o.jsonl {streams}", folder)


@pytest.mark.parametrize(
    ("streams", "code"),
    [("2>&-", 0), ("2>/dev/full", 0), (">/dev/full", 8), ("<&- >&- 2>&-", 8), ("| true; exit ${PIPESTATUS[0]}", 141)],
)
def test_a_stream_that_is_gone_stops_no_work(rows: Path, streams: str, code: int) -> None:
    done = infer(rows.parent, streams)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert len((rows.parent / "o.jsonl").read_text().splitlines()) == 2, "no stream's text went into a file"
    assert json.loads((rows.parent / "o.jsonl.run/run.json").read_text())["summary"]["rows"] == 2
    assert not list(rows.parent.glob("*.partial"))
    if streams == ">/dev/full":
        assert done.stderr == "lorica: standard output cannot be written (No space left on device); all else is done\n"
    if streams.startswith("2"):
        assert done.stdout.startswith("2 rows in")


def test_help_tells_that_it_could_not_be_printed(tmp_path: Path) -> None:
    done = shell("lorica infer --help >/dev/full; echo $?; lorica --version >&-; echo $?", tmp_path)
    assert done.stdout.split() == ["8", "8"]


def test_a_verdict_outlives_its_reader(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "adapter_config.json").write_text("{}")
    done = shell("lorica check bad | true; exit ${PIPESTATUS[0]}", tmp_path)
    assert (done.returncode, done.stderr) == (11, "")


def test_a_working_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    done = shell(
        "mkdir gone; cd gone; rmdir ../gone; lorica config; echo $?; lorica --version; lorica check x", tmp_path
    )
    assert done.stdout.split()[0] == "2", done.stderr
    assert done.returncode == 2
    assert "lorica: the working folder was removed\n  -> cd to a folder that exists" in done.stderr
    assert "Traceback" not in done.stderr


class Screen(io.TextIOWrapper):
    """A standard stream of another encoding, kept in memory."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_every_encoding_carries_tables_and_json(rows: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows.write_text("id,body,rule,rule_violation,group\n1,a,r,1,日本 · ü\n2,b,r,0,日本 · ü\n", "utf-8")
    (rows.parent / "answers.csv").write_text(ANSWERS)
    command = ["eval", str(rows.parent / "answers.csv"), str(rows), "task=rules"]
    for more in ([], ["--json"]):
        screen = Screen(encoding)
        monkeypatch.setattr(sys, "stdout", screen)
        assert main([*command, *more]) == 0
        assert sys.stdout is screen
        if more:
            assert "日本 · ü" in json.loads(screen.text())["groups"]
        elif encoding != "utf-16":
            assert "\\u65e5\\u672c" in screen.text()
            assert "------" in screen.text()


def test_errors_fit_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen("ascii")
    monkeypatch.setattr(sys, "stderr", screen)
    assert main(["infer", "input=für\udce8.csv", "output=a.csv", "tasq=qa"]) == 2
    assert main(["eval", "a.csv", "für\udce8.csv"]) == 3
    assert "unknown configuration key 'tasq'" in screen.text()
    assert "f\\xfcr\\xe8.csv" in screen.text()


@pytest.mark.parametrize("command", ["infer", "check", "demo", "train"])
def test_help_fits(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen("ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert screen.text().startswith("usage: ")


def test_what_is_no_text_has_one_spelling() -> None:
    assert visible("règles ✓ 😀") == "règles ✓ 😀"
    assert visible(os.fsdecode(b"r\xe8gles")) == "r\\xe8gles"
    assert visible("f\udcc3\udcbcr") == "für", "bytes that an ASCII locale did not read"
    assert visible("a\ud800b") == "a\\ud800b"
    assert visible_values({"\udce8": [Path("a\udce8"), ("b\udce8",), 1, None]}) == {
        "\\xe8": ["a\\xe8", ["b\\xe8"], 1, None]
    }
    assert fitting("└─ ½ “x”… 😀", "ascii") == '`- \\xbd "x"... \\U0001f600'


@pytest.mark.parametrize("name", [b"plain", b"two words", b"it's", b"r\xe8gles.csv", b"r\xe8 $x'\\n.csv"])
def test_a_shell_reads_back_the_words_it_is_given(name: bytes) -> None:
    script = f"printf %s {shell_word(os.fsdecode(name))}"
    assert subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout == name
