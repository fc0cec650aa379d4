"""Which modules a config targets, decided without ever executing an expression that a config holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from lorica.adapters.config import AdapterConfig, names_module
from lorica.adapters.layout import Layout, module_path
from lorica.errors import AdapterError

# How expressions begin whose meaning is plain; the longest first. "dot": the name is a last part of the path;
# "end": the path ends so; "whole": the path is this.
_OPENINGS: tuple[tuple[str, Literal["dot", "end", "whole"]], ...] = (
    (r"(?:.*\.)?", "dot"),
    (r"(.*\.)?", "dot"),
    (r".*?\.", "dot"),
    (r".*\.", "dot"),
    (r".+\.", "dot"),
    (r".*?", "end"),
    (r".*", "end"),
    ("", "whole"),
)
_PLAIN = re.compile(r"(?:[\w\-]|\\?\.)+")
# The layer's number as PEFT takes it: the first number after two parts.
_INDEX = re.compile(r".*?\.([^.]*)\.(\d+)\.")
# Modules that PEFT's "all-linear" leaves out.
_OUTPUTS = ("lm_head", "embed_out", "score", "classifier")
# What PEFT 0.21 targets by itself where a config names nothing, over all base types.
_DEFAULTS = (
    {"q_proj", "v_proj", "fc1", "fc2"},
    {"q_proj", "k_proj", "v_proj", "o_proj"},
    {"k_proj", "v_proj", "o_proj", "r_proj", "key", "value"},
    {"key", "value", "receptance", "output"},
    {"query", "value"},
    {"query_proj", "value_proj"},
    {"query_key_value"},
    {"c_attn", "c_proj"},
    {"in_proj"},
    {"qkv_proj"},
    {"Wqkv"},
    {"q", "v", "q_proj", "v_proj"},
)


class Names(msgspec.Struct, frozen=True):
    """Plain names that an expression stands for. ends: (how, name); see `_OPENINGS`."""

    ends: tuple[tuple[str, str], ...]

    def match(self, path: str) -> bool:
        """Whether the whole of a module's path is meant."""
        return any(
            path.endswith(name) if how == "end" else path == name or (how == "dot" and path.endswith(f".{name}"))
            for how, name in self.ends
        )


def read_expression(text: str) -> Names | None:
    """The plain names behind a well-known form of expression (`.*\\.(q_proj|v_proj)$`), read by hand; else None."""
    if len(text) > 4096:
        return None
    if "(" not in text and "|" in text:
        pieces = [_read_piece(piece) for piece in text.split("|")]
        if any(piece is None for piece in pieces):
            return None
        return Names(tuple(end for piece in pieces if piece for end in piece))
    ends = _read_piece(text)
    return None if ends is None else Names(ends)


def _read_piece(text: str) -> tuple[tuple[str, str], ...] | None:
    text = text.removeprefix("^")
    text = text if text.endswith(r"\$") else text.removesuffix("$")
    opening, how = next((opening, how) for opening, how in _OPENINGS if text.startswith(opening))
    rest = text.removeprefix(opening)
    for left in ("(?:", "("):
        if rest.startswith(left) and rest.endswith(")"):
            rest = rest.removeprefix(left).removesuffix(")")
            break
    names = rest.split("|") if rest is not text else [rest]
    if not all(_PLAIN.fullmatch(name) for name in names):
        return None
    return tuple((how, name.replace("\\.", ".")) for name in names)


def tells_layers(text: str) -> bool:
    """Whether an expression could mean some layers and not others: it holds a number of its own."""
    free = re.sub(r"\[0-9\]|\{[\d,]*\}|\\d", "", text)
    return re.search(r"(?<![A-Za-z_\d])\d", free) is not None


def targeted(config: AdapterConfig, path: str) -> bool | None:
    """Whether PEFT would adapt the module of this path; None when only an expression could tell."""
    module = module_path(path)
    if of_parameters(config, module):
        return True
    excluded = config.exclude_modules
    if isinstance(excluded, str) and excluded:
        names = read_expression(excluded)
        if names is None:
            return None
        if names.match(module):
            return False
    elif excluded and names_any(module, excluded):
        return False
    if any(f".{name}." in f".{module}." for name in config.modules_to_save or ()):
        return False
    targets = config.target_modules
    if targets is None:
        return None
    if isinstance(targets, str):
        if targets == "all-linear":
            return module.rsplit(".", 1)[-1] not in _OUTPUTS
        names = read_expression(targets)
        return None if names is None else names.match(module)
    return module in targets or (names_any(module, targets) and _in_layers(config, module))


def of_parameters(config: AdapterConfig, path: str) -> bool:
    """Whether the module holds a parameter that `target_parameters` names ("mlp.experts.gate_up_proj")."""
    named = config.other.get("target_parameters")
    if not isinstance(named, list):
        return False
    module = module_path(path)
    for name in named:
        if not isinstance(name, str):
            continue
        owner, _, _ = name.rpartition(".")
        if names_any(module, [owner]) if owner else "expert" in module:
            return True
    return False


def names_any(module: str, names: Sequence[str]) -> bool:
    """Whether one of the names is the module's path or its last parts."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def _in_layers(config: AdapterConfig, module: str) -> bool | None:
    chosen = config.layers_to_transform
    if chosen is None or chosen == []:
        return True
    hit = _INDEX.match(module)
    patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern or []
    if patterns and not all(_PLAIN.fullmatch(pattern) for pattern in patterns):
        return None
    if patterns:
        hit = next(
            (found for name in patterns if (found := re.match(rf"(?:^|.*?\.)({re.escape(name)})\.(\d+)\.", module))),
            None,
        )
    return hit is not None and int(hit[2]) in ([chosen] if isinstance(chosen, int) else chosen)


def by_default(layout: Layout) -> bool:
    """Whether the adapted modules are within what PEFT targets by itself for some type of base."""
    kinds = {each.kind for each in layout.modules.values()}
    return any(kinds <= default for default in _DEFAULTS)


class UnknownKeyError(Exception):
    """A key of a pattern whose meaning only execution could tell stands before any key that fits."""


def pattern_value(patterns: Mapping[str, float], module: str) -> float | None:
    """The value of the first key that means a module, as PEFT takes it, None when none does. Raises UnknownKeyError."""
    for key, value in patterns.items():
        means = means_module(key, module)
        if means is None:
            raise UnknownKeyError(key)
        if means:
            return value
    return None


def means_module(key: str, module: str) -> bool | None:
    """Whether a key of rank_pattern or alpha_pattern means a module; None when only execution could tell."""
    try:
        return names_module(key, module)
    except AdapterError:
        names = None if key.startswith("^") else read_expression(key.removesuffix("$"))
    if names is None:
        return None
    # In PEFT a key may begin anywhere after a dot: "whole" is "dot" here.
    return Names(tuple(("end" if how == "end" else "dot", name) for how, name in names.ends)).match(module)
