"""What folds are made of, and what crosses them: duplicates, labels that contradict each other, leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lorica.data.fold_plan import FoldPlan, TextOf
from lorica.data.near_duplicates import normalise_text, text_digest
from lorica.data.split import label_text
from lorica.records import Row

Link = Literal["exact duplicates", "near-duplicates", "group"]


@dataclass(frozen=True)
class Leak:
    """Rows that are held out in different folds and should not be: what of one a model was trained on, it meets in
    another. link: what they have in common; group: its name. folds: of each of `row_ids`."""

    link: Link
    row_ids: tuple[str, ...]
    folds: tuple[int, ...]
    group: str = ""

    def __str__(self) -> str:
        (first_id, first_fold), (other_id, other_fold) = _two_sides(self)
        named = f" {self.group!r}" if self.group else ""
        return f"{self.link}{named}: row {first_id!r} in fold {first_fold}, row {other_id!r} in fold {other_fold}"


@dataclass(frozen=True)
class FoldAudit:
    """rows: in all; groups: named ones. labels: label -> rows. strata: different rules or subjects. exact_duplicates:
    rows with the text of an earlier one; near_duplicates: further rows whose text is nearly that of an earlier one (see
    `near_duplicates`). components: sets of rows that stay together; largest: rows in the largest. contradictions: ids
    of rows with one text under one stratum and different labels. leaks: what crosses folds. shown: ids of rows whose
    text stands, with a label, among the examples of a row in another fold. folds: for each, label -> rows held out."""

    rows: int
    labels: Mapping[str, int]
    strata: int
    groups: int
    exact_duplicates: int
    near_duplicates: int
    components: int
    largest: int
    contradictions: tuple[tuple[str, ...], ...]
    leaks: tuple[Leak, ...]
    shown: tuple[str, ...]
    folds: tuple[Mapping[str, int], ...]


def audit_folds(
    rows: Sequence[Row],
    plan: FoldPlan,
    *,
    stratum: TextOf,
    examples: Callable[[Row], Sequence[str]] = lambda row: (),
) -> FoldAudit:
    """Look at the rows and at what crosses the folds of a plan for them. stratum: a row's rule or subject. examples:
    the texts that its prompt shows with their labels."""
    distinct_texts = len(set(filter(None, plan.texts))) + plan.texts.count("")
    component_sizes = Counter(plan.components)
    labels = [label_text(row) for row in rows]
    labels_by_fold = [Counter[str]() for _ in range(plan.count)]
    for fold, label in zip(plan.folds, labels, strict=True):
        labels_by_fold[fold - 1][label] += 1
    return FoldAudit(
        rows=len(rows),
        labels=dict(sorted(Counter(labels).items())),
        strata=len({stratum(row) for row in rows}),
        groups=len({row.group for row in rows if row.group}),
        exact_duplicates=len(rows) - distinct_texts,
        near_duplicates=distinct_texts - len(set(plan.near_duplicates)),
        components=len(component_sizes),
        largest=max(component_sizes.values()),
        contradictions=tuple(_contradictions(rows, plan, stratum)),
        leaks=tuple(_leaks(rows, plan)),
        shown=tuple(_shown(rows, plan, stratum, examples)),
        folds=tuple(dict(sorted(counts.items())) for counts in labels_by_fold),
    )


def _contradictions(rows: Sequence[Row], plan: FoldPlan, stratum: TextOf) -> Iterator[tuple[str, ...]]:
    """Ids of rows whose text and stratum are equal, and which have no answer in common."""
    alike: dict[tuple[str, str], list[Row]] = {}
    for row, digest in zip(rows, plan.texts, strict=True):
        if digest and row.gold is not None:
            alike.setdefault((digest, stratum(row)), []).append(row)
    for duplicates in alike.values():
        if not frozenset.intersection(*map(_answers, duplicates)):
            yield tuple(row.id for row in duplicates)


def _answers(row: Row) -> frozenset[str]:
    """What is right of a row: its label, or the accepted answers as they are compared."""
    return frozenset(map(normalise_text, row.gold)) if isinstance(row.gold, tuple) else frozenset([str(row.gold)])


def _leaks(rows: Sequence[Row], plan: FoldPlan) -> Iterator[Leak]:
    """Sets of rows that should be on one side, and are not; exact duplicates before the near ones among them."""
    crossing: set[int] = set()
    text_links: tuple[tuple[Link, Sequence[str | int]], ...] = (
        ("exact duplicates", plan.texts),
        ("near-duplicates", plan.near_duplicates),
    )
    for link, keys in text_links:
        for indices in _sets(keys):
            if not crossing.issuperset(indices) and len({plan.folds[index] for index in indices}) > 1:
                crossing.update(indices)
                yield _leak(rows, plan, link, indices)
    for indices in _sets([row.group for row in rows]):
        if len({plan.folds[index] for index in indices}) > 1:
            yield _leak(rows, plan, "group", indices, rows[indices[0]].group)


def _shown(
    rows: Sequence[Row], plan: FoldPlan, stratum: TextOf, examples: Callable[[Row], Sequence[str]]
) -> Iterator[str]:
    folds_of_examples: dict[tuple[str, str], set[int]] = {}
    for row, fold in zip(rows, plan.folds, strict=True):
        for example in examples(row):
            folds_of_examples.setdefault((text_digest(example), stratum(row)), set()).add(fold)
    for row, fold, digest in zip(rows, plan.folds, plan.texts, strict=True):
        if digest and folds_of_examples.get((digest, stratum(row)), set()) - {fold}:
            yield row.id


def _sets(keys: Sequence[str | int]) -> Iterator[list[int]]:
    """The indices of each key [n] but "", which stands for none."""
    by_key: dict[str | int, list[int]] = {}
    for index, key in enumerate(keys):
        if key != "":
            by_key.setdefault(key, []).append(index)
    yield from by_key.values()


def _leak(rows: Sequence[Row], plan: FoldPlan, link: Link, indices: Sequence[int], group: str = "") -> Leak:
    row_ids, folds = tuple(rows[index].id for index in indices), tuple(plan.folds[index] for index in indices)
    return Leak(link, row_ids, folds, group)


def _two_sides(leak: Leak) -> tuple[tuple[str, int], tuple[str, int]]:
    """A row, and the first one in another fold."""
    first, *followers = zip(leak.row_ids, leak.folds, strict=True)
    return first, next(follower for follower in followers if follower[1] != first[1])
