"""Names of files are the user's bytes: every command takes, writes and shows those that are no UTF-8."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lorica.cli import main
from lorica.commands.api import load_pipeline
from lorica.data.write import atomic_file, read_answers
from lorica.errors import DataError
from lorica.names import utf8_path
from lorica.training import lora_decoder

ODD = os.fsdecode(b"r\xe8gles")
ROWS = "id,body,rule,rule_violation\n1,Buy now,No ads,1\n2,Nice day,No ads,0\n"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / f"{ODD}.csv"
    path.write_text(ROWS)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv.gz", ".parquet"])
def test_rows_and_answers(rows: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = rows.parent / f"{ODD}{suffix}"
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={output}", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["output"].endswith(f"r\\xe8gles{suffix}")
    record = json.loads((rows.parent / f"{ODD}{suffix}.run" / "run.json").read_text("utf-8"))
    assert record["config"]["input"].endswith("r\\xe8gles.csv")
    assert main([*command, "inference.resume=true"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"]
    assert main(["eval", str(output), str(rows), "task=rules"]) == 0
    assert main(["check", "--scores", str(output), "--gold", str(rows)]) == 0
    assert "r\\xe8gles" in capsys.readouterr().out


def test_rows_that_were_left_out(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text(ROWS + "3,,No ads,0\n")
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={rows.parent / ODD}.jsonl"]
    assert main([*command, "data.bad_rows=skip"]) == 0
    listed = json.loads((rows.parent / f"{ODD}.jsonl.skipped.jsonl").read_text("utf-8"))
    assert (listed["id"], listed["file"].endswith("r\\xe8gles.csv")) == ("3", True)


def test_a_run_goes_on_in_its_folder(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["infer", "engine=fake", "task=rules", f"input={rows}", f"output={rows.parent / ODD}.jsonl"]
    command.append(f"run_dir={rows.parent / ODD}.run")

    def fails(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("lorica.pipeline.infer.write_answers", fails)
        assert main(command) == 1
    said = capsys.readouterr().err
    assert "2 rows and the batches since are kept in" in said
    assert f"$'output={rows.parent}/r\\xe8gles.jsonl'" in said
    assert main([*command, "inference.resume=true"]) == 0
    assert len(list(read_answers(f"{rows.parent / ODD}.jsonl"))) == 2


def test_an_adapter_from_its_training_to_its_use(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = rows.parent / f"{ODD}.run"
    command = ["train", "task=rules", "training=tiny", f"input={rows}", f"run_dir={run}", "training.epochs=2"]
    command.append("training.save_steps=1")
    publish = lora_decoder.save_lora

    def stopped(place: Path, *given: Any, **more: Any) -> None:
        if place.name == "last":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        publish(place, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(lora_decoder, "save_lora", stopped)
        assert main(command) == 1
    assert main([*command, "training.resume=true"]) == 0
    assert "going on after 2" in capsys.readouterr().err
    (run / "rules").rename(run / ODD)
    assert json.loads((run / ODD / "lorica.json").read_text("utf-8"))["data"]["source"] == "r\\xe8gles.csv"
    page, table, working = (rows.parent / f"{ODD}{suffix}" for suffix in (".html", ".out.csv", ".yaml"))
    out = ["--html", str(page), "--csv", str(table), "--keep-working", str(working)]
    assert main(["check", str(run / ODD), *out]) == 0
    assert "r\\xe8gles: TRUSTED" in capsys.readouterr().out
    assert "r\\xe8gles" in page.read_text("utf-8")
    assert "r\\xe8gles" in table.read_text("utf-8")
    use = ["infer", "task=rules", f"input={rows}", f"output={rows.parent / ODD}.jsonl"]
    for named in (f"adapters.dir={run}", f"adapters.paths.{ODD}={run / ODD}", f"config={working}"):
        assert main([*use, named, f"adapters.use={ODD}"]) == 0
        assert {answer.adapter for answer in read_answers(f"{rows.parent / ODD}.jsonl")} == {"r\\xe8gles"}
    assert main(["passport", str(run / ODD), "--check"]) == 0
    capsys.readouterr()
    assert main(["config", f"config={working}", f"input={rows}"]) == 0
    (rows.parent / "again.yaml").write_text(capsys.readouterr().out, "utf-8")
    pipeline = load_pipeline("rules", settings={"config": rows.parent / "again.yaml", "adapters.use": ODD})
    assert pipeline([{"body": "a", "rule": "b"}])[0].adapter == "r\\xe8gles"


def test_libraries_that_take_no_other_name_get_one(rows: Path) -> None:
    with utf8_path(rows) as path:
        assert Path(path).read_text() == ROWS
        assert path.isascii()
    with utf8_path(rows.parent) as path:
        assert path == str(rows.parent)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x" * 236 + ".csv", "cannot be written (File name too long)"),  # x.csv.skipped.jsonl
        ("pipe.csv", "this is a pipe or a device, not a file"),
        ("folder.csv", "this is a folder, not a file"),
        ("rows.txt/o.csv", "cannot be written (Not a directory)"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_rows_are_answered(
    rows: Path, name: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lorica.commands.build.build_pipeline", lambda *_: pytest.fail("loaded"))
    os.mkfifo(rows.parent / "pipe.csv")
    (rows.parent / "folder.csv").mkdir()
    (rows.parent / "rows.txt").write_text("")
    before = sorted(entry.name for entry in rows.parent.iterdir())
    assert main(["infer", "engine=fake", "task=rules", f"input={rows}", f"output={rows.parent / name}"]) == 3
    assert told in capsys.readouterr().err
    for option in ("--csv", "--keep-working"):
        if "x" * 236 not in name:
            assert main(["check", str(rows.parent), option, str(rows.parent / name)]) == 12
            assert told in capsys.readouterr().err
    assert sorted(entry.name for entry in rows.parent.iterdir()) == before


def test_no_file_takes_the_place_of_a_standard_stream(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    descriptor, before = os.open(log, os.O_WRONLY | os.O_CREAT), os.dup(2)
    (tmp_path / "link.csv").symlink_to("/dev/stderr")
    try:
        os.dup2(descriptor, 2)
        for path in (log, tmp_path / "link.csv"):
            with pytest.raises(DataError, match="a standard stream of this command is this file"), atomic_file(path):
                pass
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(descriptor)
    with pytest.raises(DataError, match="a pipe or a device"), atomic_file("/dev/null"):
        pass
