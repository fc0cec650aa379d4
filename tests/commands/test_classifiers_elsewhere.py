"""What `lorica train` leaves of an encoder, as somebody uses it who has transformers and PEFT alone."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from lorica.cli import main  # noqa: E402
from lorica.pipeline import train_classifier as pipeline_module  # noqa: E402
from tests.encoders import save_base  # noqa: E402
from tests.engines.test_encoder import TEXTS  # noqa: E402

RULE = "no advertising"
KINDS = [("bert", "one_logit"), ("roberta", "two_classes"), ("deberta-v3", "one_logit"), ("modernbert", "two_classes")]
# PEFT reads an attribute that transformers renamed; nobody here can change that.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "body", "rule", "rule_violation"])
        writer.writerows([f"r{number}", f"{TEXTS[number % 4][1]} {number}", RULE, number % 2] for number in range(24))
    return path


def _trained(kind: str, rows: Path, tmp_path: Path, *overrides: str) -> tuple[Path, list[float]]:
    """The member's folder, and the log-odds that `lorica infer` gives the rows."""
    base = save_base(kind, tmp_path / "base")
    model = f"model.path={base}"
    quick = ["training.epochs=1", "training.learning_rate=3e-3", "training.val_ratio=0"]
    assert main(["train", "task=rules", model, f"input={rows}", f"run_dir={tmp_path / 'run'}", *quick, *overrides]) == 0
    output = tmp_path / "answers.jsonl"
    adapters = f"adapters.dir={tmp_path / 'run'}"
    assert main(["infer", "task=rules", model, f"input={rows}", f"output={output}", adapters]) == 0
    scores = [json.loads(line)["score"] for line in output.read_text().splitlines()]
    assert max(scores) - min(scores) > 1e-3
    return tmp_path / "run" / "rules", [math.log(score / (1 - score)) for score in scores]


def _log_odds(model: Any, tokenizer: Any, rows: Path) -> list[float]:
    log_odds = []
    with rows.open(newline="") as file, torch.inference_mode():
        for record in csv.DictReader(file):
            logits = (
                model(**tokenizer(f"Rule: {record['rule']}", record["body"], return_tensors="pt")).logits[0].double()
            )
            log_odds.append(float(logits[0] if len(logits) == 1 else logits[1] - logits[0]))
    return log_odds


@pytest.mark.parametrize(("kind", "head"), KINDS)
def test_a_trained_classifier_is_opened_by_transformers_alone(
    kind: str, head: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "compare_reloaded", lambda *_: 0.0)
    folder, ours = _trained(kind, rows, tmp_path, f"training.head={head}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert _log_odds(model, tokenizer, rows) == pytest.approx(ours, abs=1e-5)
    names = ["Yes"] if head == "one_logit" else ["No", "Yes"]
    assert model.config.id2label == dict(enumerate(names))
    assert model.config.label2id == {name: number for number, name in enumerate(names)}
    assert model.config.num_labels == len(names)
    # By it transformers trains further on the loss that was trained on, not on squares.
    labels = torch.tensor([[1.0]]) if head == "one_logit" else torch.tensor([1])
    encoded = tokenizer(f"Rule: {RULE}", TEXTS[0][1], return_tensors="pt")
    loss = model(**encoded, labels=labels).loss.item()
    (log_odds,) = _log_odds(model, tokenizer, _one_row(tmp_path))
    assert loss == pytest.approx(math.log1p(math.exp(-log_odds)), abs=1e-5)
    classify = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    (answered,) = classify([{"text": f"Rule: {RULE}", "text_pair": TEXTS[0][1]}])
    score = next(answer["score"] for answer in answered if answer["label"] == "Yes")
    assert score == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-5)


def _one_row(tmp_path: Path) -> Path:
    path = tmp_path / "one.csv"
    path.write_text(f'row_id,body,rule\n1,"{TEXTS[0][1]}",{RULE}\n')
    return path


@pytest.mark.parametrize(("kind", "head"), KINDS)
def test_a_trained_adapter_is_opened_by_peft_alone(
    kind: str, head: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "compare_reloaded", lambda *_: 0.0)
    folder, ours = _trained(kind, rows, tmp_path, "training.method=lora", f"training.head={head}")
    base = tmp_path / "base"
    logits = 1 if head == "one_logit" else 2
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=logits)
    model = peft.PeftModel.from_pretrained(plain, folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    assert _log_odds(model, tokenizer, rows) == pytest.approx(ours, abs=1e-5)
    merged = model.merge_and_unload()
    assert _log_odds(merged, tokenizer, rows) == pytest.approx(ours, abs=1e-4)
    saved = json.loads((folder / "adapter_config.json").read_text())
    assert (saved["task_type"], "classifier" in saved["modules_to_save"]) == ("SEQ_CLS", True)


def test_the_mean_of_adapters_is_opened_by_peft_alone(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All linear layers: `dense` is the name of one in the pooler, too, which the mean brings whole."""
    monkeypatch.setattr(pipeline_module, "compare_reloaded", lambda *_: 0.0)
    folders = []
    for seed in (1, 2):
        place = tmp_path / str(seed)
        place.mkdir()
        folder, _ = _trained("bert", rows, place, "training.method=lora", f"training.seed={seed}")
        folders.append(folder)
    base, mean = tmp_path / "1" / "base", tmp_path / "mean"
    # One base in two places: an average goes by its name.
    config = folders[1] / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tmp_path / "2" / "base"), str(base)))
    assert main(["average", *map(str, folders), "--output", str(mean)]) == 0
    output = tmp_path / "mean.jsonl"
    words = [f"model.path={base}", f"input={rows}", f"output={output}", f"adapters.paths.rules={mean}"]
    assert main(["infer", "task=rules", *words]) == 0
    scores = [json.loads(line)["score"] for line in output.read_text().splitlines()]
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model = peft.PeftModel.from_pretrained(plain, mean).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    assert _log_odds(model, tokenizer, rows) == pytest.approx([math.log(s / (1 - s)) for s in scores], abs=1e-5)
    # The definition: updates and heads are the means of both.
    states = []
    for folder in folders:
        loaded = peft.PeftModel.from_pretrained(
            transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2), folder
        )
        states.append(loaded.merge_and_unload().state_dict())
    averaged = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2).eval()
    averaged.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    assert _log_odds(averaged, tokenizer, rows) == pytest.approx(_log_odds(model, tokenizer, rows), abs=1e-5)
