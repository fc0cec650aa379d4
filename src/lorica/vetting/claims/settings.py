"""Settings of the adapter as other documents state them: the training's own record, its arguments, the card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.adapters.layout import Layout
from lorica.adapters.specimen import Specimen
from lorica.vetting.claims.cards import Card
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import figure, listed, shown

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


def check_settings(specimen: Specimen, layout: Layout, card: Card) -> list[Finding]:
    """Findings L160-L162."""
    config = specimen.config
    if config is None:
        return []
    return _record(specimen, config) + _stated(specimen, config, card) + _count(layout, card)


def _record(specimen: Specimen, config: AdapterConfig) -> list[Finding]:
    """training.json of Lorica holds the config as it was when training began, each value as JSON text."""
    record = specimen.documents.get("training.json")
    manifest = record.get("manifest") if isinstance(record, Mapping) else None
    if not isinstance(manifest, Mapping):
        return []
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
    seen = ", ".join(f"{key} {_short(now)}" for key, (_, now) in differs.items())
    expected = "as in training.json: " + ", ".join(f"{key} {_short(was)}" for key, (was, _) in differs.items())
    facts = {"keys": sorted(differs), **_scales(differs, config)}
    return [finding("L160", seen, expected=expected, file=CONFIG_NAME, facts=facts)]


def _plain(value: Any) -> Any:
    if value is None or value in ([], {}, ""):
        return None
    return sorted(map(str, value)) if isinstance(value, list) else value


def _short(value: Any) -> str:
    return shown(json.dumps(value, default=str), 60)


def _scales(differs: Mapping[str, tuple[Any, Any]], config: AdapterConfig) -> dict[str, float]:
    """By how much the update is scaled otherwise than in training, where r, alpha and rsLoRA tell."""
    was = {
        key: differs[key][0] if key in differs else getattr(config, key) for key in ("r", "lora_alpha", "use_rslora")
    }
    try:
        before = was["lora_alpha"] / (math.sqrt(was["r"]) if was["use_rslora"] else was["r"])
        now = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
        return {"scale_ratio": now / before}
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return {}


def _stated(specimen: Specimen, config: AdapterConfig, card: Card) -> list[Finding]:
    """Rank and alpha as the card's text or the trainer's arguments give them."""
    says: list[str] = []
    facts: dict[str, Any] = {}
    ranks = {config.r, *config.rank_pattern.values()}
    alphas = {float(config.lora_alpha), *map(float, config.alpha_pattern.values())}
    if card.ranks and not ranks & set(card.ranks):
        says.append(f"the card says rank {listed(card.ranks, 3)}, the config {config.r}")
        facts["card_ranks"] = list(card.ranks[:8])
    if card.alphas and not alphas & set(card.alphas):
        says.append(
            f"the card says alpha {listed(map(figure, card.alphas), 3)}, the config {figure(config.lora_alpha)}"
        )
        facts["card_alphas"] = list(card.alphas[:8])
    arguments = specimen.documents.get("args.json")
    for name, key in _ARGUMENTS.items() if isinstance(arguments, Mapping) else ():
        value = arguments.get(name) if isinstance(arguments, Mapping) else None
        if isinstance(value, bool | int | float) and value != getattr(config, key):
            says.append(f"args.json says {name} {value}, the config {getattr(config, key)}")
            facts[name] = value
    if not says:
        return []
    file = "args.json" if set(facts) & set(_ARGUMENTS) else "README.md"
    return [finding("L161", "; ".join(says), expected="the same in all", file=file, facts=facts)]


def _count(layout: Layout, card: Card) -> list[Finding]:
    if card.trainable is None or not layout.tensors:
        return []
    pairs = sum(math.prod(info.shape) for info in layout.factors().values())
    magnitudes = sum(math.prod(layout.shape(each.magnitude)) for each in layout.modules.values() if each.magnitude)
    every = sum(math.prod(info.shape) for info in layout.tensors.values())
    if card.trainable in (pairs, pairs + magnitudes, every):
        return []
    seen = f"{pairs} parameters in {len(layout.pairs)} pairs ({every} in the file)"
    expected = f"{card.trainable} trainable parameters, as the card states"
    facts = {"pairs": pairs, "file": every, "card": card.trainable}
    return [finding("L162", seen, expected=expected, file="README.md", facts=facts)]
