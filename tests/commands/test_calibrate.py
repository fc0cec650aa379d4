"""`lorica calibrate` and what `lorica infer` makes of its file: nothing silently, nothing of others."""

from __future__ import annotations

import csv
import json
import math
import shlex
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

import lorica
from lorica.calibration.saved import CALIBRATION_NAME
from lorica.cli import main
from lorica.data.write import read_answers

ROWS = 120
PLATT = ("--method", "platt", "--save-anyway")
FAKE = ("task=rules", "engine=fake", "adapters.gate=off")


def _posts(path: Path, rows: range) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "body", "rule", "rule_violation"])
        writer.writerows([f"p{index}", f"post {index}", "No advertising.", int(index % 3 == 0)] for index in rows)
    return path


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained adapter `rules`, so that what is left beside it is gone with the test."""
    return Path(shutil.copytree(trained / "rules", tmp_path / "adapters" / "rules"))


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    return _posts(tmp_path / "gold.csv", range(ROWS))


def _scores(path: Path, rows: int = ROWS) -> Path:
    """Overconfident answers of an adapter `rules` without a record: log-odds three times too far from 0."""
    noise = Random(0)
    lines = []
    for index in range(rows):
        log_odds = 3 * (1.5 * (index % 3 == 0) - 1.2 + noise.gauss(0, 1))
        lines.append(f"p{index},{1 / (1 + math.exp(-log_odds))},rules")
    path.write_text("id,score,adapter\n" + "\n".join(lines) + "\n", "utf-8")
    return path


def _calibrate(
    capsys: pytest.CaptureFixture[str], answers: Path, gold: Path, adapter: Path, *words: str
) -> dict[str, Any]:
    command = ["calibrate", str(answers), str(gold), "--adapter", str(adapter), *words, "task=rules", "--json"]
    capsys.readouterr()
    assert main(command) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def _infer(rows: Path, output: Path, adapter: Path, *words: str) -> int:
    return main(["infer", *FAKE, f"input={rows}", f"output={output}", f"adapters.dir={adapter.parent}", *words])


def test_overconfident_scores_are_mended_and_what_it_is_worth_is_said(
    adapter: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = _scores(tmp_path / "answers.csv")
    result = _calibrate(capsys, answers, gold, adapter)
    assert result["candidates"]["platt"] < result["before"]["log_loss"]
    assert result["after"]["log_loss"] < result["before"]["log_loss"]
    assert result["after"]["ece"] < result["before"]["ece"]
    assert result["change"]["high"] < 0
    assert result["rows"]["rows"] == ROWS
    assert json.loads((adapter / CALIBRATION_NAME).read_text("utf-8"))["calibration"] == result["calibration"]
    command = ["calibrate", str(answers), str(gold), "--adapter", str(adapter), "task=rules"]
    assert main(command) == 4
    assert "is there already\n  -> --force" in capsys.readouterr().err
    assert main([*command, "--force", "--method", "isotonic"]) == 0
    assert "ties, which ranks and ROC-AUC feel" in capsys.readouterr().out


def test_a_calibration_that_the_rows_do_not_show_to_help_is_saved_on_request_alone(
    adapter: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise, lines = Random(3), []
    for index in range(ROWS):
        score = 0.8 if (index % 3 == 0) == (noise.random() < 0.8) else 0.11  # true as often as they say
        lines.append(f"p{index},{score},rules")
    answers = tmp_path / "answers.csv"
    answers.write_text("id,score,adapter\n" + "\n".join(lines) + "\n", "utf-8")
    command = ["calibrate", str(answers), str(gold), "--adapter", str(adapter), "task=rules", "--method", "platt"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "NOT SAVED: these rows show no gain" in said
    assert "--save-anyway" in said
    assert not (adapter / CALIBRATION_NAME).exists()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] is None
    assert main([*command, "--save-anyway"]) == 0
    assert f"saved, though these rows show no gain: {adapter / CALIBRATION_NAME}" in capsys.readouterr().out
    before = (adapter / CALIBRATION_NAME).read_bytes()
    assert main([*command, "--force"]) == 0
    assert f"the former calibration stays, and is applied where one is wanted: {adapter}" in capsys.readouterr().out
    assert (adapter / CALIBRATION_NAME).read_bytes() == before


def test_it_ends_with_the_command_that_uses_it(
    adapter: Path, gold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _posts(tmp_path / "NEW.csv", range(500, 505))
    assert _infer(gold, tmp_path / "own.csv", adapter, "--submission", "row_id=id,rule_violation=score") == 0
    own = {answer.id: answer.score or 0.0 for answer in read_answers(tmp_path / "own.csv")}
    middle = sorted(own.values())[ROWS // 2]
    labels = [int((score > middle) == (n % 4 > 0)) for n, score in enumerate(own.values())]
    lines = [f"{row_id},{label}" for row_id, label in zip(own, labels, strict=True)]
    own_gold = tmp_path / "own_gold.csv"
    own_gold.write_text("row_id,rule_violation\n" + "\n".join(lines) + "\n", "utf-8")
    without_record = _scores(tmp_path / "answers.csv")
    for answers, labelled in ((without_record, gold), (tmp_path / "own.csv", own_gold)):
        words = ["calibrate", str(answers), str(labelled), "--adapter", str(adapter), "--force", *PLATT]
        capsys.readouterr()
        assert main([*words, "task=rules"]) == 0
        command = next(line[3:] for line in capsys.readouterr().out.splitlines() if line.startswith("-> "))
        further = () if answers.name == "own.csv" else FAKE[1:]
        Path("answers.csv").unlink(missing_ok=True)
        assert main([*shlex.split(command)[1:], *further]) == 0
        assert "calibrated: rules (platt)" in capsys.readouterr().err
        shutil.rmtree("answers.csv.run")


def test_infer_applies_it_on_request_alone_and_keeps_the_raw_scores(
    adapter: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _posts(tmp_path / "rows.csv", range(ROWS, ROWS + 40))
    assert _infer(rows, tmp_path / "before.csv", adapter) == 0
    slope = _calibrate(capsys, _scores(tmp_path / "answers.csv"), gold, adapter, *PLATT)["calibration"]
    capsys.readouterr()
    assert _infer(rows, tmp_path / "off.csv", adapter) == 0
    assert "calibrations not applied: rules; adapters.calibration=auto" in capsys.readouterr().err
    assert (tmp_path / "off.csv").read_bytes() == (tmp_path / "before.csv").read_bytes()
    assert _infer(rows, tmp_path / "on.csv", adapter, "adapters.calibration=require") == 0
    assert "calibrated: rules (platt)" in capsys.readouterr().err
    raw = {answer.id: answer for answer in read_answers(tmp_path / "off.csv")}
    for answer in read_answers(tmp_path / "on.csv"):
        before = raw[answer.id]
        assert (answer.raw_score, answer.raw_scores, answer.calibration) == (before.score, before.scores, "platt")
        assert before.score is not None
        assert answer.score is not None
        log_odds = slope["slope"] * math.log(before.score / (1 - before.score)) + slope["intercept"]
        assert answer.score == pytest.approx(1 / (1 + math.exp(-log_odds)))
        assert answer.answer == ("Yes" if answer.score >= 0.5 else "No")
        assert answer.scores == pytest.approx({"Yes": answer.score, "No": 1 - answer.score})
    (pipeline_answer,) = lorica.load_pipeline(
        "rules", adapters=adapter, settings={"engine": "fake", "adapters.gate": "off", "adapters.calibration": "auto"}
    )([{"row_id": "x", "body": "Buy my lamp!", "rule": "No advertising."}])
    assert pipeline_answer.calibration == "platt"


def test_a_run_is_not_resumed_under_another_calibration(
    adapter: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _calibrate(capsys, _scores(tmp_path / "answers.csv"), gold, adapter, *PLATT)
    output = tmp_path / "out.csv"
    words = ("adapters.calibration=auto", "inference.resume=true")
    assert _infer(gold, output, adapter, *words) == 0
    assert _infer(gold, output, adapter, *words) == 0
    assert _infer(gold, output, adapter, "inference.resume=true") == 6
    _calibrate(capsys, tmp_path / "answers.csv", gold, adapter, "--method", "temperature", "--save-anyway", "--force")
    assert _infer(gold, output, adapter, *words) == 6
    assert "calibration.rules" in capsys.readouterr().err


def test_calibrations_of_others_are_refused(
    adapter: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.csv"
    assert _infer(gold, output, adapter, "adapters.calibration=require") == 4
    assert f"no {CALIBRATION_NAME} in the folder of rules" in capsys.readouterr().err
    assert _infer(gold, output, adapter, "adapters.calibration=auto") == 0
    assert "no score is calibrated" in capsys.readouterr().err
    _calibrate(capsys, _scores(tmp_path / "answers.csv"), gold, adapter)
    capsys.readouterr()
    assert main(["check", str(adapter), "--json"]) in (0, 10)
    assert not {"L351", "L352", "L353"} & {found["code"] for found in _findings(capsys)}
    config = adapter / "adapter_config.json"
    config.write_bytes(config.read_bytes() + b"\n")
    assert _infer(gold, output, adapter, "adapters.calibration=auto") == 4
    assert "it was fitted for other weights or another config" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["check", str(adapter), "--json"]) == 10
    assert "L352" in {found["code"] for found in _findings(capsys)}
    (adapter / CALIBRATION_NAME).write_text('{"format": 1, "calibration": {"method": "magic"}}', "utf-8")
    assert _infer(gold, output, adapter, "adapters.calibration=auto") == 4
    assert "not a calibration" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["check", str(adapter), "--json"]) == 10
    assert "L351" in {found["code"] for found in _findings(capsys)}


def _findings(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["adapters"][0]["findings"]
    return findings


def test_rows_of_the_training_are_an_error_unless_they_are_asked_for(
    trained: Path, adapter: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.csv"
    assert _infer(few_posts, answers, adapter) == 0
    command = [
        "calibrate",
        str(answers),
        str(few_posts),
        "--adapter",
        str(adapter),
        "task=rules",
        "--method",
        "isotonic",
        "--save-anyway",
    ]
    assert main(command) == 4
    assert "was trained on 34 of the 40 rows" in capsys.readouterr().err
    assert not (adapter / CALIBRATION_NAME).exists()
    assert main([*command, "--allow-training-rows"]) == 0
    assert "WARNING: the adapter was trained on 34 of these rows" in capsys.readouterr().out
    assert json.loads((adapter / CALIBRATION_NAME).read_text("utf-8"))["trained_rows"] == 34
    capsys.readouterr()
    assert main(["check", str(adapter), "--json"]) == 10
    assert "L353" in {found["code"] for found in _findings(capsys)}


def test_answers_of_another_adapter_or_changed_since_are_refused(
    adapter: Path, gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.csv"
    assert _infer(gold, answers, adapter) == 0
    command = ["calibrate", str(answers), str(gold), "--adapter", str(adapter), "task=rules", "--method", "isotonic"]
    command.append("--save-anyway")
    text = answers.read_text("utf-8")
    answers.write_text(text.replace("p1,", "p1 ,"), "utf-8")
    assert main(command) == 3
    assert "changed since its run" in capsys.readouterr().err
    answers.write_text(text, "utf-8")
    config = adapter / "adapter_config.json"
    original = config.read_bytes()
    config.write_bytes(original + b"\n")
    assert main(command) == 4
    assert "did not give" in capsys.readouterr().err
    config.write_bytes(original)
    assert main(command) == 0
    assert set(json.loads((adapter / CALIBRATION_NAME).read_text("utf-8"))["used_with"]) == {
        "method", "style", "retrieval", "template", "tokenizer", "base",
    }  # fmt: skip
    assert _infer(gold, tmp_path / "other.csv", adapter, "adapters.calibration=auto", "task.style=structured") == 4
    assert "style 'plain', and is used with 'structured'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "words", "code", "message"),
    [
        ("id,answer\np0,Yes\n", (), 3, "the row has no answer"),
        ("id,score,adapter\n" + "".join(f"p{i},,rules\n" for i in range(ROWS)), (), 3, "has no score"),
        ("id,score,adapter\n" + "".join(f"p{i},1.5,rules\n" for i in range(ROWS)), (), 3, "no probability"),
        ("id,score,adapter\n" + "".join(f"p{i},nan,rules\n" for i in range(ROWS)), (), 3, "not a finite number"),
        ("id,score,adapter\n" + "".join(f"p{i},0.5,rules\n" for i in range(ROWS)), (), 5, "the same scores"),
        ("id,score,adapter\n" + "".join(f"p{i},0.5,news\n" for i in range(ROWS)) + "", (), 3, "belong to no row"),
        ("id,score,calibration\n" + "".join(f"p{i},0.5,platt\n" for i in range(ROWS)), (), 3, "calibrated already"),
        (None, ("task=saq",), 3, ""),
        (None, ("task.nmae=rules",), 2, "task.name"),
        (None, ("--method", "magic"), 2, "invalid choice"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    answers: str | None,
    words: tuple[str, ...],
    code: int,
    message: str,
    adapter: Path,
    gold: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "answers.csv"
    if answers is None:
        _scores(path)
    else:
        path.write_text(answers.replace("p0,0.5,news", "p999,0.5,news"), "utf-8")
    assert main(["calibrate", str(path), str(gold), "--adapter", str(adapter), "task=rules", *words]) == code
    assert message in capsys.readouterr().err
    assert not (adapter / CALIBRATION_NAME).exists()


def test_a_temperature_over_the_options_of_multiple_choice(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = Random(1)
    questions, answers = [], []
    for index in range(60):
        raw = [math.exp(3 * random.gauss(0, 1)) for _ in "ABC"]
        scores = {letter: value / sum(raw) for letter, value in zip("ABC", raw, strict=True)}
        likeliest = max(scores, key=lambda letter: scores[letter])
        right = likeliest if index % 3 == 0 else random.choice("ABC")
        questions.append({"id": str(index), "question": f"{index}?", "options": ["x", "y", "z"], "answer": right})
        answers.append({"id": str(index), "answer": likeliest, "scores": scores, "adapter": "rules"})
    for name, records in (("gold", questions), ("answers", answers)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    command = ["calibrate", str(tmp_path / "answers.jsonl"), str(tmp_path / "gold.jsonl"), "--adapter", str(adapter)]
    assert main([*command, "task=mcq", "--method", "platt"]) == 2
    assert main([*command, "task=mcq", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["calibration"]["temperature"] > 1
    assert result["change"]["high"] < 0
    words = ["task=mcq", "engine=fake", "adapters.gate=off", "adapters.calibration=require", "adapters.use=rules"]
    output = tmp_path / "out.jsonl"
    paths = [f"input={tmp_path / 'gold.jsonl'}", f"output={output}", f"adapters.dir={adapter.parent}"]
    assert main(["infer", *words, *paths]) == 0
    for answer in read_answers(output):
        assert answer.raw_scores is not None
        assert answer.scores is not None
        assert sum(answer.scores.values()) == pytest.approx(1)
        powers = {
            name: value ** (1 / result["calibration"]["temperature"]) for name, value in answer.raw_scores.items()
        }
        assert answer.scores == pytest.approx({name: value / sum(powers.values()) for name, value in powers.items()})
        assert answer.answer == max(answer.scores, key=lambda name: answer.scores[name])  # type: ignore[index]
