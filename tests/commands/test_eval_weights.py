"""`lorica eval` with rows that count by a column, and on short answers as a reader takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorica.cli import main
from tests.commands.conftest import write_table as _write

WEIGHTED = "id,body,rule,rule_violation,weight\n1,a,r,1,2\n2,b,r,0,0.5\n3,c,r,1,0\n4,d,r,0,1\n"


def test_rows_may_have_weights(evaluated: Any) -> None:
    scores = "id,score\n1,0.9\n2,0.6\n3,0.1\n4,0.2\n"
    weighted = evaluated(scores, WEIGHTED, "task=rules", "--weight", "weight", "--by", "rule")
    assert weighted["metrics"]["accuracy"]["value"] == pytest.approx(3 / 3.5)
    assert weighted["metrics"]["brier"]["value"] == pytest.approx((2 * 0.01 + 0.5 * 0.36 + 0.04) / 3.5)
    assert weighted["by"]["rule"]["mean_over_groups"]["accuracy"]["value"] == pytest.approx(3 / 3.5)
    assert weighted["effective_n"] == pytest.approx(3.5**2 / (4 + 0.25 + 1))
    assert "n is worth 2.3" in weighted["text"]
    assert sum(bin_["n"] for bin_ in weighted["reliability"]) == 3
    assert evaluated(scores, WEIGHTED, "task=rules")["effective_n"] is None


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ("1,-2,1,1", ("gold.csv:3", "row '2'", "'-2'", "finite numbers from 0 on")),
        ("1,,1,1", ("gold.csv:3", "row '2'", "(empty)")),
        ("1,heavy,1,1", ("gold.csv:3", "row '2'", "'heavy'")),
        ("1,inf,1,1", ("gold.csv:3", "row '2'", "'inf'")),
        ("0,0,0,0", ("every weight in the column 'weight' is 0",)),
    ],
)
def test_weights_that_are_none_are_named(
    weights: str, parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = WEIGHTED.splitlines()
    cells = weights.split(",")
    mended = [lines[0], *(f"{line.rpartition(',')[0]},{cell}" for line, cell in zip(lines[1:], cells, strict=True))]
    gold = _write(tmp_path / "gold.csv", "\n".join(mended) + "\n")
    answers = _write(tmp_path / "a.csv", "id,score\n1,0.9\n2,0.6\n3,0.1\n4,0.2\n")
    assert main(["eval", str(answers), str(gold), "task=rules", "--weight", "weight"]) == 3
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert main(["eval", str(answers), str(gold), "task=rules", "--weight", "wait"]) == 3
    assert "'wait' is not in the file" in capsys.readouterr().err


def test_short_answers_are_matched_as_a_reader_would(evaluated: Any) -> None:
    gold = "id,question,answer\n1,how many?,3\n2,who?,\"['Bob', 'Robert']\"\n3,when?,unanswerable\n4,share?,0.5\n"
    answers = "id,answer\n1,She has 5 - 2 = three apples.\n2,The answer is Robert.\n3,I don't know.\n4,50%\n"
    said = evaluated(answers, gold, "task=saq", "--by", "question")
    assert said["metrics"]["answer_match"]["value"] == 1.0
    assert said["metrics"]["numeric_equality"] | {"low": 1, "high": 1, "note": ""} == {
        "value": 1.0,
        "low": 1,
        "high": 1,
        "n": 2,
        "groups": 0,
        "note": "",
    }
    assert said["metrics"]["exact_match"]["value"] == 0.0
    assert said["abstentions"] == {"answers": 1, "unanswerable": 1, "right": 1}
    assert "1 say that they do not know, 1 of them where gold calls 1 row not answerable" in said["text"]
