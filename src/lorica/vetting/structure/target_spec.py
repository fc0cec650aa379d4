"""Which modules a config targets, decided without ever executing an expression that a config holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterator, Mapping
from typing import Literal

import msgspec

from lorica.adapters.config import AdapterConfig, is_plain, lora_scaling
from lorica.adapters.tensor_map import TensorMap, module_path
from lorica.vetting.structure.safe_regex import SafeRegex, UnsupportedRegexError

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
# Names with commas or spaces between them: a list that became one text. As an expression it means itself, and no
# module's path has a comma or a space.
_LIST_AS_TEXT = re.compile(r"\[?[\w\-.'\"]*[\s,;][\w\-.,;\s'\"]*\]?")
# The layer's number as PEFT takes it: the first number after two parts.
_INDEX = re.compile(r".*?\.([^.]*)\.(\d+)\.")
# Lists of a config that are longer are cut here: nobody writes them, and they must not cost a check its time.
_MAX_ENTRIES, _MAX_EXPRESSIONS, _MAX_COMPONENTS = 64, 64, 64
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


class PathNames(msgspec.Struct, frozen=True):
    """Plain names that an expression stands for. ends: (how, name); see `_OPENINGS`."""

    ends: tuple[tuple[str, str], ...]

    def match(self, module_path: str) -> bool:
        """Whether the whole of a module's path is meant."""
        return any(
            module_path.endswith(path_name)
            if end_kind == "end"
            else module_path == path_name or (end_kind == "dot" and module_path.endswith(f".{path_name}"))
            for end_kind, path_name in self.ends
        )


def read_expression(expression: str) -> PathNames | None:
    """The plain names behind a well-known form of expression (`.*\\.(q_proj|v_proj)$`), read by hand; else None."""
    if len(expression) > 4096:
        return None
    if _LIST_AS_TEXT.fullmatch(expression):
        return PathNames(())
    ends: list[tuple[str, str]] = []
    for piece in expression.split("|") if "(" not in expression else [expression]:
        piece_ends = _read_piece(piece)
        if piece_ends is None:
            return None
        ends += piece_ends
    return PathNames(tuple(ends))


def _read_piece(piece: str) -> tuple[tuple[str, str], ...] | None:
    piece = piece.removeprefix("^")
    piece = piece if piece.endswith(r"\$") else piece.removesuffix("$")
    opening, end_kind = next((opening, end_kind) for opening, end_kind in _OPENINGS if piece.startswith(opening))
    name_list = piece.removeprefix(opening)
    for bracket in ("(?:", "("):
        if name_list.startswith(bracket) and name_list.endswith(")"):
            name_list = name_list.removeprefix(bracket).removesuffix(")")
            break
    path_names = name_list.split("|") if name_list is not piece else [name_list]
    if not all(_PLAIN.fullmatch(path_name) for path_name in path_names):
        return None
    return tuple((end_kind, path_name.replace("\\.", ".")) for path_name in path_names)


def may_select_layers(expression: str) -> bool:
    """Whether an expression could mean some layers and not others: it holds a number of its own."""
    without_digits = re.sub(r"\[0-9\]|\{[\d,]*\}|\\d", "", expression)
    return re.search(r"(?<![A-Za-z_\d])\d", without_digits) is not None


def suffixes(module_path: str) -> Iterator[str]:
    """A path and its last parts: "a.b.c", "b.c", "c". Of more than 64 parts, the last 64 and the whole."""
    yield module_path
    dot_index, deepest = len(module_path), _MAX_COMPONENTS
    while deepest and (dot_index := module_path.rfind(".", 0, dot_index)) >= 0:
        yield module_path[dot_index + 1 :]
        deepest -= 1


class Patterns:
    """rank_pattern or alpha_pattern: in PEFT the first key that means a module gives its value. names: plain keys, of
    which "^" binds some to a whole path, -> their order. expressions: order, key, and names that it stands for."""

    def __init__(self, patterns: Mapping[str, float]) -> None:
        self.values = list(patterns.values())
        self.names: dict[str, int] = {}
        self.expressions: list[tuple[int, str, PathNames | None]] = []
        for number, pattern_key in enumerate(patterns):
            if is_plain(pattern_key):
                self.names[pattern_key] = number
            elif len(self.expressions) <= _MAX_EXPRESSIONS:
                path_names = _read_key(pattern_key) if len(self.expressions) < _MAX_EXPRESSIONS else None
                self.expressions.append((number, pattern_key, path_names))

    def value(self, module: str, default: float) -> float | None:
        """The value for a module, the default when no key means it; None when a key whose meaning only execution could
        tell stands before any that fits."""
        if not self.values:
            return default
        orders = [self.names[name] for name in (f"^{module}", *suffixes(module)) if name in self.names]
        first_order = min(orders, default=len(self.values))
        for number, _, path_names in self.expressions:
            if number > first_order:
                break
            if path_names is None:
                return None
            if path_names.match(module):
                first_order = number
        return self.values[first_order] if first_order < len(self.values) else default

    def unmatched(self, modules: Collection[str]) -> tuple[list[str], list[str]]:
        """(keys that mean none of the modules, keys whose meaning only execution could tell)."""
        meant = {name for module in modules for name in (f"^{module}", *suffixes(module))}
        unmatched_keys = sorted((key for key in self.names if key not in meant), key=lambda key: key.startswith("^"))
        for _, pattern_key, path_names in self.expressions:
            if path_names is not None and not any(map(path_names.match, modules)):
                unmatched_keys.append(pattern_key)
        return unmatched_keys, [pattern_key for _, pattern_key, path_names in self.expressions if path_names is None]


def _read_key(pattern_key: str) -> PathNames | None:
    path_names = None if pattern_key.startswith("^") else read_expression(pattern_key)
    if path_names is None:
        return None
    # In PEFT a key may begin anywhere after a dot: "whole" is "dot" here.
    return PathNames(
        tuple(("end" if end_kind == "end" else "dot", path_name) for end_kind, path_name in path_names.ends)
    )


class TargetSpec:
    """What a config asks for, made ready once: which modules it targets, with which rank and alpha. layers: those of
    layers_to_transform, empty for all."""

    def __init__(self, config: AdapterConfig) -> None:
        self.config = config
        self.ranks, self.alphas = Patterns(config.rank_pattern), Patterns(config.alpha_pattern)
        self._targets = frozenset(config.target_modules) if isinstance(config.target_modules, list) else None
        self._excluded = frozenset(config.exclude_modules) if isinstance(config.exclude_modules, list) else None
        self._saved_modules = config.saved_modules[:_MAX_ENTRIES]
        layer_choice = config.layers_to_transform
        self.layers = frozenset([layer_choice] if isinstance(layer_choice, int) else layer_choice or [])
        self._target_names = _compiled(config.target_modules)
        self._excluded_names = _compiled(config.exclude_modules)
        named = config.other.get("target_parameters")
        parameters = named if isinstance(named, list) else []
        self.parameters = frozenset(parameter for parameter in parameters if isinstance(parameter, str))
        self._owners = frozenset(parameter.rpartition(".")[0] for parameter in self.parameters)

    def targeted(self, path: str) -> bool | None:
        """Whether PEFT would adapt the module of this path; None when only an expression could tell."""
        module = module_path(path)
        if self.of_parameters(module):
            return True
        if isinstance(self.config.exclude_modules, str) and self.config.exclude_modules:
            excluded = None if self._excluded_names is None else self._excluded_names.match(module)
            if excluded is not False:
                return None if excluded is None else False
        elif self._excluded and ends_with(module, self._excluded):
            return False
        if any(f".{saved_name}." in f".{module}." for saved_name in self._saved_modules):
            return False
        if isinstance(self.config.target_modules, str):
            if self.config.target_modules == "all-linear":
                return module.rsplit(".", 1)[-1] not in _OUTPUTS
            return None if self._target_names is None else self._target_names.match(module)
        if self._targets is None:
            return None
        if module in self._targets:
            return True
        return ends_with(module, self._targets) and self._in_layers(module)

    def of_parameters(self, path: str) -> bool:
        """Whether the module holds a parameter that `target_parameters` names ("mlp.experts.gate_up_proj")."""
        if not self.parameters:
            return False
        module = module_path(path)
        return ends_with(module, self._owners) or ("" in self._owners and "expert" in module)

    def rank(self, module_path: str) -> int | None:
        """The rank the config gives a module; None when only an expression could tell."""
        rank = self.ranks.value(module_path, self.config.r)
        return None if rank is None else int(rank)

    def alpha(self, module_path: str) -> float | None:
        """The alpha the config gives a module; None when only an expression could tell."""
        return self.alphas.value(module_path, self.config.lora_alpha)

    def scaling(self, module_path: str) -> float | None:
        """The factor of B A; None when only an expression could tell."""
        alpha, rank = self.alpha(module_path), self.rank(module_path)
        if alpha is None or rank is None or rank <= 0:
            return None
        return lora_scaling(alpha, rank, rslora=self.config.use_rslora)

    def _in_layers(self, module: str) -> bool | None:
        if not self.layers:
            return True
        layers_pattern = self.config.layers_pattern
        patterns = ([layers_pattern] if isinstance(layers_pattern, str) else layers_pattern or [])[:_MAX_ENTRIES]
        if not all(_PLAIN.fullmatch(pattern) for pattern in patterns):
            return None
        layer_match = _INDEX.match(module)
        if patterns:
            alternatives = "|".join(re.escape(pattern) for pattern in patterns)
            layer_match = re.match(rf"(?:^|.*?\.)({alternatives})\.(\d+)\.", module)
        return layer_match is not None and len(layer_match[2]) < 10 and int(layer_match[2]) in self.layers


def _compiled(targets: list[str] | str | None) -> PathNames | SafeRegex | None:
    if not isinstance(targets, str) or targets in ("", "all-linear"):
        return None
    if (path_names := read_expression(targets)) is not None:
        return path_names
    try:
        return SafeRegex(targets)
    except UnsupportedRegexError:
        return None


def ends_with(module: str, suffix_names: Container[str]) -> bool:
    """Whether one of the names is the module's path or its last parts."""
    return any(suffix in suffix_names for suffix in suffixes(module))


def is_default_target(tensor_map: TensorMap) -> bool:
    """Whether the adapted modules are within what PEFT targets by itself for some type of base."""
    module_names = {module.target for module in tensor_map.modules.values()}
    return any(module_names <= default for default in _DEFAULTS)
