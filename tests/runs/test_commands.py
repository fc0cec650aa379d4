"""`--run DIR` of eval and ensemble."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorica.cli import main
from lorica.commands.arguments import inform
from lorica.commands.run_log import logged_messages
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import LOG_NAME, RunRecord, read_metrics, read_record


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two files of answers to 12 rows, and the rows with gold."""
    gold = ["row_id,body,rule,rule_violation"] + [f"r{row},post {row},be kind,{row % 2}" for row in range(12)]
    (tmp_path / "gold.csv").write_text("\n".join(gold) + "\n")
    for name, shift in (("a", 0.0), ("b", 0.3)):
        scores = ["id,score"] + [f"r{row},{abs((row % 2) * 0.6 + row / 40 - shift):.3f}" for row in range(12)]
        (tmp_path / f"{name}.csv").write_text("\n".join(scores) + "\n")
    return [str(tmp_path / name) for name in ("a.csv", "b.csv", "gold.csv")]


def test_eval_leaves_its_metrics_and_inputs(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", files[0], files[2], "task=rules"]
    assert main([*command, "--json"]) == 0
    plain = capsys.readouterr().out
    assert main([*command, "--json", "--run", str(tmp_path / "run"), "--html", str(tmp_path / "p.html")]) == 0
    assert capsys.readouterr().out == plain
    record, metrics = read_record(tmp_path / "run"), read_metrics(tmp_path / "run")
    assert (record.command, record.task, record.status, record.rows) == ("eval", "rules", "finished", 12)
    assert [(file.role, file.path) for file in record.inputs] == [("answers", files[0]), ("gold", files[2])]
    assert [file.path for file in record.outputs] == [str(tmp_path / "p.html"), str(tmp_path / "p.html.csv")]
    assert record.main_metric == "roc_auc"
    stated = json.loads(plain)["metrics"]
    assert {name: metric.value for name, metric in metrics.items()} == {name: stated[name]["value"] for name in stated}
    assert metrics["roc_auc"].n == 12
    messages = (tmp_path / "run/log.jsonl").read_text()
    assert "report: " in messages


def test_eval_of_two_files_has_the_metrics_of_both(files: list[str], tmp_path: Path) -> None:
    assert main(["eval", *files, "task=rules", "--run", str(tmp_path / "run")]) == 0
    metrics = read_metrics(tmp_path / "run")
    assert {f"{file}: roc_auc" for file in files[:2]} <= set(metrics)
    assert read_record(tmp_path / "run").main_metric == f"{files[0]}: roc_auc"


def test_a_failed_eval_is_recorded_with_its_error(files: list[str], tmp_path: Path) -> None:
    Path(files[0]).write_text("id,score\nr0,0.5\n")
    assert main(["eval", files[0], files[2], "task=rules", "--run", str(tmp_path / "run")]) == 3
    record = read_record(tmp_path / "run")
    assert record.status == "failed"
    assert "a.csv" in record.error


def test_ensemble_leaves_its_estimates_and_output(files: list[str], tmp_path: Path) -> None:
    command = ["ensemble", *files[:2], "--gold", files[2], "task=rules", "--output", str(tmp_path / "blend.csv")]
    assert main([*command, "--run", str(tmp_path / "run")]) == 0
    record, metrics = read_record(tmp_path / "run"), read_metrics(tmp_path / "run")
    assert (record.command, record.rows, record.main_metric) == ("ensemble", 12, "the blend: roc_auc")
    assert set(metrics) == {f"{name}: roc_auc" for name in ("the blend", *files[:2])}
    assert [(file.role, file.rows) for file in record.outputs] == [("answers", 12)]
    assert main([*command, "--run", str(tmp_path / "run")]) == 0, "a run of the same command is replaced"
    assert main(["eval", files[0], files[2], "task=rules", "--run", str(tmp_path / "run")]) == 6


def test_what_a_run_within_a_run_says_stands_in_its_own_log(tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path / name, RunRecord(command="eval")) for name in ("outer", "inner")]
    with runs[0], logged_messages(runs[0]):
        inform("before")
        with runs[1], logged_messages(runs[1]):
            inform("within")
        inform("after")
    logs = [[json.loads(line).get("text") for line in (run.path / LOG_NAME).read_text().splitlines()] for run in runs]
    assert logs == [[None, "before", "after", None], [None, "within", None]]
