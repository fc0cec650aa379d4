"""Rotary position embeddings as a `config.json` states them, in each spelling, with the choices of transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorica.models.config_values import Raw, UnsupportedError, flag, mapping, number

DEFAULT_THETA = 10000.0

# Kind -> its keys, beside those that each may have.
_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
}
# `finetuned` was written by early yarn models; nothing reads it.
_COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned"})
_MOVE = "write all of it into rope_parameters, rope_theta included, and remove rope_scaling"


@dataclass(frozen=True)
class RopeScaling:
    """Rotary scaling: `default`, `linear`, `llama3` (https://arxiv.org/abs/2407.21783, released with Llama 3.1) or
    `yarn` (https://arxiv.org/abs/2309.00071). attention_factor: what cosines and sines are multiplied by.
    """

    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: float = 8192
    beta_fast: float = 32
    beta_slow: float = 1
    truncate: bool = True
    attention_factor: float = 1.0


def read_rope(raw_config: Raw, max_positions: int) -> tuple[float, RopeScaling]:
    """The base of the angular speeds (`rope_theta`), and their scaling. max_positions: of the model.

    Raises UnsupportedError for what the decoder does not do and for two keys that contradict each other, KeyError and
    ValueError for what transformers refuses as well.
    """
    values, stated_values = _rope_values(raw_config), mapping(raw_config, "rope_parameters")
    if any(isinstance(value, dict) for value in values.values()):
        raise UnsupportedError("rotary parameters that differ per kind of layer")
    rope_type = _rope_type(values)
    rope_theta = number(values if "rope_theta" in values else raw_config, "rope_theta", DEFAULT_THETA)
    if values is not stated_values and stated_values:
        _check_replaced(stated_values, values, rope_type, rope_theta)
    if rope_type not in _KEYS:
        raise UnsupportedError(f"rope scaling {rope_type!r} (only {', '.join(_KEYS)})")
    partial = values.get("partial_rotary_factor", raw_config.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1, 1.0):
        raise UnsupportedError(f"partial_rotary_factor {partial} (only 1: all of each head is rotated)")
    if rope_theta <= 1:
        raise UnsupportedError(f"rope_theta {rope_theta} (only above 1)")
    if rope_type == "default":
        return rope_theta, RopeScaling()
    scaling_factor = number(values, "factor")
    if rope_type == "linear":
        return rope_theta, RopeScaling("linear", scaling_factor)
    # transformers gives the key outside precedence, and lets the model's length stand for an absent one.
    outside = "original_max_position_embeddings" in raw_config
    original_max_positions = number(
        raw_config if outside else values, "original_max_position_embeddings", max_positions
    )
    return rope_theta, (_llama3 if rope_type == "llama3" else _yarn)(values, scaling_factor, original_max_positions)


def rope_notes(raw_config: Raw) -> list[str]:
    """What sound rotary parameters say that nothing heeds, transformers neither."""
    values = _rope_values(raw_config)
    rope_type = _rope_type(values)
    notes = []
    unused = sorted(values.keys() - _COMMON - {*_KEYS.get(rope_type, values)})
    if unused:
        notes.append(f"{', '.join(unused)} of the rotary parameters: rope_type {rope_type!r} does not use it")
    for config_key, value in (
        ("type", values.get("type", rope_type)),
        ("rope_theta", raw_config.get("rope_theta")),
    ):
        heeded = rope_type if config_key == "type" else values.get("rope_theta", value)
        if value is not None and value != heeded:
            notes.append(f"{config_key} {value!r} is stated beside {heeded!r} in the rotary parameters, which is used")
    inside = values.get("original_max_position_embeddings")
    outside = raw_config.get("original_max_position_embeddings", inside)
    if "original_max_position_embeddings" in _KEYS.get(rope_type, ()) and inside not in (None, outside):
        notes.append(f"original_max_position_embeddings {outside} is used, not {inside} of the rotary parameters")
    return notes


def _rope_values(raw_config: Raw) -> Mapping[str, Any]:
    # transformers 5 writes `rope_parameters`; a `rope_scaling` beside it replaces all of it.
    return mapping(raw_config, "rope_scaling") or mapping(raw_config, "rope_parameters")


def _rope_type(values: Mapping[str, Any]) -> str:
    rope_type = values["rope_type"] if "rope_type" in values else values.get("type", "default")
    if not isinstance(rope_type, str):
        raise ValueError(f"rope_type is {rope_type!r}, not a name such as {', '.join(_KEYS)}")
    if not {"rope_type", "type"} & values.keys() and (untyped_keys := sorted(values.keys() - _COMMON)):
        raise UnsupportedError(
            f"rotary parameters without rope_type ({', '.join(untyped_keys)}), which would change nothing",
            fix=f"add rope_type ({', '.join(_KEYS)}), or remove them",
        )
    return rope_type


def _check_replaced(
    stated_values: Mapping[str, Any], values: Mapping[str, Any], rope_type: str, rope_theta: float
) -> None:
    """Of two objects one is used; what the other says must not be lost without a word."""
    heeded = {"partial_rotary_factor": 1.0, **values, "rope_theta": rope_theta}
    named = {"type", "rope_type"}
    lost = {key: value for key, value in stated_values.items() if key not in named and heeded.get(key) != value}
    if _rope_type(stated_values) not in ("default", rope_type):
        lost["rope_type"] = _rope_type(stated_values)
    if lost:
        lost_values = ", ".join(f"{config_key} {value!r}" for config_key, value in sorted(lost.items()))
        raise UnsupportedError(
            f"rope_scaling beside rope_parameters: the former would replace all of the latter, and {lost_values} would "
            f"be lost (rope_theta would be {rope_theta})",
            fix=_MOVE,
        )


def _llama3(values: Mapping[str, Any], scaling_factor: float, original_max_positions: float) -> RopeScaling:
    low_freq_factor, high_freq_factor = number(values, "low_freq_factor"), number(values, "high_freq_factor")
    if low_freq_factor >= high_freq_factor:
        raise UnsupportedError(f"high_freq_factor {high_freq_factor} (only above low_freq_factor {low_freq_factor})")
    return RopeScaling("llama3", scaling_factor, low_freq_factor, high_freq_factor, original_max_positions)


def _yarn(values: Mapping[str, Any], factor: float, original_max_positions: float) -> RopeScaling:
    optional = {config_key: value for config_key, value in values.items() if value}  # null and 0 stand for the default
    if values.get("attention_factor") is not None:
        attention_factor = number(values, "attention_factor")
    elif "mscale" in optional and "mscale_all_dim" in optional:
        attention_factor = _mscale(factor, number(values, "mscale")) / _mscale(factor, number(values, "mscale_all_dim"))
    else:
        attention_factor = _mscale(factor, 1)
    return RopeScaling(
        "yarn",
        factor,
        original_max_positions=original_max_positions,
        beta_fast=number(optional, "beta_fast", 32),
        beta_slow=number(optional, "beta_slow", 1),
        truncate=flag(values, "truncate", True),
        attention_factor=attention_factor,
    )


def _mscale(scaling_factor: float, weight: float) -> float:
    return 1.0 if scaling_factor <= 1 else 0.1 * weight * math.log(scaling_factor) + 1.0
