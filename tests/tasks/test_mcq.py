"""The task `mcq`: rows of several shapes, prompts, scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lorica.data.read import read_rows, rows_from_memory
from lorica.errors import DataError
from lorica.records import Row
from lorica.tasks.base import TaskSettings
from lorica.tasks.mcq import McqCase, McqTask
from lorica.tasks.options import parse_option

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data folder is not beside the repository")

TABLE = {
    "MCQID": "Al-en-01_3",
    "ID": "Al-en-01",
    "country": "Algeria",
    "prompt": "What do children eat after school in Algeria?",
    "choices": '{"A": "bread", "B": "rice", "C": "soup", "D": "figs"}',
    "choice_countries": '{"A": "Algeria", "B": "China", "C": "UK", "D": "Greece"}',
    "answer_idx": "A",
}


def task_of(**settings: Any) -> McqTask:
    return McqTask(TaskSettings(**settings))


def one(record: dict[str, Any]) -> Row:
    return rows_from_memory([record], task_of().schemas)[0]


def test_the_table_with_mcqid() -> None:
    row = one(TABLE)
    assert (row.id, row.gold, row.group) == ("Al-en-01_3", 0, "Al-en-01")
    assert row.case == McqCase(
        question="What do children eat after school in Algeria?",
        options=("bread", "rice", "soup", "figs"),
        country="Algeria",
        option_countries=("Algeria", "China", "UK", "Greece"),
    )


def test_a_csv_file_of_that_table(tmp_path: Path) -> None:
    quoted = [value.replace('"', '""') for value in TABLE.values()]
    file = tmp_path / "mcq.csv"
    file.write_text(",".join(TABLE) + "\n" + ",".join(f'"{value}"' for value in quoted) + "\n")
    (row,) = read_rows(file, task_of().schemas)
    assert row.case == one(TABLE).case


@pytest.mark.parametrize(
    "cell",
    [
        "['bread', \"a cook's rice\", 'soup']",
        '["bread", "a cook\'s rice", "soup"]',
        "{'A': 'bread', 'B': \"a cook's rice\", 'C': 'soup'}",
        "('bread', \"a cook's rice\", 'soup')",
    ],
)
def test_options_as_json_or_as_a_python_literal(cell: str) -> None:
    row = one({"question": "Which?", "options": cell, "answer": "B"})
    assert isinstance(row.case, McqCase)
    assert (row.case.options, row.gold) == (("bread", "a cook's rice", "soup"), 1)
    row = one({"MCQID": "1", "prompt": "Which?", "choices": cell, "answer_idx": "B"})
    assert isinstance(row.case, McqCase)
    assert (row.case.options, row.gold) == (("bread", "a cook's rice", "soup"), 1)


def test_an_answer_that_is_nan_is_missing_and_an_option_that_is_nan_is_empty() -> None:
    assert one({"question": "?", "options": ["a", "b"], "answer": math.nan}).gold is None
    for options in (["a", math.nan], "['a', nan]", '["a", NaN]'):
        with pytest.raises(DataError, match="option B of 'options' is empty"):
            one({"question": "?", "options": options})


def test_a_prompt_that_lists_its_options_is_not_given_them_twice() -> None:
    prompt = "What do children eat?\n\nA. bread\nB. rice\nC. soup\nD. figs\n\nAnswer:"
    (message,) = task_of().render(one({**TABLE, "prompt": prompt}))
    assert message.content.count("A. bread") == 1
    (message,) = task_of().render(one({**TABLE, "prompt": "Is A. bread good?"}))
    assert message.content.endswith("\nA. bread\nB. rice\nC. soup\nD. figs")


@pytest.mark.parametrize("answer", ["C", "c", "(C)", "C.", "soup", " soup ", "Soup"])
def test_spellings_of_an_answer(answer: object) -> None:
    assert one({"question": "?", "options": ["bread", "rice", "soup"], "answer": answer}).gold == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("D", "names none of the 3 options"),
        (4, "0 to 2, 1 to 3"),
        (-1, "names none"),
        (True, "no letter, index or text"),
        (0.5, "no index"),
        (["A"], "no letter, index or text"),
        ("AB", "names none"),
    ],
)
def test_answers_that_name_nothing_are_refused(answer: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one({"question": "?", "options": ["bread", "rice", "soup"], "answer": answer})


def test_an_answer_with_two_meanings_is_refused() -> None:
    with pytest.raises(ValueError, match="could mean the options A and B"):
        parse_option("1", ["1", "2"])
    with pytest.raises(ValueError, match=r"A as an option's text, B counted from 0, A counted from 1"):
        parse_option(1, ["1", "2"])
    assert parse_option("2", ["1", "2"]) == 1
    with pytest.raises(ValueError, match="A and B"):
        parse_option("A", ["B", "A"])
    assert parse_option("", ["x", "y"]) is None


def test_the_keys_of_an_object_of_options_name_them() -> None:
    options = '{"1": "bread", "2": "rice"}'
    for answer in ("1", 1):
        assert one({"question": "?", "options": options, "answer": answer}).gold == 0


def test_labels_inside_options_are_left_out_when_all_have_them() -> None:
    row = one({"question": "?", "options": ["(A)2", "(B) 4"]})
    assert row.case == McqCase("?", ("2", "4"))
    row = one({"question": "?", "options": ["A. Smith", "Jones"]})
    assert row.case == McqCase("?", ("A. Smith", "Jones"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("bread, rice", "not JSON"),
        ('"bread"', "list or an object"),
        ("'bread'", "list or an object"),
        ("'bread', 'rice'", "list or an object"),
        ("{'bread', 'rice'}", "list or an object"),
        ("[str(i) for i in range(3)]", "no Python literal"),
        ("{'A': 'bread', 'A': 'rice', 'B': 'soup'}", "the key 'A' twice"),
        ('{"A": "bread", "A": "rice", "B": "soup"}', "the key 'A' twice"),
        ('[{"label": "A", "text": "bread", "text": "rice"}, {"label": "B", "text": "soup"}]', "the key 'text' twice"),
        ([], "0 options"),
        (["one"], "1 options"),
        ([str(i) for i in range(27)], "27 options"),
        (["a", " "], "option B of 'options' is empty"),
        (["a", None], "empty"),
        (["a", ["b"]], "must be text"),
        ("[" * 100 + "]" * 100, "nested more than 32"),
        ("[" + " " * 300_000 + "]", "at most 262144"),
        (5, "must be a list"),
    ],
)
def test_bad_options_are_refused(options: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one({"question": "?", "options": options})


def test_choice_prompt_is_exactly_this() -> None:
    row = one({"question": "Why?", "options": ["x", "y"], "passage": "Long text.", "answer": "B"})
    (message,) = task_of().render(row)
    assert message.content == (
        "Answer with the letter of the right option.\nPassage: Long text.\nQuestion: Why?\nA. x\nB. y"
    )
    assert [message.content[a:b] for a, b in message.trim] == ["Long text."]
    assert task_of().choices(row) == ("A", "B")
    assert task_of().target(row) == "B"


def test_likelihood_asks_without_options_and_normalises_by_length() -> None:
    task = task_of(method="likelihood")
    row = one({"question": "Why?", "options": ["x", "a long y"], "answer": "B"})
    assert task.render(row)[0].content == "Answer the question.\nQuestion: Why?"
    assert task.choices(row) == ("x", "a long y")
    assert task.target(row) == "a long y"
    reading = task.parse_logprobs(row, [-2.0, -3.0], [1, 3])
    assert reading.answer == "B"
    assert reading.scores == pytest.approx({"A": math.exp(-2) / (math.exp(-2) + math.exp(-1)), "B": 0.731058579})


def test_choice_takes_the_most_probable_letter() -> None:
    row = one({"question": "Why?", "options": ["x", "y", "z"]})
    reading = task_of().parse_logprobs(row, [math.log(0.2), math.log(0.6), math.log(0.1)], [1, 1, 1])
    assert (reading.answer, reading.stage, reading.valid) == ("B", "choice", True)
    assert reading.scores == pytest.approx({"A": 2 / 9, "B": 6 / 9, "C": 1 / 9})
    assert task_of().parse_logprobs(row, [math.nan] * 3, [1, 1, 1]).valid is False
    assert task_of().parse_text(row, "B").valid is False


@needs_shared
def test_openstax_reads_as_it_is() -> None:
    file = SHARED / "openstax" / "mcq.jsonl"
    rows = list(read_rows(file, task_of().schemas))
    answers = [json.loads(line)["answer"] for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 687
    assert [task_of().target(row) for row in rows] == answers
    assert {row.subject for row in rows} == {"algebra", "psychology", "sociology"}


@needs_shared
@pytest.mark.parametrize("name", ["gaokao-chinese", "gaokao-geography", "sat-math"])
def test_agieval_reads_with_a_mapping(name: str) -> None:
    rows = list(read_rows(SHARED / "agieval" / f"{name}.jsonl", task_of().schemas, columns={"answer": "label"}))
    assert len(rows) == 100
    for row in rows:
        assert isinstance(row.case, McqCase)
        assert not any(option.startswith("(") and option[2:3] == ")" for option in row.case.options)
    passages = [row for row in rows if isinstance(row.case, McqCase) and row.case.passage]
    assert bool(passages) == (name != "gaokao-geography")
    assert all(len(task_of().render(row)[0].trim) == 1 for row in passages)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"sentence": "The _ was old.", "option1": "cup", "option2": "jar", "answer": "2"}, {"question": "sentence"}),
        ({"goal": "How?", "sol1": "cup", "sol2": "jar", "answer": "sol2"}, {"question": "goal"}),
        ({"question": "How?", "Choices": ["cup", "jar"], "answer": "B"}, {"options": "Choices"}),
        (
            {"Question": "How?", "Options": ["cup", "jar"], "answer": "B"},
            {"question": "Question", "options": "Options"},
        ),
    ],
)
def test_what_the_nearest_table_lacks_is_named_and_leads_on(record: dict[str, Any], named: dict[str, str]) -> None:
    with pytest.raises(DataError) as caught:
        one(record)
    advice = str(caught.value).split("-> ")[1]
    assert [name for name in ("question", "options") if f"task.columns.{name}=" in advice] == list(named)
    assert rows_from_memory([record], task_of().schemas, columns=named)[0].gold == 1


@pytest.mark.parametrize(
    "cell", ["['cup' 'jar']", "['cup' 'jar', 'mug']", "['cup'\n 'jar'\n 'mug']", "{'A': 'cup' 'jar'}"]
)
def test_texts_side_by_side_without_a_comma_are_not_one_text(cell: str) -> None:
    with pytest.raises(DataError, match="'options' has texts side by side without a comma"):
        one({"question": "Which?", "options": cell, "answer": "A"})


def test_quotes_inside_the_texts_of_a_literal_stay() -> None:
    row = one({"question": "Which?", "options": """['say "no" \\'now\\'', "it's", ':"":']""", "answer": "B"})
    assert isinstance(row.case, McqCase)
    assert row.case.options == ("say \"no\" 'now'", "it's", ':"":')


@pytest.mark.parametrize(
    "text",
    [
        "Which is older?,cup,jar,mug,pot,B\nWho?,a,b,c,d,A\n",
        "x y,a1,b1\nz,a2,b2\n",
        "7,Find it.,a1,b1,A\n8,Find,a,b,A\n",
    ],
)
def test_a_first_row_in_the_place_of_the_header_is_told_and_the_advice_leads_on(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="if this line is a row, put a line with the columns' names above it"):
        read_rows(path, task_of().schemas)
    if text.count(",") == 10:
        path.write_text("question,A,B,C,D,answer\n" + text)
        assert [row.gold for row in read_rows(path, task_of().schemas)] == [1, 0]


@pytest.mark.parametrize("header", ["id,frage,A,B", "question,Antwort eins,Antwort zwei"])
def test_a_header_is_not_taken_for_a_row(header: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(header + "\n1,2,3,4\n")
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "m.csv", task_of().schemas)
    assert "if this line is a row" not in str(caught.value)


@pytest.mark.parametrize("answer", ["option_b", "b", "B", " option_b ", "jar", "Option B"])
def test_an_answer_may_name_the_column_of_its_option(answer: str) -> None:
    assert one({"question": "Which?", "option_a": "cup", "option_b": "jar", "answer": answer}).gold == 1
