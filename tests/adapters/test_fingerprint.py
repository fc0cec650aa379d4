"""What shapes decide about a base: the truth is always among the candidates, and nothing raises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.bases.__main__ import DEFAULT_CHECK, build, compare, differences
from tools.fingerprint_cases import SETS, adapter, as_stated, identify, rows, targets

from lorica.adapters.bases import BaseShape, all_bases, bases_named, normalise_base_id
from lorica.adapters.config import AdapterConfig
from lorica.adapters.fingerprint import (
    AdapterShapes,
    BaseMatch,
    describe_match,
    locate_module,
    match_bases,
    misfit_reasons,
    shapes_of,
)
from lorica.adapters.header import Header, TensorInfo
from lorica.adapters.tensor_map import map_tensors

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def one(name: str) -> BaseShape:
    """The one row of that name."""
    (found,) = [base for base in all_bases() if base.name == name]
    return found


def header(tensors: dict[str, tuple[int, ...]]) -> Header:
    return Header({name: TensorInfo("F32", shape, 0, 0) for name, shape in tensors.items()}, {})


def made_for(base: BaseShape, modules: list[str], **config: Any) -> tuple[AdapterShapes, BaseMatch]:
    made, stated = adapter(base, modules)
    shapes = shapes_of(map_tensors(made), msgspec.structs.replace(stated, **config))
    return shapes, match_bases(shapes)


def distinct() -> list[BaseShape]:
    """One base of each shape and family in the table."""
    found: dict[tuple[Any, ...], BaseShape] = {}
    for base in all_bases():
        key = (base.family, base.hidden, base.layers, base.kv_heads, base.head_dim, base.ffn, base.experts)
        found.setdefault(key, base)
    return list(found.values())


@pytest.mark.parametrize("name", SETS)
def test_the_true_base_is_always_a_candidate(name: str) -> None:
    tried = 0
    for base in distinct()[::3]:
        for with_config in (True, False):
            said = identify(base, name, with_config=with_config)
            if said is not None:
                assert base.name in said.candidates, f"{base.name}: {said.text}"
                assert 1 <= said.shapes <= len(said.candidates)
                tried += 1
    assert tried > 150


def test_the_table_of_real_architectures_is_recognised() -> None:
    if not DEFAULT_CHECK.is_file():
        pytest.skip("the shared table of architectures is not on this machine")
    agreed, problems = compare(DEFAULT_CHECK)
    assert not problems
    assert agreed > 300
    for line, ours in list(rows(DEFAULT_CHECK))[::7]:
        if ours is None or differences(line, ours):  # the few that tools/bases/disputes.csv explains
            continue
        said = identify(as_stated(line, ours)[0], "q,k,v,o")
        assert said is None or ours.name in said.candidates


def test_the_shipped_table_is_what_its_sources_build() -> None:
    header_row, *built = build()
    assert len(built) == len(all_bases()) > 300
    assert [row[0] for row in built] == [base.name for base in all_bases()]
    assert header_row[0] == "name"
    sizes = {base.name: (base.hidden, base.layers) for base in all_bases()}
    assert all((int(row[2]), int(row[3])) == sizes[row[0]] for row in built)


def test_the_table_agrees_with_itself() -> None:
    for base in all_bases():
        assert base.hidden > 0, base.name
        assert base.layers > 0, base.name
        assert not base.heads or base.heads % base.kv_heads == 0, base.name
        assert not base.vocabulary or base.vocabulary > 1000, base.name
        assert misfit_reasons(AdapterShapes(slots=()), base) == []


def test_the_embedded_base_is_in_the_table_as_it_is() -> None:
    import lorica.models

    raw = msgspec.json.decode((Path(lorica.models.__file__).parent / "lorica_tiny" / "config.json").read_bytes())
    (base,) = bases_named("embedded:lorica-tiny", loosely=False)
    assert (base.hidden, base.layers, base.ffn) == (
        raw["hidden_size"],
        raw["num_hidden_layers"],
        raw["intermediate_size"],
    )
    assert (base.heads, base.kv_heads, base.head_dim, base.vocabulary) == (8, 4, 32, raw["vocab_size"])


def test_the_story_of_an_adapter_for_another_width() -> None:
    shapes, found = made_for(one("Qwen/Qwen3-4B"), targets(one("Qwen/Qwen3-4B"), "all linear"))
    text = describe_match(shapes, found, bases_named("Qwen/Qwen2.5-1.5B"))
    assert text.startswith("fits Qwen/Qwen3-4B and ")
    assert "does not fit Qwen/Qwen2.5-1.5B: hidden 2560, not 1536" in text
    assert describe_match(shapes, found, bases_named("Qwen/Qwen3-4B")) == found.text == describe_match(shapes, found)
    others = len(found.candidates) - 1
    assert describe_match(shapes, found, bases_named("Qwen/Qwen3-VL-4B-Instruct")) == (
        f"fits Qwen/Qwen3-VL-4B-Instruct and {others} others"
    )


def test_few_targets_say_what_they_leave_open() -> None:
    shapes, found = made_for(one("Qwen/Qwen2.5-14B"), ["self_attn.q_proj"], target_modules=".*q_proj")
    assert shapes.width("hidden") == 5120
    assert shapes.layers is None
    assert shapes.layers_at_least == 48
    assert found.shapes > 1
    assert "layers" in found.open
    assert found.would_decide


def test_equal_shapes_are_all_named() -> None:
    _, found = made_for(one("mistralai/Mistral-7B-v0.1"), targets(one("mistralai/Mistral-7B-v0.1"), "all linear"))
    assert {"mistralai/Mistral-7B-v0.1", "meta-llama/Meta-Llama-3-8B"} <= set(found.candidates)
    assert found.shapes == 1


@pytest.mark.parametrize(
    ("rows_", "expected", "not_expected"),
    [
        (32000, "mistralai/Mistral-7B-v0.1", "meta-llama/Meta-Llama-3-8B"),
        (32002, "mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.3"),
        (128256, "meta-llama/Meta-Llama-3-8B", "mistralai/Mistral-7B-v0.1"),
        (48000, "mistralai/Mistral-7B-v0.1", "meta-llama/Meta-Llama-3-8B"),  # a user's own tokens
    ],
)
def test_the_vocabulary_decides_where_it_is_saved(rows_: int, expected: str, not_expected: str) -> None:
    made, config = adapter(one("mistralai/Mistral-7B-v0.1"), ["self_attn.q_proj", "self_attn.v_proj"])
    saved = {"base_model.model.model.embed_tokens.weight": TensorInfo("F32", (rows_, 4096), 0, 0)}
    shapes = shapes_of(map_tensors(Header(made.tensors | saved, {})), config)
    assert shapes.vocabulary == rows_
    candidates = match_bases(shapes).candidates
    assert expected in candidates
    assert not_expected not in candidates
    assert any("vocabulary" in reason for reason in misfit_reasons(shapes, one(not_expected)))


def test_a_padded_vocabulary_is_the_same_one() -> None:
    made, config = adapter(one("Qwen/Qwen2.5-7B"), ["self_attn.q_proj"])
    for seen in (151643, 151665, 151936, 152064):
        saved = {"base_model.model.lm_head.weight": TensorInfo("F32", (seen, 3584), 0, 0)}
        assert (
            misfit_reasons(shapes_of(map_tensors(Header(made.tensors | saved, {})), config), one("Qwen/Qwen2.5-7B"))
            == []
        )


def test_an_unknown_base_is_legal_and_the_nearest_are_named() -> None:
    own = msgspec.structs.replace(one("Qwen/Qwen3-4B"), hidden=2568)
    shapes, found = made_for(own, ["self_attn.q_proj", "mlp.down_proj"])
    assert found.candidates == ()
    assert found.nearest[0][0] == "Qwen/Qwen3-4B"
    assert found.nearest[0][1] == ("hidden 2568, not 2560",)
    assert "none of the" in found.text
    assert not shapes.contradictions


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, 24),
        ({"layers_to_transform": [0, 1, 23]}, None),
        ({"target_modules": r".*\.q_proj"}, None),
        ({"target_modules": ["layers.23.self_attn.q_proj"]}, None),
        ({"exclude_modules": ["lm_head"]}, None),
    ],
)
def test_layers_are_certain_only_when_the_config_leaves_none_out(config: dict[str, Any], expected: int | None) -> None:
    shapes, _ = made_for(one("Qwen/Qwen2.5-0.5B"), ["self_attn.q_proj"], **config)
    assert shapes.layers == expected
    assert shapes.layers_at_least == 24


def test_an_adapter_of_a_smaller_sister_is_told_by_its_layers() -> None:
    shapes, _ = made_for(one("tiiuae/Falcon3-7B-Base"), ["self_attn.q_proj", "mlp.up_proj"])
    assert misfit_reasons(shapes, one("tiiuae/Falcon3-10B-Base")) == ["28 layers, not 40"]
    back, _ = made_for(one("tiiuae/Falcon3-10B-Base"), ["self_attn.q_proj", "mlp.up_proj"])
    assert misfit_reasons(back, one("tiiuae/Falcon3-7B-Base")) == ["40 layers, not 28"]


def test_contradictory_widths_are_reported() -> None:
    made, config = adapter(one("Qwen/Qwen3-4B"), ["self_attn.q_proj", "mlp.up_proj"])
    broken = dict(made.tensors)
    broken["base_model.model.model.layers.3.mlp.up_proj.lora_A.weight"] = TensorInfo("F32", (8, 1536), 0, 0)
    shapes = shapes_of(map_tensors(Header(broken, {})), config)
    assert len(shapes.contradictions) == 1
    assert "hidden 1536" in shapes.contradictions[0]
    assert "2560" in shapes.contradictions[0]
    assert match_bases(shapes).candidates == ()


def test_vision_parts_do_not_speak_for_the_language_model() -> None:
    made, config = adapter(one("Qwen/Qwen2.5-VL-7B-Instruct"), ["self_attn.q_proj", "mlp.up_proj"])
    seeing = {
        f"base_model.model.visual.blocks.{layer}.attn.qkv.lora_{half}.weight": TensorInfo("F32", shape, 0, 0)
        for layer in range(32)
        for half, shape in (("A", (8, 1280)), ("B", (3840, 8)))
    }
    shapes = shapes_of(map_tensors(Header(made.tensors | seeing, {})), config)
    assert shapes.modality_modules == 32
    assert shapes.layers == 28
    assert "Qwen/Qwen2.5-VL-7B-Instruct" in match_bases(shapes).candidates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("unsloth/Qwen3-4B-unsloth-bnb-4bit", "Qwen/Qwen3-4B"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("TheBloke/Llama-2-7B-Chat-GGUF", "meta-llama/Llama-2-7b-chat-hf"),
        ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("/root/hub/models--Qwen--Qwen3-4B/snapshots/0123abcd", "Qwen/Qwen3-4B"),
        ("C:\\models\\Qwen3-4B\\", "Qwen/Qwen3-4B"),
        ("gpt2", "openai-community/gpt2"),
    ],
)
def test_ids_name_their_row(text: str, expected: str) -> None:
    assert [base.name for base in bases_named(text, loosely=False)] == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("me/Qwen2.5-7B-Instruct-medical", "Qwen/Qwen2.5-7B-Instruct"),
        ("mistralai/Mistral-7B-Instruct", "mistralai/Mistral-7B-Instruct-v0.2"),
    ],
)
def test_fine_tuned_names_mean_their_size_loosely(text: str, expected: str) -> None:
    assert bases_named(text, loosely=False) == []
    assert expected in [base.name for base in bases_named(text)]


@pytest.mark.parametrize(
    "text", ["", "/", "somebody/something", "Qwen2.5-7B-to-3B-distilled", "base", "x" * 5000, "\0"]
)
def test_ids_that_say_nothing_name_no_row(text: str) -> None:
    assert bases_named(text) == []


def test_names_lead_to_one_shape_each() -> None:
    """A name that two rows share may differ in naming (llama-fied copies), never in its numbers."""
    for base in all_bases():
        for other in bases_named(base.name, loosely=False):
            assert (other.hidden, other.layers, other.ffn) == (base.hidden, base.layers, base.ffn), normalise_base_id(
                base.name
            )


def _names() -> Iterator[str]:
    yield from ("layers", "h", "0", "7", "007", "99999", "experts", "q_proj", "up_proj", "lm_head", "visual", "", "٣")


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(list(_names())), min_size=1, max_size=6),
            st.sampled_from(
                ["lora_A.weight", "lora_B.weight", "lora_embedding_A", "weight", "modules_to_save.x.weight"]
            ),
            st.lists(st.integers(0, 2**62), max_size=4),
        ),
        max_size=12,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_shapes_and_names_raise(parts: list[tuple[list[str], str, list[int]]]) -> None:
    tensors = {f"base_model.model.{'.'.join(path)}.{leaf}": tuple(shape) for path, leaf, shape in parts}
    shapes = shapes_of(map_tensors(header(tensors)), AdapterConfig(target_modules=TARGETS))
    found = match_bases(shapes)
    assert found.text
    assert isinstance(describe_match(shapes, found, bases_named("Qwen/Qwen3-4B")), str)


def test_place_of_reads_any_prefix() -> None:
    for prefix in ("model.", "model.language_model.", "language_model.model.", "base.model.model.", ""):
        place = locate_module(f"{prefix}layers.12.self_attn.q_proj")
        assert (place.layer, place.slot, place.tail) == (12, "self_attn.q_proj", "12.self_attn.q_proj")


def test_a_file_that_names_a_hundred_thousand_kinds_of_layers_is_not_read_to_the_end() -> None:
    tensors = {
        f"base_model.model.model.layers.0.odd{number}.q_proj.lora_{half}.weight": TensorInfo("F32", shape, 0, 0)
        for number in range(5000)
        for half, shape in (("A", (4, 8)), ("B", (8, 4)))
    }
    assert len(shapes_of(map_tensors(Header(tensors, {})), None).slots) == 1000
