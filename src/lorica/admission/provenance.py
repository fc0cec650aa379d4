"""What decides a result, as digests: the manifest of a run, which a resume must match, and the facts of a passport."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lorica.adapters.passport import BaseFacts, Passport, RowsFacts
from lorica.adapters.passport_facts import plain_name
from lorica.adapters.registry import TRAINING_RECORD
from lorica.data.digest import ids_digest
from lorica.models.base_folder import BaseFolder
from lorica.models.families import read_json_object
from lorica.pipeline.label_balance import count_answers
from lorica.records import Row

if TYPE_CHECKING:  # tokenizers cost 0.1 s, and digests need none
    from lorica.prompts.encoder import Encoder
    from lorica.tasks.base import Task

_PACKAGES = ("lorica", "torch", "transformers", "tokenizers")
# Sizes that make the shape of a base model, by their usual names in config.json.
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings", "n_embd", "n_layer", "n_head", "n_positions",
)  # fmt: skip


def base_facts(base: BaseFolder, *, name: str, revision: str = "", full: bool = False) -> BaseFacts:
    """What a passport says of a base model. full: hash every weight file as a whole, too (minutes for a large
    one). Raises ModelError for a folder that is no base model."""
    raw = base.config
    inner = raw.get("text_config")
    sizes = {**inner, **raw} if isinstance(inner, dict) else raw
    files = {}
    for path in base.weight_files if full else []:
        with path.open("rb") as file:
            files[path.name] = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    return BaseFacts(
        name=plain_name(name),
        revision=revision,
        family=str(raw.get("model_type", "")),
        shape={key: sizes[key] for key in _SIZES if type(sizes.get(key)) is int},
        config="sha256:" + hashlib.sha256(base.config_bytes).hexdigest(),
        weights=base.weights_digest,
        digest=base.digest,
        files=files,
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


def trained_otherwise(folder: Path, used: Mapping[str, str], passport: Passport | None = None) -> list[str]:
    """How an adapter was trained otherwise than it is used now: by its passport, or without one by the record that
    `lorica train` leaves beside it.

    Adapters from elsewhere have neither, and nothing is said about them.
    """
    trained = _in_passport(passport) if passport is not None else recorded_digests(folder)
    return [
        f"was trained with {key} {trained[key]!r}, and is used with {value!r}"
        for key, value in used.items()
        if trained.get(key, value) != value
    ]


def _in_passport(passport: Passport) -> dict[str, str]:
    prompt = passport.prompt
    recorded = {"task": prompt.task, "method": prompt.method, "style": prompt.style, "template": prompt.template}
    recorded |= {"tokenizer": prompt.tokenizer, "base": passport.base.digest}
    return {key: value for key, value in recorded.items() if value is not None}


def recorded_digests(folder: Path) -> dict[str, str]:
    """What the training record beside an adapter says of its task, prompts and base; {} without a record of Lorica."""
    record = folder / TRAINING_RECORD
    manifest = read_json_object(record).get("manifest") if record.is_file() else None
    if not isinstance(manifest, dict):
        return {}
    return {key.removeprefix("digest."): str(value) for key, value in manifest.items() if key.startswith("digest.")}


def rows_facts(rows: Sequence[Row]) -> RowsFacts:
    """Number and digests of rows (of their ids, and of ids, subjects, texts and gold answers) and of their answers."""
    state, ids = hashlib.sha256(), []
    for row in rows:
        ids.append(row.id)
        state.update(msgspec.json.encode((row.id, row.subject, row.case, row.gold)) + b"\n")
    answers = count_answers(rows)
    return RowsFacts(
        rows=len(ids),
        ids=ids_digest(ids),
        content="sha256:" + state.hexdigest(),
        answers=answers.distinct,
        largest=answers.largest,
    )


def package_versions() -> dict[str, str]:
    """Version of each package that decides numbers, where it is installed."""
    version_by_package = {}
    for name in _PACKAGES:
        try:
            version_by_package[f"version.{name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return version_by_package
