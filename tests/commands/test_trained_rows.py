"""Rows whose own labels an adapter was trained on, from `lorica adapt` to whatever judges answers: refused, also where
answers were copied, blended, or given by an average of adapters."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import lorica
from lorica.adaptation.ledger import read_ledger
from lorica.cli import main
from lorica.data.write import read_answers
from lorica.runs import former_run
from lorica.runs.run_record import RunRecord, read_record
from tests.commands.conftest import QUICK

REFUSED = "trained on the own labels of 1 of 24 rows"


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def adapted_once(few_posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with test.csv, of which one post is an example of another row, the adapter run/rules, its answers.csv
    with their run folder, and the other rows in clean.csv."""
    folder = tmp_path_factory.mktemp("adapted")
    with few_posts.open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))[:24]
    rows[3]["body"], rows[3]["rule"], rows[3]["rule_violation"] = rows[0]["positive_example_1"], rows[0]["rule"], "1"
    write_rows(folder / "test.csv", rows)
    write_rows(folder / "clean.csv", [row for row in rows if row is not rows[3]])
    words = [
        "task=rules",
        f"input={folder / 'test.csv'}",
        f"output={folder / 'answers.csv'}",
        f"run_dir={folder / 'run'}",
    ]
    quick = [*QUICK, "training.epochs=1", "training.val_ratio=0", "adapt.rounds=0"]
    assert main(["adapt", *words, *quick]) == 0
    return folder


@pytest.fixture
def adapted(adapted_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder."""
    folder = tmp_path / "copy"
    shutil.copytree(adapted_once, folder)
    monkeypatch.chdir(folder)
    return folder


def own_id(folder: Path) -> str:
    with (folder / "test.csv").open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))[3]["row_id"]


def test_their_scores_are_flagged_and_refused(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row_id = own_id(adapted)
    assert json.loads((adapted / "run" / "adapt.json").read_text())["own_rows"] == [row_id]
    flagged = [answer.id for answer in read_answers("answers.csv", id_names=["row_id"]) if "trained_on" in answer.flags]
    assert flagged == [row_id]
    capsys.readouterr()
    assert main(["eval", "answers.csv", "test.csv", "task=rules"]) == 3
    error = capsys.readouterr().err
    assert f"(row '{row_id}')" in error
    assert "--allow-training-rows" in error
    assert main(["eval", "answers.csv", "test.csv", "task=rules", "--allow-training-rows", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trained_rows"] == [row_id]
    calibrate = ["calibrate", "answers.csv", "test.csv", "--adapter", "run/rules", "task=rules"]
    assert main(calibrate) == 3
    assert main([*calibrate, "--method", "platt", "--allow-training-rows"]) == 0
    lines = [line for line in Path("answers.csv").read_text().splitlines() if not line.startswith(f"{row_id},")]
    Path("answers.csv").write_text("\n".join(lines) + "\n")
    assert main(["eval", "answers.csv", "clean.csv", "task=rules"]) == 0


@pytest.mark.parametrize("name", ["copied.csv", "copied.jsonl", "copied.csv.gz"])
def test_a_copy_without_the_run_folder_is_refused_too(
    adapted: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    infer = ["infer", "task=rules", "input=test.csv", "adapters.dir=run"]
    assert main([*infer, f"output={adapted / 'new' / name}"]) == 0
    assert "trained_on 1" in capsys.readouterr().out, "the summary counts them"
    shutil.copy(adapted / "new" / name, name)
    assert main(["eval", name, "test.csv", "task=rules"]) == 3
    assert REFUSED in capsys.readouterr().err


def test_the_record_still_tells_where_the_flags_were_cut_off(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("answers.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    with Path("answers.csv").open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(("id", "score"))
        writer.writerows((row["id"], row["score"]) for row in rows)
    assert main(["eval", "answers.csv", "test.csv", "task=rules"]) == 3
    assert REFUSED in capsys.readouterr().err


def test_another_adapters_answer_to_such_a_row_is_judged(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two adapters that may answer, only the one that was trained on the label is refused its rows."""
    infer = ["infer", "task=rules", "input=test.csv", "adapters.dir=run", "adapters.fallback=base"]
    assert main([*infer, "output=base.csv", "adapters.paths.other=run/rules", "adapters.use=other"]) == 0
    assert main(["eval", "base.csv", "test.csv", "task=rules"]) == 3
    Path("run/rules").rename("run/politics")  # for a subject that no row has: the base answers
    assert main([*infer, "output=base.csv"]) == 0
    assert main(["eval", "base.csv", "test.csv", "task=rules"]) == 0


def test_a_blend_neither_judges_them_nor_loses_them(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("answers.csv", "other.csv")
    plain = [line.split(",") for line in Path("answers.csv").read_text().splitlines()]
    Path("plain.csv").write_text("\n".join(f"{cells[0]},{cells[2]}" for cells in plain) + "\n")
    for members in (("other.csv", "plain.csv"), ("plain.csv", "other.csv")):
        assert main(["ensemble", *members, "--gold", "test.csv", "task=rules"]) == 3
        assert "trained on the own labels" in capsys.readouterr().err
        assert main(["ensemble", *members, "--output", "blend.csv", "task=rules"]) == 0
        assert f"own labels of 1 row ({own_id(adapted)})" in capsys.readouterr().err
        assert main(["eval", "blend.csv", "test.csv", "task=rules"]) == 3
        assert REFUSED in capsys.readouterr().err
    vote = ["ensemble", "answers.csv", "other.csv", "--method", "vote", "--output", "vote.csv", "task=rules"]
    assert main(vote) == 0
    assert main(["eval", "vote.csv", "test.csv", "task=rules"]) == 3
    allowed = ["--gold", "test.csv", "--allow-training-rows", "--output", "allowed.csv", "--save", "blend.json"]
    assert main(["ensemble", "other.csv", "plain.csv", *allowed, "task=rules"]) == 0
    assert main(["eval", "allowed.csv", "test.csv", "task=rules"]) == 3
    saved = ["ensemble", "other.csv", "plain.csv", "--model", "blend.json", "--output", "saved.csv", "task=rules"]
    assert main(saved) == 0
    assert main(["eval", "saved.csv", "test.csv", "task=rules"]) == 3


def test_an_average_keeps_the_ledgers(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("run/rules", "second")
    Path("second/ledger.jsonl").unlink()
    assert main(["average", "second", "run/rules", "--output", "mean", "--json"]) == 0
    entries = read_ledger(Path("mean"))
    assert entries == read_ledger(Path("run/rules"))
    assert json.loads(capsys.readouterr().out)["ledger_texts"] == len(entries) > 0
    assert main(["infer", "task=rules", "input=test.csv", "output=new/mean.csv", "adapters.paths.rules=mean"]) == 0
    shutil.copy("new/mean.csv", "mean.csv")
    capsys.readouterr()
    assert main(["eval", "mean.csv", "test.csv", "task=rules"]) == 3
    assert REFUSED in capsys.readouterr().err
    assert main(["average", "second", "run/rules", "--weights", "1,0", "--output", "one"]) == 0
    assert read_ledger(Path("one")) == [], "an adapter without a weight leaves nothing in the mean"


def test_python_refuses_and_allows_them_as_the_command_does(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("answers.csv", "other.csv")
    two = ["answers.csv", "other.csv"]
    answers = lorica.load_pipeline("rules", adapters="run/rules")("test.csv")
    judges: list[Callable[..., object]] = [
        lambda **more: lorica.evaluate("other.csv", "test.csv", task="rules", **more),
        lambda **more: lorica.evaluate(answers, "test.csv", task="rules", **more),
        lambda **more: lorica.compare(two, "test.csv", task="rules", **more),
        lambda **more: lorica.blend(two, gold="test.csv", task="rules", **more),
    ]
    for judge in judges:
        with pytest.raises(lorica.DataError, match=REFUSED) as raised:
            judge()
        assert "allow_training_rows=True" in raised.value.fix
        capsys.readouterr()
        judge(allow_training_rows=True)
        assert REFUSED in capsys.readouterr().err
        with pytest.raises(lorica.ConfigError, match="allow_training_rows"):
            judge(allow_training_rows="yes")
    assert lorica.evaluate("other.csv", "test.csv", task="rules", allow_training_rows=True).n == 24


def test_figures_on_the_rows_of_the_training_are_told(
    trained: Path, few_posts: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rows in (few_posts, posts):
        answers = tmp_path / f"{rows.parent.name}.csv"
        words = ["engine=fake", "adapters.gate=off", f"adapters.dir={trained}", f"input={rows}", f"output={answers}"]
        assert main(["infer", "task=rules", *words]) == 0
        capsys.readouterr()
        assert main(["eval", str(answers), str(rows), "task=rules"]) == 0
        told = "the adapter rules was trained on" in capsys.readouterr().err
        assert told == (rows == few_posts)


def test_a_damaged_record_tells_nothing(
    trained: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.csv"
    words = ["engine=fake", "adapters.gate=off", f"adapters.dir={trained}", f"input={few_posts}", f"output={answers}"]
    assert main(["infer", "task=rules", *words]) == 0
    record_path = tmp_path / "answers.csv.run" / "run.json"
    record = json.loads(record_path.read_text("utf-8"))
    for damaged in ('{"paths": null, "dir": ""}', '{"paths": {}, "dir": null}', "{}", "null", '"x"'):
        config = record["config"] | {"adapters": json.loads(damaged)}
        record_path.write_text(json.dumps(record | {"config": config}), "utf-8")
        capsys.readouterr()
        assert main(["eval", str(answers), str(few_posts), "task=rules"]) == 0
        assert "was trained on" not in capsys.readouterr().err


def test_eval_and_python_tell_that_an_adapter_was_trained_on_the_rows(
    trained: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.csv"
    assert main(["infer", "task=rules", f"input={few_posts}", f"output={answers}", f"adapters.dir={trained}"]) == 0
    judgements: list[Callable[[], object]] = [
        lambda: main(["eval", str(answers), str(few_posts), "task=rules"]),
        lambda: lorica.evaluate(answers, few_posts, task="rules"),
        lambda: lorica.compare({"a": answers, "b": answers}, few_posts, task="rules"),
    ]
    for judge in judgements:
        capsys.readouterr()
        judge()
        assert "the adapter rules was trained on 34 of these 40 rows" in capsys.readouterr().err


def test_nothing_is_said_of_an_adapter_that_took_the_place_of_the_one_that_answered(
    trained: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, answers = Path(shutil.copytree(trained, tmp_path / "run")), tmp_path / "answers.csv"
    words = ["engine=fake", "adapters.gate=off", f"adapters.dir={run_dir}", f"input={few_posts}", f"output={answers}"]
    assert main(["infer", "task=rules", *words]) == 0
    config_path = run_dir / "rules" / "adapter_config.json"
    config_text = config_path.read_text("utf-8")
    config_path.write_text(json.dumps(json.loads(config_text) | {"lora_alpha": 3}), "utf-8")
    capsys.readouterr()
    assert main(["eval", str(answers), str(few_posts), "task=rules"]) == 0
    assert "was trained on" not in capsys.readouterr().err
    config_path.write_text(config_text, "utf-8")
    assert main(["eval", str(answers), str(few_posts), "task=rules"]) == 0
    assert "the adapter rules was trained on 34 of these 40 rows" in capsys.readouterr().err


def test_the_record_beside_the_answers_is_read_once(
    trained: Path, few_posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, folders = tmp_path / "answers.csv", list[Path]()
    words = ["engine=fake", "adapters.gate=off", f"adapters.dir={trained}", f"input={few_posts}", f"output={answers}"]
    assert main(["infer", "task=rules", *words]) == 0

    def counted(folder: Path) -> RunRecord:
        folders.append(folder)
        return read_record(folder)

    monkeypatch.setattr(former_run, "read_record", counted)
    assert main(["eval", str(answers), str(few_posts), "task=rules"]) == 0
    assert folders == [tmp_path / "answers.csv.run"]


def test_no_frontier_is_searched_on_them(
    adapted: Path, trained: Path, few_posts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["frontier", "task=rules", "engine=fake", "adapters.gate=off", "minutes=1", "--vary", "task.style=plain"]
    assert main([*words, "input=test.csv", "adapters.dir=run", "run_dir=front"]) == 3
    assert REFUSED in capsys.readouterr().err
    assert not Path("front").exists()
    assert main([*words, "input=clean.csv", "adapters.dir=run", "run_dir=front"]) == 0
    assert main([*words, f"input={few_posts}", f"adapters.dir={trained}", "run_dir=other"]) == 0
    assert "the adapter rules was trained on 34 of these 40 rows" in capsys.readouterr().err


def test_a_search_does_not_go_on_with_another_calibration(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["frontier", "task=rules", "engine=fake", "adapters.gate=off", "minutes=1", "--vary", "task.style=plain"]
    search += ["input=clean.csv", "adapters.dir=run", "run_dir=front", "adapters.calibration=auto"]
    assert main(search) == 0
    allowed = ["--method", "platt", "--allow-training-rows", "--save-anyway"]
    assert main(["calibrate", "answers.csv", "test.csv", "--adapter", "run/rules", "task=rules", *allowed]) == 0
    assert Path("run/rules/calibration.json").exists()
    capsys.readouterr()
    assert main([*search, "inference.resume=true"]) == 6
    assert "calibration.rules: was '(nothing)', is now 'sha256:" in capsys.readouterr().err
