"""`folds.calibrate` from the outside: what each fold is fitted on, resuming, what is refused, ranks within folds."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.calibration import _SigmoidCalibration
from sklearn.metrics import roc_auc_score

from lorica.adapters.passport import read_passport
from lorica.calibration.calibration_maps import logits
from lorica.calibration.saved import CALIBRATION_NAME, read_calibration
from lorica.cli import main
from lorica.data.read import read_rows
from lorica.data.split import split
from lorica.data.write import read_answers
from lorica.errors import TrainingError
from lorica.tasks import load_task

NAMES = ["out_of_fold.csv", "folds.json", *(f"fold-{fold}/{CALIBRATION_NAME}" for fold in (1, 2, 3))]


def _records(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def _command(rows: Path, run_dir: Path, *words: str) -> list[str]:
    return ["train", "task=rules", "model=tfidf", f"input={rows}", f"run_dir={run_dir}", "folds=3", *words]


@pytest.fixture(scope="module")
def raw(posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds of TF-IDF on the 464 posts, whose scores are as they are."""
    run_dir = tmp_path_factory.mktemp("raw")
    assert main(_command(posts, run_dir)) == 0
    return run_dir


@pytest.fixture(scope="module")
def calibrated(posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, calibrated."""
    run_dir = tmp_path_factory.mktemp("calibrated")
    assert main(_command(posts, run_dir, "folds.calibrate=platt")) == 0
    return run_dir


def _infer(posts: Path, run_dir: Path, fold: str, output: Path, calibration: str) -> dict[str, float]:
    words = [f"adapters.dir={run_dir}", f"adapters.use={fold}", f"adapters.calibration={calibration}"]
    assert main(["infer", "task=rules", "model=tfidf", f"input={posts}", f"output={output}", *words]) == 0
    return {answer.id: answer.score for answer in read_answers(output) if answer.score is not None}


def test_each_fold_is_calibrated_on_rows_that_it_neither_learned_nor_is_judged_on(
    calibrated: Path, posts: Path, tmp_path: Path
) -> None:
    gold = {record["row_id"]: int(record["rule_violation"]) for record in _records(posts)}
    answers = list(read_answers(calibrated / "out_of_fold.csv"))
    assert [answer.id for answer in answers] == list(gold)
    for fold in ("fold-1", "fold-2", "fold-3"):
        own = {answer.id: answer for answer in answers if answer.adapter == fold}
        scores = _infer(posts, calibrated, fold, tmp_path / f"{fold}.csv", "require")
        assert {row_id: answer.score for row_id, answer in own.items()}.items() <= scores.items(), "to the last bit"
        as_they_are = _infer(posts, calibrated, fold, tmp_path / f"{fold}-raw.csv", "off")
        assert {row_id: answer.raw_score for row_id, answer in own.items()}.items() <= as_they_are.items()
        passport, calibration = read_passport(calibrated / fold), read_calibration(calibrated / fold)
        assert passport is not None
        assert passport.data is not None
        assert calibration is not None
        assert calibration.rows == passport.data.validation, "held out of its training, and not its fold"
        assert calibration.trained_rows == 0


def test_the_fit_is_scikit_learns(calibrated: Path, posts: Path, tmp_path: Path) -> None:
    task = load_task("rules")
    plan = {line["id"]: line["fold"] for line in _records(calibrated / "fold_plan.csv")}
    rows = [row for row in read_rows(posts, task.schemas) if plan[row.id] != "2"]
    _, held_out = split(rows, ratio=0.15, seed=42, text=task.text)
    scores = _infer(posts, calibrated, "fold-2", tmp_path / "a.csv", "off")
    expected = _SigmoidCalibration().fit(
        logits(np.array([scores[row.id] for row in held_out])), np.array([row.gold for row in held_out])
    )
    saved = json.loads((calibrated / "fold-2" / CALIBRATION_NAME).read_text("utf-8"))["calibration"]
    assert saved["method"] == "platt"
    assert saved["slope"] == pytest.approx(-expected.a_, rel=1e-3)
    assert saved["intercept"] == pytest.approx(-expected.b_, abs=1e-3)


def test_folds_that_are_trained_are_calibrated_without_training_again(
    raw: Path,
    calibrated: Path,
    posts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(raw, run_dir)
    before = (run_dir / "fold-1" / "member.safetensors").stat().st_mtime_ns

    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    command = _command(posts, run_dir, "training.resume=true")
    with monkeypatch.context() as patched:
        patched.setattr("lorica.commands.fold_calibration.write_answers", interrupt)
        assert main([*command, "folds.calibrate=platt"]) == 130
    with monkeypatch.context() as patched:
        patched.setattr("lorica.pipeline.answer.Pipeline.answer_timed", interrupt)  # all is answered
        assert main([*command, "folds.calibrate=platt"]) == 0
    assert (run_dir / "fold-1" / "member.safetensors").stat().st_mtime_ns == before
    for name in NAMES:
        assert (run_dir / name).read_bytes() == (calibrated / name).read_bytes(), name
    with monkeypatch.context() as patched:
        patched.setattr("lorica.commands.adapter_answers.answer_by_adapter", interrupt)
        assert main([*command, "folds.calibrate=platt"]) == 0, "shown again, and nothing computed"
    capsys.readouterr()
    assert main([*command, "folds.calibrate=isotonic"]) == 0
    assert "warning: isotonic regression of 46 rows" in capsys.readouterr().err
    assert {answer.calibration for answer in read_answers(run_dir / "out_of_fold.csv")} == {"isotonic"}
    assert main(command) == 0
    assert (run_dir / "out_of_fold.csv").read_bytes() == (raw / "out_of_fold.csv").read_bytes()
    assert (run_dir / "folds.json").read_bytes() == (raw / "folds.json").read_bytes()


def test_the_table_says_how_it_was_calibrated_and_what_pooling_costs(
    raw: Path, calibrated: Path, posts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_command(posts, calibrated, "training.resume=true", "folds.calibrate=platt")) == 0
    shown = capsys.readouterr().out
    assert "calibrated: each fold's scores by platt" in shown
    assert "pooling: roc_auc changes by" in shown or "POOLING COSTS" in shown
    assert f"lorica eval {calibrated / 'out_of_fold.csv'} {posts} task=rules model=tfidf\n" in shown
    state = json.loads((calibrated / "folds.json").read_text("utf-8"))
    cost = state["table"]["pooling_cost"]
    gold = [record["rule_violation"] == "1" for record in _records(posts)]
    answers = list(read_answers(calibrated / "out_of_fold.csv"))
    folds = np.array([answer.adapter for answer in answers])
    scores = np.array([answer.score for answer in answers])
    ranks = np.empty(len(scores))
    for fold in set(folds):
        ranks[folds == fold] = (rankdata(scores[folds == fold]) - 0.5) / (folds == fold).sum()
    assert cost["value"] == pytest.approx(roc_auc_score(gold, ranks) - roc_auc_score(gold, scores), abs=1e-12)


def test_scores_on_shifted_scales_are_told_and_ranks_within_folds_restore_them(
    raw: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shifts = {"fold-1": 0.0, "fold-2": 3.0, "fold-3": -3.0}
    lines, gold = ["id,score,adapter"], []
    for answer, record in zip(read_answers(raw / "out_of_fold.csv"), _records(posts), strict=True):
        shifted = 1 / (1 + np.exp(-(logits(np.array(answer.score)) + shifts[answer.adapter])))
        lines.append(f"{answer.id},{shifted},{answer.adapter}")
        gold.append(record["rule_violation"] == "1")
    scores, output = tmp_path / "scores.csv", tmp_path / "ranked.csv"
    scores.write_text("\n".join(lines) + "\n", "utf-8")
    words = [str(scores), "--within", "fold", "--gold", str(posts), "--output", str(output), "task=rules"]
    assert main(["ensemble", *words]) == 0
    assert "Ranked within its groups" in capsys.readouterr().out
    assert main(["ensemble", *words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["over_best"]["better"] == "the blend"
    restored = roc_auc_score(gold, [answer.score for answer in read_answers(output)])
    assert restored == pytest.approx(result["blend"]["value"])
    means = [
        roc_auc_score(
            [
                label
                for label, answer in zip(gold, read_answers(raw / "out_of_fold.csv"), strict=True)
                if answer.adapter == fold
            ],
            [answer.score for answer in read_answers(raw / "out_of_fold.csv") if answer.adapter == fold],
        )
        for fold in shifts
    ]
    assert restored == pytest.approx(np.mean(means), abs=0.02)
    assert result["members"][0]["estimate"]["value"] < restored - 0.05


def test_ranks_within_folds_need_folds_and_the_same_ones(
    raw: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_of_fold = (raw / "out_of_fold.csv").read_text("utf-8")
    other = tmp_path / "other.csv"
    other.write_text(
        out_of_fold.replace(",fold-1,", ",fold-X,").replace(",fold-2,", ",fold-1,").replace(",fold-X,", ",fold-2,")
    )
    assert main(["ensemble", str(raw / "out_of_fold.csv"), str(other), "--within", "fold", "task=rules"]) == 3
    assert "ranks within folds need members that were divided alike" in capsys.readouterr().err
    other.write_text(out_of_fold.replace(",fold-1,", ",rules,"), "utf-8")
    assert main(["ensemble", str(other), "--within", "fold", "task=rules"]) == 3
    assert "no out-of-fold scores" in capsys.readouterr().err
    assert main(["ensemble", str(other), "--within", "fold", "--gold", str(posts), "task=rules"]) == 3
    assert "'fold' is not in the file" in capsys.readouterr().err
    rows: list[dict[str, Any]] = [{**record, "fold": number % 2} for number, record in enumerate(_records(posts))]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    words = ["--within", "fold", "--rows", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "ranked.csv")]
    assert main(["ensemble", str(other), *words, "task=rules"]) == 0, "a column of the rows"
    scores = [answer.score or 0.0 for answer in read_answers(tmp_path / "ranked.csv")]
    assert np.mean(scores[::2]) == pytest.approx(0.5) == np.mean(scores[1::2])


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["folds.calibrate=platt"], 2, "there are no folds"),
        (["folds=3", "folds.calibrate=sigmoid"], 2, "folds.calibrate"),
        (["folds=3", "folds.calibrate=platt", "training.val_ratio=0"], 2, "training.val_ratio=0"),
        (["folds=3", "folds.calibrate=platt", "task=mcq"], 2, "folds.calibrate=temperature"),
        (["folds=3", "folds.calibrate=temperature", "task=saq"], 2, "it has no scores"),
        (["folds=3", "folds.calibrate=platt"], 3, "fold-1: there are 4 rows, and 20 are needed"),
    ],
)
def test_what_cannot_be_calibrated_is_one_message_before_anything_is_trained(
    words: list[str], code: int, complaint: str, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "task=rules", f"input={few_posts}", f"run_dir={tmp_path / 'run'}", *words]
    assert main(command) == code
    message = capsys.readouterr().err
    assert complaint in message
    assert "Traceback" not in message
    assert not (tmp_path / "run" / "fold-1" / "training.json").exists()


def test_too_few_rows_of_a_label_are_told_before_anything_is_trained(
    posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = _records(posts)
    rare = [record for record in records if record["rule_violation"] == "1"][12:]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, list(records[0]))
        writer.writeheader()
        writer.writerows(record for record in records if record not in rare)
    assert main(_command(tmp_path / "rows.csv", tmp_path / "run", "folds.calibrate=platt")) == 3
    message = capsys.readouterr().err
    assert "row of label 1, and 5 are needed, in the validation part of its training rows" in message
    assert "folds.calibrate=off" in message
    assert not (tmp_path / "run").exists()


def test_a_fold_that_allows_no_fit_is_named_and_the_scores_stay_as_they_are(
    raw: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise TrainingError("the higher the score, the rarer label 1", fix="look at the labels")

    run_dir = tmp_path / "run"
    shutil.copytree(raw, run_dir)
    command = _command(posts, run_dir, "training.resume=true")
    with monkeypatch.context() as patched:
        patched.setattr("lorica.commands.calibrations.fit_calibration", refuse)
        assert main([*command, "folds.calibrate=platt"]) == 5
    message = capsys.readouterr().err
    assert "fold-1 cannot be calibrated: the higher the score" in message
    assert "folds.calibrate=off" in message
    assert main(command) == 0
    assert (run_dir / "out_of_fold.csv").read_bytes() == (raw / "out_of_fold.csv").read_bytes()
