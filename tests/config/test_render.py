"""The printed configuration: readable, and a file that reads back as itself."""

from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path

import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorica.config.compose import compose
from lorica.config.reading_section import ReadingConfig
from lorica.config.render import render_config, scalar
from lorica.names import spellings

NAMES = st.text(min_size=1).filter(lambda text: "\x00" not in text)
KEYS_OF_DATA = frozenset(settings_field.name for settings_field in fields(ReadingConfig))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def test_it_shows_values_and_origins() -> None:
    text = render_config(compose(["task=mcq", "lora.r=8", "data.algebra=my file.csv"], environ={"TOP_P": "0.9"}))
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert lines["r"].endswith("# command line")
    assert lines["r"].split() == ["r:", "8", "#", "command", "line"]
    assert lines["top_p"].endswith("# environment TOP_P")
    assert lines["style"].endswith("# preset task/mcq")
    assert lines["alpha"].endswith("# schema default")
    assert lines["algebra"].startswith("  algebra: ")
    assert ' "my file.csv" ' in lines["algebra"]
    assert text.startswith("# presets: task=mcq model=lorica_tiny")


def test_the_comments_are_aligned() -> None:
    lines = [line for line in render_config(compose([], environ={})).splitlines()[1:] if "#" in line]
    assert len({line.index("  # ") for line in lines}) == 1


def test_yaml_reads_the_same_values() -> None:
    resolved = compose(["task=mcq", "training.learning_rate=1e-7", "data.7=x: y #z", "data.no=on"], environ={})
    assert yaml.safe_load(render_config(resolved)) == resolved.as_dict()


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(TEXTS, TEXTS, max_size=3), TEXTS, st.floats(min_value=1e-12, max_value=1))
def test_what_is_printed_reads_back_as_itself(data: dict[str, str], text: str, rate: float) -> None:
    assume(all(len(names) == 1 for names in spellings(data).values()))  # two spellings of one subject are refused
    assume(KEYS_OF_DATA.isdisjoint(data))  # such as `quoting`, which takes one of a few words
    escaped = text.replace("${", "")
    first = compose(
        [
            "task=qa",
            "model=qwen3_4b",
            "inference=sampling",
            "lora.target_modules=all-linear",
            f"input=./x{escaped}",
            f"training.learning_rate={rate!r}",
            *(f"data.{name}=./x{value.replace('${', '')}" for name, value in data.items() if "=" not in name),
        ],
        environ={"BATCH_SIZE": "3", "ADAPTERS_BASE_DIR": "a${b}\\${c}"},
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "my.yaml"
        file.write_text(render_config(first), encoding="utf-8", newline="\n")
        again = compose([f"config={file}"], environ={})
    assert again.config == first.config


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_scalar_is_one_line_of_yaml(text: str) -> None:
    assert yaml.safe_load(f"[{scalar(text)}]") == [text]
    assert len(scalar(text).splitlines()) == 1
