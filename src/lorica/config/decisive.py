"""The settings that decide answers: where they differ, what was answered before is not what would be answered now."""

from __future__ import annotations

from dataclasses import asdict

from lorica.config.schema import Config

# How fast rows are answered, and how they are written.
_COSMETIC = frozenset({"batch_tokens", "window_rows", "csv_guard", "resume", "warmup"})
_OF_MODEL = ("dtype", "load_in_4bit", "chat_template")


def answering_settings(config: Config) -> dict[str, str]:
    """Dotted key -> value, of `inference` and `model`; which base it is, its digest says."""
    inference, model = asdict(config.inference), asdict(config.model)
    settings = {f"inference.{key}": str(value) for key, value in inference.items() if key not in _COSMETIC}
    return settings | {f"model.{key}": str(model[key]) for key in _OF_MODEL}
