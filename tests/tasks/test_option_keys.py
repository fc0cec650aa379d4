"""The file's own keys of options, numbers as answers, options in columns and in the shapes of others."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lorica.admission.provenance import rows_facts
from lorica.data.read import read_rows, rows_from_memory
from lorica.errors import CellError, DataError
from lorica.records import Row
from lorica.tasks.base import TaskSettings
from lorica.tasks.mcq import McqCase, McqTask
from lorica.tasks.options import parse_option

Record = dict[str, Any]


def task_of(**settings: Any) -> McqTask:
    return McqTask(TaskSettings(**settings))


def rows_of(*records: Record, **settings: Any) -> list[Row]:
    return rows_from_memory(records, task_of(**settings).schemas)


def asked(options: object, answer: object = None, **more: Any) -> Record:
    return {"question": "Which?", "options": options, "answer": answer, **more}


def texts(row: Row) -> tuple[str, ...]:
    assert isinstance(row.case, McqCase)
    return row.case.options


def right(row: Row) -> tuple[str, str]:
    """(the file's name of the right option, its text)"""
    assert isinstance(row.case, McqCase)
    assert isinstance(row.gold, int)
    return row.case.names[row.gold], row.case.options[row.gold]


def answered(row: Row, best: int) -> str | None:
    """What comes back when the option at `best` of the prompt is the likeliest."""
    count = len(texts(row))
    reading = task_of().parse_logprobs(row, [0.0 if i == best else -9.0 for i in range(count)], [1] * count)
    assert reading.scores is not None
    assert max(reading.scores, key=reading.scores.__getitem__) == reading.answer
    return reading.answer


KEYED: dict[str, tuple[object, object, tuple[str, str]]] = {
    "letters in another order": ({"B": "red", "C": "seven", "A": "Tuesday"}, "B", ("B", "red")),
    "letters in brackets": ({"(B)": "red", "(A)": "Tuesday"}, "B", ("(B)", "red")),
    "a letter in brackets and text": ({"(B)": "red", "(A)": "Tuesday"}, "B) red", ("(B)", "red")),
    "letters with a mark": ({"A.": "red", "B.": "Tuesday"}, "b)", ("B.", "Tuesday")),
    "numbers with a mark": ({"1.": "red", "2.": "Tuesday"}, 2, ("2.", "Tuesday")),
    "numbers": ({"1": "green", "2": "seven", "3": "Monday"}, "2", ("2", "seven")),
    "a number": ({"1": "green", "2": "seven", "3": "Monday"}, 3, ("3", "Monday")),
    "a number with a point": ({"1": "green", "2": "seven"}, 1.0, ("1", "green")),
    "numbers from 0": ({"0": "green", "1": "seven"}, 1, ("1", "seven")),
    "numbers in another order": ({"2": "green", "1": "seven"}, "1", ("1", "seven")),
    "numbers as numbers": ({1: "green", 2: "seven"}, 1, ("1", "green")),
    "small letters with a gap": ({"a": "green", "b": "seven", "d": "Monday"}, "d", ("d", "Monday")),
    "other capitals": ({"a": "green", "b": "seven"}, "B", ("b", "seven")),
    "letters from P on": ({"P": "green", "Q": "seven"}, "(Q)", ("Q", "seven")),
    "roman": ({"i": "green", "ii": "seven", "iii": "Monday"}, "ii", ("ii", "seven")),
    "words": ({"left": "green", "both ways": "seven"}, "both ways", ("both ways", "seven")),
    "key and text": ({"1": "green", "2": "seven"}, "2) seven", ("2", "seven")),
    "the text of a keyed option": ({"x": "green", "y": "seven"}, "seven", ("y", "seven")),
    "a key that is another's text": ({"A": "B", "B": "A"}, "A", ("A", "B")),
    "an object as text": ('{"B": "red", "A": "Tuesday"}', "A", ("A", "Tuesday")),
    "a Python literal": ("{'b': 'red', 'a': 'Tuesday'}", "a", ("a", "Tuesday")),
    "truth": ({"true": "It is", "false": "It is not"}, True, ("true", "It is")),
    "labels and texts": ({"text": ["ice", "steam"], "label": ["1", "2"]}, "2", ("2", "steam")),
    "labels in another order": ({"label": ["B", "A"], "text": ["ice", "steam"]}, "B", ("B", "ice")),
    "a list of objects": ([{"label": "A", "text": "ice"}, {"label": "B", "text": "steam"}], "B", ("B", "steam")),
    "letters inside the texts, in another order": (["B) ice", "A) steam"], "B", ("B", "ice")),
}


@pytest.mark.parametrize("name", KEYED)
def test_the_keys_of_the_file_name_its_options_and_come_back(name: str) -> None:
    options, answer, expected = KEYED[name]
    (row,) = rows_of(asked(options, answer))
    assert right(row) == expected
    assert isinstance(row.gold, int)
    assert answered(row, row.gold) == expected[0]
    assert task_of().target(row) == task_of().choices(row)[row.gold]  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"B": "red", "C": "seven", "A": "Tuesday"}, "A. Tuesday\nB. red\nC. seven"),
        ({"a": "red", "b": "seven", "d": "Monday"}, "A. red\nB. seven\nD. Monday"),
        ({"(B)": "red", "(A)": "seven"}, "A. seven\nB. red"),
        ({"1": "red", "2": "seven"}, "A. red\nB. seven"),
        ({"i": "red", "ii": "seven"}, "A. red\nB. seven"),
        (["red", "seven"], "A. red\nB. seven"),
        ({"A": "red", "B": "seven"}, "A. red\nB. seven"),
        (["1) red", "2) seven"], "A. 1) red\nB. 2) seven"),
    ],
)
def test_prompts_show_the_letters_of_the_file_or_letters_by_place(options: object, shown: str) -> None:
    (row,) = rows_of(asked(options))
    (message,) = task_of().render(row)
    assert message.content == f"Answer with the letter of the right option.\nQuestion: Which?\n{shown}"
    assert task_of().choices(row) == tuple(line[0] for line in shown.splitlines())


def test_a_question_that_lists_its_options_by_their_own_letters_is_not_given_them_twice() -> None:
    (row,) = rows_of({**asked({"B": "red", "A": "blue"}, "B"), "question": "Which?\nB. red\nA. blue"})
    assert task_of().render(row)[0].content.count("red") == 1


def test_rows_of_lists_and_of_letters_in_order_keep_their_digest() -> None:
    (row,) = rows_of(asked(["red", "seven"], "B"))
    (keyed,) = rows_of(asked({"A": "red", "B": "seven"}, "B"))
    assert row.case == keyed.case
    assert b"keys" not in msgspec.json.encode(row.case)
    assert rows_facts([row]).content == "sha256:aa5c15be469a28299ae4bed75af7775fb00d3982c6bf788d511babc38bf95feb"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": "x", " a": "y"}, "the key 'a' twice"),
        ({"": "x", "b": "y"}, "whose key is ''"),
        ({"text": ["x", "y"], "label": ["A"]}, "2 texts and 1 labels"),
        ([{"label": "A", "text": "x"}, {"label": "B"}], "an object of 'label'"),
        ({"A": "x", "B": None, "C": "y"}, "option B of 'options' is empty"),
    ],
)
def test_options_that_cannot_be_named_are_refused(options: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows_of(asked(options))


@pytest.mark.parametrize(("options", "answer"), [({"1": "x", "2": "y"}, "A"), ({"1": "x", "2": "y"}, "0")])
def test_an_answer_that_is_no_key_is_refused_with_the_keys(options: object, answer: str) -> None:
    with pytest.raises(DataError, match=r"names none of the 2 options \(1, 2, or the option's text\)"):
        rows_of(asked(options, answer))


def test_the_last_options_of_an_object_may_have_no_text() -> None:
    (row,) = rows_of(asked({"A": "x", "B": "y", "C": None, "D": None}, "B"))
    assert (texts(row), right(row)) == (("x", "y"), ("B", "y"))


# --- numbers -------------------------------------------------------------------------------------------------------

FOUR = ["red", "seven", "Tuesday", "cold"]


@pytest.mark.parametrize("kind", [int, str, float])
@pytest.mark.parametrize(
    ("answers", "expected"), [((1, 0, 3), ("seven", "red", "cold")), ((1, 4, 2), ("red", "cold", "seven"))]
)
def test_numbers_are_counted_as_the_whole_file_tells(
    kind: Any, answers: tuple[int, ...], expected: tuple[str, ...], tmp_path: Path
) -> None:
    records = [asked(FOUR, kind(answer)) for answer in answers]
    assert tuple(right(row)[1] for row in rows_of(*records)) == expected
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert tuple(right(row)[1] for row in read_rows(file, task_of().schemas)) == expected


def test_options_of_different_number_decide_as_well() -> None:
    first, second = rows_of(asked(FOUR, 2), asked(["hot", "cold"], 2))
    assert (right(first), right(second)) == (("B", "seven"), ("B", "cold"))


@pytest.mark.parametrize("answer", ["1", 1, 1.0])
def test_numbers_that_may_be_counted_in_two_ways_are_no_gold_until_somebody_says_how(answer: object) -> None:
    records = [asked(FOUR, answer), asked(FOUR, "2")]
    row, _ = rows_of(*records)
    assert row.gold is None
    with pytest.raises(CellError, match="B counted from 0, A counted from 1") as caught:
        task_of().target(row)
    assert "task.answer_numbers=from_0, from_1 or text" in caught.value.fix
    assert right(rows_of(*records, answer_numbers="from_0")[0])[1] == "seven"
    assert right(rows_of(*records, answer_numbers="from_1")[0])[1] == "red"
    with pytest.raises(DataError, match="names none"):
        rows_of(*records, answer_numbers="text")


def test_no_random_table_of_numbers_is_read_otherwise_than_it_was_meant() -> None:
    rng = random.Random(7)
    pool = ["red", "blue", "seven", "cold", "1", "2", "3", "4", "10", "0"]
    counts: Counter[str] = Counter()
    for _ in range(300):
        meant = rng.choice(["from_0", "from_1", "text"])
        rows, gold = [], []
        for _ in range(rng.randint(1, 5)):
            options = rng.sample(pool[: rng.choice([5, 10])], rng.randint(2, 5))
            right_one = rng.randrange(len(options))
            answer = {"from_0": right_one, "from_1": right_one + 1, "text": options[right_one]}[meant]
            rows.append(asked(options, rng.choice([answer, str(answer)])))
            gold.append(right_one)
        for row, expected in zip(rows_of(*rows), gold, strict=True):
            counts["unread" if row.gold is None else "right" if row.gold == expected else "wrong"] += 1
    assert counts["wrong"] == 0
    assert counts["right"] > counts["unread"]


def test_a_number_outside_what_the_file_counts_is_refused() -> None:
    with pytest.raises(DataError, match=r"the answer 4 names none of the 4 options \(A to D, 0 to 3"):
        rows_of(asked(FOUR, 0), asked(FOUR, 4))


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        (["18", "20", "9"], "20", "20"),
        ([18, 20, 9], 20, "20"),
        ([18.0, 20.5], 18, "18.0"),
        (["18", "20.5"], 20.5, "20.5"),
        (["4.0", "5"], "4", "4.0"),
        (["1e3", "5"], 1000, "1e3"),
    ],
)
def test_numbers_that_are_texts_are_texts(options: list[object], answer: object, expected: str) -> None:
    assert right(rows_of(asked(options, answer))[0])[1] == expected


def test_texts_and_counts_are_told_apart_by_the_file() -> None:
    # Alone the first answer could be a text or a number; the second can only be a text.
    first, _ = rows_of(asked(["3", "1", "2"], "1"), asked(["10", "20", "30"], "20"))
    assert right(first) == ("B", "1")
    assert rows_of(asked(["3", "1", "2"], "1"))[0].gold is None
    assert right(rows_of(asked(["3", "1", "2"], "1"), answer_numbers="text")[0]) == ("B", "1")


def test_labels_with_numbers_tell_where_the_count_begins() -> None:
    assert right(rows_of(asked(["1) red", "2) seven", "3) cold"], 1))[0])[1] == "1) red"
    assert right(rows_of(asked(["(0) red", "(1) seven", "(2) cold"], "1"))[0])[1] == "(1) seven"
    assert right(rows_of(asked(["1) red", "2) seven"], "A"))[0]) == ("A", "1) red")
    assert rows_of(asked(["1.5", "2.5", "3.5"], 1))[0].gold is None  # these are no labels


# --- exact texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "answer", "index"),
    [
        (["A)21", "B)22", "C)23"], "A)21", 0),
        (["A)21", "B)22", "C)23"], "22", 1),
        (["A)21", "B)22", "C)23"], "(C) 23", 2),
        (["21", "22"], "A) 21", 0),
        (["A. Smith", "Jones"], "A. Smith", 0),
        (["True", "False"], True, 0),
        (["true", "false"], False, 1),
        (["4", "five"], 4.0, 0),
        (["caf\u00e9", "tea"], "cafe\u0301", 0),
        (["red\u00a0wine", "tea"], "red wine", 0),
        (["red  wine", "tea"], " Red wine.", 0),
        (["Ａ型", "B"], "A型", 0),
        (["x²", "x2"], "x2", 1),
        (["-4", "4"], "−4", 0),
        (["\ufeffyes", "no"], "yes", 0),
    ],
)
def test_the_text_of_an_option_names_it(options: list[str], answer: object, index: int) -> None:
    assert rows_of(asked(options, answer))[0].gold == index


def test_the_remedy_for_two_meanings_leads_on() -> None:
    for options, answer in ((["B", "A"], "A"), (["us", "US"], "Us"), (["x", "x"], "x")):
        with pytest.raises(CellError, match="could mean the options A and B") as caught:
            parse_option(answer, options)
        advised = caught.value.fix.split("as in '")[1].removesuffix("'")
        assert parse_option(advised, options) == 0


def test_equal_options_are_told() -> None:
    row, other = rows_of(asked(["x", "x", "y"], "B"), asked(["x", "y"], "B"))
    assert row.notes == ("two options have the same text",)
    assert other.notes == ()
    assert row.gold == 1


# --- options in columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "answer", "name"),
    [
        ("A B C D E", "B", "B"),
        ("A B C D E", "nitrogen", "B"),
        ("a b c d e", "b", "b"),
        ("option_a option_b option_c", "b", "b"),
        ("option_A option_B option_C", "B", "B"),
        ("opa opb opc opd", "b", "b"),
        ("choice_a choice_b", "b", "b"),
        ("option1 option2 option3", 2, "option2"),
        ("option_1 option_2", "option_2", "option_2"),
        ("choice0 choice1", "choice1", "choice1"),
        ("option0 option1 option2", "option1", "option1"),
        ("sol1 sol2", "sol2", "sol2"),
        ("Option A|Option B|Option C", "B", "B"),
        ("OPTION_A OPTION_B", "B", "B"),
        ("Choice 1|Choice 2|Choice 3", "nitrogen", "Choice 2"),
        ("A B D", "B", "B"),
        ("ending0 ending1 ending2 ending3", "nitrogen", "ending1"),
    ],
)
@pytest.mark.parametrize("question", ["question", "prompt"])
def test_options_in_columns(columns: str, answer: object, name: str, question: str) -> None:
    gases = dict(
        zip(
            columns.split("|" if "|" in columns else None),
            ("oxygen", "nitrogen", "helium", "neon", "argon"),
            strict=False,
        )
    )
    (row, last) = rows_of(
        {"id": "7", question: "Which gas?", **gases, "answer": answer},
        {"id": "8", question: "Which gas?", **gases, "answer": len(gases)},
    )
    assert row.id == "7"
    assert right(row) == (name, "nitrogen")
    assert right(last)[1] == list(gases.values())[-1]


def test_the_last_columns_may_be_empty_and_the_answer_may_not_lie_there(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("id,prompt,A,B,C,D,E,answer\n0,Which?,x,y,,,,B\n1,Which?,x,y,z,v,w,E\n")
    first, second = read_rows(file, task_of().schemas)
    assert (texts(first), right(first), right(second)) == (("x", "y"), ("B", "y"), ("E", "w"))
    file.write_text("id,prompt,A,B,C,D,E,answer\n0,Which?,x,y,,z,,B\n")
    with pytest.raises(DataError, match="option C of 'A to D' is empty"):
        list(read_rows(file, task_of().schemas))
    file.write_text("id,prompt,A,B,C,answer\n0,Which?,x,y,,C\n")
    with pytest.raises(DataError, match="the answer 'C' names none"):
        list(read_rows(file, task_of().schemas))


def test_columns_counted_from_0_and_labels_of_0_and_1() -> None:
    # As COPA has them: choice1 and choice2, labels 0 and 1.
    first, second = rows_of(
        *({"question": "Why?", "choice1": "rain", "choice2": "sun", "answer": label} for label in (1, 0))
    )
    assert (right(first), right(second)) == (("choice2", "sun"), ("choice1", "rain"))


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"1": "x", "2": "y", "answer": 1}, ("1", "x")),
        ({"0": "x", "1": "y", "answer": 1}, ("1", "y")),
        ({"B": "x", "A": "y", "answer": "B"}, ("B", "x")),
        ({"B": "x", "A": "y", "a": "other", "answer": "A"}, ("A", "y")),
    ],
)
def test_columns_that_are_keys(record: Record, name: tuple[str, str]) -> None:
    assert right(rows_of({"question": "?", **record})[0]) == name


def test_all_columns_of_a_kind_are_options_and_later_records_may_have_more() -> None:
    first, second = rows_of(
        {"question": "?", "option_a": "x", "option_b": "y", "answer": "a"},
        {"question": "?", "option_a": "x", "option_b": "y", "option_c": "z", "answer": "c"},
    )
    assert (texts(first), right(second)) == (("x", "y"), ("c", "z"))
    with pytest.raises(DataError, match="a question and a column for each option table: lacks 'A'"):
        rows_of({"question": "?", "b": "x", "c": "y", "answer": "b"})


def test_a_question_that_holds_its_choices() -> None:
    question = {"stem": "Which?", "choices": [{"text": "ice", "label": "A"}, {"text": "steam", "label": "B"}]}
    (row,) = rows_of({"id": "x", "question": question, "answerKey": "B"})
    assert (row.id, right(row)) == ("x", ("B", "steam"))
    with pytest.raises(DataError, match=r"the question has no options\n  -> add a column 'options'"):
        rows_of({"question": "Which?", "answerKey": "B"})


def test_countries_follow_their_options() -> None:
    record = {"MCQID": "1", "prompt": "Which?", "choices": {"B": "red", "A": "blue"}, "answer_idx": "B"}
    for countries in ({"A": "Spain", "B": "Peru"}, ["Peru", "Spain"]):
        (row,) = rows_of({**record, "choice_countries": countries})
        assert isinstance(row.case, McqCase)
        assert (row.case.options, row.case.option_countries) == (("blue", "red"), ("Spain", "Peru"))


@pytest.mark.parametrize("answer", ["answer", "answerKey", "answer_idx", "correct_answer"])
def test_choices_and_the_answer_under_other_names(answer: str) -> None:
    (row,) = rows_of({"question": "Which?", "choices": ["ice", "steam"], answer: "B"})
    assert right(row) == ("B", "steam")
