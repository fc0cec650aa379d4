"""The settings that decide answers: where they differ, what was answered before is not what would be answered now."""

from __future__ import annotations

from dataclasses import asdict

from lorica.config.schema import Config

# How fast rows are answered, and how they are written.
_COSMETIC = frozenset({"batch_tokens", "window_rows", "csv_guard", "resume", "warmup"})
_OF_MODEL = ("dtype", "load_in_4bit", "chat_template")

# How keys begin that decide answers or the time that they take.
_MEASURED = ("task.", "model.", "inference.", "engine.", "adapters.", "retrieval.", "data.")
# Of these, how rows are written and where files lie, whose digests decide.
_NOT_MEASURED = (
    "inference.resume",
    "inference.csv_guard",
    "model.name",
    "model.path",
    "model.revision",
    "model.cache_dir",
)
_FILES = ("adapters.dir", "adapters.paths", "retrieval.dir")


def answering_settings(config: Config) -> dict[str, str]:
    """Dotted key -> value, of `inference` and `model`; which base it is, its digest says."""
    inference, model = asdict(config.inference), asdict(config.model)
    settings = {f"inference.{key}": str(value) for key, value in inference.items() if key not in _COSMETIC}
    return settings | {f"model.{key}": str(model[key]) for key in _OF_MODEL}


def decides_measurement(key: str) -> bool:
    """Whether a dotted key decides answers or the time that they take: what was measured under another value does not
    stand beside what would be measured now."""
    return key.startswith(_MEASURED) and key not in _NOT_MEASURED and not key.startswith(_FILES)
