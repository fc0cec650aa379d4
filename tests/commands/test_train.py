"""`lorica train` from the outside: what it leaves, that PEFT agrees, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from lorica.cli import main
from lorica.data.read import read_rows
from lorica.data.write import read_answers
from lorica.errors import ModelError
from lorica.locks import lock_owner
from lorica.models.locate import locate_model
from lorica.prompts.encoder import Encoder
from lorica.runs.run_record import read_metrics, read_record
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings
from tests.commands.conftest import QUICK


def test_it_leaves_a_peft_folder_and_a_log(trained: Path) -> None:
    folder = trained / "rules"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["base_model_name_or_path"]) == ("LORA", 4, "embedded:lorica_tiny")
    assert (folder / "adapter_model.safetensors").is_file()
    assert [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert json.loads((folder / "training.json").read_text())["result"]["steps"] > 0
    assert read_record(folder).main_metric == "roc_auc", "of the held-out rows, as the task ranks its metrics"
    assert read_metrics(folder)["roc_auc"].n


def test_one_adapter_per_subject_and_one_for_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for subject in ("algebra", "history"):
        rows = [{"question": f"{subject} question {i}", "answer": f"answer {i}"} for i in range(4)]
        (tmp_path / f"{subject}.json").write_text(json.dumps(rows))
    files = [f"data.{subject}={tmp_path / subject}.json" for subject in ("algebra", "history")]
    run_dir = tmp_path / "run"
    assert main(["train", "--json", "task=qa", *files, f"run_dir={run_dir}", "training.val_ratio=0", *QUICK]) == 0
    said = capsys.readouterr()
    made = json.loads(said.out)
    assert set(made) == {"algebra", "general", "history"}
    example = made["history"]["example"]
    assert (example["row"], example["answer"]) == ("row-1", "answer 0<|im_end|>")
    assert example["prompt"].endswith("history question 0<|im_end|>\n<|im_start|>assistant\n")
    assert 0 < example["loss_tokens"] < example["tokens"]
    assert said.err.count("carry loss, here between >>> and <<<") == 3  # once for each adapter
    assert ">>>answer 0<|im_end|><<<" in said.err
    asked = [{"questionID": "1", "subject": "history", "question": "history question 2"}]
    asked += [{"questionID": "2", "subject": "music", "question": "what is a song"}]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    output = tmp_path / "answers.jsonl"
    assert (
        main(["infer", "task=qa", f"input={tmp_path / 'asked.jsonl'}", f"output={output}", f"adapters.dir={run_dir}"])
        == 0
    )
    first, second = read_answers(output)
    assert (first.adapter, first.route) == ("history", "subject")
    assert (second.adapter, second.route) == ("general", "general")
    assert "adapter_fallback" in second.flags


def test_scores_agree_with_peft_one_row_at_a_time(trained: Path, posts: Path, tmp_path: Path) -> None:
    """200 rows through the engine (packed, shared prefixes) against a plain loop in fp32."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    output = tmp_path / "answers.jsonl"
    lines = posts.read_text("utf-8").splitlines()[:201]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    command = ["infer", "task=rules", f"input={tmp_path / 'rows.csv'}", f"output={output}", f"adapters.dir={trained}"]
    assert main([*command, "task.style=structured", "model.dtype=float32"]) == 0
    answers = {answer.id: answer for answer in read_answers(output)}
    assert len(answers) == 200
    base = locate_model("embedded:lorica_tiny", environ={})
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():  # PEFT 0.21 calls a name that transformers 5.23 renames
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        model = PeftModel.from_pretrained(model, trained / "rules").eval()
    encoder = Encoder.load(base)
    task = load_task("rules", TaskSettings(style="structured"))
    (yes,), (no,) = encoder.encode_choice("Yes"), encoder.encode_choice("No")
    for row in read_rows(tmp_path / "rows.csv", task.schemas):
        tokens = encoder.encode(task.render(row), max_tokens=1024, truncate="error").tokens
        with torch.inference_mode():
            logits = model(torch.tensor([tokens]), logits_to_keep=1).logits[0, -1]
        expected = torch.softmax(logits[[yes, no]], dim=0)[0].item()
        assert answers[row.id].score == pytest.approx(expected, abs=1e-4)
        assert answers[row.id].adapter == "rules"


def test_a_killed_training_ends_the_same(trained: Path, few_posts: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, the same command with resume: byte-identical adapters."""
    broken = tmp_path / "broken"
    arguments = ["train", "task=rules", f"input={few_posts}", f"run_dir={broken}", *QUICK, "training.resume=true"]
    command = [sys.executable, "-m", "lorica.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    chance = random.Random(3)
    kills = 0
    while kills < 2:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        deadline = time.monotonic() + 60
        while not (broken / "rules").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)  # the interesting moments come after the start-up
        time.sleep(chance.uniform(0.1, 1.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert main(arguments) == 0
    for name in ("adapter_model.safetensors", "adapter_config.json", "lorica.json"):
        assert (broken / "rules" / name).read_bytes() == (trained / "rules" / name).read_bytes()
    assert kills > 0


def test_each_training_is_recorded_in_its_adapters_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": f"question {i}", "answer": f"answer {i}"} for i in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = ["train", "task=qa", f"input={tmp_path / 'rows.json'}", f"run_dir={tmp_path}", "training.val_ratio=0"]
    folder = tmp_path / "qa"

    def refuse(*arguments: object, **settings: object) -> None:
        raise ModelError("no passport today")

    with monkeypatch.context() as patched:
        patched.setattr("lorica.commands.trainers.make_passport", refuse)
        assert main([*command, *QUICK]) == 4
    record = read_record(folder)
    assert record.status == "failed"
    assert "no passport today" in record.error
    assert main([*command, *QUICK, "training.resume=true"]) == 0, "what was left out is made"
    record, metrics = read_record(folder), read_metrics(folder)
    assert (record.command, record.task, record.status, record.calls, record.rows) == ("train", "qa", "finished", 2, 4)
    assert [(file.role, file.rows) for file in record.inputs] == [("rows", 4)]
    assert record.base.startswith("sha256:")
    assert [Path(file.path).name for file in record.outputs] == ["adapter_model.safetensors"]
    assert record.config["lora"]["r"] == 4
    assert record.main_metric == "train_loss", "nothing was held out"
    assert metrics["train_loss"].value == json.loads((folder / "training.json").read_text())["result"]["train_loss"]
    before = (folder / "run.json").read_bytes()
    assert main([*command, *QUICK, "training.resume=true"]) == 0
    assert main([*command, *QUICK]) == 6
    assert (folder / "run.json").read_bytes() == before
    assert lock_owner(folder) is None
    capsys.readouterr()
    assert main(["check", str(folder), "--json"]) in (0, 10)
    assert "run.json" not in capsys.readouterr().out
