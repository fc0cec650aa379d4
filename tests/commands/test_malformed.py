"""Every user's mistake gives one clear message, a non-zero exit code and no traceback, and leaves no output behind."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorica.cli import main

GOOD = "row_id,body,rule,rule_violation\n1,buy my shoes,No advertising,1\n2,nice day,No advertising,0\n"


@dataclass(frozen=True)
class Mistake:
    """What the user did, and what the message must say: what was got, and what to do."""

    name: str
    arguments: str  # {d} stands for the folder of the test
    says: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda folder: None


def _rows(content: str | bytes, name: str = "rows.csv") -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return write


def _adapter(config: dict[str, object] | str | None, weights: bytes | None) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        _rows(GOOD)(folder)
        place = folder / "adapters" / "rules"
        place.mkdir(parents=True)
        if config is not None:
            text = config if isinstance(config, str) else json.dumps(config)
            (place / "adapter_config.json").write_text(text)
        if weights is not None:
            (place / "adapter_model.safetensors").write_bytes(weights)

    return write


INFER = "infer engine=fake task=rules input={d}/rows.csv output={d}/out.csv"
LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"

MISTAKES = [
    # the command line and the configuration
    Mistake("unknown command", "trian", ("trian", "lorica train")),
    Mistake("unknown option", "infer --fast", ("--fast", "lorica infer --help")),
    Mistake("unknown key", "config lora.rank=8", ("lora.rank", "lora.")),
    Mistake("unknown preset", "config model=qwen3_0_6", ("qwen3_0_6", "qwen3_0_6b")),
    Mistake("wrong type", "config lora.r=eight", ("lora.r", "eight")),
    Mistake("out of range", "config lora.dropout=1.5", ("lora.dropout", "1.5")),
    Mistake("contradiction", "config training.fp16=true training.bf16=true", ("fp16", "bf16")),
    Mistake("method of another task", "config task=mcq task.method=generate", ("mcq", "generate")),
    Mistake("no input", "infer engine=fake output={d}/o.csv", ("input", "input=")),
    Mistake("no training file", "train task=rules", ("input=FILE", "data.SUBJECT=FILE")),
    Mistake("another engine to train", "train engine=fake input=a.csv", ("engine=fake", "engine=native")),
    Mistake("a run_dir that is a file", "train input={d}/rows.csv run_dir={d}/rows.csv", ("run_dir",), _rows(GOOD)),
    Mistake("input as output", "infer engine=fake input={d}/rows.csv output={d}/rows.csv", ("same file",), _rows(GOOD)),
    Mistake(
        "input as output by a folder that is to be made",
        "infer engine=fake input={d}/rows.csv output={d}/absent/../rows.csv",
        ("same file",),
        _rows(GOOD),
    ),
    Mistake(
        "input as submission",
        "infer engine=fake input={d}/rows.submission.csv output={d}/rows.jsonl --submission id,score",
        ("--submission", "would replace a file that this command reads"),
        _rows(GOOD, "rows.submission.csv"),
    ),
    Mistake("a demo with a run_dir", "demo run_dir={d}", ("run_dir", "--out")),
    Mistake("a demo of an unknown task", "demo --tasks rule", ("rule", "rules")),
    Mistake(
        "a subject that climbs",
        "train task=saq data.../../x={d}/rows.jsonl run_dir={d}/run",
        ("../../x", "rename"),
        _rows('{"question": "q", "answer": "a"}\n', "rows.jsonl"),
    ),
    Mistake(
        "a subject in the file that climbs",
        "train task=saq input={d}/rows.jsonl run_dir={d}/run training.per_subject=true",
        ("../../x", "rename"),
        _rows('{"question": "q", "answer": "a", "subject": "../../x"}\n', "rows.jsonl"),
    ),
    Mistake(
        "another subject in the file",
        "train task=saq data.history={d}/rows.jsonl run_dir={d}/run",
        ("rows.jsonl:1", "algebra", "data.history"),
        _rows('{"question": "q", "answer": "a", "subject": "algebra"}\n', "rows.jsonl"),
    ),
    Mistake("two kinds of training files", "train input=a.csv data.x=b.csv", ("both", "input")),
    # rows
    Mistake("missing file", INFER, ("rows.csv",)),
    Mistake("unknown suffix", INFER.replace("rows.csv", "rows.xls"), (".xls", ".csv"), _rows(GOOD, "rows.xls")),
    Mistake("empty file", INFER, ("rows.csv", "empty"), _rows("")),
    Mistake("header alone", INFER, ("rows.csv", "no rows"), _rows("row_id,body,rule\n")),
    Mistake("missing column", INFER, ("rule", "task.columns."), _rows("row_id,text,rul\n1,a,b\n")),
    Mistake("ragged row", INFER, ("rows.csv:3",), _rows("row_id,body,rule\n1,a,b\n2,a,b,c\n")),
    Mistake("duplicate id", INFER, ("rows.csv:3", "'1'"), _rows("row_id,body,rule\n1,a,b\n1,c,d\n")),
    Mistake("bad encoding", INFER, ("rows.csv:2", "UTF-8"), _rows(b"row_id,body,rule\n1,caf\xe9,b\n")),
    Mistake("open quote", INFER, ("rows.csv", "quote"), _rows('row_id,body,rule\n1,"a,b\n2,c,d\n')),
    Mistake("a spreadsheet", INFER, ("rows.csv", "zip"), _rows(b"PK\x03\x04" + b"\0" * 60)),
    Mistake("an LFS pointer", INFER, ("rows.csv", "LFS"), _rows(LFS)),
    Mistake(
        "cut gzip",
        INFER.replace("rows.csv", "rows.csv.gz"),
        ("rows.csv.gz",),
        _rows(gzip.compress(GOOD.encode() * 50)[:-20], "rows.csv.gz"),
    ),
    Mistake(
        "broken JSON line",
        INFER.replace("rows.csv", "rows.jsonl"),
        ("rows.jsonl:2",),
        _rows('{"body": "a", "rule": "b"}\n{"body": "a"\n', "rows.jsonl"),
    ),
    Mistake(
        "options that are no list",
        "infer engine=fake task=mcq input={d}/rows.jsonl output={d}/out.csv",
        ("rows.jsonl:1", "options"),
        _rows('{"id": "a", "question": "q", "options": 3, "answer": "A"}\n', "rows.jsonl"),
    ),
    Mistake(
        "unknown label",
        "train task=rules input={d}/rows.csv",
        ("rows.csv:2", "maybe"),
        _rows(GOOD.replace(",1\n", ",maybe\n")),
    ),
    Mistake(
        "training rows without gold",
        "train task=rules input={d}/rows.csv run_dir={d}/run",
        ("rows.csv", "answer"),
        _rows("row_id,body,rule\n1,a,b\n2,c,d\n"),
    ),
    Mistake("unknown output format", INFER.replace("out.csv", "out.xlsx"), ("out.xlsx", ".csv"), _rows(GOOD)),
    # models and adapters
    Mistake("missing model", INFER + " model.path={d}/nowhere engine=native", ("nowhere", "model.path"), _rows(GOOD)),
    Mistake(
        "a model that is not downloaded", INFER + " model=qwen3_4b engine=native", ("Qwen3-4B", "HF_HOME"), _rows(GOOD)
    ),
    Mistake("missing adapter folder", INFER + " adapters.dir={d}/none", ("none", "adapters.dir"), _rows(GOOD)),
    Mistake("adapter without weights", INFER + " adapters.dir={d}/adapters", ("rules",), _adapter(LORA, None)),
    Mistake(
        "adapter without config",
        INFER + " adapters.dir={d}/adapters",
        ("adapter_config.json",),
        _adapter(None, b"x" * 20),
    ),
    Mistake("adapter weights by LFS", INFER + " adapters.dir={d}/adapters", ("LFS",), _adapter(LORA, LFS)),
    Mistake("adapter weights cut", INFER + " adapters.dir={d}/adapters", ("rules",), _adapter(LORA, b"\xff" * 8)),
    Mistake(
        "another kind of adapter",
        INFER + " adapters.dir={d}/adapters",
        ("IA3",),
        _adapter({"peft_type": "IA3"}, b"\0" * 16),
    ),
    Mistake(
        "adapter config is no JSON", INFER + " adapters.dir={d}/adapters", ("adapter_config.json",), _adapter("{", b"")
    ),
    Mistake("misspelt adapter", INFER + " adapters.use=rule", ("rule",), _rows(GOOD)),
    Mistake(
        "no adapter for the last row",
        "infer engine=fake task=saq input={d}/rows.jsonl output={d}/out.csv adapters.fallback=error",
        ("algebra", "adapters.fallback"),
        _rows('{"question": "q", "subject": "algebra"}\n', "rows.jsonl"),
    ),
    Mistake("one file to evaluate", "eval a.csv task=rules", ("two files", "ANSWERS GOLD")),
    Mistake("answers that are missing", "eval {d}/a.jsonl {d}/rows.csv", ("a.jsonl",), _rows(GOOD)),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_explained(
    mistake: Mistake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    mistake.prepare(tmp_path)
    code = main([part.replace("{d}", str(tmp_path)) for part in mistake.arguments.split(" ")])
    said = capsys.readouterr()
    assert code > 0
    assert said.out == ""
    assert said.err.startswith("lorica: ")
    assert "Traceback" not in said.err
    for part in mistake.says:
        assert part in said.err
    assert not list(tmp_path.glob("out.*"))


def test_there_are_at_least_25_of_them() -> None:
    assert len({mistake.name for mistake in MISTAKES}) >= 25
