"""The ledger of an adapted model: which text became which label, from which rows, how often it was trained on.

`ledger.jsonl` lies beside the adapter, one line for each labelled text. Whoever evaluates the adapter finds there the
rows whose own labels it was trained on: on those it proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import msgspec

from lorica.adaptation.harvest import LabelledText
from lorica.data.write import atomic_file
from lorica.errors import DataError
from lorica.records import Row

LEDGER_NAME = "ledger.jsonl"
Origin = Literal["train", "example", "pseudo"]

CONTRADICTORY = "contradictory labels"
CANARY = "held out as a canary row"
HELD_OUT = "held out to choose the checkpoint"


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """digest: of the text under its stratum (`harvest.label_digest`). origin: `train` (a labelled row), `example` (of
    a row that was to be answered) or `pseudo` (a confident score). sources: ids of rows. copies: how often it stands
    among the training rows; trained: how often the adapter has learned from it, over all passes. unused: why never.
    score: by which it became a pseudo-label."""

    digest: str
    stratum: str
    text: str
    label: int | None
    origin: Origin
    sources: tuple[str, ...]
    copies: int = 0
    trained: int = 0
    unused: str = ""
    score: float | None = None


def make_entries(
    weighed: Iterable[tuple[LabelledText, int]],
    origin: Origin,
    text: Callable[[Row], str],
    *,
    trained_ids: Collection[str],
    passes: int,
    scores: Mapping[str, float] | None = None,
) -> list[LedgerEntry]:
    """Entries of what an adapter was given. text: of a row. trained_ids: of the rows that it learned
    from; the others chose the checkpoint. passes: over these rows. scores: source -> that gave the pseudo-label."""
    entries = []
    for item, copies in weighed:
        row_ids = [item.row.id, *(f"{item.row.id}~{number}" for number in range(2, copies + 1))]
        trained = passes * sum(row_id in trained_ids for row_id in row_ids)
        entries.append(
            LedgerEntry(
                digest=item.digest,
                stratum=item.stratum,
                text=text(item.row),
                label=item.label,
                origin=origin,
                sources=item.sources,
                copies=copies,
                trained=trained,
                unused="" if trained else HELD_OUT,
                score=None if scores is None else scores[item.sources[0]],
            )
        )
    return entries


def merge_ledgers(ledgers: Iterable[Sequence[LedgerEntry]]) -> list[LedgerEntry]:
    """The ledger of a mean of adapters: a text with one label from one origin is one entry, with the rows of all, and
    learned from as often as by all together; unused only where none of them used it."""
    merged: dict[tuple[str, int | None, Origin], LedgerEntry] = {}
    for entry in chain.from_iterable(ledgers):
        key = (entry.digest, entry.label, entry.origin)
        former = merged.get(key)
        merged[key] = entry if former is None else _merged(former, entry)
    return list(merged.values())


def _merged(first: LedgerEntry, second: LedgerEntry) -> LedgerEntry:
    trained = first.trained + second.trained
    return msgspec.structs.replace(
        first,
        sources=tuple(dict.fromkeys((*first.sources, *second.sources))),
        copies=first.copies + second.copies,
        trained=trained,
        unused="" if trained else first.unused or second.unused,
    )


def ledger_bytes(entries: Iterable[LedgerEntry]) -> bytes:
    """What `ledger.jsonl` holds."""
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def write_ledger(folder: Path, entries: Sequence[LedgerEntry]) -> Path:
    """Write `ledger.jsonl`, whole or not at all."""
    path = folder / LEDGER_NAME
    with atomic_file(path) as ledger_file:
        ledger_file.write(ledger_bytes(entries))
    return path


def read_ledger(folder: Path) -> list[LedgerEntry]:
    """The ledger in an adapter's folder; [] where there is none. Raises DataError for a damaged one."""
    path = folder / LEDGER_NAME
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path, fix="look at it") from error
    return [_decode(path, number, line) for number, line in enumerate(lines, 1)]


def _decode(path: Path, number: int, line: bytes) -> LedgerEntry:
    try:
        return msgspec.json.decode(line, type=LedgerEntry)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(
            f"is no ledger of `lorica adapt`: {error}", path=path, line=number, fix="adapt again, or put it back"
        ) from error


def trained_digests(entries: Iterable[LedgerEntry]) -> frozenset[str]:
    """Of texts whose true labels were trained on; a pseudo-label is the model's own guess."""
    return frozenset(entry.digest for entry in entries if entry.trained and entry.origin != "pseudo")
