from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorica.adapters.config import OTHER_KEYS, AdapterConfig, parse_adapter_config, read_adapter_config
from lorica.errors import AdapterError

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "peft_configs"
REAL = sorted(SHARED.rglob("*.json"))
Q0 = "model.layers.0.self_attn.q_proj"


def lora(**changes: Any) -> bytes:
    return json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16} | changes).encode()


@pytest.mark.skipif(not REAL, reason="the folder shared/data/peft_configs is not beside the repository")
def test_all_real_configs_are_read_or_refused_by_their_type() -> None:
    read, refused = 0, 0
    for path in REAL:
        values = json.loads(path.read_bytes())
        if values["peft_type"] == "LORA":
            config = read_adapter_config(path)
            for key in ("r", "lora_alpha", "target_modules", "bias"):
                assert getattr(config, key) == values[key], (path, key)
            assert parse_adapter_config(config.to_json()) == config
            unsupported = bool(values.get("use_dora") or values.get("use_bdlora") or values.get("kasa_config"))
            assert bool(config.unsupported()) == unsupported, (path, config.unsupported())
            read += 1
        else:
            with pytest.raises(AdapterError) as caught:
                read_adapter_config(path)
            assert f"is a {values['peft_type']} adapter" in str(caught.value)
            refused += 1
    assert (read, read + refused) == (23, 165)


def test_every_key_of_peft_is_known() -> None:
    from peft import LoraConfig

    theirs = {field.name for field in dataclasses.fields(LoraConfig)}
    ours = (set(AdapterConfig.__struct_fields__) - {"other"}) | set(OTHER_KEYS)
    assert ours == theirs


def test_defaults_are_those_of_peft() -> None:
    from peft import LoraConfig

    config = parse_adapter_config(b'{"peft_type": "LORA"}')
    theirs = LoraConfig()
    for field in dataclasses.fields(LoraConfig):
        if field.name in AdapterConfig.__struct_fields__:
            assert getattr(config, field.name) == getattr(theirs, field.name), field.name


MODULES = [
    Q0,
    "model.layers.10.self_attn.q_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.mlp.experts.0.up_proj",
    "q_proj",
    "lm_head",
]
PLAIN = [
    "q_proj",
    "proj",
    "self_attn.q_proj",
    "0.self_attn.q_proj",
    "layers.1.mlp.experts.0.up_proj",
    "lm_head",
    Q0,
]
PATTERNS = [*PLAIN, *[f"^{name}" for name in PLAIN]]


@given(
    rank_pattern=st.dictionaries(st.sampled_from(PATTERNS), st.integers(1, 64), max_size=4),
    alpha_pattern=st.dictionaries(st.sampled_from(PATTERNS), st.integers(1, 64), max_size=4),
    rslora=st.booleans(),
    module=st.sampled_from(MODULES),
)
def test_patterns_match_like_peft(
    rank_pattern: dict[str, int], alpha_pattern: dict[str, int | float], rslora: bool, module: str
) -> None:
    from peft.utils.other import get_pattern_key

    config = AdapterConfig(
        r=8, lora_alpha=16, use_rslora=rslora, rank_pattern=rank_pattern, alpha_pattern=alpha_pattern
    )
    rank = rank_pattern.get(get_pattern_key(list(rank_pattern), module), 8)
    alpha = alpha_pattern.get(get_pattern_key(list(alpha_pattern), module), 16)
    assert config.rank(module) == rank
    assert config.scaling(module) == pytest.approx(alpha / (rank**0.5 if rslora else rank), rel=1e-15)


@given(
    targets=st.lists(st.sampled_from(PLAIN), max_size=3),
    excluded=st.lists(st.sampled_from(PLAIN), max_size=1),
    layers=st.one_of(st.none(), st.integers(0, 1), st.lists(st.integers(0, 1), max_size=2)),
    module=st.sampled_from(MODULES),
)
def test_targets_match_like_peft(
    targets: list[str], excluded: list[str], layers: int | list[int] | None, module: str
) -> None:
    from peft.tuners.tuners_utils import check_target_module_exists

    config = AdapterConfig(target_modules=targets, exclude_modules=excluded, layers_to_transform=layers)
    theirs = SimpleNamespace(
        target_modules=targets, exclude_modules=excluded, layers_to_transform=layers, target_parameters=None
    )
    assert config.targets(module) is bool(check_target_module_exists(theirs, module))


def test_regular_expressions_are_never_executed() -> None:
    evil = r"(a+)+$"
    config = parse_adapter_config(lora(target_modules=evil, rank_pattern={evil: 4}))
    assert config.targets("a" * 50 + "b") is None
    with pytest.raises(AdapterError, match="regular expression, which is never executed"):
        config.rank("a" * 50 + "b")
    assert "rank_pattern" in config.unsupported()[0]


def test_the_order_of_patterns_survives_writing() -> None:
    config = AdapterConfig(rank_pattern={"q_proj": 4, "0.self_attn.q_proj": 2}, target_modules=["q_proj"])
    again = parse_adapter_config(config.to_json())
    assert again.rank(Q0) == config.rank(Q0) == 4
    assert again.to_json() == config.to_json()


UNSUPPORTED = {
    "use_dora": True,
    "modules_to_save": ["lm_head"],
    "bias": "all",
    "init_lora_weights": "pissa_niter_4",
    "lora_bias": True,
    "layer_replication": [[0, 4], [2, 5]],
    "target_parameters": ["experts.gate_up_proj"],
    "trainable_token_indices": [1, 2],
    "alora_invocation_tokens": [5],
    "fan_in_fan_out": True,
    "a_key_of_the_future": "on",
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_what_is_not_applied_is_named(key: str) -> None:
    reasons = parse_adapter_config(lora(**{key: UNSUPPORTED[key]})).unsupported()
    assert len(reasons) == 1
    assert reasons[0].startswith(key)


def test_keys_without_effect_are_kept_and_allowed() -> None:
    raw = lora(
        megatron_core="megatron.core",
        qalora_group_size=16,
        a_key_of_the_future=None,
        loftq_config={},
        init_lora_weights=None,
    )
    config = parse_adapter_config(raw)
    assert config.unsupported() == []
    assert json.loads(config.to_json())["megatron_core"] == "megatron.core"


BROKEN = {
    "not JSON": (b"{", "not JSON"),
    "a list": (b"[]", "JSON list"),
    "twice": (b'{"peft_type": "LORA", "r": 8, "r": 16}', "'r' twice"),
    "NaN": (b'{"peft_type": "LORA", "lora_alpha": NaN}', "NaN"),
    "infinite": (b'{"peft_type": "LORA", "lora_alpha": 1e999}', "alpha inf"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeply"),
    "not UTF-8": (b'{"\xff": 1}', "UTF-8"),
    "surrogate": (b'{"a": "\\ud800"}', "surrogate"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "no type": (b'{"r": 8}', "does not say"),
    "type is a number": (b'{"peft_type": 3}', "does not say"),
    "rank is text": (lora(r="8"), r"\$\.r"),
    "rank is true": (lora(r=True), r"\$\.r"),
    "rank 0": (lora(r=0), "rank 0"),
    "rank pattern 0": (lora(rank_pattern={"q_proj": 0}), "rank 0 \\(q_proj\\)"),
    "alpha 0": (lora(lora_alpha=0), "alpha 0"),
    "dropout 1": (lora(lora_dropout=1.0), "lora_dropout"),
    "rslora is text": (lora(use_rslora="false"), r"use_rslora"),
    "too large": (b" " * (4 * 1024 * 1024 + 1), "larger than"),
    "long number": (b'{"peft_type": "LORA", "r": ' + b"9" * 5000 + b"}", "not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_configs_are_refused(case: str, tmp_path: Path) -> None:
    raw, reason = BROKEN[case]
    path = tmp_path / "adapter_config.json"
    path.write_bytes(raw)
    with pytest.raises(AdapterError, match=reason) as caught:
        read_adapter_config(path)
    assert str(path) in str(caught.value)
