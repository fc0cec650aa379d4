"""Values of a command line: numbers in Hydra's grammar, texts as they stand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorica.config.compose import compose
from lorica.config.fields import key_specs
from lorica.config.parse_values import show, unquote
from lorica.config.schema import Config


def config(*overrides: str) -> Config:
    return compose(overrides, environ={}).config


@pytest.mark.parametrize(
    "name",
    [
        "my file (1),a.csv",
        "a=b.csv",
        "a==b&c.csv",
        "Füße – データ.csv",
        "[draft].csv",
        "{x}.csv",
        "it's.csv",
        'say "hi".csv',
        "C:\\data\\new.csv",
        "-",
        "null",
        "true",
        "007",
        "1e5",
        "???",
        "*.csv",
        "$HOME/x",
        "choice(a,b)",
        " spaced ",
        "a:b",
        "line\nbreak",
        "50%",
        "@file",
        "🙂.csv",
    ],
)
def test_a_file_name_is_taken_as_it_stands(name: str) -> None:
    assert config(f"input={name}").input == name
    assert config(f"data.algebra={name}").data == {"algebra": name}
    assert config(f"input={name}", "run_dir=${model.name}").input == name  # also when something is resolved


@pytest.mark.parametrize(
    ("overrides", "enabled"),
    [
        (["retrieval.enabled=true"], {"all": True}),
        (["retrieval.enabled=true", "retrieval.enabled.algebra=false"], {"all": True, "algebra": False}),
        (["retrieval.enabled={geography:true,world history:false}"], {"geography": True, "world history": False}),
        (["retrieval.enabled.World History=true"], {"World History": True}),
        ({"retrieval.enabled": True}, {"all": True}),
        ({"retrieval.enabled": {"geography": True}}, {"geography": True}),
    ],
)
def test_a_table_of_switches(overrides: Any, enabled: dict[str, bool]) -> None:
    assert compose(overrides, environ={}).config.retrieval.enabled == enabled


# "://" makes an address of a text, which is refused as a path.
@settings(deadline=None)
@given(
    st.text(min_size=1, max_size=60).filter(
        lambda text: "${" not in text and "://" not in text and text[0] not in "'\"~"
    )
)
def test_any_text_without_quotes_and_references_is_kept(text: str) -> None:
    assert config(f"output={text}").output == text


@settings(deadline=None)
@given(st.text())
def test_a_text_quoted_as_a_whole_loses_its_quotes(text: str) -> None:
    if "\\" not in text:
        assert unquote("'" + text.replace("'", "\\'") + "'") == text
        assert unquote('"' + text.replace('"', '\\"') + '"') == text


@pytest.mark.parametrize("text", ["'", "'a", "'a' and 'b'", "''a", "a'b'"])
def test_quotes_that_do_not_enclose_the_whole_stay(text: str) -> None:
    assert unquote(text) == text


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("lora.target_modules=[q_proj,v_proj]", ["q_proj", "v_proj"]),
        ("lora.target_modules=[ q_proj , v_proj ]", ["q_proj", "v_proj"]),
        ("lora.target_modules=['q_proj',\"v_proj\"]", ["q_proj", "v_proj"]),
        ("lora.target_modules=[layers.0.q_proj]", ["layers.0.q_proj"]),
        ("lora.target_modules=[.*\\.(q|v)_proj]", [".*\\.(q|v)_proj"]),
        ("lora.target_modules=all-linear", "all-linear"),
        ("lora.target_modules='all-linear'", "all-linear"),
    ],
)
def test_target_modules(override: str, value: Any) -> None:
    assert config(override).lora.target_modules == value


def test_texts_in_a_list_stay_texts() -> None:
    labels = config("task.positive_labels=[01,1.0,TRUE,'yes, it does',don't,a\\,b]").task.positive_labels
    assert labels == ["01", "1.0", "TRUE", "yes, it does", "don't", "a,b"]


def test_tables_in_one_override_add_to_single_entries() -> None:
    made = config("task.columns={body:text, rule:'the: rule'}", "task.columns.subreddit=sub", "data={a:C:\\x.csv}")
    assert made.task.columns == {"body": "text", "rule": "the: rule", "subreddit": "sub"}
    assert made.data == {"a": "C:\\x.csv"}


def test_pattern_names_keep_their_dots() -> None:
    made = config("lora.rank_pattern.layers.0.self_attn.q_proj=8", "lora.alpha_pattern={layers.1.q_proj:4,v_proj:2}")
    assert made.lora.rank_pattern == {"layers.0.self_attn.q_proj": 8}
    assert made.lora.alpha_pattern == {"layers.1.q_proj": 4, "v_proj": 2}


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.learning_rate=1e-3", "learning_rate", 1e-3),
        ("training.learning_rate=1", "learning_rate", 1.0),
        ("training.max_seq_length=1_024", "max_seq_length", 1024),
        ("training.bf16=true", "bf16", True),
        ("training.bf16=True", "bf16", True),
        ("training.weight_decay=0", "weight_decay", 0.0),
    ],
)
def test_numbers_and_switches(override: str, key: str, value: Any) -> None:
    got = getattr(config(override).training, key)
    assert got == value
    assert type(got) is type(value)


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=10**9))
def test_whole_numbers_survive(number: int) -> None:
    assert config(f"lora.r={number}").lora.r == number


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=0.99))
def test_numbers_survive_exactly(number: float) -> None:
    assert config(f"lora.dropout={number!r}").lora.dropout == number


def test_what_a_message_shows_can_be_written() -> None:
    for key_spec in key_specs().values():
        if key_spec.value_type != "table":
            assert compose([f"{key_spec.key}={show(key_spec.default)}"], environ={}).config == Config()
