"""Does the tokenizer beside an adapter agree with the base's: vocabulary, added tokens, chat template?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.json_document import read_capped
from lorica.adapters.raw_adapter import RawAdapter
from lorica.adapters.tensor_map import TensorMap
from lorica.vetting.base.base_modules import BaseModel
from lorica.vetting.findings import Finding, finding
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
    """Read a folder's tokenizer files. Nothing raises: a broken file says nothing here, and is L0's to report."""
    tokenizer = _json(folder / "tokenizer.json", MAX_TOKENIZER)
    config = _json(folder / "tokenizer_config.json", MAX_SMALL)
    model = tokenizer.get("model")
    stored = model.get("vocab") if isinstance(model, dict) else None
    vocabulary = stored if isinstance(stored, dict) else None
    if isinstance(stored, list):  # Unigram: [token, score], by position
        vocabulary = {entry[0]: i for i, entry in enumerate(stored) if isinstance(entry, list) and entry}
    if vocabulary is None:
        vocabulary = _json(folder / "vocab.json", MAX_TOKENIZER) or None
    added = {k: v for k, v in _json(folder / "added_tokens.json", MAX_SMALL).items() if type(v) is int}
    listed_tokens = tokenizer.get("added_tokens")
    for entry in listed_tokens if isinstance(listed_tokens, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int:
            added[entry["content"]] = entry["id"]
    decoder = config.get("added_tokens_decoder")
    for number, entry in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and str(number).isdecimal():
            added.setdefault(entry["content"], int(str(number)[:12]))
    padding = config.get("pad_token")
    padding = padding.get("content") if isinstance(padding, dict) else padding
    return TokenizerFiles(
        vocabulary={k: v for k, v in vocabulary.items() if type(v) is int} if vocabulary else None,
        added=added,
        template=_template(folder, config),
        padding=padding if isinstance(padding, str) else None,
    )


def check_text(adapter: RawAdapter, tensor_map: TensorMap, model: BaseModel) -> list[Finding]:
    """L311 to L314. An adapter that brings no tokenizer is used with the base's, and nothing is said."""
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "added_tokens.json", "vocab.json"}
    theirs = read_tokenizer_files(model.folder)
    findings = _own(theirs, model)
    if not names & set(adapter.files):
        return findings
    ours = read_tokenizer_files(adapter.folder)
    return findings + _templates(ours, theirs) + (_another(ours, theirs) or _tokens(ours, theirs, tensor_map, model))


def _own(theirs: TokenizerFiles, model: BaseModel) -> list[Finding]:
    highest = max((*(theirs.vocabulary or {}).values(), *theirs.added.values()), default=-1)
    if not model.vocabulary or highest < model.vocabulary:
        return []
    actual = f"the base's tokenizer has ids up to {highest}, its embedding {model.vocabulary} rows"
    facts = {"highest": highest, "rows": model.vocabulary}
    return [finding("L314", actual, expected=f"ids below {model.vocabulary}", facts=facts)]


def _templates(ours: TokenizerFiles, theirs: TokenizerFiles) -> list[Finding]:
    if ours.template is None or ours.template.strip() == (theirs.template or "").strip():
        return []
    if theirs.template is None:
        actual = "the adapter brings a chat template, and the base has none"
        return [finding("L311", actual, severity="note", facts={"adapter": True, "base": False})]
    at = next((i for i, (a, b) in enumerate(zip(ours.template, theirs.template, strict=False)) if a != b), 0)
    actual = (
        f"the template beside the adapter ({len(ours.template)} characters) and the base's "
        f"({len(theirs.template)}) differ from character {at} on: {shown(ours.template[at : at + 40])!r}"
    )
    facts = {"adapter": True, "base": True, "differs_at": at}
    return [finding("L311", actual, expected="the template it was trained with", facts=facts)]


def _another(ours: TokenizerFiles, theirs: TokenizerFiles) -> list[Finding]:
    if not ours.vocabulary or not theirs.vocabulary:
        return []
    shared = [token for token in ours.vocabulary if token in theirs.vocabulary]
    moved = [token for token in shared if ours.vocabulary[token] != theirs.vocabulary[token]]
    missing = len(ours.vocabulary) - len(shared)
    share = (len(moved) + missing) / len(ours.vocabulary)
    if share <= _ANOTHER:
        return []
    actual = f"{len(moved)} of {len(ours.vocabulary)} tokens have other ids in the base, {missing} it does not have"
    facts = {"tokens": len(ours.vocabulary), "moved": len(moved), "lacking": missing}
    return [finding("L313", actual, expected="equal tokens under equal ids", facts=facts)]


def _tokens(ours: TokenizerFiles, theirs: TokenizerFiles, tensor_map: TensorMap, model: BaseModel) -> list[Finding]:
    """Added tokens that the base lacks or has under other ids."""
    base_ids = {**(theirs.vocabulary or {}), **theirs.added}
    if not base_ids:
        return []
    moved = sorted(token for token, number in ours.added.items() if base_ids.get(token, number) != number)
    new = sorted(token for token in ours.added if token not in base_ids and token not in (ours.vocabulary or {}))
    beyond = [token for token in new if ours.added[token] >= model.vocabulary > 0 and token != ours.padding]
    if not moved and not new:
        return []
    saved = any(path.rpartition(".")[2] in ("embed_tokens", "wte", "lm_head") for path in tensor_map.saved)
    differences = [f"{listed(new)} the base does not have"] if new else []
    differences += [f"{listed(moved)} it has under other ids"] if moved else []
    differences += [f"{len(beyond)} of them beyond its {model.vocabulary} rows"] if beyond else []
    return [
        finding(
            "L312",
            "; ".join(differences),
            expected="the base's tokens",
            facts={"new": len(new), "moved": len(moved), "beyond": len(beyond), "embeddings_saved": saved},
            severity="warn" if moved or (beyond and not saved) else "note",
        )
    ]


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    try:
        return read_capped(folder / "chat_template.jinja", MAX_SMALL).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    stated = config.get("chat_template") or _json(folder / "chat_template.json", MAX_SMALL).get("chat_template")
    if isinstance(stated, list):
        named = {entry.get("name"): entry.get("template") for entry in stated if isinstance(entry, dict)}
        stated = named.get("default")
    return stated if isinstance(stated, str) else None


def _json(path: Path, max_bytes: int) -> dict[str, Any]:
    try:
        raw = read_capped(path, max_bytes + 1)
        value = json.loads(raw) if len(raw) <= max_bytes else None
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
