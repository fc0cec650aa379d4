"""`lorica config`: the resolved configuration, and where each value came from."""

from __future__ import annotations

from collections.abc import Sequence

from lorica.commands.arguments import emit, parser, resolve
from lorica.config.render import render_config


def run(arguments: Sequence[str]) -> int:
    """Print every key with its value and its origin."""
    options = parser(
        "config",
        "Print the resolved configuration and where each value came from.",
        "  lorica config task=mcq lora.r=8\n  lorica config --json model=qwen3_0_6b\n  TOP_P=0.9 lorica config",
    ).parse_args(list(arguments))
    resolved = resolve(options.overrides)
    plain_values = {"config": resolved.as_dict(), "origins": resolved.origins, "presets": resolved.presets}
    emit(plain_values, as_json=options.json, text=render_config(resolved))
    return 0
