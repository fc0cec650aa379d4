"""The ledger: what was trained on, how often, and which rows prove nothing any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorica.adaptation.harvest import TextLabels, balanced, label_digest
from lorica.adaptation.ledger import (
    CANARY,
    HELD_OUT,
    LedgerEntry,
    make_entries,
    merge_ledgers,
    read_ledger,
    trained_digests,
    write_ledger,
)
from lorica.errors import DataError
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.rules import RulesCase

TASK = load_task("rules")
assert TASK.row_examples is not None
TEXTS = TextLabels(TASK, TASK.row_examples)


def test_it_counts_passes_and_copies_and_comes_back_as_it_was(tmp_path: Path) -> None:
    row = Row("1", RulesCase("post", "No ads", "", ("buy", "sell"), ("hello",)))
    weighed = balanced(TEXTS.harvest([row]).examples, 1)
    trained = ["1/example-1", "1/example-3", "1/example-3~2"]
    entries = make_entries(weighed, "example", TASK.text, trained_ids=trained, passes=3)
    assert [(entry.text, entry.label, entry.copies, entry.trained) for entry in entries] == [
        ("buy", 1, 1, 3), ("sell", 1, 1, 0), ("hello", 0, 2, 6),
    ]  # fmt: skip
    assert entries[1].unused == HELD_OUT
    write_ledger(tmp_path, entries)
    assert read_ledger(tmp_path) == entries
    assert trained_digests(entries) == {label_digest("No ads", "buy"), label_digest("No ads", "hello")}


def test_a_pseudo_label_is_no_rows_own_label() -> None:
    item = TEXTS.of_rows([Row("1", RulesCase("post", "No ads"), gold=1)])
    entries = make_entries([(item[0], 1)], "pseudo", TASK.text, trained_ids=["1"], passes=1, scores={"1": 0.93})
    assert (entries[0].score, entries[0].trained) == (0.93, 1)
    assert not trained_digests(entries)


def test_a_damaged_ledger_is_named_with_its_line(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == []
    (tmp_path / "ledger.jsonl").write_text('{"digest": 1}\n')
    with pytest.raises(DataError, match=r"ledger.jsonl:1: is no ledger"):
        read_ledger(tmp_path)


def test_the_ledger_of_a_mean_is_that_of_all() -> None:
    def entry(digest: str, source: str, trained: int, **more: object) -> LedgerEntry:
        values = {"stratum": "No ads", "text": digest, "label": 1, "origin": "example", "copies": 1} | more
        return LedgerEntry(digest=digest, sources=(source,), trained=trained, **values)  # type: ignore[arg-type]

    first = [entry("a", "1", 3), entry("b", "2", 0, unused=HELD_OUT), entry("c", "3", 0, unused=CANARY)]
    second = [entry("b", "9", 2), entry("c", "3", 0, unused=CANARY), entry("a", "1", 1, origin="pseudo")]
    merged = merge_ledgers([first, second])
    assert [(item.digest, item.origin, item.sources, item.copies, item.trained, item.unused) for item in merged] == [
        ("a", "example", ("1",), 1, 3, ""),
        ("b", "example", ("2", "9"), 2, 2, ""),
        ("c", "example", ("3",), 2, 0, CANARY),
        ("a", "pseudo", ("1",), 1, 1, ""),
    ]
    assert trained_digests(merged) == {"a", "b"}
    assert merge_ledgers([[], []]) == []
