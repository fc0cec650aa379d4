"""The small documents beside an adapter's weights: records of training, tokenizer notes, the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorica.adapters.json_document import read_capped, read_json
from lorica.adapters.registry import TRAINING_RECORD
from lorica.errors import LoricaError
from lorica.file_signatures import Content, recognise
from lorica.vetting.findings import Finding, finding, unreadable

_MIB = 1024 * 1024
CARD = "README.md"
MAX_CARD = _MIB

# Name -> the most bytes that are read of it. A trainer's state grows with every logged step.
DOCUMENTS = {
    "lorica.json": 4 * _MIB,
    "calibration.json": _MIB,
    TRAINING_RECORD: 16 * _MIB,
    "trainer_state.json": 16 * _MIB,
    "state.json": 4 * _MIB,
    "tokenizer_config.json": 4 * _MIB,
    "special_tokens_map.json": _MIB,
    "added_tokens.json": 4 * _MIB,
    "generation_config.json": _MIB,
    "config.json": _MIB,
    "args.json": _MIB,
    "all_results.json": _MIB,
    "train_results.json": _MIB,
    "eval_results.json": _MIB,
}
# Of these only the first bytes are looked at: is it the file itself?
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


def read_documents(folder: Path, file_sizes: dict[str, int], findings: list[Finding]) -> tuple[dict[str, Any], str]:
    """(parsed documents by name, the card's text). file_sizes: files in the folder that may be read -> bytes. A broken
    one is a finding, and the others are read."""
    documents: dict[str, Any] = {}
    for file_name, max_bytes in DOCUMENTS.items():
        file_size = file_sizes.get(file_name, 0)
        if file_size > max_bytes:
            findings.append(finding("L071", f"{file_size} bytes", expected=f"at most {max_bytes}", file=file_name))
        elif file_name in file_sizes and (content := _read(folder, file_name, max_bytes + 1, findings)) is not None:
            document, problems = read_json(content, max_bytes, allow_nan=True)
            if document is not None:
                documents[file_name] = document
            for problem in problems[:1]:
                finding_code = "L071" if problem.problem == "too large" else "L070"
                findings.append(finding(finding_code, f"it {problem.message}", file=file_name))
    for file_name in TOKENIZERS:
        if file_name in file_sizes:
            _read(folder, file_name, 64, findings)
    return documents, _card(folder, file_sizes, findings)


def _read(folder: Path, file_name: str, max_bytes: int, findings: list[Finding]) -> bytes | None:
    """The beginning of a file; None, with a finding, for one that cannot be read or that Git LFS did not fetch."""
    try:
        content = read_capped(folder / file_name, max_bytes)
    except OSError as error:
        findings.append(unreadable(error, file_name, "warn"))
        return None
    if recognise(content) is Content.LFS_POINTER:
        findings.append(finding("L010", f"it is {Content.LFS_POINTER}", file=file_name, severity="warn"))
        return None
    return content


def _card(folder: Path, file_sizes: dict[str, int], findings: list[Finding]) -> str:
    card_name = next((file_name for file_name in file_sizes if file_name.lower() == CARD.lower()), "")
    content = _read(folder, card_name, MAX_CARD, findings) if card_name else None
    if content is None:
        return ""
    card_text = content.decode("utf-8", "replace")
    if file_sizes[card_name] > MAX_CARD or "\ufffd" in card_text:
        actual = f"{file_sizes[card_name]} bytes; its first {MAX_CARD} are read as UTF-8"
        findings.append(finding("L072", actual, file=card_name))
    return card_text


def training_record(run_folder: Path) -> Any:
    """The record of the training run that a checkpoint belongs to, or None where it is absent or broken."""
    max_bytes = DOCUMENTS[TRAINING_RECORD]
    try:
        content = read_capped(run_folder / TRAINING_RECORD, max_bytes + 1)
        document, problems = read_json(content, max_bytes, allow_nan=True)
    except (OSError, LoricaError):
        return None
    return None if problems else document
