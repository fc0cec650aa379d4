from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lorica.data.write import write_answers
from lorica.errors import DataError
from lorica.records import Answer
from lorica.vetting.score_columns import read_scores
from lorica.vetting.score_findings import check_scores

ROOT = Path(__file__).resolve().parents[2]
RANDOM = np.random.default_rng(0)
HEALTHY = [float(each) for each in RANDOM.beta(0.8, 0.8, 200)]
GOLD = [int(each + RANDOM.normal(scale=0.4) > 0.5) for each in HEALTHY]


def table(path: Path, scores: Sequence[object], name: str = "score", **columns: Sequence[object]) -> Path:
    columns = {"id": [f"r{i}" for i in range(len(scores))], **columns, name: scores}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def codes(path: Path, **arguments: Any) -> dict[str, str]:
    return {each.code: each.severity for each in check_scores(read_scores(path, **arguments))[1]}


def test_a_healthy_column_is_summed_up_and_not_blamed(tmp_path: Path) -> None:
    health, findings = check_scores(read_scores(table(tmp_path / "s.csv", HEALTHY)))
    assert findings == []
    assert (health.n, health.unique, health.diversity) == (200, 200, 1.0)
    assert health.mean == pytest.approx(np.mean(HEALTHY))
    assert health.std == pytest.approx(np.std(HEALTHY))
    assert health.balance == pytest.approx(np.mean(np.array(HEALTHY) > 0.5))
    assert health.quantiles[3] == pytest.approx(np.median(HEALTHY))
    assert 0.9 < health.entropy <= 1


SICK: dict[str, tuple[Sequence[object], dict[str, str]]] = {
    "constant": ([0.5] * 50, {"L450": "reject"}),
    "one value in few rows": ([0.5] * 5, {"L450": "warn"}),
    "same to rounding": ([0.51 + 1e-7 * i for i in range(50)], {"L451": "warn", "L463": "note"}),
    "hard labels": ([0, 1] * 50, {"L452": "warn"}),
    "two constants": ([0.2, 0.8] * 50, {"L452": "warn"}),
    "not a number": ([*HEALTHY, "nan"], {"L453": "reject"}),
    "a word among numbers": ([*HEALTHY, "error"], {"L453": "reject"}),
    "infinite": ([*HEALTHY, "inf"], {"L453": "reject"}),
    "missing": ([*HEALTHY, ""], {"L454": "warn"}),
    "per cent": ([each * 100 for each in HEALTHY], {"L455": "warn"}),
    "log-probabilities": ([-0.01 - each for each in HEALTHY], {"L455": "warn"}),
    "saturated": ([0.0001 * each for each in HEALTHY] + [1 - 0.0001 * each for each in HEALTHY], {"L456": "warn"}),
    "fall-back constants": ([*HEALTHY, *[0.2, 0.5, 0.8] * 10], {"L457": "warn"}),
    "few values": ([0.1, 0.2, 0.7, 0.9] * 50, {"L460": "note"}),
    "one-sided": ([each / 3 for each in HEALTHY], {"L463": "note"}),
    "mostly one value": ([0.731] * 150 + HEALTHY, {}),
    "empty": (["", "", ""], {"L468": "reject"}),
}


@pytest.mark.parametrize("case", SICK)
def test_sick_columns_are_named(case: str, tmp_path: Path) -> None:
    scores, expected = SICK[case]
    assert codes(table(tmp_path / "s.csv", scores)) == expected


def test_a_value_of_more_than_half_of_the_rows_is_named(tmp_path: Path) -> None:
    assert codes(table(tmp_path / "s.csv", [0.7312] * 250 + HEALTHY)) == {"L466": "warn"}


def test_tiny_probabilities_that_rank_are_no_collapse(tmp_path: Path) -> None:
    found = codes(table(tmp_path / "s.csv", [1e-5 * each for each in HEALTHY]))
    assert "L451" not in found
    assert found["L456"] == "warn"


def test_round_values_throughout_are_a_matter_of_how_the_file_was_written(tmp_path: Path) -> None:
    assert "L457" not in codes(table(tmp_path / "s.csv", [round(each, 2) for each in HEALTHY]))


@pytest.mark.parametrize(("again", "severity"), [(HEALTHY[0], "warn"), (0.123456, "reject")])
def test_ids_that_come_twice(tmp_path: Path, again: float, severity: str) -> None:
    ids = [f"r{i}" for i in range(200)]
    path = table(tmp_path / "s.csv", [*HEALTHY, again], id=[*ids, "r0"])
    assert codes(path) == {"L459": severity}


def test_gold_in_a_column_or_by_id(tmp_path: Path) -> None:
    path = table(tmp_path / "s.csv", HEALTHY, gold=GOLD)
    by_column = check_scores(read_scores(path, gold_column="gold"))[1]
    assert by_column == check_scores(read_scores(path, gold={f"r{i}": label for i, label in enumerate(GOLD)}))[1]
    (only,) = by_column
    assert only.code == "L467"
    assert only.facts["auc"] == pytest.approx(roc_auc_score(GOLD, HEALTHY))
    assert only.facts["labelled"] == 200
    swapped = table(tmp_path / "swapped.csv", [1 - each for each in HEALTHY], gold=GOLD)
    assert codes(swapped, gold_column="gold") == {"L461": "reject", "L467": "note"}
    leaked = table(tmp_path / "leak.csv", HEALTHY, gold=[int(each > 0.5) for each in HEALTHY])
    assert codes(leaked, gold_column="gold") == {"L462": "warn", "L467": "note"}


def test_a_ranking_by_chance_is_a_warning(tmp_path: Path) -> None:
    coin = [float(each) for each in np.random.default_rng(0).uniform(0.1, 0.9, 200)]
    assert codes(table(tmp_path / "coin.csv", coin, gold=GOLD), gold_column="gold") == {"L467": "note", "L469": "warn"}
    few = table(tmp_path / "few.csv", coin[:20], gold=GOLD[:20])
    assert "L469" not in codes(few, gold_column="gold")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_lorica_answers_tell_their_fallbacks(tmp_path: Path, suffix: str) -> None:
    rows = [Answer(id=f"r{i}", answer="Yes", score=each, stage="choice") for i, each in enumerate(HEALTHY)]
    rows += [Answer(id=f"f{i}", score=0.5, stage="fallback", flags=("cut_off", "parse_fallback")) for i in range(10)]
    rows += [Answer(id="e", stage="invalid", flags=("error",))]
    path = tmp_path / f"answers{suffix}"
    write_answers(path, rows)
    health, findings = check_scores(read_scores(path))
    assert health.fallback_share == pytest.approx(10 / 211)
    assert {each.code for each in findings} == {"L454", "L457", "L458", "L464"}


def test_answers_to_multiple_choice_are_read_by_their_best_choice(tmp_path: Path) -> None:
    rows = [Answer(id="a", answer="B", scores={"A": 0.25, "B": 0.75}), Answer(id="b", scores={"A": 0.6, "B": 0.4})]
    for suffix in (".jsonl", ".csv", ".parquet"):
        path = tmp_path / f"answers{suffix}"
        write_answers(path, rows)
        assert read_scores(path, column="scores").values == [0.75, 0.6]


def test_decimals_with_a_comma_are_told(tmp_path: Path) -> None:
    path = table(tmp_path / "german.csv", [f"0,{i:03}" for i in range(1, 50)])
    with pytest.raises(DataError) as caught:
        check_scores(read_scores(path))
    assert "point" in caught.value.fix


def test_one_id_is_one_id(tmp_path: Path) -> None:
    path = table(tmp_path / "twice.csv", [0.1, 0.2, 0.3], id=["a", "a", "b"])
    assert {each.code: each.seen for each in check_scores(read_scores(path))[1]}["L459"].startswith(
        "1 id stands in several rows"
    )


def test_columns_are_found_by_name_or_named_in_the_message(tmp_path: Path) -> None:
    assert read_scores(table(tmp_path / "a.csv", HEALTHY, name="rule_violation")).name == "rule_violation"
    assert read_scores(table(tmp_path / "b.csv", HEALTHY, name="my own")).name == "my own"
    both = table(tmp_path / "c.csv", HEALTHY, name="second one", first_one=HEALTHY)
    with pytest.raises(DataError, match="'first_one', 'second one'"):
        read_scores(both)
    with pytest.raises(DataError, match="did you mean 'second one'"):
        read_scores(both, column="secnd one")
    texts = table(tmp_path / "d.csv", ["Yes", "No"], name="label")
    with pytest.raises(DataError, match="holds texts such as 'Yes'"):
        read_scores(texts)


def test_findings_are_json_able_and_name_the_file(tmp_path: Path) -> None:
    for each in check_scores(read_scores(table(tmp_path / "s.csv", [0.5] * 50)))[1]:
        assert each.file == "s.csv"
        json.dumps(each.facts, allow_nan=False)


def test_scores_are_checked_without_torch_and_hydra() -> None:
    code = "import sys, lorica.vetting.score_columns; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src")
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"torch", "hydra", "scipy", "transformers"}


def test_rows_whose_own_labels_were_trained_on_are_told(tmp_path: Path) -> None:
    rows = [
        Answer(id=f"r{i}", answer="Yes", score=score, stage="choice", flags=("trained_on",) if i < 3 else ())
        for i, score in enumerate(HEALTHY)
    ]
    path = tmp_path / "answers.csv"
    write_answers(path, rows)
    assert codes(path)["L471"] == "note"
    scores = read_scores(path, gold={f"r{i}": i % 2 for i in range(len(HEALTHY))})
    (trained,) = [finding for finding in check_scores(scores)[1] if finding.code == "L471"]
    assert (trained.severity, trained.facts["trained_rows"]) == ("warn", 3)
