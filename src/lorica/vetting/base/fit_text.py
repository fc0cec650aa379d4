"""Does the tokenizer beside an adapter agree with the base's: vocabulary, added tokens, chat template?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.json_document import read_capped
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.errors import ModelError
from lorica.gguf.file_header import is_gguf
from lorica.gguf.tokenizer import read_tokenizer
from lorica.vetting.base.base_modules import BaseModel
from lorica.vetting.findings import Finding, Severity, finding
from lorica.vetting.wording import listed, shown

_MIB = 1024 * 1024
MAX_TOKENIZER = 64 * _MIB
MAX_SMALL = 4 * _MIB
# A tokenizer with this share of tokens under other ids is another tokenizer, and not an extended one.
_ANOTHER = 0.01


class TokenizerFiles(msgspec.Struct, frozen=True):
    """What a folder says about its tokenizer. vocabulary: token -> id of the model itself; added: token -> id of what
    was put on top; template: the chat template; padding: the padding token. None where the folder does not say."""

    vocabulary: dict[str, int] | None
    added: dict[str, int]
    template: str | None
    padding: str | None


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read a folder's tokenizer files, or those in a GGUF file. Nothing raises: a broken file says nothing here, and is
    L0's to report."""
    try:
        tokenizer, config = read_tokenizer(folder) if is_gguf(folder) else ({}, {})
    except ModelError:
        return TokenizerFiles(None, {}, None, None)
    tokenizer = tokenizer or _json(folder / "tokenizer.json", MAX_TOKENIZER)
    config = config or _json(folder / "tokenizer_config.json", MAX_SMALL)
    tokenizer_model = tokenizer.get("model")
    stored = tokenizer_model.get("vocab") if isinstance(tokenizer_model, dict) else None
    vocabulary = stored if isinstance(stored, dict) else None
    if isinstance(stored, list):  # Unigram: [token, score], by position
        tokens = (entry[0] if isinstance(entry, list) and entry else None for entry in stored)
        vocabulary = {token: token_id for token_id, token in enumerate(tokens) if isinstance(token, str)}
    if vocabulary is None:
        vocabulary = _json(folder / "vocab.json", MAX_TOKENIZER) or None
    added_tokens = _integers(_json(folder / "added_tokens.json", MAX_SMALL))
    listed_tokens = tokenizer.get("added_tokens")
    for entry in listed_tokens if isinstance(listed_tokens, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int:
            added_tokens[entry["content"]] = entry["id"]
    decoder = config.get("added_tokens_decoder")
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and str(number).isdecimal():
            added_tokens.setdefault(entry["content"], int(str(number)[:12]))
    padding = config.get("pad_token")
    padding = padding.get("content") if isinstance(padding, dict) else padding
    return TokenizerFiles(
        vocabulary=_integers(vocabulary) if vocabulary else None,
        added=added_tokens,
        template=_template(folder, config),
        padding=padding if isinstance(padding, str) else None,
    )


def _integers(token_ids: dict[str, Any]) -> dict[str, int]:
    return {token: token_id for token, token_id in token_ids.items() if type(token_id) is int}


def check_text(adapter: RawAdapter, tensor_map: TensorMap, base_model: BaseModel) -> list[Finding]:
    """L311 to L314. An adapter that brings no tokenizer is used with the base's, and nothing is said."""
    text_files = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "added_tokens.json", "vocab.json"}
    base_files = read_tokenizer_files(base_model.folder)
    findings = _own(base_files, base_model)
    if not text_files & set(adapter.files):
        return findings
    adapter_files = read_tokenizer_files(adapter.folder)
    findings += _templates(adapter_files, base_files)
    return findings + (
        _another(adapter_files, base_files) or _tokens(adapter_files, base_files, tensor_map, base_model)
    )


def _own(base_files: TokenizerFiles, base_model: BaseModel) -> list[Finding]:
    highest = max((*(base_files.vocabulary or {}).values(), *base_files.added.values()), default=-1)
    if not base_model.vocabulary or highest < base_model.vocabulary:
        return []
    actual = f"the base's tokenizer has ids up to {highest}, its embedding {base_model.vocabulary} rows"
    facts = {"highest": highest, "rows": base_model.vocabulary}
    return [finding("L314", actual, expected=f"ids below {base_model.vocabulary}", facts=facts)]


def _templates(adapter_files: TokenizerFiles, base_files: TokenizerFiles) -> list[Finding]:
    if adapter_files.template is None or adapter_files.template.strip() == (base_files.template or "").strip():
        return []
    if base_files.template is None:
        actual = "the adapter brings a chat template, and the base has none"
        return [finding("L311", actual, severity="note", facts={"adapter": True, "base": False})]
    characters = enumerate(zip(adapter_files.template, base_files.template, strict=False))
    difference_index = next((index for index, (ours, theirs) in characters if ours != theirs), 0)
    actual = f"the template beside the adapter ({len(adapter_files.template)} characters) and the base's "
    actual += f"({len(base_files.template)}) differ from character {difference_index} on: "
    actual += f"{shown(adapter_files.template[difference_index : difference_index + 40])!r}"
    facts = {"adapter": True, "base": True, "differs_at": difference_index}
    return [finding("L311", actual, expected="the template it was trained with", facts=facts)]


def _another(adapter_files: TokenizerFiles, base_files: TokenizerFiles) -> list[Finding]:
    own_ids, base_ids = adapter_files.vocabulary, base_files.vocabulary
    if not own_ids or not base_ids:
        return []
    missing = sum(token not in base_ids for token in own_ids)
    moved = sum(base_ids.get(token, token_id) != token_id for token, token_id in own_ids.items())
    if (moved + missing) / len(own_ids) <= _ANOTHER:
        return []
    actual = f"{moved} of {len(own_ids)} tokens have other ids in the base, {missing} it does not have"
    facts = {"tokens": len(own_ids), "moved": moved, "lacking": missing}
    return [finding("L313", actual, facts=facts)]


def _tokens(
    adapter_files: TokenizerFiles, base_files: TokenizerFiles, tensor_map: TensorMap, base_model: BaseModel
) -> list[Finding]:
    """Added tokens that the base lacks or has under other ids."""
    base_ids = {**(base_files.vocabulary or {}), **base_files.added}
    if not base_ids:
        return []
    added, row_count = adapter_files.added, base_model.vocabulary
    moved_tokens = sorted(token for token, number in added.items() if base_ids.get(token, number) != number)
    new_tokens = sorted(added.keys() - base_ids.keys() - (adapter_files.vocabulary or {}).keys())
    beyond = [token for token in new_tokens if added[token] >= row_count > 0 and token != adapter_files.padding]
    if not moved_tokens and not new_tokens:
        return []
    saved_names = {module_path.rpartition(".")[2] for module_path in tensor_map.saved}
    is_saved = not saved_names.isdisjoint(("embed_tokens", "wte", "lm_head"))
    differences = [f"{listed(new_tokens)} the base does not have"] if new_tokens else []
    differences += [f"{listed(moved_tokens)} it has under other ids"] if moved_tokens else []
    differences += [f"{len(beyond)} of them beyond its {row_count} rows"] if beyond else []
    facts = {"new": len(new_tokens), "moved": len(moved_tokens), "beyond": len(beyond), "embeddings_saved": is_saved}
    severity: Severity = "warn" if moved_tokens or (beyond and not is_saved) else "note"
    return [finding("L312", "; ".join(differences), facts=facts, severity=severity)]


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    try:
        return read_capped(folder / "chat_template.jinja", MAX_SMALL).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    stated = config.get("chat_template") or _json(folder / "chat_template.json", MAX_SMALL).get("chat_template")
    if isinstance(stated, list):
        named_templates = {entry.get("name"): entry.get("template") for entry in stated if isinstance(entry, dict)}
        stated = named_templates.get("default")
    return stated if isinstance(stated, str) else None


def _json(json_path: Path, max_bytes: int) -> dict[str, Any]:
    try:
        raw_bytes = read_capped(json_path, max_bytes + 1)
        document = json.loads(raw_bytes) if len(raw_bytes) <= max_bytes else None
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
