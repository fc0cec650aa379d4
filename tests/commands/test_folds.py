"""`lorica train folds=K` and `lorica folds` from the outside: audit, out-of-fold scores, resuming, the comparison."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

from lorica.adapters.passport import read_passport
from lorica.cli import main
from lorica.data.write import read_answers
from lorica.runs.run_record import read_metrics, read_record
from tests.commands.conftest import QUICK

FOLDS = ("folds=3", "training.epochs=1", *QUICK[1:])


def _records(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def _write(path: Path, records: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return path


def _command(rows: Path, run_dir: Path, *words: str) -> list[str]:
    return ["train", "task=rules", f"input={rows}", f"run_dir={run_dir}", *FOLDS, *words]


@pytest.fixture(scope="module")
def folded(few_posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with three folds of the 40 posts."""
    run_dir = tmp_path_factory.mktemp("folds")
    assert main(_command(few_posts, run_dir)) == 0
    return run_dir


def test_each_row_is_scored_by_the_fold_that_did_not_see_it(
    folded: Path, few_posts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = {record["row_id"]: record["rule_violation"] == "1" for record in _records(few_posts)}
    answers = list(read_answers(folded / "out_of_fold.csv"))
    assert [answer.id for answer in answers] == list(gold), "the order of the rows"
    fold_of = {line["id"]: f"fold-{line['fold']}" for line in _records(folded / "fold_plan.csv")}
    assert {answer.id: answer.adapter for answer in answers} == fold_of
    assert main(["eval", str(folded / "out_of_fold.csv"), str(few_posts), "task=rules", "--json"]) == 0
    pooled = json.loads(capsys.readouterr().out)["metrics"]["roc_auc"]
    assert pooled["value"] == pytest.approx(
        roc_auc_score([gold[answer.id] for answer in answers], [answer.score for answer in answers])
    )
    state = json.loads((folded / "folds.json").read_text())
    assert state["table"]["pooled"]["roc_auc"]["value"] == pooled["value"]
    values = [fold["metrics"]["roc_auc"]["value"] for fold in state["table"]["folds"]]
    assert state["table"]["mean"]["roc_auc"] == pytest.approx(sum(values) / 3)
    for number in (1, 2, 3):
        output = folded.parent / f"again-{number}.csv"
        words = [f"adapters.dir={folded}", f"adapters.use=fold-{number}", f"input={few_posts}", f"output={output}"]
        assert main(["infer", "task=rules", *words]) == 0
        scores = {answer.id: answer.score for answer in read_answers(output)}
        own = {answer.id: answer.score for answer in answers if answer.adapter == f"fold-{number}"}
        assert own.items() <= scores.items(), "to the last bit"


def test_held_out_rows_choose_nothing_and_judge_the_passport(folded: Path) -> None:
    plan = _records(folded / "fold_plan.csv")
    for number in (1, 2, 3):
        held_out = {line["id"] for line in plan if line["fold"] == str(number)}
        passport = read_passport(folded / f"fold-{number}")
        assert passport is not None
        assert passport.data is not None
        assert passport.data.validation is not None
        assert passport.data.train.rows + passport.data.validation.rows == 40 - len(held_out) == passport.data.all.rows
        assert (passport.metrics.on, passport.metrics.rows) == ("held_out", len(held_out))
        state = json.loads((folded / "folds.json").read_text())
        (scores,) = (fold for fold in state["table"]["folds"] if fold["fold"] == number)
        assert passport.metrics.adapter is not None
        measured = passport.metrics.adapter["roc_auc"].value
        assert measured == pytest.approx(scores["metrics"]["roc_auc"]["value"], abs=0.05)


def test_the_run_is_recorded(folded: Path) -> None:
    record = read_record(folded)
    assert (record.command, record.status, record.rows, record.main_metric) == ("train", "finished", 40, "roc_auc")
    assert record.summary == {"leaks": 0, "leaks_allowed": False}
    assert {file.role for file in record.outputs} == {"answers", "plan"}
    metrics = read_metrics(folded)
    assert metrics["roc_auc"].n == 40
    assert {"fold-3: roc_auc", "roc_auc (mean over folds)", "roc_auc (spread)"} <= set(metrics)


def test_a_killed_run_goes_on_to_the_same_bytes(folded: Path, few_posts: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    command = _command(few_posts, broken, "training.resume=true")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "lorica.cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    deadline = time.monotonic() + 120
    while not (broken / "fold-3" / "training.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "it was killed in its third fold"
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = (broken / "fold-1" / "adapter_model.safetensors").stat().st_mtime_ns
    assert main(_command(few_posts, broken)) == 6, "what is there is not written over"
    assert main(_command(few_posts, broken, "training.resume=true", "training.seed=7")) == 6, "another plan"
    assert main(command) == 0
    assert (broken / "fold-1" / "adapter_model.safetensors").stat().st_mtime_ns == finished
    names = ["out_of_fold.csv", "fold_plan.csv", "folds.json"]
    names += [f"fold-{n}/{name}" for n in (1, 2, 3) for name in ("adapter_model.safetensors", "lorica.json")]
    for name in names:
        assert (broken / name).read_bytes() == (folded / name).read_bytes(), name


def test_a_finished_run_is_shown_again_and_computes_nothing(
    folded: Path, few_posts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("answered again")

    monkeypatch.setattr("lorica.commands.adapter_answers.answer_by_adapter", refuse)
    before = (folded / "folds.json").read_bytes()
    assert main(_command(few_posts, folded, "training.resume=true", "--json")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"fold-1", "fold-2", "fold-3", "folds"}
    assert shown["folds"]["best"] in shown
    assert (folded / "folds.json").read_bytes() == before
    assert main(_command(few_posts, folded, "training.resume=true")) == 0
    text = capsys.readouterr().out
    assert "pooled" in text
    assert "spread (std)" in text
    assert f"lorica eval {folded / 'out_of_fold.csv'} {few_posts} task=rules\n" in text, "a command that can be given"


def test_rows_that_were_answered_before_an_interruption_are_not_answered_again(
    folded: Path, few_posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(folded, run_dir)
    (run_dir / "out_of_fold.csv").unlink()
    command = _command(few_posts, run_dir, "training.resume=true")

    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("lorica.commands.train_folds.write_answers", interrupt)
        assert main(command) == 130
    assert read_record(run_dir).status == "interrupted"
    with monkeypatch.context() as patched:
        patched.setattr("lorica.pipeline.answer.Pipeline.answer_timed", interrupt)
        assert main(command) == 0
    assert (run_dir / "out_of_fold.csv").read_bytes() == (folded / "out_of_fold.csv").read_bytes()
    assert not (run_dir / "out_of_fold.csv.partial").exists()


def _planted(few_posts: Path) -> list[dict[str, Any]]:
    """The 40 posts with folds of the user's, and a near-duplicate in another fold."""
    records: list[dict[str, Any]] = _records(few_posts)
    twin = records[0]["body"]
    records = [{**record, "fold": number % 2, "user": f"u{number}"} for number, record in enumerate(records)]
    longer = f"{twin} and here is some more of it to be long enough for shingles, again and again"
    records[0] = {**records[0], "body": longer}
    records[1] = {**records[1], "body": longer + "!!", "rule": records[0]["rule"]}
    return records


def test_a_planted_leak_stops_the_training_before_anything_is_loaded(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = _planted(few_posts)
    records[5]["user"] = records[4]["user"]
    rows = _write(tmp_path / "rows.csv", records)
    words = [f"input={rows}", "task=rules", "folds.column=fold", "folds.group_column=user", *FOLDS[1:]]

    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("lorica.commands.train_folds.train_locked", refuse)
    assert main(["train", *words, f"run_dir={tmp_path / 'run'}"]) == 3
    message = capsys.readouterr().err
    assert "2 sets of rows are on both sides of a fold" in message
    assert f"row {records[0]['row_id']!r} in fold 1, row {records[1]['row_id']!r} in fold 2" in message
    assert "folds.allow_leaks=true" in message
    assert not (tmp_path / "run").exists()
    assert main(["train", "--audit", "--json", *words]) == 3
    audit = json.loads(capsys.readouterr().out)["audit"]
    assert [leak["link"] for leak in audit["leaks"]] == ["exact duplicates", "group"]
    assert audit["exact_duplicates"] == 1
    assert main(["train", "--audit", *words, "folds.allow_leaks=true"]) == 0
    assert "LEAKS: 2 sets" in capsys.readouterr().out
    own = ["train", "--audit", "task=rules", f"input={rows}", "folds=3"]
    assert main([*own, "folds.group_column=user"]) == 0
    assert "leaks: none" in capsys.readouterr().out
    sets = {}
    for switch in ("true", "false"):
        words = [*own, f"folds.near_duplicates={switch}", "folds.allow_leaks=true", "--json"]
        assert main(words) == 0
        sets[switch] = json.loads(capsys.readouterr().out)["audit"]["components"]
    assert sets == {"true": 39, "false": 40}


def test_a_set_larger_than_a_fold_is_told(few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{**record, "user": f"u{max(14, number)}"} for number, record in enumerate(_records(few_posts))]
    words = ["train", "--audit", "task=rules", f"input={_write(tmp_path / 'rows.csv', records)}", "folds=3"]
    assert main([*words, "folds.group_column=user"]) == 0
    assert "UNEVEN: that set is larger than a fold's share of 13 rows" in capsys.readouterr().out
    assert main(words) == 0
    assert "UNEVEN" not in capsys.readouterr().out


def test_examples_that_give_rows_of_other_folds_away_are_counted(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records: list[dict[str, Any]] = [{**record, "fold": n % 2} for n, record in enumerate(_records(few_posts))]
    records[0] |= {"positive_example_1": records[1]["body"], "rule": records[1]["rule"]}
    words = ["train", "--audit", "task=rules", f"input={_write(tmp_path / 'rows.csv', records)}", "folds.column=fold"]
    assert main([*words, "task.style=structured", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audit"]["shown"] == [records[1]["row_id"]]
    assert main([*words, "task.style=structured"]) == 0
    assert "are shown with a label" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audit"]["shown"] == [], "plain prompts show no examples"


def test_allowed_leaks_stand_in_the_result_and_in_the_record(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, run_dir = _write(tmp_path / "rows.csv", _planted(few_posts)), tmp_path / "run"
    words = ["task=rules", f"input={rows}", f"run_dir={run_dir}", "folds.column=fold", *FOLDS[1:]]
    assert main(["train", *words, "folds.allow_leaks=true"]) == 0
    assert "LEAKS were allowed" in capsys.readouterr().out
    state = json.loads((run_dir / "folds.json").read_text())
    assert state["leaks_allowed"] is True
    assert len(state["audit"]["leaks"]) == 1
    assert read_record(run_dir).summary == {"leaks": 1, "leaks_allowed": True}
    assert read_record(run_dir / "fold-1").config["folds"]["allow_leaks"] is True


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["folds=1"], "folds.count=1"),
        (["folds=2", "folds.column=fold"], "both say what the folds are"),
        (["folds=3", "training.per_subject=true"], "both divide the rows"),
        (["folds=30"], "label 0 is in 19 rows that can be told apart"),
        (["folds=3", "folds.group_column=nobody"], "'nobody' is not in the file"),
        (["folds=3", "folds.group_column=rule"], "cannot be divided into 3 folds"),
        (["folds=many"], "folds.count takes a whole number"),
    ],
)
def test_folds_that_cannot_be_are_one_message(
    words: list[str], complaint: str, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{**record, "rule": f"rule {number % 2}"} for number, record in enumerate(_records(few_posts))]
    rows = _write(tmp_path / "rows.csv", records)
    assert main(["train", "task=rules", f"input={rows}", f"run_dir={tmp_path / 'run'}", *words]) in (2, 3)
    message = capsys.readouterr().err
    assert complaint in message
    assert "Traceback" not in message
    assert not (tmp_path / "run" / "folds.json").exists()


def test_average_ensemble_and_best_fold_side_by_side(
    folded: Path, posts: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {record["body"] for record in _records(few_posts)}
    unseen = [record for record in _records(posts)[1::11] if record["body"] not in trained][:40]
    test = _write(tmp_path / "test.csv", unseen)
    output = tmp_path / "answers"
    assert main(["folds", str(folded), str(test), "task=rules", "--output", str(output), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    best = shown["best_fold"]
    assert set(shown["files"]) == {"average", "ensemble", best}
    assert {(pair["first"], pair["second"]) for pair in shown["pairs"]} == {
        ("average", "ensemble"), ("average", best), ("ensemble", best),
    }  # fmt: skip
    assert shown["average"]["rank"] == 3 * 4
    assert shown["average"]["error"] == 0
    folds = [{a.id: a.score for a in read_answers(output / f"fold-{n}.csv")} for n in (1, 2, 3)]
    for answer in read_answers(output / "ensemble.csv"):
        assert answer.score == pytest.approx(sum(scores[answer.id] or 0.0 for scores in folds) / 3)
    gold = [record["rule_violation"] == "1" for record in unseen]
    for name in ("average", "ensemble"):
        scores = [answer.score for answer in read_answers(output / f"{name}.csv")]
        assert shown["files"][name]["metrics"]["roc_auc"]["value"] == pytest.approx(roc_auc_score(gold, scores))
    assert main(["folds", str(folded), str(test), "task=rules", "--output", str(output)]) == 0, "the average is there"
    said = capsys.readouterr().out
    assert shown["verdict"] in said
    assert "-> lorica infer task=rules adapters.paths.rules=" in said, "what answers rows to come"
    assert "out of fold, " in said


def test_rows_of_one_label_decide_nothing(
    folded: Path, posts: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {record["body"] for record in _records(few_posts)}
    unseen = [record for record in _records(posts)[1::11] if record["body"] not in trained]
    test = _write(tmp_path / "test.csv", [record for record in unseen if record["rule_violation"] == "1"][:12])
    assert main(["folds", str(folded), str(test), "task=rules", "--output", str(tmp_path / "out")]) == 0
    assert "What is better cannot be told on these rows: roc_auc undefined" in capsys.readouterr().out
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    _write(test, unseen[:9])
    assert main(["folds", str(folded), str(test), "task=rules", "--output", str(tmp_path / "out")]) == 3
    assert "holds answers to other rows than those of" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert main(["folds", str(test), str(folded), "task=rules"]) == 2
    assert "is a file, and the first path is the folder of the folds" in capsys.readouterr().err


def test_rows_that_folds_were_trained_on_are_no_test(
    folded: Path, posts: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folds", str(folded), str(few_posts), "task=rules"]) == 3
    assert "40 of 40 rows have the text of a row that folds were trained on" in capsys.readouterr().err
    trained = {record["body"] for record in _records(few_posts)}
    unseen = [record for record in _records(posts)[1::11] if record["body"] not in trained][:20]
    renamed = [{**record, "row_id": f"new-{record['row_id']}"} for record in _records(few_posts)[:3]]
    test = _write(tmp_path / "test.csv", renamed + unseen)
    assert main(["folds", str(folded), str(test), "task=rules"]) == 3
    assert "3 of 23 rows" in capsys.readouterr().err
    words = ["--leave-out-trained", "--output", str(tmp_path / "out"), "--json"]
    assert main(["folds", str(folded), str(test), "task=rules", *words]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["left_out"] == [record["row_id"] for record in renamed]
    assert {pair["n"] for pair in shown["pairs"]} == {20}


def test_near_duplicates_of_training_rows_are_told_and_may_be_left_out(
    folded: Path, posts: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = _records(few_posts)
    texts = {record["body"] for record in trained}
    unseen = [record for record in _records(posts)[1::11] if record["body"] not in texts][:20]
    near = {**max(trained, key=lambda record: len(record["body"])), "row_id": "near"}
    near["body"] += " ok"
    test = str(_write(tmp_path / "test.csv", [near, *unseen]))
    words = ["folds", str(folded), test, "task=rules", "--json", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "1 of 21 rows" in shown.err
    assert "have nearly the text of a row that folds were trained on, first 'near'" in shown.err
    assert main([*words, "--leave-out-trained", "--output", str(tmp_path / "others")]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == ["near"]
    moved = tmp_path / "moved"
    shutil.copytree(folded, moved)
    state = json.loads((moved / "folds.json").read_text())
    state["source"] = str(_write(tmp_path / "longer.csv", [*trained, {**unseen[0], "row_id": "added"}]))
    (moved / "folds.json").write_text(json.dumps(state))
    assert main(["folds", str(moved), *words[2:], "--output", str(tmp_path / "longer")]) == 0
    assert "have nearly the text of a row that folds were trained on, first 'near'" in capsys.readouterr().err
    state["source"] = str(_write(tmp_path / "posts.csv", unseen))  # another file, of the same name
    (moved / "folds.json").write_text(json.dumps(state))
    assert main(["folds", str(moved), *words[2:]]) == 0
    error = capsys.readouterr().err
    assert "not looked for" in error
    assert f"{state['source']}: holds other texts than the folds were trained on" in error
    assert "have nearly the text" not in error


def test_folds_of_another_task_or_of_none_are_refused(
    folded: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["folds", str(folded), str(few_posts), "task=qa"]) == 2
    assert "holds folds of the task rules" in capsys.readouterr().err
    assert main(["folds", str(tmp_path), str(few_posts), "task=rules"]) == 3
    assert "no folds were trained here" in capsys.readouterr().err
    assert main(["folds", str(folded), "task=rules"]) == 2
