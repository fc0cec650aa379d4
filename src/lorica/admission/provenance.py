"""What decides a result, as digests: the manifest of a run, which a resume must match, and the facts of a passport."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lorica.adapters.effective_settings import plain_name
from lorica.adapters.passport import BaseFacts, Passport, RowsFacts
from lorica.adapters.registry import TRAINING_RECORD
from lorica.data.digest import bytes_digest, ids_digest
from lorica.models.base_folder import BaseFolder
from lorica.models.families import read_json_object
from lorica.pipeline.label_balance import count_answers
from lorica.records import Row
from lorica.runs.machine import installed_versions

if TYPE_CHECKING:  # tokenizers cost 0.1 s, and digests need none
    from lorica.prompts.encoder import Encoder
    from lorica.tasks.base import Task

RETRIEVAL = "retrieval"
"""What an adapter was trained, or is used with: `WITH_PASSAGES`, or in use "none". Nothing is recorded of adapters that
were trained without passages, which may well answer with them."""
WITH_PASSAGES = "passages"

_PACKAGES = ("lorica", "torch", "transformers", "tokenizers")
# Sizes that make the shape of a base model, by their usual names in config.json.
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings", "n_embd", "n_layer", "n_head", "n_positions",
)  # fmt: skip


def base_facts(base: BaseFolder, *, model_name: str, revision: str = "", with_digests: bool = False) -> BaseFacts:
    """What a passport says of a base model. with_digests: hash every weight file as a whole, too (minutes for a large
    one). Raises ModelError for a folder that is no base model."""
    base_config = base.config
    text_config = base_config.get("text_config")
    size_settings = {**text_config, **base_config} if isinstance(text_config, dict) else base_config
    file_facts = {}
    for weights_path in base.weight_files if with_digests else []:
        with weights_path.open("rb") as weights_file:
            file_facts[weights_path.name] = "sha256:" + hashlib.file_digest(weights_file, "sha256").hexdigest()
    return BaseFacts(
        name=plain_name(model_name),
        revision=revision,
        family=str(base_config.get("model_type", "")),
        shape={name: size_settings[name] for name in _SIZES if type(size_settings.get(name)) is int},
        config=bytes_digest(base.config_bytes),
        weights=base.weights_digest,
        digest=base.digest,
        files=file_facts,
    )


def trained_as(task: Task, encoder: Encoder, base: BaseFolder) -> dict[str, str]:
    """What an adapter's training and its use must share: task, method, style, template and base."""
    return {
        "task": task.name,
        "method": task.settings.method,
        "style": task.settings.style,
        "template": encoder.template_digest,
        "tokenizer": encoder.tokenizer_digest,
        "base": base.digest,
    }


def trained_otherwise(folder: Path, used_settings: Mapping[str, str], passport: Passport | None = None) -> list[str]:
    """How an adapter was trained otherwise than it is used now: by its passport, or without one by the record that
    `lorica train` leaves beside it.

    Adapters from elsewhere have neither, and nothing is said about them.
    """
    trained = _in_passport(passport) if passport is not None else recorded_digests(folder)
    return [
        f"was trained with {setting_name} {trained[setting_name]!r}, and is used with {setting_value!r}"
        for setting_name, setting_value in used_settings.items()
        if trained.get(setting_name, setting_value) != setting_value
    ]


def _in_passport(passport: Passport) -> dict[str, str]:
    prompt = passport.prompt
    recorded = {"task": prompt.task, "method": prompt.method, "style": prompt.style, "template": prompt.template}
    recorded |= {"tokenizer": prompt.tokenizer, "base": passport.base.digest}
    recorded |= {RETRIEVAL: prompt.settings.get(RETRIEVAL)}
    return {name: value for name, value in recorded.items() if value is not None}


def recorded_digests(folder: Path) -> dict[str, str]:
    """What the training record beside an adapter says of its task, prompts and base; {} without a record of Lorica."""
    record = folder / TRAINING_RECORD
    manifest = read_json_object(record).get("manifest") if record.is_file() else None
    if not isinstance(manifest, dict):
        return {}
    return {
        setting_name.removeprefix("digest."): str(setting_value)
        for setting_name, setting_value in manifest.items()
        if setting_name.startswith("digest.")
    }


def rows_facts(rows: Sequence[Row]) -> RowsFacts:
    """Number and digests of rows (of their ids, and of ids, subjects, texts and gold answers) and of their answers."""
    digest_state, row_ids = hashlib.sha256(), []
    for row in rows:
        row_ids.append(row.id)
        digest_state.update(msgspec.json.encode((row.id, row.subject, row.case, row.gold)) + b"\n")
    answers = count_answers(rows)
    return RowsFacts(
        rows=len(row_ids),
        ids=ids_digest(row_ids),
        content="sha256:" + digest_state.hexdigest(),
        answers=answers.distinct,
        largest=answers.largest,
    )


def package_versions() -> dict[str, str]:
    """Version of each package that decides numbers, where it is installed."""
    return {f"version.{package_name}": version for package_name, version in installed_versions(_PACKAGES).items()}
