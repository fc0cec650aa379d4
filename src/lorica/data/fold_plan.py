"""Folds: every row is held out once, near-duplicates and groups stay together, labels and strata are spread evenly."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from lorica.data.digest import bytes_digest
from lorica.data.near_duplicates import join_rewritten, text_digest
from lorica.data.split import join_groups, label_text, require_components
from lorica.data.union_find import UnionFind
from lorica.errors import ConfigError, DataError
from lorica.names import count_of
from lorica.records import Row

TextOf = Callable[[Row], str]


@dataclass(frozen=True)
class FoldPlan:
    """In which fold each row is held out. Every sequence is [n], in the order of the rows.

    folds: from 1 to `count`. components: the index of the first row that a row must stay with. near_duplicates: the
    index of the first row of which its text is a near-duplicate. texts: digests of the rows' texts, "" of empty ones.
    names: what the folds are called, where a column of the user's says so.
    """

    count: int
    folds: tuple[int, ...]
    components: tuple[int, ...]
    near_duplicates: tuple[int, ...]
    texts: tuple[str, ...]
    names: tuple[str, ...] = ()

    def sides(self, rows: Sequence[Row]) -> list[tuple[list[Row], list[Row]]]:
        """For each fold (rows to train on, rows held out), in the order of `rows`."""
        return [
            (
                [row for row, row_fold in zip(rows, self.folds, strict=True) if row_fold != fold],
                [row for row, row_fold in zip(rows, self.folds, strict=True) if row_fold == fold],
            )
            for fold in range(1, self.count + 1)
        ]

    def lines(self, rows: Sequence[Row]) -> Iterator[tuple[str, int, str, str]]:
        """A line of the plan's file for each row: id, fold, the id of the first row it stays with, digest of its
        text."""
        for row, fold, component, digest in zip(rows, self.folds, self.components, self.texts, strict=True):
            yield row.id, fold, rows[component].id, digest

    def digest(self, rows: Sequence[Row]) -> str:
        """What tells this plan for these rows from another: ids, gold, texts, folds."""
        records = [
            (*line, row.gold, self.names[line[1] - 1] if self.names else "")
            for line, row in zip(self.lines(rows), rows, strict=True)
        ]
        return bytes_digest(msgspec.json.encode(records))


def plan_folds(
    rows: Sequence[Row],
    count: int,
    *,
    seed: int,
    text: TextOf,
    stratum: TextOf = lambda row: "",
    source: str = "<rows>",
    need_labels: bool = False,
    join_texts: bool = True,
) -> FoldPlan:
    """Divide rows into `count` folds: components (near-duplicate texts and groups, across steps) stay whole, and every
    label and every label within a stratum (rule, subject) is spread as evenly as that allows. The same rows and seed
    give the same plan.

    source: what a message calls the rows. need_labels: every fold must hold every label. join_texts: whether
    near-duplicates stay together; if not, groups alone do. Raises ConfigError for fewer than 2 folds, DataError for too
    few components, in all or of a label.
    """
    if count < 2:
        raise ConfigError(f"the number of folds must be at least 2, got {count}", fix="folds=5")
    components, near_duplicates, texts = _link(rows, text, join_texts=join_texts)
    members: dict[int, list[int]] = {}
    for row_index, component in enumerate(components):
        members.setdefault(component, []).append(row_index)
    labels = [label_text(row) for row in rows]
    if len(members) < count:
        otherwise = f"folds={len(members)}" if len(members) > 1 else "or train without folds="
        if join_texts and len(set(_link(rows, text, join_texts=False)[0])) >= count:
            otherwise += "; folds.near_duplicates=false keeps groups alone together, and lists what then crosses"
        require_components(rows, len(members), count, f"{count} folds", source=source, otherwise=otherwise)
    if need_labels:
        _require_labels(labels, components, count, source)
    features = [(f"label {label}", f"stratum {stratum(row)}\n{label}") for row, label in zip(rows, labels, strict=True)]
    folds = _assign(features, list(members.values()), count, seed)
    plan = FoldPlan(count, folds, components, near_duplicates, texts)
    if need_labels:
        _require_labels_in_folds(labels, plan, source)
    return plan


def plan_by_column(
    rows: Sequence[Row],
    values: Mapping[str, str],
    *,
    text: TextOf,
    column: str,
    source: str = "<rows>",
    need_labels: bool = False,
) -> FoldPlan:
    """The folds that a column says: each of its values is one, in the order of numbers or else of texts. values: row id
    -> value, "" for none. need_labels: the rows beside every fold must be of every label.

    Raises DataError for a row without a value, for fewer than two values and for missing labels.
    """
    for row in rows:
        if not values.get(row.id):
            message = f"the column {column!r} is empty, and says in which fold the row is held out"
            fix = "fill it in every row, or let folds=5 divide them"
            raise DataError(message, path=source, line=row.line or None, row_id=row.id, fix=fix)
    names = sorted({values[row.id] for row in rows}, key=_numbers_first)
    if len(names) < 2:
        raise DataError(
            f"the column {column!r} names {len(names)} fold, and 2 or more are needed",
            path=source,
            fix="number the folds in it, or let folds=5 divide the rows",
        )
    fold_of = {name: number for number, name in enumerate(names, start=1)}
    components, near_duplicates, texts = _link(rows, text)
    folds = tuple(fold_of[values[row.id]] for row in rows)
    if need_labels:
        _require_labels_beside(rows, folds, names, column, source)
    return FoldPlan(len(names), folds, components, near_duplicates, texts, tuple(names))


def _require_labels_beside(
    rows: Sequence[Row], folds: Sequence[int], names: Sequence[str], column: str, source: str
) -> None:
    labels = [label_text(row) for row in rows]
    for fold, name in enumerate(names, start=1):
        beside = {label for label, row_fold in zip(labels, folds, strict=True) if row_fold != fold}
        if missing := sorted({*labels, "0", "1"} - beside):
            raise DataError(
                f"the column {column!r} leaves no row of label {missing[0]} to train on beside fold {name!r}",
                path=source,
                fix="spread the labels over its folds, or let folds=5 divide the rows",
            )


def _numbers_first(name: str) -> tuple[bool, int, str]:
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)


def _link(
    rows: Sequence[Row], text_of: TextOf, *, join_texts: bool = True
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """Components, near-duplicates and text digests, as `FoldPlan` has them."""
    row_texts = [text_of(row) for row in rows]
    union_find = UnionFind(len(rows))
    join_rewritten(row_texts, union_find)
    near_duplicates = tuple(map(union_find.find, range(len(rows))))
    if not join_texts:
        union_find = UnionFind(len(rows))
    join_groups(rows, union_find)
    return tuple(map(union_find.find, range(len(rows)))), near_duplicates, tuple(map(text_digest, row_texts))


def _assign(
    features: Sequence[Sequence[str]], members: Sequence[Sequence[int]], count: int, seed: int
) -> tuple[int, ...]:
    """The fold of each row [n]: the largest components first, each where its features [n] are rarest so far, which
    keeps the sums of squares of their shares least. Single rows come last and even out what is left."""
    totals = Counter(feature for row_features in features for feature in row_features)
    components = list(members)
    random.Random(seed).shuffle(components)
    feature_counts = [Counter[str]() for _ in range(count)]
    sizes = [0] * count
    fold_of = [0] * len(features)
    for component in sorted(components, key=len, reverse=True):
        component_counts = Counter(feature for row_index in component for feature in features[row_index])
        costs = [
            sum(
                feature_count * feature_counts[fold][feature] / totals[feature]
                for feature, feature_count in component_counts.items()
            )
            + len(component) * sizes[fold] / len(features)
            for fold in range(count)
        ]
        cheapest = costs.index(min(costs))  # an empty fold costs nothing, so none stays empty
        sizes[cheapest] += len(component)
        feature_counts[cheapest].update(component_counts)
        for row_index in component:
            fold_of[row_index] = cheapest + 1
    return tuple(fold_of)


def _require_labels(labels: Sequence[str], components: Sequence[int], count: int, source: str) -> None:
    independent = {
        label: len({component for component, row_label in zip(components, labels, strict=True) if row_label == label})
        for label in sorted(set(labels))
    }
    if len(independent) < 2:
        raise DataError(
            f"every row has the label {labels[0]!r}: a fold could be judged by nothing",
            path=source,
            fix="train on rows of both labels",
        )
    label, fewest = min(independent.items(), key=lambda entry: entry[1])
    if fewest < count:
        fix = f"folds={fewest}, or " if fewest >= 2 else ""
        raise DataError(
            f"label {label} is in {count_of(fewest, 'row')} that can be told apart (near-duplicates "
            f"and rows of one group count once), and {count} folds need one each",
            path=source,
            fix=f"{fix}add rows of label {label}",
        )


def _require_labels_in_folds(labels: Sequence[str], plan: FoldPlan, source: str) -> None:
    present = set(zip(plan.folds, labels, strict=True))
    for fold in range(1, plan.count + 1):
        for label in sorted(set(labels)):
            if (fold, label) not in present:
                raise DataError(
                    f"fold {fold} of {plan.count} would hold no row of label {label}: too many of them are in one "
                    "group or near-duplicates of each other",
                    path=source,
                    fix=f"folds={plan.count - 1}, or group the rows less coarsely" if plan.count > 2 else "add rows",
                )
