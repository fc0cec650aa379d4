"""Classifiers and adapters that others made, with PEFT's and transformers' own defaults: loaded to the number of their
libraries, or refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402
from tests.encoders import KINDS, config_of, save_base, save_classifier, tokenizer_of  # noqa: E402
from tests.engines.test_encoder import engine_of, expected, logprobs, requests_for  # noqa: E402

from lorica.adapters.classifier_folder import open_classifier  # noqa: E402
from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.errors import AdapterError, ModelError  # noqa: E402

# PEFT reads an attribute that transformers renamed; nobody here can change that.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def _save_default_lora(base: Path, folder: Path, *, targets: Any, logits: int = 2, seed: int = 3, **more: Any) -> Any:
    """As PEFT's guide for sequence classification has it: a task and targets, and nothing of the head."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=logits)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=targets, **more))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_" in name or ".modules_to_save." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    adapted.eval().save_pretrained(folder)
    return adapted


def _save_pretrained(kind: str, folder: Path) -> Path:
    """A base as it is published, with the head of masked language modelling."""
    torch.manual_seed(0)
    transformers.AutoModelForMaskedLM.from_config(config_of(kind)).save_pretrained(folder)
    tokenizer_of(KINDS[kind][0]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("logits", [1, 2])
@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_an_adapter_of_pefts_defaults_leaves_the_pooler_to_the_base(kind: str, logits: int, tmp_path: Path) -> None:
    base = (_save_pretrained if kind == "modernbert" else save_base)(kind, tmp_path / "base")
    targets = ["Wqkv"] if kind == "modernbert" else ["query", "value"]
    model = _save_default_lora(base, tmp_path / "rules", targets=targets, logits=logits)
    engine = engine_of(base, {"rules": tmp_path / "rules"})
    wanted = [value for pair in expected(kind, model) for value in pair]
    assert logprobs(engine.run(requests_for(base, "rules"))) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("kind", "module"), [("deberta-v3", "pooler"), ("modernbert", "head")])
def test_a_head_that_neither_base_nor_adapter_has_is_never_made_up(kind: str, module: str, tmp_path: Path) -> None:
    """PEFT saves the logits alone, and DeBERTa has no pooler before it is trained: what it was trained with is lost."""
    base = save_base(kind, tmp_path / "base")
    targets = ["Wqkv"] if kind == "modernbert" else ["query_proj"]
    _save_default_lora(base, tmp_path / "rules", targets=targets)
    with pytest.raises(AdapterError, match=f"has no head to classify with: no tensors of {module}"):
        engine_of(base, {"rules": tmp_path / "rules"})


@pytest.mark.parametrize("order", [("whole", "adapted"), ("adapted", "whole")])
def test_one_adapter_replaces_the_pooler_and_another_adapts_it(order: tuple[str, str], tmp_path: Path) -> None:
    base = save_base("bert", tmp_path / "base")
    models = {
        "whole": _save_default_lora(base, tmp_path / "whole", targets=["query"], modules_to_save=["pooler"]),
        "adapted": _save_default_lora(base, tmp_path / "adapted", targets=["query", "pooler.dense"], seed=4),
    }
    engine = engine_of(base, {name: tmp_path / name for name in order})
    for name, model in models.items():
        wanted = [value for pair in expected("bert", model) for value in pair]
        assert logprobs(engine.run(requests_for(base, name))) == pytest.approx(wanted, abs=1e-5), name


def test_all_linear_layers_of_a_transformers_user_and_half_precision(tmp_path: Path) -> None:
    base = save_base("bert", tmp_path / "base")
    model = _save_default_lora(base, tmp_path / "rules", targets="all-linear")
    wanted = [value for pair in expected("bert", model) for value in pair]
    engine = engine_of(base, {"rules": tmp_path / "rules"})
    assert logprobs(engine.run(requests_for(base, "rules"))) == pytest.approx(wanted, abs=1e-5)
    shutil.copytree(tmp_path / "rules", tmp_path / "half")
    weights = tmp_path / "half" / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    half = engine_of(base, {"half": tmp_path / "half"})
    assert logprobs(half.run(requests_for(base, "half"))) == pytest.approx(wanted, abs=0.05)


def test_what_transformers_trainer_leaves_is_a_classifier(tmp_path: Path) -> None:
    """With a pickle of its arguments beside it, which nobody reads."""
    base = save_base("bert", tmp_path / "base")
    model = save_classifier("bert", tmp_path / "unused", base=base)
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True)
    transformers.Trainer(model=model, args=arguments).save_model(str(tmp_path / "rules"))
    assert (tmp_path / "rules" / "training_args.bin").is_file()
    assert open_classifier(tmp_path / "rules").labels == ()
    engine = engine_of(base, {"rules": tmp_path / "rules"})
    wanted = [value for pair in expected("bert", model) for value in pair]
    assert logprobs(engine.run(requests_for(base, "rules"))) == pytest.approx(wanted, abs=1e-5)


def test_shards_and_pickles_are_named(tmp_path: Path) -> None:
    model = save_classifier("bert", tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    with pytest.raises(AdapterError, match=r"its weights are in \d+ files .*, and a classifier is read from one"):
        open_classifier(tmp_path / "shards")
    shutil.copytree(tmp_path / "whole", tmp_path / "pickled")
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"pytorch_model.bin is a pickle, which is never loaded"):
        open_classifier(tmp_path / "pickled")
    with pytest.raises(ModelError, match="holds pickled weights"):
        engine_of(tmp_path / "pickled")


@pytest.mark.parametrize(
    ("logits", "problem_type", "message"),
    [
        (1, "regression", "a regression, whose number is no log-odds"),
        (2, "multi_label_classification", "its 2 labels were trained apart from each other"),
        (1, "multi_label_classification", ""),
        (2, "single_label_classification", ""),
    ],
)
def test_logits_of_another_loss_are_no_log_odds(logits: int, problem_type: str, message: str, tmp_path: Path) -> None:
    save_classifier("bert", tmp_path / "rules", logits=logits)
    config_path = tmp_path / "rules" / "config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"problem_type": problem_type}))
    if not message:
        assert open_classifier(tmp_path / "rules").logits == logits
        return
    with pytest.raises(AdapterError, match=message) as caught:
        open_classifier(tmp_path / "rules")
    assert "take problem_type out" in caught.value.fix


def test_a_whole_classifier_is_no_adapter(tmp_path: Path) -> None:
    save_classifier("bert", tmp_path / "rules")
    with pytest.raises(AdapterError, match=r"is a model of its own \(config.json\), and no adapter"):
        open_adapter(tmp_path / "rules")
