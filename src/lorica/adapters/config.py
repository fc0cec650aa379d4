"""`adapter_config.json` of a LoRA adapter, read and written as PEFT does.

No regular expression of a config is ever executed. `target_modules` may hold one: what an adapter targets is
known from its tensors' names. Keys of `rank_pattern` and `alpha_pattern` are matched by own code when they
are plain names ("q_proj", "layers.1.mlp.up_proj", "^model.layers.0.self_attn.q_proj") and refused otherwise.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.json_document import DocumentError, read_capped, read_object, short_text
from lorica.adapters.methods import FORMATS, method_of_config
from lorica.errors import AdapterError

CONFIG_NAME = "adapter_config.json"
MAX_CONFIG_BYTES = 4 * 1024 * 1024

# Keys PEFT 0.21 writes beside the fields of AdapterConfig. A value other than None, False or empty switches a feature
# on, and what it does to the result is the reason it cannot be ignored. "" marks keys without an effect on inference.
OTHER_KEYS = {
    "alora_invocation_tokens": "Activated LoRA applies the adapter to a part of the prompt only",
    "arrow_config": "Arrow mixes several adapters",
    "auto_mapping": "",
    "corda_config": "",
    "ensure_weight_tying": "",
    "eva_config": "",
    "fan_in_fan_out": "the base layer's weights are stored transposed (Conv1D)",
    "inference_mode": "",
    "kasa_config": "KaSA changes the base weights",
    "layer_replication": "the base model's layers are repeated",
    "loftq_config": "",
    "lora_bias": "lora_B has a bias",
    "lora_ga_config": "",
    "megatron_config": "the layers are Megatron's",
    "megatron_core": "",
    "monteclora_config": "MonteCLoRA samples the update",
    "peft_version": "",
    "qalora_group_size": "",
    "runtime_config": "",
    "target_parameters": "parameters outside linear layers are adapted",
    "trainable_token_indices": "rows of the embedding are replaced",
    "use_bdlora": "BD-LoRA's factors are block-diagonal",
    "use_qalora": "QALoRA pools the inputs",
    "velora_config": "",
}

# Modules that PEFT keeps beside the pairs for a task, whatever the config says: its model class of the task adds them
# to modules_to_save. Configs saved by older versions hold null there.
TASK_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}

# Initialisations that subtract something from the base weights: the pair alone is not the update.
BASE_CHANGING_INIT = ("pissa", "olora", "corda", "loftq", "lora_ga")


def lora_scaling(alpha: float, rank: int, *, rslora: bool) -> float:
    """The factor of B A: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    return alpha / (math.sqrt(rank) if rslora else rank)


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What `adapter_config.json` says. Fields are PEFT's; `other` keeps every further key as it was read.

    r: rank. lora_alpha: numerator of the scaling. lora_dropout: probability in training.
    target_modules: module names (last parts of their paths), a regular expression, or None.
    """

    peft_type: str = "LORA"
    task_type: str | None = "CAUSAL_LM"
    base_model_name_or_path: str | None = None
    revision: str | None = None
    r: int = 8
    lora_alpha: int | float = 8
    lora_dropout: int | float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, int | float] = {}
    init_lora_weights: bool | str | None = True
    other: dict[str, Any] = {}

    @property
    def task_heads(self) -> tuple[str, ...]:
        """The names that PEFT adds to modules_to_save for the task; a base has one of them at most."""
        return TASK_HEADS.get(self.task_type or "", ())

    @property
    def saved_modules(self) -> list[str]:
        """modules_to_save as PEFT applies it, with the heads of the task."""
        return list(dict.fromkeys([*(self.modules_to_save or ()), *self.task_heads]))

    def rank(self, module_name: str) -> int:
        """The rank of a module ("model.layers.0.self_attn.q_proj"). Raises AdapterError for a pattern that is
        not a plain name."""
        pattern_key = _first_match(self.rank_pattern, module_name, "rank_pattern")
        return self.r if pattern_key is None else self.rank_pattern[pattern_key]

    def alpha(self, module_name: str) -> float:
        """The alpha of a module. Raises AdapterError for a pattern that is not a plain name."""
        pattern_key = _first_match(self.alpha_pattern, module_name, "alpha_pattern")
        return self.lora_alpha if pattern_key is None else self.alpha_pattern[pattern_key]

    def scaling(self, module_name: str) -> float:
        """The factor of B A x for a module. Raises AdapterError for a pattern that is not a plain name."""
        return lora_scaling(self.alpha(module_name), self.rank(module_name), rslora=self.use_rslora)

    def targets(self, module_name: str) -> bool | None:
        """Whether PEFT would adapt this module; None when only a regular expression could tell."""
        if isinstance(self.exclude_modules, list):
            if _ends_with_any(module_name, self.exclude_modules):
                return False
        elif self.exclude_modules:
            return None
        if not isinstance(self.target_modules, list):
            return None
        if not _ends_with_any(module_name, self.target_modules):
            return False
        chosen = self.layers_to_transform
        if chosen is None or chosen == [] or module_name in self.target_modules:
            return True
        if self.layers_pattern:
            return None
        # The first number, as in PEFT: experts are numbered, too.
        layer_match = re.match(r".*?\.[^.]*\.(\d+)\.", module_name)
        return layer_match is not None and int(layer_match[1]) in ([chosen] if isinstance(chosen, int) else chosen)

    def unsupported(self, applied: Collection[str] = ()) -> list[str]:
        """What this config asks for that Lorica's decoder does not do, one reason each; empty when all is
        well. applied: keys ("use_dora", "modules_to_save", "lora_bias") that the caller does apply."""
        reasons = []
        if self.use_dora and "use_dora" not in applied:
            reasons.append("use_dora: DoRA rescales each row of the base weights")
        if self.saved_modules and "modules_to_save" not in applied:
            reasons.append(f"modules_to_save: whole layers are replaced ({', '.join(self.saved_modules)})")
        if self.bias != "none":
            reasons.append(f"bias={self.bias!r}: biases of the base model are replaced")
        if isinstance(self.init_lora_weights, str) and self.init_lora_weights.startswith(BASE_CHANGING_INIT):
            reasons.append(f"init_lora_weights={self.init_lora_weights!r}: the base weights were changed in training")
        for option_key, option_value in self.other.items():
            refusal_reason = OTHER_KEYS.get(option_key, "unknown to Lorica (written by another version of PEFT?)")
            if refusal_reason and option_key not in applied and option_value not in (None, False, "", [], {}):
                reasons.append(f"{option_key}: {refusal_reason}")
        for name, patterns in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            reasons += [f"{name}: {pattern!r} is a regular expression" for pattern in patterns if not is_plain(pattern)]
        return reasons

    def to_json(self) -> bytes:
        """The file's bytes, keys sorted; equal configs give equal bytes, and PEFT loads them.

        Patterns keep their order: in PEFT the first that matches wins.
        """
        option_values = {name: getattr(self, name) for name in self.__struct_fields__ if name != "other"} | self.other
        return json.dumps(dict(sorted(option_values.items())), indent=2, ensure_ascii=False).encode("utf-8") + b"\n"


def read_adapter_config(adapter_path: Path) -> AdapterConfig:
    """Read `adapter_config.json` (the file, or the folder that holds it).

    Raises AdapterError when it is missing, broken, or of a method other than LoRA, which it names.
    """
    config_path = adapter_path / CONFIG_NAME if adapter_path.is_dir() else adapter_path
    try:
        return parse_adapter_config(read_capped(config_path, MAX_CONFIG_BYTES + 1))
    except FileNotFoundError:
        raise AdapterError(
            f"{config_path}: no such file",
            fix=f"an adapter folder holds {CONFIG_NAME} and adapter_model.safetensors",
        ) from None
    except OSError as error:
        raise AdapterError(f"{config_path}: cannot be read ({error.strerror})") from error
    except AdapterError as error:
        raise AdapterError(f"{config_path}: {error.message}", fix=error.fix) from None


def parse_adapter_config(config_bytes: bytes) -> AdapterConfig:
    """Bytes of an `adapter_config.json` -> config. Raises AdapterError."""
    option_values, problems = read_object(config_bytes, MAX_CONFIG_BYTES)
    if option_values is None or problems:
        raise problems[0]
    return config_from(option_values)


def config_from(option_values: Mapping[str, Any]) -> AdapterConfig:
    """The object that a config's file holds -> config. Raises AdapterError for another method than LoRA (DocumentError
    "method"), and for a value of a wrong type ("type") or out of range ("range")."""
    peft_type = option_values.get("peft_type")
    if peft_type != "LORA":
        is_named = isinstance(peft_type, str) and peft_type
        description = (
            f"is a {short_text(peft_type)} adapter" if is_named else "does not say which kind of adapter it is"
        )
        claimed = method_of_config(option_values)
        other_format = FORMATS.get(claimed[0]) if claimed is not None else None
        description = f"is of {other_format.title}" if other_format else description
        raise DocumentError(
            "method",
            f"{description}; Lorica reads LORA",
            fix=other_format.reader if other_format else "use a LoRA adapter saved by PEFT (peft_type LORA)",
        )
    fields = set(AdapterConfig.__struct_fields__) - {"other"}
    fields_given = {key: value for key, value in option_values.items() if key in fields}
    for option_key in ("rank_pattern", "alpha_pattern"):
        if fields_given.get(option_key, {}) is None:
            del fields_given[option_key]  # older versions of PEFT write null for "none"
    fields_given.setdefault("task_type", None)
    fields_given["other"] = {key: value for key, value in option_values.items() if key not in fields}
    try:
        config = msgspec.convert(fields_given, AdapterConfig)
    except msgspec.ValidationError as error:
        raise DocumentError("type", f"{error}", fix="compare it with the config that PEFT saved") from None
    _check_numbers(config)
    return config


def _check_numbers(config: AdapterConfig) -> None:
    for pattern_key, rank_value in {"r": config.r, **config.rank_pattern}.items():
        if not 1 <= rank_value <= 65_536:
            raise DocumentError(
                "range", f"rank {short_text(rank_value, max_chars=24)} ({short_text(pattern_key)}); allowed: 1 to 65536"
            )
    for pattern_key, value in {"lora_alpha": config.lora_alpha, **config.alpha_pattern}.items():
        if not 0 < value < 1e9:
            raise DocumentError(
                "range",
                f"alpha {short_text(value, max_chars=24)} ({short_text(pattern_key)}); allowed: above 0, below 1e9",
            )
    if not 0 <= config.lora_dropout < 1:
        raise DocumentError("range", f"lora_dropout {config.lora_dropout}; allowed: 0 to below 1")


def is_plain(pattern: str) -> bool:
    """Whether a key of a rank or alpha pattern is a name, not a regular expression that would need to be executed."""
    return re.fullmatch(r"\^?[\w.\-]+", pattern) is not None


def names_module(pattern: str, module_name: str) -> bool:
    """Whether a plain key of a rank or alpha pattern means this module, as PEFT decides it:
    re.match(rf"(.*\\.)?({pattern})$", module). Raises AdapterError for a pattern that is no plain name."""
    if not is_plain(pattern):
        raise AdapterError(
            f"{pattern!r} is a regular expression, which is never executed",
            fix="name the modules plainly, for example q_proj or layers.1.self_attn.q_proj",
        )
    return module_name == pattern[1:] if pattern.startswith("^") else _ends_with_any(module_name, [pattern])


def _first_match(patterns: dict[str, Any], module_name: str, option_name: str) -> str | None:
    """The first key in the file's order that means this module."""
    try:
        return next((pattern_key for pattern_key in patterns if names_module(pattern_key, module_name)), None)
    except AdapterError as error:
        raise AdapterError(f"{option_name}: {error.message}", fix=error.fix) from None


def _ends_with_any(module_name: str, target_names: list[str]) -> bool:
    return any(module_name == target_name or module_name.endswith(f".{target_name}") for target_name in target_names)
