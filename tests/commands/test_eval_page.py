"""`lorica eval --html`: one file that loads nothing, holds what its figures say, and stays small."""

from __future__ import annotations

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pytest

from lorica.cli import main
from tests.reports.browser import needs_browser, open_page
from tests.reports.test_reports import EVIL

ROWS = 2600
LIMIT = 1_500_000


class _Page(HTMLParser):
    """Tables as lists of rows of texts, and every attribute that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.loads: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "srcset", "data", "poster")]
        self.loads += [
            f"{tag} {value}"
            for name, value in attrs
            if name == "href" and not (value or "").startswith(("#", "data:,"))
        ]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    noise = Random(0)
    gold = ["id,body,rule,rule_violation"]
    answers: dict[str, list[str]] = {"a": ["id,score"], "b": ["id,score"]}
    for i in range(ROWS):
        body = "=HYPERLINK(1)" if i == 7 else f"<script>alert({i})</script> {'word ' * 200}"
        gold.append(f'{i},"{body}",rule {i % 2},{int(i % 3 == 0)}')
        for shift, lines in zip((1.0, 2.0), answers.values(), strict=True):
            lines.append(f"{i},{1 / (1 + math.exp(-shift * (i % 3 == 0) - noise.gauss(0, 1)))}")
    paths = []
    for name, lines in [*answers.items(), ("gold", gold)]:
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        paths.append(str(path))
    return paths


def test_the_page_of_two_files(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.html"
    assert main(["eval", *files, "task=rules", "--html", str(target), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    text = target.read_text("utf-8")
    page = _Page(text)
    assert page.loads == []
    assert len(text.encode()) < LIMIT
    assert "<script>alert" not in text
    assert re.search(r"b\.csv is better than a\.csv: roc_auc \+0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)", text)
    metrics = {row[0]: row[2:] for row in page.tables[0]}
    assert page.tables[0][1][:2] == ["roc_auc", f"{ROWS:,}"]
    for name, column in ((files[0], 0), (files[1], 1)):
        estimate = result["files"][name]["metrics"]["roc_auc"]
        assert metrics["roc_auc"][column] == f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
    rows = next(table for table in page.tables if table[0][:3] == ["id", "row", "gold"])
    assert len(rows) - 1 == 2000
    assert f"2,000 of {ROWS:,} rows listed: the surest mistakes" in text
    assert {row[-1] for row in rows[1:]} == {"all right", "all wrong", "wrong: a.csv", "wrong: b.csv"}
    assert rows[1][-1] in ("all wrong", "wrong: a.csv")


def test_all_rows_stand_in_the_csv_beside_it(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", files[0], files[2], "task=rules", "--html", str(tmp_path / "report.html"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    with (tmp_path / "report.html.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert len(rows) == ROWS + 1
    right = sum(row[-1] == "yes" for row in rows[1:])
    assert right / ROWS == pytest.approx(result["metrics"]["accuracy"]["value"])
    assert rows[8][1] == "'=HYPERLINK(1)"


def test_texts_and_choices_have_pages_too(tmp_path: Path) -> None:
    questions = [{"id": i, "question": f"what {i}?", "answer": ["x", "X!"]} for i in range(30)]
    options = [{"id": i, "question": "?", "options": ["Monday", "blue"], "answer": "AB"[i % 2]} for i in range(30)]
    for task, rows in (("saq", questions), ("mcq", options)):
        gold, answers, target = (tmp_path / f"{task}.{name}" for name in ("gold.jsonl", "answers.jsonl", "html"))
        gold.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        answers.write_text("".join(json.dumps({"id": i, "answer": "x A"[i % 3]}) + "\n" for i in range(30)), "utf-8")
        assert main(["eval", str(answers), str(gold), f"task={task}", "--html", str(target)]) == 0
        page = _Page(target.read_text("utf-8"))
        listed = next(table for table in page.tables if table[0][:3] == ["id", "row", "gold"])
        assert len(listed) == 31
        assert listed[1][2] in ("x / X!", "A: Monday", "B: blue")


@pytest.mark.parametrize("first", ["scores", "labels"])
def test_files_without_scores_are_compared_by_their_labels(tmp_path: Path, first: str) -> None:
    """With files of scores, too, in either order."""
    gold = ["row_id,body,rule,rule_violation,subject"]
    lines: dict[str, list[str]] = {"scores": ["id,score"], "labels": ["id,answer"], "others": ["id,answer"]}
    for i in range(60):
        gold.append(f"{i},post {i},rule,{i % 2},{'odd' if i % 4 == 3 else 'even'}")
        lines["scores"].append(f"{i},{(i % 2 + i % 3) / 3}")
        lines["labels"].append(f"{i},{'Yes' if i % 2 else 'No'}")
        lines["others"].append(f"{i},{'Yes' if i % 5 else 'No'}")
    for name, written in [*lines.items(), ("gold", gold)]:
        (tmp_path / f"{name}.csv").write_text("\n".join(written) + "\n", "utf-8")
    names = [first, "others", *({"scores", "labels"} - {first})]
    paths = [str(tmp_path / f"{name}.csv") for name in [*names, "gold"]]
    assert main(["eval", *paths, "task=rules", "--html", str(tmp_path / "report.html")]) == 0
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "labels.csv is better than others.csv: accuracy +" in text
    assert "better than labels.csv" not in text


def test_a_group_without_a_score_is_listed_as_undefined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold, answers, target = (tmp_path / name for name in ("gold.csv", "answers.csv", "report.html"))
    rows = [f"{i},post {i},rule,{i % 2},{'bare' if i < 6 else 'other'}\n" for i in range(30)]
    gold.write_text("row_id,body,rule,rule_violation,subject\n" + "".join(rows), "utf-8")
    cells = [f"{i},{'' if i < 6 else 0.1 + i % 2 / 2},{'Yes' if i % 2 else 'No'}\n" for i in range(30)]
    answers.write_text("id,score,answer\n" + "".join(cells), "utf-8")
    words = ["eval", str(answers), str(gold), "task=rules"]
    assert main([*words, "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert (groups["bare"]["value"], groups["bare"]["n"], groups["other"]["value"]) == (None, 0, 1)
    assert main([*words, "--html", str(target)]) == 0
    assert "bare" in capsys.readouterr().out


def test_a_table_of_confusion_says_what_it_leaves_out(tmp_path: Path) -> None:
    options = [f"option {number}" for number in range(12)]
    for count, told in ((4, False), (12, True)):
        rows = [{"id": i, "question": "?", "options": options, "answer": "ABCDEFGHIJKL"[i % count]} for i in range(24)]
        gold, answers, target = (tmp_path / name for name in ("gold.jsonl", "answers.jsonl", "report.html"))
        gold.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        answers.write_text("".join(json.dumps({"id": i, "answer": "A"}) + "\n" for i in range(24)), "utf-8")
        assert main(["eval", str(answers), str(gold), "task=mcq", "--html", str(target)]) == 0
        text = target.read_text("utf-8")
        assert "Confusion of answers.jsonl" in text
        assert ("without the rows of other options" in text) == told


def test_the_slowest_rows_and_latency_come_from_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, answers = tmp_path / "rows.csv", tmp_path / "answers.csv"
    lines = [f"{i},post {i},rule {i % 2},{i % 2}" for i in range(60)]
    rows.write_text("row_id,body,rule,rule_violation\n" + "\n".join(lines) + "\n", "utf-8")
    assert main(["infer", "task=rules", "engine=fake", f"input={rows}", f"output={answers}"]) == 0
    timings_path = tmp_path / "answers.csv.run" / "timings.jsonl"
    timings = [json.loads(line) for line in timings_path.read_text("utf-8").splitlines()]
    for number, timing in enumerate(timings):
        timing["seconds"] = 0.5 + number
    timings_path.write_text("".join(json.dumps(timing) + "\n" for timing in timings), "utf-8")
    target = tmp_path / "report.html"
    evaluate = ["eval", str(answers), str(rows), "task=rules", "--html", str(target)]
    assert main(evaluate) == 0
    text = target.read_text("utf-8")
    page = _Page(text)
    slowest = next(table for table in page.tables if table[0][:2] == ["id", "seconds"])
    assert [row[:2] for row in slowest[1:3]] == [["59", "59.5 s"], ["58", "58.5 s"]]
    over_all = next(table for table in page.tables if "90% within" in table[0])
    assert over_all[1] == ["answers.csv", "60", "30 s", "53.6 s", "58.91 s", "59.5 s", "1800 s"]
    answers.write_text(answers.read_text("utf-8").replace("0.", "0.0", 1), "utf-8")
    assert main(evaluate) == 0
    assert "the page shows nothing of that run" in capsys.readouterr().err
    assert "The slowest rows" not in target.read_text("utf-8")


@needs_browser
def test_huge_and_hostile_rows_make_a_small_page_that_opens(tmp_path: Path) -> None:
    hostile = EVIL.replace("\ud800", "").replace("\x00", "")
    texts = ("שלום עולם ", "東京は晴れ ", "\U0001f642 ", "</script><script>alert(1)</script>", hostile, "=1+1 ")
    noise = Random(0)
    gold, answers = tmp_path / "gold.jsonl", [tmp_path / f"{'long_name_' * 9}{number}.jsonl" for number in range(2)]
    rows = [
        {"id": f"{texts[i % 6]}{i}", "body": (texts[i % 6] * 20_000)[:100_000], "rule": f"rule {i % 20} {hostile}",
         "rule_violation": i % 2, "group": f"group {i % 30} {'x' * 300}"}
        for i in range(40)
    ]  # fmt: skip
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for path in answers:
        lines = (
            {"id": row["id"], "score": noise.random(), "adapter": f"{row['rule']}", "raw": row["body"]} for row in rows
        )
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    target = tmp_path / "report.html"
    assert main(["eval", *map(str, answers), str(gold), "task=rules", "--by", "rule", "--html", str(target)]) == 0
    page = target.read_text("utf-8")
    assert len(page.encode()) < LIMIT
    assert "<script>alert" not in page
    assert (tmp_path / "report.html.csv").stat().st_size > 3_000_000
    for width in (390, 1400):
        result = open_page(page, tmp_path / str(width), width=width, dark=width == 390)
        assert (result["wide"], result["faint"], result["requests"]) == ([], [], [])
        assert result["pageWidth"] == result["width"]
        assert result["ready"] >= 4


def test_answers_that_do_not_know_are_counted_on_the_page(tmp_path: Path) -> None:
    gold = [
        {"id": "1", "question": "Who?", "answer": "unanswerable"},
        {"id": "2", "question": "Where?", "answer": "Rome"},
    ]
    answers = [{"id": row["id"], "answer": "I don't know."} for row in gold]
    for name, rows in (("gold", gold), ("answers", answers)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = tmp_path / "page.md"
    words = [str(tmp_path / "answers.jsonl"), str(tmp_path / "gold.jsonl"), "task=saq", "--html", str(page)]
    assert main(["eval", *words]) == 0
    table = next(line for line in page.read_text().splitlines() if line.startswith("| answers.jsonl | 2 |"))
    assert [cell.strip() for cell in table.strip("|").split("|")][1:] == ["2", "1", "1"]
