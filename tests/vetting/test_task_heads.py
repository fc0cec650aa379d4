"""Heads that PEFT keeps for a task by itself: folders of older versions, whose config leaves them unnamed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tests.vetting.specimens import Shapes, codes, pairs, specimen
from tests.vetting.test_structure import PLAIN
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from lorica.adapters.config import CONFIG_NAME, TASK_HEADS
from lorica.adapters.folder import WEIGHTS_NAME
from lorica.adapters.tensor_names import PREFIX
from lorica.vetting.batch import examine_all
from lorica.vetting.files.sources import find_sources
from lorica.vetting.findings import Finding
from lorica.vetting.levels import Examination
from lorica.vetting.structure.check_structure import check_structure

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT: dict[str, Any] = SIZES | {"vocab_size": 64, "max_position_embeddings": 40, "num_labels": 3}
TARGETS = ["query", "value"]

MODELS: dict[str, tuple[str, Callable[[], Any], list[str]]] = {
    "llama": (
        "SEQ_CLS",
        lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES, vocab_size=64, num_labels=2, pad_token_id=0)),
        ["q_proj", "v_proj"],
    ),
    "roberta": ("SEQ_CLS", lambda: RobertaForSequenceClassification(RobertaConfig(**BERT)), TARGETS),
    "tokens": ("TOKEN_CLS", lambda: BertForTokenClassification(BertConfig(**BERT)), TARGETS),
    "answers": ("QUESTION_ANS", lambda: BertForQuestionAnswering(BertConfig(**BERT | {"num_labels": 2})), TARGETS),
}


def _save(kind: str, folder: Path, **settings: Any) -> Any:
    task, build, targets = MODELS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = LoraConfig(task_type=task, target_modules=targets, r=4, init_lora_weights=False, **settings)
        model = get_peft_model(build(), config).eval()
        model.peft_config["default"].init_lora_weights = True
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "modules_to_save" in name:
                    value.normal_()
        model.save_pretrained(folder)
    return model


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def _check(folder: Path) -> Examination:
    with ExitStack() as stack:
        (found,) = examine_all(find_sources([folder]), stack, keep_details=True)
    return found


def _names(rename: Callable[[str], str], folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS_NAME)
    save_file({rename(name): value for name, value in tensors.items()}, folder / WEIGHTS_NAME, {"format": "pt"})


def _rejections(found: Examination) -> list[str]:
    return codes(found.findings, "reject")


@pytest.mark.parametrize("kind", MODELS)
def test_a_head_that_the_config_of_an_older_peft_leaves_to_the_task_is_accepted(kind: str, tmp_path: Path) -> None:
    model = _save(kind, tmp_path)
    _edit(tmp_path, modules_to_save=None)
    found = _check(tmp_path)
    assert _rejections(found) == []
    assert not {"L131", "L132", "L135"} & set(codes(found.findings))
    # The oracle: PEFT loads every tensor of it.
    tokens = torch.arange(1, 9)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        loaded = PeftModel.from_pretrained(MODELS[kind][1](), tmp_path).eval()
    assert torch.equal(loaded(tokens)[0], model(tokens)[0])


def test_the_heads_of_the_tasks_are_those_of_the_installed_peft(tmp_path: Path) -> None:
    for kind, (task, _, _) in MODELS.items():
        _save(kind, tmp_path / kind)
        stored = json.loads((tmp_path / kind / CONFIG_NAME).read_text("utf-8"))["modules_to_save"]
        assert set(stored) == set(TASK_HEADS[task])


def test_the_native_engine_is_told_of_a_head_that_only_the_task_names() -> None:
    found = check_structure(*specimen(PLAIN | _head("score"), {"task_type": "SEQ_CLS"}))
    assert "classifier, score" in _one(found, "L136").seen


@pytest.mark.parametrize(("kind", "is_told"), [("roberta", False), ("llama", True)])
def test_an_encoders_adapter_is_not_told_what_the_native_engine_lacks(tmp_path: Path, kind: str, is_told: bool) -> None:
    _save(kind, tmp_path)
    assert ("L136" in codes(_check(tmp_path).findings)) == is_told


def _head(name: str) -> Shapes:
    return {f"{PREFIX}{name}.weight": (2, 32), f"{PREFIX}{name}.bias": (2,)}


def _one(found: list[Finding], code: str) -> Finding:
    (hit,) = [each for each in found if each.code == code]
    return hit


HEADS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "more than the head": ({"task_type": "SEQ_CLS", "modules_to_save": ["norm"]}, ["score", "model.norm"], []),
    "a head inside": ({"task_type": "TOKEN_CLS"}, ["classifier.dense", "classifier.out_proj"], []),
    "named by its end": ({"task_type": "SEQ_CLS"}, ["pre_classifier", "classifier"], []),
    "of no such task": ({}, ["score"], ["L132", "L135"]),
    "of another task": ({"task_type": "QUESTION_ANS"}, ["score", "qa_outputs"], ["L132", "L135"]),
    "a spelling PEFT does not know": ({"task_type": "seq_cls"}, ["score"], ["L132", "L135"]),
    "beside the head": ({"task_type": "SEQ_CLS"}, ["score", "lm_head"], ["L132", "L135"]),
}


@pytest.mark.parametrize("name", HEADS)
def test_only_what_peft_adds_by_task_is_accepted(name: str) -> None:
    values, heads, expected = HEADS[name]
    tensors = {key: shape for head in heads for key, shape in _head(head).items()}
    assert codes(check_structure(*specimen(PLAIN | tensors, values)), "reject") == expected


def test_a_head_that_nobody_stored_is_said_of_and_not_rejected() -> None:
    """PEFT loads it with a head as it was initialised; a custom head may have been kept elsewhere."""
    hit = _one(check_structure(*specimen(PLAIN, {"task_type": "SEQ_CLS"})), "L131")
    assert hit.severity == "warn"
    assert "SEQ_CLS" in hit.seen
    named = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    assert _one(check_structure(*specimen(PLAIN, named)), "L131").severity == "reject"


OLD_COPIES: dict[str, Callable[[str], str]] = {
    "as PEFT 0.21 writes it": lambda name: name,
    "without the adapter's name": lambda name: name.replace("modules_to_save.default.", "modules_to_save."),
    "under another adapter's name": lambda name: name.replace("modules_to_save.default.", "modules_to_save.mine."),
}


@pytest.mark.parametrize("form", OLD_COPIES)
@pytest.mark.parametrize("named", [True, False])
def test_biases_of_a_head_that_are_stored_twice_are_noted(form: str, named: bool, tmp_path: Path) -> None:
    model = _save("roberta", tmp_path, bias="all")
    _names(OLD_COPIES[form], tmp_path)
    if not named:
        _edit(tmp_path, modules_to_save=None)
    found = _check(tmp_path)
    assert _rejections(found) == []
    copies = _one(list(found.findings), "L146").facts["tensors"]
    assert sorted(name.rsplit(".", 2)[1] for name in copies if "modules_to_save" in name) == ["dense", "out_proj"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        loaded = PeftModel.from_pretrained(MODELS["roberta"][1](), tmp_path).eval()
    tokens = torch.arange(1, 9)[None]
    assert torch.equal(loaded(tokens)[0], model(tokens)[0])


def test_a_copy_in_memory_without_the_stored_parameter_stays_a_fault() -> None:
    inner = f"{PREFIX}score.modules_to_save.default.weight"
    found = check_structure(*specimen(PLAIN | {inner: (2, 32)}, {"modules_to_save": ["score"]}))
    assert "L131" in codes(found, "reject")
    assert "L146" not in codes(found)


def test_adapters_of_two_names_stay_several_adapters() -> None:
    both = {
        name.replace(".weight", f".{adapter}.weight"): shape
        for adapter in ("a", "b")
        for name, shape in pairs({"self_attn.q_proj": (32, 32), "self_attn.v_proj": (32, 32)}, range(4)).items()
    }
    assert "L108" in codes(check_structure(*specimen(both)), "reject")
