"""The environment: each variable, its key, and messages that name the variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorica.config.compose import Resolved, compose
from lorica.config.environment import ENVIRONMENT, SUBJECT_PREFIX, SUBJECTS_VARIABLE
from lorica.config.fields import find
from lorica.errors import ConfigError


def made(*overrides: str, **environ: str) -> Resolved:
    return compose(overrides, environ=environ)


CASES: list[tuple[str, str, str, Any]] = [
    ("HF_CACHE_DIR", "/cache dir", "model.cache_dir", "/cache dir"),
    ("USE_4BIT", "1", "model.load_in_4bit", True),
    ("USE_4BIT", "No", "model.load_in_4bit", False),
    ("DEVICE_MAP", "auto", "model.device_map", "auto"),
    ("BATCH_SIZE", "8", "training.batch_size", 8),
    ("MAX_NEW_TOKENS", "32", "inference.max_new_tokens", 32),
    ("MIN_NEW_TOKENS", "2", "inference.min_new_tokens", 2),
    ("MAX_INPUT_TOKENS", "2048", "inference.max_input_tokens", 2048),
    ("TEMPERATURE", "0.5", "inference.temperature", 0.5),
    ("TOP_P", " .9 ", "inference.top_p", 0.9),
    ("TOP_K", "40", "inference.top_k", 40),
    ("REPETITION_PENALTY", "1.1", "inference.repetition_penalty", 1.1),
    ("ADAPTERS_BASE_DIR", "/adapters", "adapters.dir", "/adapters"),
    ("MODEL_NAME", "org/Name", "model.path", "org/Name"),
    ("RAG_KNOWLEDGE_BASE_DIR", "/kb", "retrieval.dir", "/kb"),
    ("RAG_TOP_K", "5", "retrieval.top_k", 5),
]


@pytest.mark.parametrize(("name", "text", "key", "value"), CASES)
def test_a_variable_sets_its_key(name: str, text: str, key: str, value: Any) -> None:
    resolved = made(**{name: text})
    node: Any = resolved.config
    for part in key.split("."):
        node = getattr(node, part)
    assert node == value
    assert resolved.origins[key] == f"environment {name}"


def test_every_variable_of_the_table_is_tested_and_names_a_key() -> None:
    tested = {case[0] for case in CASES} | {SUBJECT_PREFIX + "<SUBJECT>", SUBJECTS_VARIABLE}
    assert {variable.name for variable in ENVIRONMENT} == tested
    for variable in ENVIRONMENT:
        assert find(variable.key)


def test_an_empty_variable_is_not_set_and_others_are_not_read() -> None:
    assert made(TOP_P="", MODEL_NAME=" ", USE_4BIT="", PEFT_ADAPTER_X="", HOME="/root", LORA_R="3") == made()


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("TOP_P", "1.5", "above 0 and at most 1; got 1.5"),
        ("TOP_P", "high", "got 'high'"),
        ("USE_4BIT", "maybe", "true or false; got 'maybe'"),
        ("BATCH_SIZE", "0", "at least 1; got 0"),
        ("BATCH_SIZE", "4.5", "got 4.5"),
        ("TEMPERATURE", "-1", "at least 0"),
        ("TEMPERATURE", "nan", "got nan"),
        ("MAX_NEW_TOKENS", "64,128", "got '64,128'"),
        ("MODEL_NAME", "qwen3_4bb", "neither a model preset"),
        ("PEFT_ADAPTER_", "x", "names no subject"),
        ("RAG_TOP_K", "0", "at least 1; got 0"),
        ("RAG_ENABLED_SUBJECTS", "geography,,algebra", "is empty"),
        ("RAG_ENABLED_SUBJECTS", "{geography: often}", "true or false"),
        ("RAG_ENABLED_SUBJECTS", "{geography", "NAME"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**{name: text})
    assert str(caught.value).startswith(f"environment variable {name}: ")
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        ("geography", {"geography": True}),
        ("geography, World History", {"geography": True, "World History": True}),
        ("[geography,'a, b']", {"geography": True, "a, b": True}),
        ('{"geography": true, "algebra": false}', {"geography": True, "algebra": False}),
        ("{geography: true}", {"geography": True}),
        ("all", {"all": True}),
        ("yes", {"all": True}),
        ("none", {"all": False}),
    ],
)
def test_the_subjects_that_get_passages(text: str, enabled: dict[str, bool]) -> None:
    resolved = made(RAG_ENABLED_SUBJECTS=text)
    assert resolved.config.retrieval.enabled == enabled
    assert {resolved.origins[f"retrieval.enabled.{name}"] for name in enabled} == {"environment RAG_ENABLED_SUBJECTS"}
    again = made("retrieval.enabled.geography=false", RAG_ENABLED_SUBJECTS=text).config.retrieval.enabled
    assert again == enabled | {"geography": False}


def test_model_name_may_be_a_preset() -> None:
    resolved = made(MODEL_NAME="qwen3_4b")
    assert (resolved.config.model.name, resolved.config.model.path) == ("qwen3_4b", "Qwen/Qwen3-4B")
    assert resolved.origins["model.path"] == "environment MODEL_NAME"
    assert resolved.presets["model"] == "qwen3_4b"


def test_model_name_may_be_an_id_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made(MODEL_NAME="mistralai/Mistral-7B-v0.1").config.model.name == "Mistral-7B-v0.1"
    assert made(MODEL_NAME="gpt2").config.model.path == "gpt2"
    (tmp_path / "qwen3_4bb").mkdir()
    monkeypatch.chdir(tmp_path)
    assert made(MODEL_NAME="qwen3_4bb").config.model.path == "qwen3_4bb"  # close to a preset, and a folder here


def test_a_model_on_the_command_line_wins_over_model_name() -> None:
    for outside in ("qwen3_4b", "org/Name"):
        assert made("model=mistral_7b", MODEL_NAME=outside) == made("model=mistral_7b")
        assert made("model.path=/mine", MODEL_NAME=outside).config.model.path == "/mine"


def test_model_name_wins_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("defaults: [{model: mistral_7b}]\nmodel: {path: /from/file, revision: v1}\n")
    model = made(f"config={file}", MODEL_NAME="qwen3_4b").config.model
    assert (model.name, model.path, model.revision) == ("qwen3_4b", "Qwen/Qwen3-4B", "v1")


def test_batch_size_is_also_the_memory_of_so_many_longest_rows() -> None:
    resolved = made("inference.max_input_tokens=100", BATCH_SIZE="3")
    assert resolved.config.inference.batch_tokens == 300
    assert resolved.origins["inference.batch_tokens"] == "environment BATCH_SIZE"
    said = made("inference.batch_tokens=77", "training.batch_size=2", BATCH_SIZE="3").config
    assert (said.inference.batch_tokens, said.training.batch_size) == (77, 2)
    half = made("training.batch_size=2", BATCH_SIZE="3", MAX_INPUT_TOKENS="10").config
    assert (half.inference.batch_tokens, half.training.batch_size) == (30, 2)


def test_a_temperature_switches_sampling() -> None:
    assert made(TEMPERATURE="0.5").config.inference.do_sample is True
    assert made(TEMPERATURE="0").config.inference.do_sample is False
    assert made("inference=sampling", TEMPERATURE="0").config.inference.do_sample is False
    greedy = made("inference.do_sample=false", TEMPERATURE="0.5").config.inference
    assert (greedy.do_sample, greedy.temperature) == (False, 0.0)
