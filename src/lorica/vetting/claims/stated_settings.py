"""Settings of the adapter as other documents state them: the training's own record and its arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lorica.adapters.config import CONFIG_NAME, AdapterConfig, lora_scaling
from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.claims.json_values import as_mapping, training_manifest
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import shown

# What decides the result; dropout, task and paths do not.
_DECIDING = (
    "r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern",
    "layers_to_transform", "layers_pattern", "modules_to_save", "bias", "revision",
)  # fmt: skip
# ms-swift, axolotl and LLaMA-Factory keep these beside the adapter.
_ARGUMENTS = {
    "lora_rank": "r",
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}


def check_settings(adapter: RawAdapter) -> list[Finding]:
    """Findings L160 and L161."""
    config = adapter.config
    return [] if config is None else _record(adapter, config) + _arguments(adapter, config)


def _record(adapter: RawAdapter, config: AdapterConfig) -> list[Finding]:
    """training.json of Lorica holds the config as it was when training began, each value as JSON text."""
    manifest = training_manifest(adapter.documents)
    differs: dict[str, tuple[Any, Any]] = {}
    for setting in _DECIDING:
        written, configured = manifest.get(f"lora.{setting}"), getattr(config, setting)
        if not isinstance(written, str) or len(written) > 1_000_000:
            continue
        with suppress(ValueError, RecursionError):
            recorded = json.loads(written)
            if _plain(recorded) != _plain(configured):
                differs[setting] = (recorded, configured)
    if not differs:
        return []
    expected, actual = (
        ", ".join(f"{setting} {_short(values[side])}" for setting, values in differs.items()) for side in (0, 1)
    )
    expected = f"as in training.json: {expected}"
    facts = {"keys": sorted(differs), **_scales(differs, config)}
    return [finding("L160", actual, expected=expected, file=CONFIG_NAME, facts=facts)]


def _plain(setting_value: Any) -> Any:
    if setting_value is None or setting_value in ([], {}, ""):
        return None
    return sorted(map(str, setting_value)) if isinstance(setting_value, list) else setting_value


def _short(setting_value: Any) -> str:
    return shown(json.dumps(setting_value, default=str), 60)


def _scales(differs: Mapping[str, tuple[Any, Any]], config: AdapterConfig) -> dict[str, float]:
    """By how much the update is scaled otherwise than in training, where r, alpha, rsLoRA and alpha_pattern tell."""
    recorded_settings = {
        setting: differs[setting][0] if setting in differs else getattr(config, setting)
        for setting in ("r", "lora_alpha", "use_rslora")
    }
    try:
        rank, alpha = recorded_settings["r"], recorded_settings["lora_alpha"]
        before = lora_scaling(alpha, rank, rslora=recorded_settings["use_rslora"])
        scales = {"scale_ratio": lora_scaling(config.lora_alpha, config.r, rslora=config.use_rslora) / before}
        if "alpha_pattern" in differs:
            scales["pattern_ratio"] = _pattern_ratio(differs["alpha_pattern"][0] or {}, config.alpha_pattern, alpha)
        return scales
    except (AttributeError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return {}


def _pattern_ratio(recorded: Mapping[str, float], configured: Mapping[str, float], default_alpha: float) -> float:
    """How much larger alpha has become in the module whose own alpha changed most, on a logarithmic scale."""
    ratios = [
        configured.get(module_pattern, default_alpha) / recorded.get(module_pattern, default_alpha)
        for module_pattern in {*recorded, *configured}
    ]
    return max(ratios, key=lambda alpha_ratio: max(alpha_ratio, 1 / alpha_ratio), default=1.0)


def _arguments(adapter: RawAdapter, config: AdapterConfig) -> list[Finding]:
    """Rank and alpha as the trainer's arguments give them."""
    arguments = as_mapping(adapter.documents.get("args.json"))
    differs, sentences = {}, []
    for argument, config_key in _ARGUMENTS.items():
        value, configured = arguments.get(argument), getattr(config, config_key)
        if isinstance(value, bool | int | float) and value != configured:
            differs[argument] = value
            sentences.append(f"args.json says {argument} {value}, the config {configured}")
    if not differs:
        return []
    return [finding("L161", "; ".join(sentences), file="args.json", facts=differs)]
