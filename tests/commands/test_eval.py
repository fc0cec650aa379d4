"""`lorica eval`: what counts as an answer, how answers are read, and what rows are grouped by."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lorica.cli import main
from tests.commands.conftest import write_table as _write


def _questions(*answers: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"q{i}", "question": f"what {i}?", "answer": answer, **more} for i, answer in enumerate(answers)]


def _values(said: dict[str, Any], *names: str) -> dict[str, float | None]:
    return {name: said["metrics"][name]["value"] for name in names or said["metrics"]}


def test_rows_without_an_answer_are_wrong_counted_and_named(evaluated: Any) -> None:
    gold = _questions("A", "#", "the", "...", "x", "nan")
    answers = [
        {"id": "q0", "stage": "invalid", "flags": ["invalid"], "problem": "empty"},
        {"id": "q1", "answer": " "},
        {"id": "q2", "answer": None, "stage": "text"},
        {"id": "q3", "answer": "\u200b"},
        {"id": "q4", "answer": "x", "flags": ["error", "invalid"]},  # what stands beside an error is no answer
        {"id": "q5"},
    ]
    said = evaluated(answers, gold, "task=saq")
    assert _values(said, "exact_match", "token_f1", "answer_match") == dict.fromkeys(
        ("exact_match", "token_f1", "answer_match"), 0.0
    )
    assert said["no_answer"] == {"count": 6, "ids": [f"q{i}" for i in range(6)]}
    assert "no answer: 6 of 6 rows ('q0', 'q1', 'q2', 'q3', 'q4', ...), which count as wrong" in said["text"]
    assert said["unreadable"] == {"count": 0, "rows": []}


def test_signs_points_strokes_and_symbols_are_compared(evaluated: Any) -> None:
    gold = _questions("-3", "1.5", "1/2", "C++", "-39", "¥5")
    answers = [{"id": f"q{i}", "answer": text} for i, text in enumerate(["3", "15", "12", "C#", "39", "$5"])]
    said = evaluated(answers, gold, "task=saq")
    assert said["metrics"]["exact_match"]["value"] == 0.0
    assert said["metrics"]["exact_match"]["normalisation"] == "lorica"
    assert "exact_match (lorica)" in said["text"]
    squad = evaluated(answers, gold, "task=saq", "--normalisation", "squad")
    assert squad["metrics"]["exact_match"]["value"] == pytest.approx(5 / 6)
    assert squad["metrics"]["token_f1"]["normalisation"] == "squad"
    assert "token_f1 (squad)" in squad["text"]


def test_numbers_and_words_of_json_are_answers(evaluated: Any) -> None:
    gold = _questions(3, 3.0, "3", True, ["no", "false"], 1e22)
    answers = [{"id": f"q{i}", "answer": value} for i, value in enumerate(["3.0", 3, 3.0, "True", False, 1e22])]
    said = evaluated(answers, gold, "task=saq")
    assert set(_values(said).values()) == {1.0}


OPTIONS: list[dict[str, Any]] = [
    {"id": i, "question": "?", "options": ["Monday", "blue"], "answer": "AB"[i % 2]} for i in range(4)
]


@pytest.mark.parametrize(
    "spellings",
    [
        ("a", "b", "A", "B"),
        ("(A)", "B.", "**A**", "b)"),
        ("A) Monday", "(B) blue", "A. Monday", "B: Blue"),
        ("Monday", "blue", "monday", "BLUE."),
        ("0", "1", "0.0", "1.0"),
        (0, 1, 0.0, 1.0),
        ("The answer is A.", "Answer: B", "option a", "the correct answer is blue"),
    ],
)
def test_answers_are_read_as_gold_is(spellings: tuple[Any, ...], evaluated: Any) -> None:
    said = evaluated([{"id": i, "answer": answer} for i, answer in enumerate(spellings)], OPTIONS, "task=mcq")
    assert _values(said) == {"accuracy": 1.0}
    gold = [row | {"answer": spellings[row["id"]]} for row in OPTIONS]
    letters = [{"id": row["id"], "answer": row["answer"]} for row in OPTIONS]
    assert _values(evaluated(letters, gold, "task=mcq")) == {"accuracy": 1.0}


def test_what_names_no_option_is_counted_and_named(evaluated: Any) -> None:
    answers = [{"id": i, "answer": text} for i, text in enumerate(["E", "both", "A and B", "B"])]
    said = evaluated(answers, OPTIONS, "task=mcq")
    assert _values(said) == {"accuracy": 0.25}
    assert said["unreadable"]["count"] == 3
    assert [row["id"] for row in said["unreadable"]["rows"]] == ["0", "1", "2"]
    assert "the answer 'E' names none of the 2 options" in said["unreadable"]["rows"][0]["problem"]
    assert "cannot be read as an answer: 3 of 4 rows" in said["text"]
    assert "'1': the answer 'both' names none" in said["text"]
    assert said["no_answer"]["count"] == 0


def test_numbers_count_as_the_file_of_answers_counts(evaluated: Any) -> None:
    counted = [{"id": i, "answer": str(i % 2 + 1)} for i in range(4)]
    assert _values(evaluated(counted, OPTIONS, "task=mcq")) == {"accuracy": 1.0}
    # One number alone could be counted from 0 or from 1: it is named, and the advice leads on.
    alone = [row | {"answer": "1"} if row["id"] == 1 else row for row in OPTIONS]
    undecided = [{"id": row["id"], "answer": row["answer"]} for row in alone]
    said = evaluated(undecided, OPTIONS, "task=mcq")
    assert [row["id"] for row in said["unreadable"]["rows"]] == ["1"]
    assert "task.answer_numbers=from_0" in said["unreadable"]["rows"][0]["problem"]
    assert _values(evaluated(undecided, OPTIONS, "task=mcq", "task.answer_numbers=from_0")) == {"accuracy": 1.0}


def test_answers_name_the_keys_of_the_file(evaluated: Any) -> None:
    gold = [
        {"id": 1, "question": "?", "options": {"B": "red", "C": "seven", "A": "Tuesday"}, "answer": "B"},
        {"id": 2, "question": "?", "options": {"1": "green", "2": "seven", "3": "Monday"}, "answer": "2"},
        {"id": 3, "question": "?", "options": {"a": "green", "b": "seven", "d": "Monday"}, "answer": "d"},
    ]
    for answers in (("b", "(2)", "D"), ("Red", "2. seven", "The answer is d"), ("B", 2, "Monday")):
        said = evaluated(
            [{"id": i, "answer": text} for i, text in enumerate(answers, 1)], gold, "task=mcq", "--by=answer"
        )
        assert _values(said) == {"accuracy": 1.0}
        assert list(said["by"]["answer"]["groups"]) == ["2", "B", "d"]


def test_rows_without_gold_are_left_out_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = _write(tmp_path / "gold.jsonl", [*_questions("x"), {"id": "q1", "question": "nobody knows?"}])
    answers = _write(tmp_path / "a.jsonl", [{"id": "q0", "answer": "x"}, {"id": "q1", "answer": "y"}])
    assert main(["eval", str(answers), str(gold), "task=saq"]) == 3
    assert "data.bad_rows=skip" in capsys.readouterr().err
    assert main(["eval", str(answers), str(gold), "task=saq", "data.bad_rows=skip", "--by=id", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["n"] == 1
    assert said["reading"]["skipped_rows"] == 1
    assert list(said["by"]["id"]["groups"]) == ["q0"]


def test_an_answer_of_mcq_counts_whatever_score_stands_beside_it(evaluated: Any) -> None:
    answers = [{"id": row["id"], "answer": row["answer"], "score": 0.9} for row in OPTIONS]
    assert _values(evaluated(answers, OPTIONS, "task=mcq")) == {"accuracy": 1.0}


POSTS = "id,body,rule,rule_violation\n1,Buy now,No ads,1\n2,Nice day,No ads,0\n3,Cheap!,No ads,1\n"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ("id,answer\n1,Yes\n2,No\n3,yes.\n", ()),
        ("id,answer\n1,1\n2,0\n3,1.0\n", ()),
        ("id,answer\n1,True\n2,FALSE\n3,violation\n", ()),
        ("ID,answer\n1,Yes\n2,No\n3,Yes\n", ()),
        ("id,answer\n1,SPAM\n2,Ham\n3,Yes\n", ("task.positive_labels=[spam,'1']", "task.negative_labels=[ham,'0']")),
    ],
)
def test_labels_without_scores_give_the_metrics_of_labels(answers: str, words: tuple[str, ...], evaluated: Any) -> None:
    said = evaluated(answers, POSTS, "task=rules", *words)
    assert _values(said, "roc_auc", "accuracy", "f1") == {"roc_auc": None, "accuracy": 1.0, "f1": 1.0}
    assert said["metrics"]["roc_auc"]["note"] == "roc_auc needs scores, and no row has one"
    assert said["metrics"]["roc_auc"]["n"] == 0
    assert said["unscored"] == 3
    assert said["health"] is None


def test_a_score_counts_before_the_answer_and_a_fallback_is_no_answer(evaluated: Any) -> None:
    answers = [
        {"id": 1, "score": 0.9},
        {"id": 2, "answer": "maybe"},
        # The constant of a text that could not be read would be a Yes.
        {"id": 3, "score": 0.5, "stage": "fallback", "flags": ["invalid", "parse_fallback"]},
    ]
    said = evaluated(answers, POSTS, "task=rules")
    assert said["metrics"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert said["no_answer"]["ids"] == ["3"]
    assert [row["id"] for row in said["unreadable"]["rows"]] == ["2"]
    assert "'maybe' is neither a violation (" in said["unreadable"]["rows"][0]["problem"]
    assert said["metrics"]["roc_auc"]["n"] == 2


def test_yes_means_nothing_where_gold_turns_it_round(evaluated: Any) -> None:
    gold = "id,body,rule,allowed\n1,Buy now,No ads,no\n2,Nice day,No ads,yes\n"
    words = (
        "task=rules",
        "task.columns.rule_violation=allowed",
        "task.positive_labels=[no]",
        "task.negative_labels=[yes]",
    )
    said = evaluated("id,answer\n1,Yes\n2,No\n", gold, *words)
    assert said["unreadable"]["count"] == 2
    assert "write 1 for a violation and 0 for none" in said["unreadable"]["rows"][0]["problem"]
    assert evaluated("id,answer\n1,1\n2,0\n", gold, *words)["metrics"]["accuracy"]["value"] == 1.0
    said = evaluated("id,answer,score\n1,Yes,0.9\n2,No,0.1\n", gold, *words)
    assert _values(said, "roc_auc", "accuracy", "f1") == {"roc_auc": 1.0, "accuracy": 1.0, "f1": 1.0}
    assert said["contradictory"]["count"] == said["unreadable"]["count"] == 0


def test_an_answer_that_contradicts_its_score_is_named(evaluated: Any) -> None:
    said = evaluated("id,answer,score\n1,Yes,0.4\n2,No,0.1\n3,because,0.9\n", POSTS, "task=rules")
    assert said["contradictory"] == {"count": 1, "ids": ["1"]}
    assert said["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert "the answer contradicts the score: 1 of 3 rows ('1'); the score (from 0.5 on) counts" in said["text"]
    assert said["unreadable"]["count"] == 0


@pytest.mark.parametrize(
    ("task", "answers", "gold", "metric"),
    [
        ("rules", "row_id,score\n1,0.9\n2,0.2\n", "row_id,rule_violation\n1,1\n2,0\n", "roc_auc"),
        ("mcq", "id,answer\n1,C\n2,(a)\n", "id,answer\n1,C\n2,A\n", "accuracy"),
        ("saq", "id,answer\n1,blue\n2,2\n", "id,answer\n1,Blue\n2,2\n", "exact_match"),
        ("qa", "questionID,answer\n1,It is blue.\n", "questionID,answer\n1,It is blue.\n", "token_f1"),
    ],
)
def test_a_file_of_gold_answers_alone_is_enough(
    task: str, answers: str, gold: str, metric: str, evaluated: Any
) -> None:
    result = evaluated(answers, gold, f"task={task}")
    assert result["metrics"][metric]["value"] == 1.0
    assert not result["unreadable"]["count"]


@pytest.mark.parametrize("name", ["id", "row_id", "Row_ID", "post"])
def test_ids_may_be_called_as_in_the_gold_file(name: str, evaluated: Any) -> None:
    gold = "row_id,body,rule,rule_violation\na,x,r,1\nb,y,r,0\n"
    words = ["task=rules"]
    if name == "post":
        gold, words = gold.replace("row_id", "post"), ["task=rules", "task.columns.row_id=post"]
    said = evaluated(f"{name},answer\nb,No\na,Yes\n", gold, *words)
    assert said["metrics"]["accuracy"]["value"] == 1.0


def test_tables_of_other_kinds_are_read_as_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = _write(tmp_path / "gold.csv", POSTS)
    tables = {"a.tsv": "id\tanswer\n1\tYes\n2\tNo\n3\tYes\n", "a.json": '[{"id": 1, "answer": "Yes"},\n'}
    tables["a.json"] += '{"id": 2, "answer": false}, {"id": 3, "answer": 1}]'
    for name, text in tables.items():
        assert main(["eval", str(_write(tmp_path / name, text)), str(gold), "task=rules", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"]["value"] == 1.0


def test_nan_of_pandas_is_no_answer_and_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": [1, 2, 3], "answer": [1.0, 0.0, math.nan], "score": [math.nan] * 3})
    parquet.write_table(table, tmp_path / "a.parquet")
    gold = _write(tmp_path / "gold.csv", POSTS)
    assert main(["eval", str(tmp_path / "a.parquet"), str(gold), "task=rules", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["no_answer"]["ids"] == ["3"]
    assert said["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert said["unscored"] == 3


COUNTRIES = "id,question,answer,country,topic,year\n" + "".join(
    f"{i},what?,{i},{country},{topic},{1990 + i % 2}\n"
    for i, (country, topic) in enumerate([("UK", "food"), ("UK", ""), ("UK", "food"), ("Iran", "sport")])
)
RIGHT_BUT_ONE = "id,answer\n0,0\n1,1\n2,none\n3,3.0\n"


def test_rows_are_grouped_by_the_column_that_is_named(evaluated: Any) -> None:
    said = evaluated(RIGHT_BUT_ONE, COUNTRIES, "task=saq", "--by", "country,topic", "--by= year")
    country = said["by"]["country"]
    assert {name: group["rows"] for name, group in country["groups"].items()} == {"Iran": 1, "UK": 3}
    assert country["groups"]["UK"]["metrics"]["exact_match"]["value"] == pytest.approx(2 / 3)
    assert country["groups"]["UK"]["metrics"]["token_f1"]["normalisation"] == "lorica"
    assert country["mean_over_groups"]["exact_match"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    assert said["metrics"]["exact_match"]["value"] == pytest.approx(3 / 4)
    assert list(said["by"]["topic"]["groups"]) == ["(empty)", "food", "sport"]
    assert list(said["by"]["year"]["groups"]) == ["1990", "1991"]
    assert "mean of 2 groups" in said["text"]
    assert evaluated(RIGHT_BUT_ONE, COUNTRIES, "task=saq")["by"] == {}


def test_groups_of_labels_without_scores(evaluated: Any) -> None:
    gold = (
        POSTS.replace("rule_violation\n", "rule_violation,lang\n").replace(",1\n", ",1,en\n").replace(",0\n", ",0,de\n")
    )
    said = evaluated("id,answer\n1,Yes\n2,No\n3,No\n", gold, "task=rules", "--by=lang")
    groups = said["by"]["lang"]["groups"]
    assert groups["en"]["metrics"]["accuracy"]["value"] == 0.5
    assert groups["de"]["metrics"]["roc_auc"]["value"] is None
    means = {name: mean["value"] for name, mean in said["by"]["lang"]["mean_over_groups"].items()}
    assert means == {"roc_auc": None, "accuracy": 0.75, "f1": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--by", "contry"), ("'contry' is not in the file", "did you mean 'country'?", "'year'")),
        (("--by", "blank"), ("'blank' is empty in every row",)),
        (("--by", "Country"), ("'Country' is not in the file", "did you mean 'country'?")),
        (("by=country",), ("--by country",)),
        (("normalisation=squad",), ("--normalisation squad",)),
        (("--normalisation", "squat"), ("squat", "squad")),
    ],
)
def test_mistakes_of_the_options_are_explained(
    words: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = _write(tmp_path / "gold.csv", COUNTRIES.replace("\n", ",\n").replace("year,", "year,blank"))
    assert main(["eval", str(_write(tmp_path / "a.csv", RIGHT_BUT_ONE)), str(gold), "task=saq", *words]) in (2, 3)
    said = capsys.readouterr()
    assert said.out == ""
    assert all(part in said.err for part in parts), said.err


@pytest.mark.parametrize(
    ("answers", "parts"),
    [
        ("id,ID,answer\n1,1,Yes\n", ("'id' and 'ID' may both hold the ids",)),
        ("number,answer\n1,Yes\n", ("'number' is no column",)),
        ("answer\nYes\n", ("no column 'id'",)),
        ("id,answer\n1,Yes\n1,No\n", ("already used on line 2",)),
        ("id,answer\n9,Yes\n", ("1 of 1 answers belong to no row", "'1'")),
        ("id,answer\n1,Yes\n2,No\n", ("row '3'", "the row has no answer")),
        ("id,score\n1,high\n", ("'high', which is no number", "docs/rows.md")),
    ],
)
def test_answer_files_that_cannot_be_meant_are_explained(
    answers: str, parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gold = _write(tmp_path / "gold.csv", POSTS)
    assert main(["eval", str(_write(tmp_path / "a.csv", answers)), str(gold), "task=rules"]) == 3
    said = capsys.readouterr().err
    assert all(part in said for part in parts), said


def test_scores_that_are_no_probabilities_have_ranking_metrics_alone(evaluated: Any) -> None:
    said = evaluated("id,score\n1,3.5\n2,-1\n3,2\n", POSTS, "task=rules")
    assert said["metrics"]["roc_auc"]["value"] == 1.0
    assert said["metrics"]["log_loss"]["value"] is None
    assert said["metrics"]["log_loss"]["note"] == "log_loss needs probabilities, and a score is 3.5"
    assert said["reliability"] == []
