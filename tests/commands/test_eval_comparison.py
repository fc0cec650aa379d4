"""`lorica eval` on several files of answers, and where it puts a threshold on scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest

from lorica.cli import main


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _scores(path: Path, shift: float, *, seed: int, rows: int = 240) -> Path:
    """Scores of made-up posts, every third a violation; the larger the shift, the better they part them."""
    noise, own = Random(0), Random(seed)
    lines = [
        f"{i},{1 / (1 + math.exp(-shift * (i % 3 == 0) - noise.gauss(0, 1) - own.gauss(0, 0.3)))}" for i in range(rows)
    ]
    return _write(path, "id,score\n" + "\n".join(lines) + "\n")


@pytest.fixture
def posts_of_two_rules(tmp_path: Path) -> Path:
    lines = [f"{i},post {i},rule {i % 2},{int(i % 3 == 0)}" for i in range(240)]
    return _write(tmp_path / "gold.csv", "id,body,rule,rule_violation\n" + "\n".join(lines) + "\n")


def test_files_are_ranked_only_where_a_paired_test_tells_them_apart(
    posts_of_two_rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [_scores(tmp_path / f"{name}.csv", shift, seed=seed) for seed, (name, shift) in enumerate(_SHIFTS.items())]
    words = ["eval", *map(str, [*files, posts_of_two_rules]), "task=rules"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    weak, same, strong = map(str, files)
    assert said["ranks"] == {weak: 2, same: 2, strong: 1}
    pairs = {(pair["first"], pair["second"]): pair for pair in said["pairs"]}
    assert [pair["better"] for pair in pairs.values()] == [None, strong, strong]
    assert pairs[weak, strong]["difference"]["high"] < 0
    assert pairs[weak, strong]["n"] == 240
    # What an unpaired comparison would miss: the intervals of the two files overlap.
    intervals = [said["files"][name]["metrics"]["roc_auc"] for name in (weak, strong)]
    assert intervals[0]["high"] > intervals[1]["low"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "neither: not shown by these rows" in text
    assert "share a rank where no paired test tells them apart" in text


def test_labels_without_scores_are_compared_as_answers(
    posts_of_two_rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for name, wrong in (("good", 5), ("bad", 2)):
        labels = ["Yes" if (i % 3 == 0) != (i % wrong == 0) else "No" for i in range(240)]
        lines = [f"{i},{label}" for i, label in enumerate(labels)]
        files.append(_write(tmp_path / f"{name}.csv", "id,answer\n" + "\n".join(lines) + "\n"))
    files.append(_scores(tmp_path / "scores.csv", 6.0, seed=1))
    for compared in (files[:2], files[1:]):
        assert main(["eval", *map(str, [*compared, posts_of_two_rules]), "task=rules", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        (pair,) = result["pairs"]
        assert result["ranks"][str(tmp_path / "bad.csv")] == 2
        assert (pair["n"], abs(pair["difference"]["value"]) > 0.1) == (240, True)


_SHIFTS = {"weak": 1.0, "same": 1.0, "strong": 1.35}


def test_a_dozen_files_can_be_told_apart(
    posts_of_two_rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 2,000 resamples no p-value times the 66 pairs would ever be below 0.05."""
    files = [_scores(tmp_path / f"{seed}.csv", 4.0 if seed == 7 else 0.5, seed=seed) for seed in range(12)]
    assert main(["eval", *map(str, [*files, posts_of_two_rules]), "task=rules", "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert comparison["ranks"] == {str(path): 1 if path is files[7] else 2 for path in files}


def test_a_file_that_lacks_a_row_or_holds_another_is_named(
    posts_of_two_rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = _scores(tmp_path / "good.csv", 1.0, seed=1)
    for rows, message in ((239, "the row has no answer"), (241, "1 of 241 answers belong to no row")):
        other = _scores(tmp_path / "other.csv", 1.0, seed=2, rows=rows)
        assert main(["eval", str(good), str(other), str(posts_of_two_rules), "task=rules"]) == 3
        error = capsys.readouterr().err
        assert message in error
        assert "other.csv" in error
    assert main(["eval", str(good), str(good), str(posts_of_two_rules), "task=rules"]) == 2
    assert "named twice" in capsys.readouterr().err


def test_thresholds_keep_to_their_false_positive_rate(
    posts_of_two_rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = _scores(tmp_path / "scores.csv", 2.0, seed=3)
    assert main(["eval", str(scores), str(posts_of_two_rules), "task=rules", "--fpr", "0.05,0.2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [point["max_fpr"] for point in said["operating_points"]] == [0.05, 0.2]
    assert [point["fpr"] for point in said["operating_points"]] == [8 / 160, 32 / 160]
    assert sum(reliability_bin["n"] for reliability_bin in said["reliability"]) == 240
    assert said["metrics"]["ece"]["value"] > 0
    for rate in ("2", "x", ""):
        assert main(["eval", str(scores), str(posts_of_two_rules), "task=rules", "--fpr", rate]) == 2
        assert "allowed: rates between 0 and 1" in capsys.readouterr().err
