from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tests.training.tiny import LORA, Recorder, lora_learner, rows, run, tiny_decoder

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import open_adapter
from lorica.config.schema import TrainingConfig
from lorica.errors import ConfigError, TrainingError
from lorica.models.adapter_weights import create_lora
from lorica.records import Encoded
from lorica.training import loop as loop_module
from lorica.training.batches import make_batch
from lorica.training.lora_decoder import LoraDecoder
from lorica.training.step import evaluate
from lorica.training.trainable import choose_precision
from lorica.training.types import Example, StepReport

QUICK = TrainingConfig(
    epochs=2, batch_size=4, gradient_accumulation_steps=1, learning_rate=5e-3, logging_steps=2, eval_steps=3
)


def _log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def _loss(folder: Path, examples: list[Example]) -> float:
    decoder = tiny_decoder()
    lora = create_lora("again", decoder.config, LORA, seed=0)
    trainable = LoraDecoder(decoder, lora, LORA, choose_precision("cpu", decoder.dtype, fp16=False, bf16=False))
    trainable.load(folder)
    learner = lora_learner(trainable)
    return evaluate(learner, [make_batch(examples, torch.device("cpu"))], step=1)


def test_an_adapter_learns_and_the_folder_holds_what_it_should(tmp_path: Path) -> None:
    listener = Recorder()
    settings = replace(QUICK, epochs=12, learning_rate=1e-2, save_steps=25)
    held = rows(20)[:8]
    result = run(tmp_path / "a", settings, listener=listener, validation=held)
    assert result.steps == 60
    assert result.trained_loss < 0.7 * result.base_loss
    assert result.eval_loss == result.trained_loss
    assert result.train_loss < result.base_loss
    assert result.tokens == 12 * sum(len(row.encoded.tokens) for row in rows(20))
    assert result.folder == tmp_path / "a"
    assert _loss(tmp_path / "a", held) == pytest.approx(result.trained_loss, rel=1e-5)
    files = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    adapter = {"adapter_config.json", "adapter_model.safetensors"}
    state = adapter | {"optimizer.safetensors", "state.json"}
    assert files == adapter | {"log.jsonl", "training.json"} | {f"last/{name}" for name in adapter} | {
        f"checkpoints/step-{step}/{name}" for step in (25, 50) for name in state
    }
    assert [report.step for report in listener.steps] == list(range(1, 61))
    assert listener.closings == 1
    assert not listener.notes


def test_the_published_adapter_is_the_best_one_and_last_the_last(tmp_path: Path) -> None:
    listener = Recorder()
    # A rate this high makes the held-out loss go up again.
    settings = replace(QUICK, epochs=6, learning_rate=0.05, scheduler="constant")
    result = run(tmp_path / "a", settings, listener=listener)
    held = rows(7, seed=1, prefix="held")
    by_step = {step: loss for step, loss, _ in listener.evaluations if step}
    assert result.best_step == min(by_step, key=lambda step: by_step[step])
    assert result.best_step < result.steps
    assert _loss(tmp_path / "a", held) == pytest.approx(by_step[result.best_step], rel=1e-5)
    assert _loss(tmp_path / "a" / "last", held) == pytest.approx(by_step[result.steps], rel=1e-5)
    # 20 rows by 4: an epoch is 5 updates; every 3 updates and at each epoch's end.
    assert sorted(by_step) == sorted({*range(3, 31, 3), *range(5, 31, 5)})


def test_without_held_out_rows_the_last_state_is_published(tmp_path: Path) -> None:
    result = run(tmp_path / "a", QUICK, validation=[])
    assert (result.best_step, result.steps, result.eval_loss) == (10, 10, None)
    weights = [(tmp_path / "a" / place / "adapter_model.safetensors").read_bytes() for place in ("", "last")]
    assert weights[0] == weights[1]
    assert _loss(tmp_path / "a", rows(20)) == pytest.approx(result.trained_loss, rel=1e-5)


def test_the_log_tells_loss_rate_norm_and_speed(tmp_path: Path) -> None:
    listener = Recorder()
    result = run(tmp_path / "a", QUICK, listener=listener)
    lines = _log(tmp_path / "a")
    assert lines[0]["step"] == 0
    assert lines[0]["base_loss"] == result.base_loss
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [2, 4, 6, 8, 10]
    assert set(steps[0]) == {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "time"}
    assert [line["learning_rate"] for line in steps] == [listener.steps[i - 1].learning_rate for i in (2, 4, 6, 8, 10)]
    low, high = sorted(report.loss for report in listener.steps[:2])
    assert low <= steps[0]["loss"] <= high
    evaluations = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [3, 5, 6, 9, 10]
    assert sum(line["best"] for line in evaluations) >= 1
    assert lines[-1]["trained_loss"] == result.trained_loss
    record = json.loads((tmp_path / "a" / "training.json").read_text("utf-8"))
    assert record["status"] == "finished"
    assert record["manifest"]["digest.base"] == "sha256:tiny"
    assert record["rows"] == {"training": 20, "held_out": 7}


def test_training_stops_early_when_evaluations_do_not_improve(tmp_path: Path) -> None:
    listener = Recorder()
    settings = replace(QUICK, epochs=20, learning_rate=0.05, scheduler="constant", early_stopping=2)
    result = run(tmp_path / "a", settings, listener=listener)
    assert result.stopped_early
    assert result.steps < 100
    assert [best for _, _, best in listener.evaluations[-2:]] == [False, False]
    assert any("stopped early" in note for note in listener.notes)


def test_checkpoints_are_limited_and_the_best_survives_to_the_end(tmp_path: Path) -> None:
    settings = replace(QUICK, epochs=4, save_steps=1, save_total_limit=3, learning_rate=0.05, scheduler="constant")
    seen: list[set[str]] = []

    class Watcher(Recorder):
        def stepped(self, report: StepReport) -> None:
            seen.append({path.name for path in (tmp_path / "a" / "checkpoints").glob("*")})

    watcher = Watcher()
    run(tmp_path / "a", settings, listener=watcher)
    best = max(step for step, _, best in watcher.evaluations if best and step < 20)
    assert seen[-1] == {"step-17", "step-18", "step-19", f"best-{best}"}
    assert max(map(len, seen)) <= 5
    assert {path.name for path in (tmp_path / "a" / "checkpoints").iterdir()} == {"step-18", "step-19", "step-20"}


def test_a_useless_result_is_said_to_be_one(tmp_path: Path) -> None:
    listener = Recorder()
    result = run(tmp_path / "a", replace(QUICK, learning_rate=1e-30), listener=listener)
    assert result.trained_loss == pytest.approx(result.base_loss)
    assert any("no better than the base model" in note for note in listener.notes)


def test_all_linear_becomes_a_list_of_names(tmp_path: Path) -> None:
    config = AdapterConfig(r=2, lora_alpha=4, target_modules="all-linear", base_model_name_or_path="tiny/base")
    run(tmp_path / "a", replace(QUICK, epochs=1), config=config)
    saved = json.loads((tmp_path / "a" / "adapter_config.json").read_text("utf-8"))
    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert saved["target_modules"] == names
    assert saved["inference_mode"] is True
    assert saved["task_type"] == "CAUSAL_LM"
    assert saved["base_model_name_or_path"] == "tiny/base"
    assert len(open_adapter(tmp_path / "a").modules()) == 14


def test_the_callers_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    run(tmp_path / "a", replace(QUICK, epochs=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fp16": True}, "fp16=true on a CPU"),
        ({"fp16": True, "bf16": True}, "both on"),
        ({"scheduler": "cosin"}, "did you mean cosine"),
        ({"epochs": 0}, "training.epochs takes a whole number, at least 1; got 0"),
        ({"learning_rate": 0.0}, "learning_rate takes a number, above 0 and at most 1; got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate takes .*; got nan"),
        ({"warmup_ratio": 1.0}, "warmup_ratio takes .*; got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay takes .*; got -1.0"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "a", replace(QUICK, **change))
    assert not (tmp_path / "a").exists()


def test_early_stopping_needs_held_out_rows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without held-out rows"):
        run(tmp_path / "a", replace(QUICK, early_stopping=1), validation=[])


def test_rows_with_nothing_to_learn_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no rows to train on"):
        run(tmp_path / "a", QUICK, examples=[])
    masked = [*rows(2), Example("masked", Encoded((1, 2), 2))]
    with pytest.raises(TrainingError, match="1 of 3 training rows have no answer token to learn: 'masked'"):
        run(tmp_path / "a", QUICK, examples=masked)
    with pytest.raises(TrainingError, match="1 of 3 held-out rows"):
        run(tmp_path / "a", QUICK, validation=masked)
    assert not (tmp_path / "a").exists()


def test_ctrl_c_finishes_the_update_and_resume_goes_on(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", replace(QUICK, epochs=3))

    class Impatient(Recorder):
        def stepped(self, report: StepReport) -> None:
            if report.step == 4:
                signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    listener = Impatient()
    with pytest.raises(KeyboardInterrupt, match=r"after update 4 of 15.*training.resume=true"):
        run(tmp_path / "a", replace(QUICK, epochs=3), listener=listener)
    assert listener.closings == 1
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "a" / "checkpoints" / "step-4").is_dir()
    assert not (tmp_path / "a" / "adapter_config.json").exists()
    again = Recorder()
    result = run(tmp_path / "a", replace(QUICK, epochs=3, resume=True), listener=again)
    assert again.steps[0].step == 5
    assert replace(result, seconds=0, folder=whole.folder) == replace(whole, seconds=0)


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*arguments: object, **named: object) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr(loop_module, "update", twice)
    # A job that a shell put in the background ignores Ctrl-C, and so would this test.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a", QUICK)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_cannot_start_leaves_no_trace(tmp_path: Path) -> None:
    config = msgspec.structs.replace(LORA, rank_pattern={"nonsense": 2})
    with pytest.raises(ConfigError, match="nonsense"):
        run(tmp_path / "run", TrainingConfig(epochs=1), config=config)
    assert not (tmp_path / "run").exists()
