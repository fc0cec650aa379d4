"""Classifiers as the loop trains them: against transformers' Trainer, PEFT and the definition of their losses."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from tests.training.tiny import Recorder
from tests.training.tiny_classifier import FULL, LORA, SEPARATOR, rows, run, save_base, trainable

from lorica.errors import CollapsedError, ConfigError, NotFiniteError, ResumeError, TrainingError
from lorica.models.base_folder import BaseFolder
from lorica.models.classifiers import classify
from lorica.records import Encoded
from lorica.training import loop as loop_module
from lorica.training import step as step_module
from lorica.training.batches import plan_epoch
from lorica.training.classifier import check_labels
from lorica.training.make_classifier import linear_layers
from lorica.training.step import Learner, evaluate, make_optimizer
from lorica.training.types import Example

METHODS = {"full": FULL, "lora": replace(FULL, method="lora", learning_rate=1e-2)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return save_base(tmp_path_factory.mktemp("base"))


def _logits(model: Any, examples: list[Example]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([classify(model.eval(), [row.encoded.tokens], separator=SEPARATOR) for row in examples])


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """What transformers' Trainer is given: rows in the order of our plan."""

    def __init__(self, examples: list[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = list(self.examples[index].encoded.tokens)
        second = tokens.index(SEPARATOR) + 1
        types = [int(position >= second) for position in range(len(tokens))]
        return {"input_ids": tokens, "token_type_ids": types, "labels": self.examples[index].label}


def _padded(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(example["input_ids"]) for example in examples)
    batch = {
        key: torch.tensor([[*example[key], *[0] * (longest - len(example[key]))] for example in examples])
        for key in ("input_ids", "token_type_ids")
    }
    mask = [[int(position < len(example["input_ids"])) for position in range(longest)] for example in examples]
    labels = torch.tensor([example["labels"] for example in examples])
    return {**batch, "attention_mask": torch.tensor(mask), "labels": labels}


def test_losses_and_weights_are_those_of_transformers_trainer(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    examples = rows(48)
    settings = replace(FULL, epochs=1, eval_steps=100, save_steps=100, learning_rate=1e-3)
    oracle = trainable(base, settings).model
    run(base, tmp_path / "ours", settings, examples=examples, validation=[])

    plan = plan_epoch(
        [len(row.encoded.tokens) for row in examples], batch_size=4, accumulation=1, seed=settings.seed, epoch=0
    )
    ordered = [examples[index] for update in plan for batch in update for index in batch]

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        num_train_epochs=1,
        per_device_train_batch_size=4,
        learning_rate=settings.learning_rate,
        warmup_steps=2,  # a tenth of 12
        weight_decay=settings.weight_decay,
        lr_scheduler_type="linear",
        max_grad_norm=settings.max_grad_norm,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = InOrder(model=oracle, args=arguments, train_dataset=_Rows(ordered), data_collator=_padded)
    trainer.train()
    theirs = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    lines = [json.loads(line) for line in (tmp_path / "ours" / "log.jsonl").read_text("utf-8").splitlines()]
    ours = [line["loss"] for line in lines if "loss" in line]
    assert len(ours) == len(theirs) == 12
    assert ours == pytest.approx(theirs, abs=2e-4)  # they round to four digits
    trained = load_file(tmp_path / "ours" / "model.safetensors")
    for name, weight in oracle.state_dict().items():
        if name.endswith("key.bias"):
            continue  # it shifts all scores of a query alike: its gradient is rounding, which AdamW scales to a step
        torch.testing.assert_close(trained[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_and_leaves_what_transformers_and_peft_load(method: str, base: BaseFolder, tmp_path: Path) -> None:
    listener = Recorder()
    settings = replace(METHODS[method], epochs=12, eval_steps=100)
    held = rows(24)[:12]
    result = run(base, tmp_path / "a", settings, listener=listener, validation=held)
    assert result.outcome == "better", listener.notes
    assert result.trained_loss < 0.8 * result.base_loss
    fresh = trainable(base, settings)
    fresh.load(tmp_path / "a")
    if method == "full":
        assert result.weights == "model.safetensors"
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "a")
        assert model.config.id2label == {0: "No", 1: "Yes"}
    else:
        from peft import PeftModel

        assert result.weights == "adapter_model.safetensors"
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(base.path, num_labels=2)
        model = PeftModel.from_pretrained(plain, tmp_path / "a")
    assert torch.equal(_logits(model, held), _logits(fresh.model, held))
    losses = F.cross_entropy(_logits(model, held), torch.tensor([row.label for row in held]))
    assert losses.item() == pytest.approx(result.trained_loss, rel=1e-5)


class _Crash(BaseException):
    """The end of a process: no handler for errors may catch it."""


class _Crashing(Recorder):
    def __init__(self, last_step: int) -> None:
        super().__init__()
        self._last_step = last_step

    def stepped(self, report: Any) -> None:
        super().stepped(report)
        if report.step == self._last_step:
            raise _Crash


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(method: str, base: BaseFolder, tmp_path: Path) -> None:
    settings = METHODS[method]
    whole = run(base, tmp_path / "whole", settings)
    with pytest.raises(_Crash):
        run(base, tmp_path / "part", settings, listener=_Crashing(7))
    with pytest.raises(ResumeError, match="holds a run that did not end"):
        run(base, tmp_path / "part", settings)
    listener = Recorder()
    resumed = run(base, tmp_path / "part", replace(settings, resume=True), listener=listener)
    assert listener.steps[0].step == 7
    for place in ("", "last"):
        name = f"{place}/{whole.weights}"
        assert (tmp_path / f"part/{name}").read_bytes() == (tmp_path / f"whole/{name}").read_bytes()
    assert replace(resumed, seconds=0, folder=whole.folder, advice=whole.advice) == replace(whole, seconds=0)
    again = run(base, tmp_path / "part", replace(settings, resume=True))
    assert again.best_step == whole.best_step


@pytest.mark.parametrize("head", ["two_classes", "one_logit"])
def test_losses_are_cross_entropy_and_binary_cross_entropy(head: Any, base: BaseFolder) -> None:
    classifier = trainable(base, replace(FULL, head=head))
    examples = rows(9)
    (batch,) = classifier.update_batches(examples, [range(9)])
    classifier.set_training(False)
    logits = _logits(classifier.model, examples)
    labels = torch.tensor([row.label for row in examples])
    if head == "two_classes":
        expected = F.cross_entropy(logits, labels, reduction="sum")
    else:
        expected = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float(), reduction="sum")
    assert classifier.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert batch.row_tokens == sum(len(row.encoded.tokens) for row in examples)
    scores = classifier.scores(examples)
    total = -sum(scores[row.id][row.label or 0] for row in examples)
    assert total == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_to_beat_is_that_of_one_answer_to_every_row(base: BaseFolder) -> None:
    classifier = trainable(base, share=0.25)
    batches = classifier.evaluation_batches(rows(12))  # 4 of 12 have label 1
    expected = -(4 * math.log(0.25) + 8 * math.log(0.75)) / 12
    assert classifier.constant_loss(batches) == pytest.approx(expected)


def test_scores_of_one_value_stop_the_run_by_name(base: BaseFolder, tmp_path: Path, monkeypatch: Any) -> None:
    """As when a rate was too high: the head answers all rows alike from the tenth update on."""
    real = step_module.update

    def collapsing(learner: Any, *arguments: Any, **named: Any) -> Any:
        report = real(learner, *arguments, **named)
        if named["step"] >= 10:
            with torch.no_grad():
                learner.trainable.model.classifier.weight.zero_()
        return report

    monkeypatch.setattr(loop_module, "update", collapsing)
    with pytest.raises(CollapsedError) as caught:
        run(base, tmp_path / "a")
    text = str(caught.value)
    assert "the scores collapsed to one value: after update 12 those of 12 rows with both labels differ by 0" in text
    assert "did best on the held-out rows" in text or "nothing worth using is kept" in text
    assert "lower training.learning_rate or raise training.warmup_ratio" in text
    assert not (tmp_path / "a" / "config.json").exists()
    with pytest.raises(ResumeError, match="holds a run that diverged: the scores collapsed"):
        run(base, tmp_path / "a")


def test_a_collapse_is_seen_where_nothing_is_held_out(base: BaseFolder, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(loop_module, "update", _zeroing(step_module.update))
    with pytest.raises(CollapsedError, match="after update 18 those of 24 rows"):
        run(base, tmp_path / "a", validation=[])


def _zeroing(real: Any) -> Any:
    def update(learner: Any, *arguments: Any, **named: Any) -> Any:
        report = real(learner, *arguments, **named)
        with torch.no_grad():
            learner.trainable.model.classifier.weight.zero_()
        return report

    return update


@pytest.mark.parametrize("count", [1, 7])
def test_equal_or_few_rows_have_not_collapsed(count: int, base: BaseFolder) -> None:
    classifier = trainable(base)
    examples = rows(count)
    examples = [replace(examples[0], id=str(number), label=number % 2) for number in range(20)] + examples
    learner = Learner(classifier, make_optimizer(classifier.tensors(), weight_decay=0.0), 1.0)
    with torch.no_grad():
        classifier.model.classifier.weight.zero_()
    assert math.isfinite(evaluate(learner, classifier.evaluation_batches(examples), step=9))
    with pytest.raises(CollapsedError):
        evaluate(learner, classifier.evaluation_batches(rows(30)), step=9)
    assert math.isfinite(evaluate(learner, classifier.evaluation_batches(rows(30)), step=9, warming_up=True))


def test_a_loss_that_is_not_finite_says_at_which_update_and_what_to_do(
    base: BaseFolder, tmp_path: Path, monkeypatch: Any
) -> None:
    real = step_module.update

    def breaking(learner: Any, *arguments: Any, **named: Any) -> Any:
        if named["step"] == 6:
            with torch.no_grad():
                learner.trainable.model.classifier.weight.fill_(math.inf)
        return real(learner, *arguments, **named)

    monkeypatch.setattr(loop_module, "update", breaking)
    with pytest.raises(NotFiniteError, match=r"the loss is not finite at update 6.*\n.*lower training\.learning_rate"):
        run(base, tmp_path / "a")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "deberta-v3", "modernbert"])
def test_every_linear_layer_beneath_the_head_is_adapted_and_the_head_is_saved(kind: str, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", kind)
    settings = replace(METHODS["lora"], epochs=1)
    classifier = trainable(base, settings)
    assert base.encoder_family is not None
    plain = trainable(base).model
    layers = linear_layers(plain, base.encoder_family)
    factors = {name.rpartition(".lora_A")[0] for name in classifier.tensors() if ".lora_A" in name}
    assert factors == {f"base_model.model.{layer}" for layer in layers}
    whole = {name for name in classifier.tensors() if ".lora_" not in name}
    head = {
        f"base_model.model.{name}"
        for name, _ in plain.named_parameters()
        if any(f".{module}." in f".{name}" for module in base.encoder_family.head)
    }
    assert whole == head
    assert len(head) >= 2
    result = run(base, tmp_path / "a", settings)
    stored = load_file(result.folder / result.weights)
    assert set(stored) == set(classifier.tensors())
    assert json.loads((result.folder / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"


def test_a_classifier_that_is_there_is_trained_on(base: BaseFolder, tmp_path: Path) -> None:
    first = run(base, tmp_path / "first", replace(FULL, epochs=8))
    trained = BaseFolder(first.folder)
    assert trained.has_head
    on = trainable(trained, replace(FULL, seed=77))
    stored = load_file(first.folder / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in on.tensors().items())
    with pytest.raises(ConfigError, match="has a head of 2 classes already"):
        trainable(trained, replace(FULL, head="one_logit"))
    second = run(trained, tmp_path / "second", replace(FULL, epochs=1, learning_rate=1e-4))
    assert second.base_loss <= first.trained_loss + 1e-5


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 1, 1], "all 3 training rows have label 1: a classifier learns to tell two labels apart"),
        ([0, 0, 0, 1], "only 1 of 4 training rows has label 1: '3'"),
    ],
)
def test_one_label_is_refused(labels: list[int], message: str) -> None:
    examples = [Example(str(number), Encoded((1, 2), 2), label) for number, label in enumerate(labels)]
    with pytest.raises(TrainingError, match=message):
        check_labels(examples)


def test_tokens_of_another_tokenizer_are_refused(base: BaseFolder, tmp_path: Path) -> None:
    size = base.vocabulary_size or 0
    foreign = Example("x", Encoded((1, size), 2), 1)
    with pytest.raises(TrainingError, match=rf"outside the base model's vocabulary of {size}: 'x'"):
        run(base, tmp_path / "a", examples=[*rows(6), foreign])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": ["qery"]}, "no 'qery' beneath the head; bert has dense, key, query, value"),
        ({"target_modules": ["classifier"]}, "no 'classifier' beneath the head"),
        ({"rank_pattern": {"nothing": 2}}, "no adapted module has this name"),
    ],
)
def test_lora_that_fits_no_layer_is_refused(change: dict[str, Any], message: str, base: BaseFolder) -> None:
    import msgspec

    with pytest.raises(ConfigError, match=message):
        trainable(base, METHODS["lora"], lora=msgspec.structs.replace(LORA, **change))
