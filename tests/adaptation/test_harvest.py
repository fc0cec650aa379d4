"""Labelled examples out of rows: each text once under its rule, contradictions dropped, labels balanced."""

from __future__ import annotations

from collections import Counter

from lorica.adaptation.harvest import TextLabels, balanced, label_digest, training_rows
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.rules import RulesCase

TASK = load_task("rules")
assert TASK.row_examples is not None
TEXTS = TextLabels(TASK, TASK.row_examples)


def make_row(
    row_id: str,
    breaking: tuple[str, ...],
    allowed: tuple[str, ...],
    *,
    rule: str = "No ads",
    place: str = "",
    gold: int | None = None,
) -> Row:
    return Row(row_id, RulesCase(f"post {row_id}", rule, place, breaking, allowed), gold=gold)


def test_an_example_becomes_a_row_under_the_rule_and_is_no_example_of_itself() -> None:
    harvest = TEXTS.harvest([make_row("7", ("buy now", "cheap pills"), ("hello", "nice day"))])
    cases = {item.row.case.body: item for item in harvest.examples}  # type: ignore[attr-defined]
    assert {text: item.label for text, item in cases.items()} == {
        "buy now": 1, "cheap pills": 1, "hello": 0, "nice day": 0,
    }  # fmt: skip
    case = cases["buy now"].row.case
    assert isinstance(case, RulesCase)
    assert (case.rule, case.breaking, case.allowed) == ("No ads", ("cheap pills",), ("hello", "nice day"))
    assert cases["buy now"].sources == ("7",)
    assert len({item.row.id for item in harvest.examples}) == 4


def test_duplicates_are_one_row_whatever_the_community_and_spelling() -> None:
    rows = [
        make_row("1", ("Buy now!",), ("hello",), place="r/pets"),
        make_row("2", ("buy NOW",), ("good morning",), place="r/cars"),
        make_row("3", ("Buy now!",), (), rule="No spam", place="r/pets"),
    ]
    harvest = TEXTS.harvest(rows)
    assert harvest.duplicates == 1
    by_digest = {item.digest: item for item in harvest.examples}
    assert by_digest[label_digest("No ads", "buy now")].sources == ("1", "2")
    assert by_digest[label_digest("no spam.", "buy now")].sources == ("3",)  # another rule is another label
    assert len(harvest.examples) == 4


def test_an_example_of_every_row_takes_no_longer_for_each() -> None:
    class CountedId(str):
        comparisons = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            CountedId.comparisons += 1
            return str.__eq__(self, other)

    (example,) = TEXTS.harvest([make_row(CountedId(number), ("buy now",), ()) for number in range(200)]).examples
    assert example.sources == tuple(map(str, range(200)))
    assert CountedId.comparisons <= 2 * 200 + 1, "200 * 200 / 2 where each id is looked for among all"


def test_contradictory_labels_are_listed_and_nothing_is_made_of_them() -> None:
    rows = [
        make_row("1", ("buy now",), ("hello",)),
        make_row("2", ("good",), ("Buy now.",)),
        make_row("3", (), ("buy now",)),
    ]
    harvest = TEXTS.harvest(rows)
    (contradiction,) = harvest.contradictions
    assert (contradiction.stratum, contradiction.positive, contradiction.negative) == ("No ads", ("1",), ("2", "3"))
    assert {item.row.case.body for item in harvest.examples} == {"hello", "good"}  # type: ignore[attr-defined]
    assert harvest.contradictory == {label_digest("No ads", "buy now")}
    assert harvest.duplicates == 0


def test_labelled_rows_count_as_duplicates_and_contradict_as_well() -> None:
    labelled = TEXTS.of_rows([make_row("a", (), (), gold=1), make_row("b", (), (), gold=1)])
    harvest = TEXTS.harvest([make_row("1", ("post a",), ("post b", "new"))], labelled)
    assert [item.row.case.body for item in harvest.examples] == ["new"]  # type: ignore[attr-defined]
    assert harvest.duplicates == 1
    assert harvest.contradictory == {label_digest("No ads", "post b")}


def test_the_rarer_label_of_a_rule_is_trained_on_oftener_and_nothing_is_left_out() -> None:
    rows = [make_row(str(number), (f"sale {number}",), ()) for number in range(7)] + [make_row("8", (), ("x", "y"))]
    weighed = balanced(TEXTS.harvest(rows).examples, 2)
    copies = Counter[int]()
    for item, count in weighed:
        assert count > 0
        copies[item.label] += count
    assert copies == {1: 14, 0: 14}
    trained = training_rows(weighed)
    assert len(trained) == 28
    assert len({row.id for row in trained}) == 28
    one_sided = balanced(TEXTS.harvest(rows[:7]).examples, 1)
    assert [count for _, count in one_sided] == [1] * 7
    rare = balanced(TEXTS.harvest([*rows[:7], make_row("9", (), ("z",))]).examples, 1)
    assert [count for item, count in rare if item.label == 0] == [4], "never so often that it is learned by heart"
