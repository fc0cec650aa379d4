"""docs/configuration.md is what the schema says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from lorica.config.compose import compose
from lorica.config.describe import describe_keys
from lorica.config.environment import ENVIRONMENT
from lorica.config.fields import key_specs
from lorica.config.key_reference import document
from lorica.config.presets import GROUPS, preset_names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == document().rstrip("\n") + "\n", (
        "run: python -m lorica.config.key_reference > docs/configuration.md"
    )


def test_the_page_holds_every_key_preset_and_variable() -> None:
    page = document()
    for key in key_specs():
        assert f"| `{key}` |" in page
    for group in GROUPS:
        for name in preset_names(group):
            assert f"`{group}={name}`" in page
    for variable in ENVIRONMENT:
        assert f"| `{variable.name}` |" in page


def test_what_presets_set_are_keys() -> None:
    table = document().split("| write | for | sets |")[1].split("\n\n")[0]
    keys = re.findall(r"`([\w.]+): ", table)
    assert len(keys) > 50
    assert sorted(set(keys) - set(key_specs())) == []


def test_the_examples_of_the_grammar_work(tmp_path: Path) -> None:
    table = document().split("| write | to |")[1].split("\n\n")[0]
    examples = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)[1:]
    words = [word for cell in examples for word in re.findall(r"`([^`]+)`", cell)]
    assert len(words) >= 11
    for word in words:
        if word != "config=my.yaml":
            plain = shlex.split(word)[0] if word.startswith("'") else word
            compose([plain], environ={})


def test_the_example_file_works(tmp_path: Path) -> None:
    example = document().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "my.yaml").write_text(example)
    config = compose([f"config={tmp_path / 'my.yaml'}"], environ={}).config
    assert (config.task.name, config.lora.r, config.run_dir) == ("mcq", 8, "runs/qwen3_0_6b")


def test_a_key_is_described_with_its_range_and_default() -> None:
    described = {key.key: key for key in describe_keys()}
    assert described["lora.dropout"].type == "a number, at least 0 and at most 0.99"
    assert described["lora.dropout"].default == "0.05"
    assert described["lora.target_modules"].type == "a list of texts, or all-linear"
    assert described["training.scheduler"].type == "one of cosine, linear, constant"
    assert described["lora.r"].docstring == "Rank of the update. Unit: dimensions."
