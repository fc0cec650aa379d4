"""Can a base's tokenizer still write its own vocabulary? One that lost merges, or got another normalizer, cannot.

Every entry of a byte-level BPE was made by merges from text, so that this text is encoded back to it: all of them in
the tokenizers that were looked at (GPT-2, SmolLM2, Qwen). Other kinds keep entries for bytes, spaces and beginnings
that no text of their own reaches; they are not judged.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from lorica.adapters.json_document import read_capped
from lorica.vetting.claims.json_values import as_mapping
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import shown

_MAX_BYTES = 64 * 1024 * 1024
# Entries that are tried, spread evenly over the vocabulary, and how few of them tell nothing.
_SAMPLED_ENTRIES, _MIN_ENTRIES = 1000, 100
# Share of them that come back. Sound tokenizers have 1.00; splitting digits or scripts costs a few hundredths.
MIN_ROUNDTRIP_SHARE = 0.8


def check_tokenizer_roundtrip(base_folder: Path) -> list[Finding]:
    """L318 for a base whose tokenizer encodes many of its own entries as others. Nothing raises: a broken file says
    nothing here."""
    result = roundtrip_share(base_folder / "tokenizer.json")
    if result is None or result[0] >= MIN_ROUNDTRIP_SHARE:
        return []
    returned_share, tried, first_lost = result
    actual = (
        f"of {tried} entries of the base's tokenizer {1 - returned_share:.0%} are encoded as others, "
        f"such as {shown(first_lost)}"
    )
    facts = {"share": round(returned_share, 4), "tried": tried}
    return [finding("L318", actual, file="tokenizer.json", facts=facts)]


def roundtrip_share(tokenizer_path: Path) -> tuple[float, int, str] | None:
    """(the share of entries that are encoded as themselves, how many were tried, the first that is not, or ""); None
    for a tokenizer that is no byte-level BPE, or none at all."""
    try:
        file_status = tokenizer_path.stat()
    except OSError:
        return None
    return _cached_roundtrip_share(tokenizer_path, file_status.st_mtime_ns, file_status.st_size)


@functools.lru_cache(maxsize=8)  # a large tokenizer takes seconds, and thousands of adapters may share one
def _cached_roundtrip_share(tokenizer_path: Path, _modified: int, _size: int) -> tuple[float, int, str] | None:
    try:
        raw_bytes = read_capped(tokenizer_path, _MAX_BYTES + 1)
        tokenizer_json = json.loads(raw_bytes) if len(raw_bytes) <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(tokenizer_json, dict) or not _is_byte_level(tokenizer_json):
        return None
    from tokenizers import Tokenizer  # 0.1 s to import

    try:
        tokenizer = Tokenizer.from_buffer(raw_bytes)
        return _measure_roundtrip(tokenizer, tokenizer_json)
    except Exception:  # the library raises bare exceptions for what it does not take; other checks name such files
        return None


def _measure_roundtrip(tokenizer: Any, tokenizer_json: dict[str, Any]) -> tuple[float, int, str] | None:
    added_ids = {token.get("id") for token in tokenizer_json.get("added_tokens") or [] if isinstance(token, dict)}
    entries = sorted(
        (number, entry) for entry, number in tokenizer_json["model"]["vocab"].items() if number not in added_ids
    )
    tried = returned = 0
    first_lost = ""
    for number, entry in entries[:: max(1, len(entries) // _SAMPLED_ENTRIES)]:
        text = tokenizer.decode([number], skip_special_tokens=False)
        # Parts of characters, and spaces that stand in runs only.
        if not text.strip() or "\ufffd" in text:
            continue
        tried += 1
        encoded_ids = tokenizer.encode(text, add_special_tokens=False).ids
        # A tokenizer that puts a space before every text keeps entries without one for the middle of words.
        if number in encoded_ids or number in tokenizer.encode(f"\n{text}", add_special_tokens=False).ids:
            returned += 1
        else:
            first_lost = first_lost or entry
    return (returned / tried, tried, first_lost) if tried >= _MIN_ENTRIES else None


def _is_byte_level(tokenizer_json: dict[str, Any]) -> bool:
    tokenizer_model, decoder = (as_mapping(tokenizer_json.get(section)) for section in ("model", "decoder"))
    is_bpe = tokenizer_model.get("type") == "BPE" and isinstance(tokenizer_model.get("vocab"), dict)
    return is_bpe and decoder.get("type") == "ByteLevel"
