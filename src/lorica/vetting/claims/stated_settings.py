"""Settings of the adapter as other documents state them: the training's own record and its arguments."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.claims.json_values import as_mapping
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import shown

# What decides the result; dropout, task and paths do not.
_DECIDING = (
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "target_modules",
    "exclude_modules",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "bias",
    "revision",
)
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
    manifest = as_mapping(as_mapping(adapter.documents.get("training.json")).get("manifest"))
    differs: dict[str, tuple[Any, Any]] = {}
    for key in _DECIDING:
        written = manifest.get(f"lora.{key}")
        if not isinstance(written, str) or len(written) > 1_000_000:
            continue
        try:
            was = json.loads(written)
        except (ValueError, RecursionError):
            continue
        now = getattr(config, key)
        if _plain(was) != _plain(now):
            differs[key] = (was, now)
    if not differs:
        return []
    actual = ", ".join(f"{key} {_short(now)}" for key, (_, now) in differs.items())
    expected = "as in training.json: " + ", ".join(f"{key} {_short(was)}" for key, (was, _) in differs.items())
    facts = {"keys": sorted(differs), **_scales(differs, config)}
    return [finding("L160", actual, expected=expected, file=CONFIG_NAME, facts=facts)]


def _plain(value: Any) -> Any:
    if value is None or value in ([], {}, ""):
        return None
    return sorted(map(str, value)) if isinstance(value, list) else value


def _short(value: Any) -> str:
    return shown(json.dumps(value, default=str), 60)


def _scales(differs: Mapping[str, tuple[Any, Any]], config: AdapterConfig) -> dict[str, float]:
    """By how much the update is scaled otherwise than in training, where r, alpha, rsLoRA and alpha_pattern tell."""
    was = {
        key: differs[key][0] if key in differs else getattr(config, key) for key in ("r", "lora_alpha", "use_rslora")
    }
    try:
        before = was["lora_alpha"] / (math.sqrt(was["r"]) if was["use_rslora"] else was["r"])
        now = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
        if "alpha_pattern" not in differs:
            return {"scale_ratio": now / before}
        pattern_ratio = _pattern_ratio(differs["alpha_pattern"][0] or {}, config.alpha_pattern, was["lora_alpha"])
        return {"scale_ratio": now / before, "pattern_ratio": pattern_ratio}
    except (AttributeError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return {}


def _pattern_ratio(recorded: Mapping[str, float], now: Mapping[str, float], alpha: float) -> float:
    """How much larger alpha has become in the module whose own alpha changed most, on a logarithmic scale."""
    ratios = [now.get(key, alpha) / recorded.get(key, alpha) for key in {*recorded, *now}]
    return max(ratios, key=lambda ratio: max(ratio, 1 / ratio), default=1.0)


def _arguments(adapter: RawAdapter, config: AdapterConfig) -> list[Finding]:
    """Rank and alpha as the trainer's arguments give them."""
    arguments = as_mapping(adapter.documents.get("args.json"))
    differs = {
        name: arguments[name]
        for name, key in _ARGUMENTS.items()
        if isinstance(arguments.get(name), bool | int | float) and arguments[name] != getattr(config, key)
    }
    if not differs:
        return []
    actual = "; ".join(
        f"args.json says {name} {value}, the config {getattr(config, _ARGUMENTS[name])}"
        for name, value in differs.items()
    )
    return [finding("L161", actual, expected="the same in all", file="args.json", facts=differs)]
