"""The labelled examples that rows bring along, as training rows of their own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from lorica.data.digest import bytes_digest
from lorica.data.near_duplicates import normalise_text
from lorica.records import Row
from lorica.tasks.base import RowExamples, Task


def label_digest(stratum: str, text: str) -> str:
    """sha256 of what a label is of: a text under a stratum, without case, punctuation and white space."""
    content = json.dumps([normalise_text(stratum), normalise_text(text)])
    return bytes_digest(content.encode())


class LabelledText(msgspec.Struct, frozen=True):
    """A text with its label. row: as it is trained on. sources: ids of the rows that it is of, or came with."""

    digest: str
    stratum: str
    row: Row
    sources: tuple[str, ...]

    @property
    def label(self) -> int:
        """0 or 1."""
        return int(self.row.gold == 1)


@dataclass(frozen=True)
class Contradiction:
    """A text that bears both labels under one stratum, with the ids of the rows that say so."""

    digest: str
    stratum: str
    text: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True)
class Harvest:
    """examples: distinct, not among the labelled rows. duplicates: examples that were there already. contradictions:
    texts with both labels, which nothing is trained on."""

    examples: tuple[LabelledText, ...]
    duplicates: int
    contradictions: tuple[Contradiction, ...]

    @property
    def contradictory(self) -> frozenset[str]:
        """The digests of the texts with both labels."""
        return frozenset(contradiction.digest for contradiction in self.contradictions)


class TextLabels:
    """Which text under which stratum has which label: the digests of a task's rows. text, stratum: see `Task`."""

    def __init__(self, task: Task, examples: RowExamples) -> None:
        self.text = task.text
        self.stratum = task.stratum
        self._examples = examples

    def digest(self, row: Row) -> str:
        """Of the row's own text under its stratum."""
        return label_digest(self.stratum(row), self.text(row))

    def of_rows(self, rows: Iterable[Row]) -> list[LabelledText]:
        """Labelled rows as they are, each its own source."""
        return [LabelledText(self.digest(row), self.stratum(row), row, (row.id,)) for row in rows]

    def harvest(self, rows: Sequence[Row], labelled: Sequence[LabelledText] = ()) -> Harvest:
        """The examples of `rows`, each text once under its stratum, whatever community it stands in; without those of
        `labelled`, and without texts that bear both labels there and here."""
        examples = [(example, row.id) for row in rows for example in self._examples.as_rows(row)]
        items = [(item, item.sources[0], False) for item in labelled]
        items += [
            (LabelledText(self.digest(example), self.stratum(example), example, ()), source, True)
            for example, source in examples
        ]
        sources: dict[str, dict[int, dict[str, None]]] = {}  # digest -> label -> ids, each once
        firsts: dict[str, tuple[LabelledText, bool]] = {}
        for item, source, is_example in items:
            sources.setdefault(item.digest, {}).setdefault(item.label, {})[source] = None
            firsts.setdefault(item.digest, (item, is_example))
        contradictory = frozenset(digest for digest, by_label in sources.items() if len(by_label) > 1)
        distinct = tuple(
            msgspec.structs.replace(item, sources=tuple(sources[digest][item.label]))
            for digest, (item, is_example) in firsts.items()
            if is_example and digest not in contradictory
        )
        contradictions = tuple(
            Contradiction(
                digest,
                firsts[digest][0].stratum,
                self.text(firsts[digest][0].row),
                tuple(sources[digest][1]),
                tuple(sources[digest][0]),
            )
            for digest in sources
            if digest in contradictory
        )
        in_contradiction = sum(item.digest in contradictory for item, _, is_example in items if is_example)
        duplicates = len(examples) - in_contradiction - len(distinct)
        return Harvest(distinct, duplicates, contradictions)


def balanced(items: Sequence[LabelledText], repeat: int, *, most: int = 4) -> list[tuple[LabelledText, int]]:
    """Each item with how often it is to be trained on: `repeat` times, and those of the rarer label of a stratum so
    much oftener, at most `most` times as often, that both labels weigh alike. No item is left out."""
    counts: dict[str, Counter[int]] = {}
    for item in items:
        counts.setdefault(item.stratum, Counter())[item.label] += 1
    weighed: list[tuple[LabelledText, int]] = []
    turns: Counter[tuple[str, int]] = Counter()
    for item in items:
        own, largest = counts[item.stratum][item.label], max(counts[item.stratum].values())
        position = turns[item.stratum, item.label]
        turns[item.stratum, item.label] += 1
        total = min(largest, most * own)
        # `total` copies shared out over `own` items.
        copies = total * (position + 1) // own - total * position // own
        weighed.append((item, repeat * copies))
    return weighed


def training_rows(weighed: Iterable[tuple[LabelledText, int]]) -> list[Row]:
    """The rows to train on, each as often as it counts, under ids of their own."""
    return [
        item.row if number == 1 else msgspec.structs.replace(item.row, id=f"{item.row.id}~{number}")
        for item, copies in weighed
        for number in range(1, copies + 1)
    ]


def by_stratum(rows: Iterable[Row], stratum: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Stratum -> its rows, the most frequent first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(stratum(row), []).append(row)
    return dict(sorted(groups.items(), key=lambda entry: -len(entry[1])))
