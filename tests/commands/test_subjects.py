"""Training, routing and the registry mean one subject by one name, and nothing takes a name that means something."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lorica.adapters.passport import read_passport
from lorica.cli import main
from lorica.commands import build
from lorica.commands.train_plan import by_subject, plan_jobs
from lorica.config.compose import compose
from lorica.data.read_log import ReadLog
from lorica.data.write import read_answers
from lorica.errors import AdapterError, ConfigError
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings

TASK = load_task("qa", TaskSettings(method="generate", style=""))


def rows_of(*subjects: str) -> list[Row]:
    return [Row(id=str(n), subject=subject, case=None, gold=None) for n, subject in enumerate(subjects)]  # type: ignore[arg-type]


def adapter(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")


def test_spellings_in_a_file_are_one_adapter_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of("history", "art", "HISTORY", "history\u200b", "History", "HISTORY", "C", "C++", "")
    fits = by_subject(rows, "q.jsonl", tmp_path)
    assert [(fit.name, len(fit.rows)) for fit in fits] == [
        ("C", 1), ("C++", 1), ("HISTORY", 5), ("art", 1), ("general", 9),
    ]  # fmt: skip
    assert [row.subject for row in fits[2].rows] == ["history", "HISTORY", "history\u200b", "History", "HISTORY"]
    said = capsys.readouterr().err
    assert said == (
        "lorica: 4 spellings are one subject, 'HISTORY'; rows: 'HISTORY' 2, 'history' 1, 'history\\u200b' 1, "
        "'History' 1\n"
    )


@pytest.mark.parametrize(
    "name", ["general", "General", "BASE", "best", "Last", "checkpoints", "qa", "RULES", "mcq.", "saq "]
)
def test_names_that_mean_something_are_not_taken(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be the name of an adapter, for it means .*\n  -> rename") as error:
        by_subject(rows_of("art", name.strip()), "q.jsonl", tmp_path)
    renamed = error.value.fix.split("'")[1]
    assert by_subject(rows_of("art", renamed), "q.jsonl", tmp_path)


@pytest.mark.parametrize("name", ["a/b", "..", ".x", "a\\b", "a\nb", "x" * 245, "\ud800"])
def test_names_that_no_folder_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of an adapter's folder"):
        by_subject(rows_of(name), "q.jsonl", tmp_path)


def test_a_folder_in_another_spelling_is_not_joined(tmp_path: Path) -> None:
    adapter(tmp_path / "History")
    (tmp_path / "ART").mkdir()  # no adapter
    with pytest.raises(ConfigError, match="holds the adapter 'History' already, another spelling of 'history'"):
        by_subject(rows_of("history"), "q.jsonl", tmp_path)
    assert by_subject(rows_of("History", "art"), "q.jsonl", tmp_path)
    adapter(tmp_path / "GENERAL")
    with pytest.raises(ConfigError, match="'GENERAL' already"):
        by_subject(rows_of("art"), "q.jsonl", tmp_path)


@pytest.mark.parametrize("table", ["data", "adapters.paths"])
def test_two_entries_of_one_subject_contradict_each_other(table: str) -> None:
    with pytest.raises(ConfigError, match=rf"{table}\.History=a and {table}\.history=b are one subject in 2 spellings"):
        compose([f"{table}.History=a", f"{table}.history=b"], environ={})
    assert compose([f"{table}.C++=a", f"{table}.C#=b", f"{table}.C=c"], environ={})


def test_files_of_subjects(tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    rows = [{"questionID": n, "subject": s, "question": "q", "answer": "a"} for n, s in enumerate(("", "HISTORY"))]
    file.write_text("\n".join(map(json.dumps, rows)))
    config = compose(["task=qa", f"data.history={file}", f"run_dir={tmp_path / 'run'}"], environ={}).config
    assert [row.subject for row in plan_jobs(config, TASK, ReadLog())[0].rows] == ["history", "HISTORY"]
    for name, told in (("General", "the adapter on all rows"), ("qa", "a task")):
        config = compose(["task=qa", f"data.{name}={file}"], environ={}).config
        with pytest.raises(ConfigError, match=f"means {told}"):
            plan_jobs(config, TASK, ReadLog())


def test_rows_of_several_files_with_the_same_ids_are_told_apart(tmp_path: Path) -> None:
    """The rows of a file without ids are called row-1, row-2, ...; answers are told apart by the ids of their rows."""
    for subject, turned in (("art", 0), ("history", 1)):
        words = [hashlib.sha256(f"{subject} {number}".encode()).hexdigest() for number in range(40)]
        labels = [(number + turned) % 2 for number in range(40)]
        rows = [
            {"rule": "No ads", "body": f"{('fine', 'bad')[label]} {word}", "rule_violation": label}
            for word, label in zip(words, labels, strict=True)
        ]
        (tmp_path / f"{subject}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [f"data.{subject}={tmp_path / subject}.jsonl" for subject in ("art", "history")]
    words = ["task=rules", *files, f"run_dir={tmp_path / 'run'}"]
    jobs = plan_jobs(compose(words, environ={}).config, load_task("rules"), ReadLog())
    assert [job.rows[0].id for job in jobs] == ["row-1", "row-1", "art/row-1"]
    assert len({row.id for row in jobs[-1].rows}) == 80
    assert main(["train", *words, "model=tfidf", "tfidf.analyzer=words", "training.val_ratio=0.5"]) == 0
    for name in ("art", "history", "general"):
        passport = read_passport(tmp_path / "run" / name)
        assert passport is not None
        assert passport.metrics.adapter is not None
        assert passport.metrics.adapter["roc_auc"].value == 1, name


def test_adapters_that_one_subject_could_mean_are_named_when_they_are_loaded(tmp_path: Path) -> None:
    for name in ("History", "history.", "art"):
        adapter(tmp_path / "all" / name)
    folder = f"adapters.dir={tmp_path / 'all'}"
    with pytest.raises(AdapterError, match=r"one subject in 2 spellings: 'History' in .*, 'history\.' in "):
        build.adapter_folders(compose([folder], environ={}).config)
    assert set(build.adapter_folders(compose([folder, "adapters.use=History"], environ={}).config)) == {"History"}
    with pytest.raises(AdapterError, match="'HISTORY' does not exist\n  -> did you mean 'History'"):
        build.adapter_folders(compose([folder, "adapters.use=HISTORY"], environ={}).config)
    adapter(tmp_path / "mine")
    adapter(tmp_path / "two" / "World History")
    own = [f"adapters.dir={tmp_path / 'two'}"]
    environ = {"PEFT_ADAPTER_WORLD_HISTORY": str(tmp_path / "mine")}
    assert build.adapter_folders(compose(own, environ=environ).config) == {"world_history": tmp_path / "mine"}
    with pytest.raises(AdapterError, match="is called 'Base', as answers of the base model alone are marked"):
        build.adapter_folders(compose([f"adapters.paths.Base={tmp_path / 'mine'}"], environ={}).config)


def test_from_rows_to_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (("History", "Romans"), ("history ", "Cleopatra"), ("HISTORY", "Columbus"))
    rows = [{"questionID": n, "subject": s, "question": "Who?", "answer": a} for n, (s, a) in enumerate(asked)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["train", "task=qa", "training=tiny", f"input={tmp_path / 'q.jsonl'}", f"run_dir={tmp_path / 'r'}"]
    assert main([*command, "training.per_subject=true", "training.epochs=1", "--json"]) == 0
    told = capsys.readouterr()
    assert set(json.loads(told.out)) == {"History", "general"}
    assert "lorica: 3 spellings are one subject, 'History'" in told.err
    spelt = ("hIsToRy", "\u00a0HISTORY\u200b", "history.", "art")
    rows = [{"questionID": n, "subject": s, "question": "Who?"} for n, s in enumerate(spelt)]
    (tmp_path / "i.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ask = ["infer", "task=qa", f"input={tmp_path / 'i.jsonl'}", f"output={tmp_path / 'o.jsonl'}"]
    assert main([*ask, f"adapters.dir={tmp_path / 'r'}", "inference.max_new_tokens=2"]) == 0
    adapters = [answer.adapter for answer in read_answers(tmp_path / "o.jsonl")]
    assert adapters == ["History", "History", "History", "general"]
