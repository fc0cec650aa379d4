"""`lorica train` of encoder classifiers, from a file of rows to a folder that answers, resumes and proves itself."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from lorica.cli import main
from lorica.commands import build, train_classifier
from lorica.commands.arguments import resolve
from lorica.commands.train_jobs import train_jobs
from lorica.commands.trainers import load_trainer
from lorica.config.schema import Config, ModelConfig, TrainingConfig
from lorica.data.read import read_rows
from lorica.encoder_families import ENCODER_FAMILIES
from lorica.errors import CollapsedError, ConfigError
from lorica.pipeline import train_classifier as pipeline_module
from lorica.pipeline.train import TrainJob
from lorica.pipeline.trainer import Trainer
from lorica.training import loop as loop_module
from lorica.training import step as step_module
from lorica.training.classifier import TrainableClassifier
from lorica.training.listeners import SilentListener
from tests.encoders import POSITIONS, save_base, save_classifier

SPAM = ("Win 1,000 pounds now", "Buy cheap watches", "Call 0900-123 today", "you lucky winner")
HAM = ("I will be late, sorry", "see you at home", "Are we meeting for lunch", "tomorrow is fine")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, and rows of which half break the rule."""
    folder = tmp_path_factory.mktemp("classifier")
    save_base("bert", folder / "base")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "body", "rule", "rule_violation"])
        for number in range(48):
            posts = SPAM if number % 2 else HAM
            body = f"{posts[number // 2 % 4]} {'!' * (number % 5)} {number}"
            writer.writerow([f"r{number}", body, "No advertising", number % 2])
    return folder


def _command(place: Path, run_dir: Path, *overrides: str) -> list[str]:
    base, rows = f"model.path={place / 'base'}", f"input={place / 'rows.csv'}"
    quick = ["training.epochs=2", "training.learning_rate=3e-3", "training.val_ratio=0.3"]
    return ["train", "task=rules", base, rows, f"run_dir={run_dir}", *quick, *overrides]


@pytest.mark.parametrize(("method", "weights"), [("full", "model.safetensors"), ("lora", "adapter_model.safetensors")])
def test_from_rows_to_answers(
    method: str, weights: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = _command(place, tmp_path / "run", f"training.method={method}")
    assert main([*command, "--json"]) == 0
    output = capsys.readouterr()
    assert "is learned as 'No', by these" in output.err
    assert "the saved classifier gives the trainer's scores to the bit" in output.err
    result = json.loads(output.out)["rules"]
    assert (result["weights"], result["steps"]) == (weights, 6)
    member = tmp_path / "run" / "rules"
    record = json.loads((member / "training.json").read_text())
    assert (record["status"], record["labels"]["training"]["distinct"]) == ("finished", 2)
    assert record["manifest"]["training.method"] == f'"{method}"'
    run_record = json.loads((member / "run.json").read_text())
    assert run_record["status"] == "finished"
    assert [Path(entry["path"]).name for entry in run_record["outputs"]] == [weights]
    passport = json.loads((member / "lorica.json").read_text())
    assert passport["metrics"]["adapter"]["roc_auc"]["value"] is not None
    assert passport["metrics"]["base"]["roc_auc"]["value"] == pytest.approx(0.5)
    assert "L346" not in _checked(member, capsys)
    answers = tmp_path / "answers.jsonl"
    use = ["infer", "task=rules", f"model.path={place / 'base'}", f"input={place / 'rows.csv'}", f"output={answers}"]
    assert main([*use, f"adapters.dir={tmp_path / 'run'}"]) == 0
    scores = {json.loads(line)["score"] for line in answers.read_text().splitlines()}
    assert len(scores) > 10
    capsys.readouterr()
    assert main(command) == 6
    assert "holds a finished run" in capsys.readouterr().err
    assert main([*command, "training.resume=true"]) == 0
    assert "finished before, nothing to do" in capsys.readouterr().err
    if method == "full":
        _change_tokenizer(member)
        assert "tokenizer.json beside the weights is another one" in _checked(member, capsys)


def _checked(member: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    main(["check", str(member), "--json"])
    return capsys.readouterr().out


def _change_tokenizer(member: Path) -> None:
    tokenizer = json.loads((member / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (member / "tokenizer.json").write_text(json.dumps(tokenizer))


def test_what_scores_otherwise_after_loading_is_not_published(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when a head is lost on the way to the disk."""
    real = TrainableClassifier.save

    def losing(self: TrainableClassifier, folder: Path, extra_files: Any = None) -> None:
        import torch

        weight = self.model.classifier.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.zero_()
        real(self, folder, extra_files)
        with torch.no_grad():
            weight.copy_(kept)

    monkeypatch.setattr(TrainableClassifier, "save", losing)
    # The best checkpoint is read back into the trainer before it is saved: without held-out rows there is none.
    assert main(_command(place, tmp_path / "run", "training.val_ratio=0", "training.epochs=1")) == 5
    said = capsys.readouterr().err
    assert "loaded in a fresh process it does not score as it did in training: row 'r" in said
    assert f"nothing is published, and the files are kept in {tmp_path / 'run' / 'rules' / 'rejected'}" in said
    assert (tmp_path / "run" / "rules" / "rejected" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "rules" / "config.json").exists()


def test_one_logit_and_gradient_checkpointing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "compare_reloaded", lambda *_: 0.0)
    more = ["training.head=one_logit", "training.gradient_checkpointing=true", "training.epochs=1"]
    assert main(_command(place, tmp_path / "run", *more)) == 0
    config = json.loads((tmp_path / "run" / "rules" / "config.json").read_text())
    assert config["id2label"] == {"0": "Yes"}


def test_what_is_cut_of_the_rows_is_counted_and_told(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline_module, "compare_reloaded", lambda *_: 0.0)
    rows = tmp_path / "rows.csv"
    rows.write_text((place / "rows.csv").read_text() + "".join(f"long{n},{'lunch ' * 300},Rule,0\n" for n in (1, 2)))
    more = [f"input={rows}", "training.epochs=1", "training.val_ratio=0"]
    assert main(_command(place, tmp_path / "run", *more)) == 0
    told = capsys.readouterr().err
    assert "2 of 50 rows are longer than training.max_seq_length" in told
    record = json.loads((tmp_path / "run" / "rules" / "training.json").read_text())
    # [CLS] Rule: Rule [SEP] ... [SEP]: the post has what is left of the base's positions.
    fixed = record["dropped_tokens"] / 2 + POSITIONS - 300
    assert 4 <= fixed < 20
    assert f"{record['dropped_tokens']} of their tokens are cut" in told


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=mcq"], "task=rules"),
        (["task.method=generate"], "task=rules"),
        (["model.dtype=bfloat16"], "model.dtype=bfloat16: the weights of a classifier are trained in float32"),
        (["retrieval.train=true", "retrieval.index=nowhere"], ""),
        (["model.path=embedded:lorica_tiny", "training.method=full"], "a decoder is trained with LoRA"),
        (["lora.target_modules=[q_proj]", "training.method=lora"], "no 'q_proj' beneath the head; bert has dense"),
    ],
)
def test_settings_that_cannot_train_a_classifier(
    overrides: list[str], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_command(place, tmp_path / "run", *overrides)) in (2, 3)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "rules" / "training.json").exists()


def test_rows_of_one_label_are_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.csv").write_text(
        "row_id,body,rule,rule_violation\n" + "".join(f"r{number},text {number},No,1\n" for number in range(12))
    )
    assert main(_command(place, tmp_path / "run", f"input={tmp_path / 'one.csv'}")) == 5
    assert "all 12 training rows have label 1: a classifier learns to tell two labels apart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["contradiction", "entailment", "neutral"], "its head has 3 labels; allowed: one logit, or two classes"),
        (["yes", "no"], "its label 0 is 'yes', which the task reads as label 1"),
        (["negative", "positive"], "has the label 'negative'"),
    ],
)
def test_a_head_with_other_labels_is_refused_before_it_is_trained(
    labels: list[str], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_classifier("bert", tmp_path / "base", logits=len(labels), labels=labels)
    assert main(_command(place, tmp_path / "run", f"model.path={tmp_path / 'base'}")) == 4
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "rules" / "training.json").exists()


def test_a_device_that_is_not_there_is_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main(_command(place, tmp_path / "run", "model.device=cuda")) == 4
    assert "device cuda: this machine has 0 CUDA devices that torch can use" in capsys.readouterr().err
    assert not (tmp_path / "run" / "rules" / "training.json").exists()


def test_a_family_is_not_trained_in_what_it_overflows_in() -> None:
    config = Config(training=TrainingConfig(fp16=True), model=ModelConfig(device="cuda"))
    for model_type in ("deberta-v2", "modernbert"):
        with pytest.raises(ConfigError, match=f"{model_type} overflows in float16; allowed: float32, bfloat16"):
            train_classifier.classifier_precision(config, ENCODER_FAMILIES[model_type])
    assert train_classifier.classifier_precision(config, ENCODER_FAMILIES["bert"]).fp16


def test_defaults_follow_the_base_and_the_method() -> None:
    full = resolve(["model=minilm"])
    training = full.config.training
    assert (training.method, training.learning_rate, training.epochs) == ("full", 2e-5, 3)
    assert (training.batch_size, training.warmup_ratio, training.weight_decay) == (16, 0.1, 0.01)
    assert training.gradient_accumulation_steps == 1
    assert (training.max_seq_length, full.config.inference.max_input_tokens) == (512, 512)
    assert full.origins["training.learning_rate"] == "preset training/classifier, follows engine.name"
    lora = resolve(["model=minilm", "training.method=lora", "training.epochs=7", "inference.max_input_tokens=99"])
    assert (lora.config.training.learning_rate, lora.config.training.epochs) == (1e-3, 7)
    assert (lora.config.lora.target_modules, lora.config.inference.max_input_tokens) == ("all-linear", 99)
    chosen = resolve(["model=minilm", "training=quick", "lora=qv"]).config
    assert (chosen.training.epochs, chosen.training.weight_decay) == (1, 0.01)
    assert chosen.lora.target_modules == ["q_proj", "v_proj"]
    assert resolve([]).config.training == TrainingConfig()


def test_a_trainer_goes_on_after_a_collapse_as_if_it_had_not_been(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lorica adapt` trains all models of a left-out rule by one trainer."""
    import torch

    real = step_module.update

    def collapsing(learner: Any, *arguments: Any, **named: Any) -> Any:
        report = real(learner, *arguments, **named)
        with torch.no_grad():
            learner.trainable.model.classifier.weight.zero_()
        return report

    config = resolve(_command(place, tmp_path, "training.epochs=1")[1:]).config
    task = build.build_task(config)
    rows = list(read_rows(config.input, task.schemas))

    def train(trainer: Trainer, name: str) -> bytes:
        train_jobs(config, task, [TrainJob(name, rows, config.input, tmp_path / name)], SilentListener(), trainer)
        return (tmp_path / name / "model.safetensors").read_bytes()

    trainer = load_trainer(config, task, {})
    monkeypatch.setattr(loop_module, "update", collapsing)
    with pytest.raises(CollapsedError):
        train(trainer, "collapsed")
    monkeypatch.setattr(loop_module, "update", real)
    assert train(trainer, "after") == train(load_trainer(config, task, {}), "alone")
