"""An adapter as it was found, before any judgement: what could be read of it, and what could not stays None."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from lorica.adapters.classifier_config import MODEL_CONFIG, MODEL_WEIGHTS
from lorica.adapters.config import AdapterConfig
from lorica.adapters.header import Header
from lorica.adapters.passport import PASSPORT_NAME, Passport, to_passport
from lorica.adapters.registry import SHALLOW_CONFIG, SHALLOW_WEIGHTS
from lorica.errors import AdapterError

Kind = Literal["folder", "checkpoint", "file", "archive", "cache", "classifier", "shallow"]


OWN_MODELS: dict[Kind, tuple[str, str]] = {
    "classifier": (MODEL_CONFIG, MODEL_WEIGHTS),
    "shallow": (SHALLOW_CONFIG, SHALLOW_WEIGHTS),
}
"""What is no adapter of a base -> the names of its config and its weights."""


class RawAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of an adapter without interpreting a tensor.

    name: how tables call it. given: the path as the user wrote it. folder: where its files lie (for an archive: where
    they were unpacked). weights: the safetensors file. raw_config: the config's JSON object, whatever the method;
    config: the same as a LoRA config. header: the checked header of `weights`. files: names relative to `folder` ->
    bytes. documents: parsed small JSON files beside it by name ("lorica.json", "training.json", "trainer_state.json",
    "tokenizer_config.json", ...). card: text of README.md, "" without one.
    """

    name: str
    given: Path
    kind: Kind
    folder: Path
    weights: Path | None = None
    raw_config: dict[str, Any] | None = None
    config: AdapterConfig | None = None
    header: Header | None = None
    files: dict[str, int] = {}
    documents: dict[str, Any] = {}
    card: str = ""

    @property
    def passport(self) -> Passport | None:
        """The passport beside it; None without one that can be read."""
        try:
            return to_passport(self.documents.get(PASSPORT_NAME))
        except AdapterError:
            return None

    @property
    def engine_name(self) -> str:
        """The one engine that answers with it, as its config says; "" where the base model decides."""
        return str((self.raw_config or {}).get("kind", "")) if self.kind == "shallow" else ""
