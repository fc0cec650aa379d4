"""Folds: every row held out once, components whole, labels as even as scikit-learn makes them; the audit finds what was
planted."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorica.data.fold_audit import audit_folds
from lorica.data.fold_plan import plan_by_column, plan_folds
from lorica.data.split import components_of
from lorica.errors import ConfigError, DataError
from lorica.records import Row


class Case(msgspec.Struct, frozen=True):
    text: str
    rule: str = ""


def _text(row: Row) -> str:
    assert isinstance(row.case, Case)
    return row.case.text


def _rule(row: Row) -> str:
    assert isinstance(row.case, Case)
    return row.case.rule


def _unlike(number: int) -> str:
    """A text that is near no other number's."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def _row(number: int, gold: int | None, *, text: str = "", group: str = "", rule: str = "") -> Row:
    return Row(id=str(number), case=Case(text or _unlike(number), rule), group=group, gold=gold)


ROWS = st.lists(
    st.tuples(
        st.text("ab c", max_size=8) | st.integers(0, 10**6).map(_unlike),
        st.sampled_from(["", "", "", "g1", "g2", "g3"]),
        st.none() | st.integers(0, 2),
        st.sampled_from(["", "rule"]),
    ),
    min_size=2,
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(values=ROWS, count=st.integers(2, 5), seed=st.integers(0, 3))
def test_every_row_is_held_out_once_and_components_stay_whole(
    values: list[tuple[str, str, int | None, str]], count: int, seed: int
) -> None:
    rows = [
        Row(id=str(number), case=Case(text, rule), group=group, gold=gold)
        for number, (text, group, gold, rule) in enumerate(values)
    ]
    components = components_of(rows, _text)
    assume(len(components) >= count)
    plan = plan_folds(rows, count, seed=seed, text=_text, stratum=_rule)
    sides = plan.sides(rows)
    assert sorted(int(row.id) for _, held_out in sides for row in held_out) == list(range(len(rows)))
    for training, held_out in sides:
        assert training
        assert held_out
        assert sorted(int(row.id) for row in training + held_out) == list(range(len(rows)))
    for component in components:
        assert len({plan.folds[index] for index in component}) == 1
    again = plan_folds(rows, count, seed=seed, text=_text, stratum=_rule)
    assert (again.folds, again.digest(rows)) == (plan.folds, plan.digest(rows))
    assert not audit_folds(rows, plan, stratum=_rule).leaks


def test_single_rows_are_spread_evenly_over_labels_and_rules() -> None:
    rows = [_row(number, int(number % 10 == 0), rule=f"rule {number % 4 < 1}") for number in range(1000)]
    plan = plan_folds(rows, 5, seed=0, text=_text, stratum=_rule)
    for _, held_out in plan.sides(rows):
        counts = Counter((_rule(row), row.gold) for row in held_out)
        wholes = Counter((_rule(row), row.gold) for row in rows)
        assert all(abs(counts[key] - wholes[key] / 5) < 1 for key in wholes)
        assert abs(sum(row.gold == 1 for row in held_out) - 20) <= 1
        assert abs(len(held_out) - 200) <= 2
    assert plan_folds(rows, 5, seed=1, text=_text, stratum=_rule).folds != plan.folds


def _unevenness(folds: Sequence[int], labels: Sequence[int], count: int) -> float:
    """Mean over labels of the variance over folds of how many of its rows are there, relative to their number."""
    fold_array, label_array = np.asarray(folds), np.asarray(labels)
    variances = []
    for label in set(labels):
        held_out = [((fold_array == fold) & (label_array == label)).sum() for fold in range(1, count + 1)]
        variances.append(np.var(np.asarray(held_out) / (label_array == label).sum()))
    return float(np.mean(variances))


def test_grouped_folds_are_as_even_as_those_of_scikit_learn() -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    ours, theirs = [], []
    for seed in range(20):
        generator = random.Random(seed)
        rows: list[Row] = []
        for group in range(60):  # groups of 1 to 40 rows, each with a bias of its own
            bias = generator.choice([0.05, 0.3, 0.9])
            for _ in range(min(40, int(generator.paretovariate(0.9)))):
                rows.append(_row(len(rows), int(generator.random() < bias), group=f"g{group}"))
        labels = [int(row.gold) for row in rows if isinstance(row.gold, int)]
        plan = plan_folds(rows, 5, seed=seed, text=_text)
        splitter = selection.StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        fold_of = [0] * len(rows)
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, [row.group for row in rows]), start=1):
            for index in held_out:
                fold_of[index] = fold
        ours.append(_unevenness(plan.folds, labels, 5))
        theirs.append(_unevenness(fold_of, labels, 5))
    assert np.mean(ours) <= np.mean(theirs) * 1.02


def test_what_cannot_be_divided_is_one_clear_message() -> None:
    rows = [_row(0, 0, text="one thing"), _row(1, 1, text="another")]
    with pytest.raises(DataError, match=r"posts\.csv: 2 rows(.|\n)*cannot be divided into 3 folds(.|\n)*; folds=2"):
        plan_folds(rows, 3, seed=0, text=_text, source="posts.csv")
    alike = [msgspec.structs.replace(_row(i, i % 2, text="the same text"), group=str(i)) for i in range(4)]
    with pytest.raises(DataError, match=r"leaves 1 that(.|\n)*train without folds=; folds\.near_duplicates=false"):
        plan_folds(alike, 3, seed=0, text=_text, source="posts.csv")
    with pytest.raises(ConfigError, match="at least 2"):
        plan_folds(rows, 1, seed=0, text=_text)
    few = [_row(number, int(number < 6), text="the same text" if number < 3 else "") for number in range(40)]
    with pytest.raises(DataError, match=r"label 1 is in 4 rows that can be told apart(.|\n)*folds=4, or add rows"):
        plan_folds(few, 5, seed=0, text=_text, need_labels=True)
    assert plan_folds(few, 4, seed=0, text=_text, need_labels=True).count == 4
    with pytest.raises(DataError, match="every row has the label '0'"):
        plan_folds([_row(number, 0) for number in range(9)], 2, seed=0, text=_text, need_labels=True)


def test_a_planted_leak_and_a_planted_near_duplicate_are_found_in_given_folds() -> None:
    sentence = "the quick brown fox jumps over the lazy dog by the river bank"
    rows = [_row(number, number % 2, group=f"user {number // 4}" if number < 8 else "") for number in range(20)]
    values = {row.id: str(1 + int(row.id) % 2) for row in rows}
    values |= {row.id: "2" for row in rows if row.group}  # groups whole, at first
    clean = plan_by_column(rows, values, text=_text, column="fold")
    assert audit_folds(rows, clean, stratum=_rule).leaks == ()
    rows += [_row(20, 0, text=sentence), _row(21, 0, text=sentence.upper() + "s!"), _row(22, 1, text=sentence + ".")]
    values |= {"0": "1", "20": "1", "21": "2", "22": "1"}
    plan = plan_by_column(rows, values, text=_text, column="fold")
    audit = audit_folds(rows, plan, stratum=_rule)
    assert [(leak.link, leak.row_ids, leak.group) for leak in audit.leaks] == [
        ("near-duplicates", ("20", "21", "22"), ""),
        ("group", ("0", "1", "2", "3"), "user 0"),
    ]
    assert str(audit.leaks[1]) == "group 'user 0': row '0' in fold 1, row '1' in fold 2"
    assert (audit.exact_duplicates, audit.near_duplicates, audit.groups) == (1, 1, 2)
    assert audit.contradictions == (("20", "22"),), "one text, two labels"
    groups_alone = plan_folds(rows, 2, seed=0, text=_text, join_texts=False)
    assert {leak.link for leak in audit_folds(rows, groups_alone, stratum=_rule).leaks} <= {
        "exact duplicates", "near-duplicates",
    }  # fmt: skip
    assert groups_alone.components[21] == 21
    repaired = plan_folds(rows, 2, seed=0, text=_text)
    assert not audit_folds(rows, repaired, stratum=_rule).leaks
    assert repaired.components[21] == repaired.components[20] == 20


def test_an_exact_duplicate_across_given_folds_is_told_as_such() -> None:
    rows = [_row(0, 0, text="Hello there, friend"), _row(1, 0, text="hello THERE friend"), _row(2, 1), _row(3, 1)]
    plan = plan_by_column(rows, {"0": "a", "1": "b", "2": "a", "3": "b"}, text=_text, column="part")
    assert plan.names == ("a", "b")
    (leak,) = audit_folds(rows, plan, stratum=_rule).leaks
    assert (leak.link, leak.folds) == ("exact duplicates", (1, 2))


SENTENCE = "Call now to claim your free prize, the offer ends at midnight on Sunday"


@pytest.mark.parametrize(
    ("copy", "link"),
    [
        (SENTENCE.upper(), "exact duplicates"),
        (SENTENCE.replace(",", " --") + "!!! :)", "exact duplicates"),
        (SENTENCE.replace("prize", "pri\u200bze").replace(" ", "  "), "exact duplicates"),
        ("".join(chr(ord(char) + 0xFEE0) if char.isalpha() else char for char in SENTENCE), "exact duplicates"),
        (SENTENCE.replace("free", "fine"), "near-duplicates"),
        ("The offer ends at midnight on Sunday: call now to claim your free prize.", "near-duplicates"),
        (" ".join(sorted(SENTENCE.replace(",", "").split())), "near-duplicates"),
        (SENTENCE + " ok", "near-duplicates"),
    ],
)
def test_a_leak_with_small_changes_is_found(copy: str, link: str) -> None:
    rows = [_row(0, 0, text=SENTENCE), *(_row(number, number % 2) for number in range(1, 9)), _row(9, 1, text=copy)]
    values = {row.id: str(1 + (int(row.id) > 4)) for row in rows}
    plan = plan_by_column(rows, values, text=_text, column="fold")
    assert [(leak.link, leak.row_ids) for leak in audit_folds(rows, plan, stratum=_rule).leaks] == [(link, ("0", "9"))]
    own = plan_folds(rows, 3, seed=0, text=_text)
    assert own.folds[0] == own.folds[9]
    assert not audit_folds(rows, own, stratum=_rule).leaks


def test_three_words_in_another_order_are_another_text() -> None:
    rows = [_row(number, 0, text=text) for number, text in enumerate(("dogs eat cats", "cats eat dogs", "a b", "b a"))]
    assert plan_folds(rows, 2, seed=0, text=_text).components == (0, 1, 2, 3)


def test_equal_texts_under_two_rules_do_not_contradict_each_other() -> None:
    rows = [_row(0, 0, text="buy now", rule="no ads"), _row(1, 1, text="buy now", rule="be kind"), _row(2, 0)]
    plan = plan_folds(rows, 2, seed=0, text=_text, stratum=_rule)
    assert audit_folds(rows, plan, stratum=_rule).contradictions == ()
    answers = [
        msgspec.structs.replace(row, gold=gold)
        for row, gold in zip(rows, (("A b",), ("a B!", "c"), ("d",)), strict=True)
    ]
    same_rule = [msgspec.structs.replace(row, case=Case(_text(row))) for row in answers]
    assert audit_folds(same_rule, plan, stratum=_rule).contradictions == (), "accepted answers that share one"


def test_a_held_out_text_among_the_examples_of_another_fold_is_counted() -> None:
    rows = [
        _row(number, number % 2, text=f"text {number} of its own, {_unlike(number)}", rule="r") for number in range(4)
    ]
    plan = plan_by_column(rows, {"0": "1", "1": "2", "2": "1", "3": "2"}, text=_text, column="fold")
    examples = {"0": [_text(rows[1]).upper()], "1": [_text(rows[3])], "2": ["of nobody"], "3": []}
    audit = audit_folds(rows, plan, stratum=_rule, examples=lambda row: examples[row.id])
    assert audit.shown == ("1",), "row 3 is shown in its own fold alone"
    other_rule = [*rows[:3], _row(3, 1, text=_text(rows[3]), rule="another")]
    assert audit_folds(other_rule, plan, stratum=_rule, examples=lambda row: [_text(rows[3])]).shown == ()


def test_a_column_of_folds_is_complete_and_in_the_order_of_numbers() -> None:
    rows = [_row(number, 0) for number in range(3)]
    plan = plan_by_column(rows, {"0": "10", "1": "9", "2": "10"}, text=_text, column="fold")
    assert (plan.names, plan.folds) == (("9", "10"), (2, 1, 2))
    with pytest.raises(DataError, match=r"posts\.csv.*row '1'(.|\n)*the column 'fold' is empty"):
        plan_by_column(rows, {"0": "1", "1": "", "2": "2"}, text=_text, column="fold", source="posts.csv")
    with pytest.raises(DataError, match="names 1 fold"):
        plan_by_column(rows, dict.fromkeys("012", "1"), text=_text, column="fold")


def test_numbers_of_folds_in_two_spellings_are_always_in_one_order() -> None:
    """Python's sets have another order in each process."""
    numbers = [f"{zeros}{number}" for number in range(1, 30) for zeros in ("", "0", "00")]
    rows = [_row(number, 0) for number in range(len(numbers))]
    values = {row.id: number for row, number in zip(rows, numbers, strict=True)}
    plan = plan_by_column(rows, values, text=_text, column="fold")
    assert list(plan.names) == sorted(numbers, key=lambda number: (int(number), number))


def test_a_column_of_folds_leaves_every_label_to_train_on() -> None:
    rows = [_row(number, number % 2) for number in range(4)]
    by_label = {"0": "a", "1": "b", "2": "a", "3": "b"}
    assert plan_by_column(rows, by_label, text=_text, column="fold").count == 2
    with pytest.raises(DataError, match="leaves no row of label 0 to train on beside fold 'a'"):
        plan_by_column(rows, by_label, text=_text, column="fold", need_labels=True)
