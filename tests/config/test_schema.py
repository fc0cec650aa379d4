"""The schema: the defaults that the project promises, and a cheap import."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from lorica.config.describe import describe_keys, split_unit
from lorica.config.fields import key_specs
from lorica.config.parse_values import coerce
from lorica.config.schema import Config

SRC = Path(__file__).resolve().parents[2] / "src"

# Written down a second time on purpose: these are promises to users, not whatever the schema says.
PROMISED: dict[str, Any] = {
    "lora.r": 16,
    "lora.alpha": 32,
    "lora.dropout": 0.05,
    "lora.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "training.epochs": 3,
    "training.batch_size": 4,
    "training.gradient_accumulation_steps": 4,
    "training.learning_rate": 1e-4,
    "training.warmup_ratio": 0.1,
    "training.scheduler": "cosine",
    "training.val_ratio": 0.15,
    "training.max_seq_length": 512,
    "training.fp16": False,
    "training.bf16": False,
    "training.logging_steps": 10,
    "training.save_steps": 100,
    "training.eval_steps": 100,
    "training.save_total_limit": 2,
    "training.early_stopping": 0,
    "training.resume": False,
    "inference.max_new_tokens": 64,
    "inference.do_sample": False,
    "inference.temperature": 0.0,
    "inference.top_p": 1.0,
    "inference.validation.enabled": True,
    "inference.validation.max_retries": 2,
    "model.path": "embedded:lorica_tiny",
}
EXIST = {
    "lora.use_rslora", "lora.rank_pattern", "lora.alpha_pattern",
    "training.weight_decay", "training.seed", "training.max_grad_norm", "training.gradient_checkpointing",
    "inference.top_k", "inference.repetition_penalty", "inference.min_new_tokens",
    "inference.use_stop_tokens", "inference.stop",
    "inference.batch_tokens", "inference.max_input_tokens", "inference.window_rows",
    "task.columns", "task.constants", "model.load_in_4bit", "adapters.use",
    "engine.share_prefixes", "engine.deterministic", "engine.merge",
    "data", "input", "output", "run_dir",
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), PROMISED.items())
def test_a_promised_default(key: str, value: Any) -> None:
    assert key_specs()[key].default == value
    assert type(key_specs()[key].default) is type(value)


def test_every_promised_key_exists() -> None:
    assert set(key_specs()) >= EXIST


def test_the_label_spellings_the_docstrings_name_are_those_of_the_task() -> None:
    from lorica.tasks.base import DEFAULT_NEGATIVE, DEFAULT_POSITIVE

    docs = {key.key: key.docstring for key in describe_keys()}
    assert docs["task.positive_labels"].endswith(f"empty for {', '.join(DEFAULT_POSITIVE)}.")
    assert docs["task.negative_labels"].endswith(f"empty for {', '.join(DEFAULT_NEGATIVE)}.")


def test_every_default_is_allowed_by_its_own_key() -> None:
    for key_spec in key_specs().values():
        if key_spec.value_type != "table":
            assert coerce(key_spec, "", key_spec.default) == key_spec.default


def test_every_key_is_documented_and_every_number_has_a_unit() -> None:
    for key in describe_keys():
        assert len(key.docstring) > 20, key.key
        if key_specs()[key.key].value_type in ("int", "float") or key_specs()[key.key].item_type == "int":
            assert split_unit(key.docstring)[1], f"{key.key} has no unit"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().lora.r = 8  # type: ignore[misc]


def test_importing_the_schema_loads_nothing_heavy() -> None:
    code = (
        "import sys, lorica.config.schema, lorica.config.compose, lorica.config.render\n"
        "print([name for name in ('hydra', 'omegaconf', 'yaml', 'torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(SRC)}, check=True
    )
    assert done.stdout.strip() == "[]"
