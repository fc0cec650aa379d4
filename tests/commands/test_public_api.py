"""`import lorica`: each function on the embedded base model, with plain arguments and typed results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lorica
from lorica.config.compose import compose
from lorica.vetting.findings import EXIT_CODES

BASE = "embedded:lorica_tiny"
QUICK: dict[str, object] = {
    "training.epochs": 1,
    "training.batch_size": 8,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 2e-3,
    "lora.r": 4,
    "lora.target_modules": ("q_proj", "v_proj"),
}


@pytest.fixture(scope="module")
def run(few_posts: Path, tmp_path_factory: pytest.TempPathFactory) -> lorica.TrainingRun:
    return lorica.train(few_posts, tmp_path_factory.mktemp("api") / "run", task="rules", base=BASE, settings=QUICK)


def test_train_says_where_the_adapter_is_and_what_it_learned_from(run: lorica.TrainingRun) -> None:
    result = run.adapters["rules"]
    assert (result.folder / "adapter_model.safetensors").is_file()
    assert result.steps > 0
    assert run.examples["rules"].answer


def test_infer_and_evaluate_a_file(run: lorica.TrainingRun, few_posts: Path, tmp_path: Path) -> None:
    adapter, output = run.adapters["rules"].folder, tmp_path / "answers.csv"
    result = lorica.infer(few_posts, output, task="rules", adapters=adapter)
    assert (result.output, result.complete, result.rows, result.answered) == (output, False, 40, 40)
    assert result.adapters == {"rules": 40}
    assert result.choice_mass is not None
    again = lorica.infer(few_posts, output, task="rules", adapters=adapter, resume=True)
    assert (again.complete, again.answered, again.rows, again.adapters) == (True, 0, 40, {"rules": 40})
    evaluation = lorica.evaluate(output, few_posts, task="rules", by=["rule"])
    auc = evaluation.metrics["roc_auc"]
    assert auc.low <= auc.value <= auc.high
    assert evaluation.health is not None
    assert set(evaluation.by) == {"rule"}


def test_a_pipeline_answers_records_as_a_file_is_answered(run: lorica.TrainingRun, few_posts: Path) -> None:
    pipeline = lorica.load_pipeline("rules", adapters=run.adapters["rules"].folder.parent)
    answers = pipeline(few_posts)
    assert lorica.evaluate(answers, few_posts, task="rules").n == len(answers) == 40
    (answer,) = pipeline([{"row_id": "1", "body": "Buy my lamp!", "rule": "No advertising."}])
    assert isinstance(answer, lorica.Answer)
    assert answer.adapter == "rules"


def test_check_tells_of_one_or_many(run: lorica.TrainingRun, few_posts: Path) -> None:
    adapter = run.adapters["rules"].folder
    result = lorica.check(adapter)
    (checked,) = result.adapters
    assert checked.status in ("trusted", "warnings")
    assert result.exit_code == EXIT_CODES[checked.status]
    assert all(isinstance(finding, lorica.Finding) for finding in checked.findings)
    assert checked.verdict.levels[3] == "skipped"
    on_base = lorica.check([adapter], base=BASE, rows=few_posts, task="rules").ranked[0]
    assert on_base.on_base is not None
    assert on_base.verdict.levels[3] != "skipped"
    with pytest.raises(lorica.UsageError, match="task"):
        lorica.check(adapter, base=BASE, rows=few_posts)
    with pytest.raises(lorica.UsageError, match="no effect without a base"):
        lorica.check(adapter, settings={"lora.rr": 8})
    with pytest.raises(lorica.AdapterError):
        lorica.check(adapter / "nothing")


def test_diagnose_names_the_cause(run: lorica.TrainingRun) -> None:
    diagnosis = lorica.diagnose(run.adapters["rules"].folder, base=BASE)
    assert diagnosis.title
    assert diagnosis.hypotheses[0].cause == diagnosis.cause


def test_settings_are_the_keys_of_the_configuration_with_values_as_they_are(tmp_path: Path) -> None:
    settings = {"task": "mcq", "training": "tiny", "lora.r": 8, "data": {"algebra": tmp_path / "a.jsonl"}}
    from_python = compose(settings, environ={})
    words = ["task=mcq", "training=tiny", "lora.r=8", f"data.algebra={tmp_path / 'a.jsonl'}"]
    assert from_python.config == compose(words, environ={}).config
    assert from_python.origins["lora.r"] == "argument"
    assert compose({"task.constants.rule": "${x} stays"}, environ={}).config.task.constants == {"rule": "${x} stays"}
    for wrong, message in (({"lora.rr": 8}, "lora.r"), ({"lora.r": "8"}, "whole number"), ({"task": "mcqq"}, "mcq")):
        with pytest.raises(lorica.ConfigError, match=message):
            compose(wrong, environ={})


@pytest.mark.parametrize("use", ["lorica.LoricaError", "lorica.check(sys.argv[1])", "lorica.evaluate", "dir(lorica)"])
def test_what_needs_no_torch_loads_none(use: str, run: lorica.TrainingRun) -> None:
    code = f"import sys, lorica; {use}; sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(run.adapters["rules"].folder)]
    assert subprocess.run(command, check=False).returncode == 0
