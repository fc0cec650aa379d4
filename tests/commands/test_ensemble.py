"""`lorica ensemble`: files in, a blend out, and what it says about it."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lorica.cli import main
from lorica.data.write import read_answers

ROWS = 240


def _write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def _scores(path: Path, shift: float, *, seed: int, rows: int = ROWS) -> str:
    """Scores of made-up posts, every third a violation; the larger the shift, the better they part them."""
    noise = Random(seed)
    lines = [f"{i},{1 / (1 + math.exp(-shift * (i % 3 == 0) - noise.gauss(0, 1)))}" for i in range(rows)]
    return _write(path, "id,score\n" + "\n".join(lines) + "\n")


@pytest.fixture
def gold(tmp_path: Path) -> str:
    lines = [f"{i},post {i},rule {i % 2},{int(i % 3 == 0)}" for i in range(ROWS)]
    return _write(tmp_path / "gold.csv", "id,body,rule,rule_violation\n" + "\n".join(lines) + "\n")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [_scores(tmp_path / f"{name}.csv", 1.2, seed=seed) for seed, name in enumerate(("a", "b", "c"))]


def _json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["ensemble", *words, "task=rules", "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.mark.parametrize("method", ["rank", "mean", "power", "stack"])
def test_independent_members_make_a_blend_that_beats_the_best(
    method: str, files: list[str], gold: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _json(capsys, *files, "--gold", gold, "--method", method)
    assert result["over_best"]["better"] == "the blend"
    assert "beats its best member" in result["verdict"]
    assert result["blend"]["value"] > max(member["estimate"]["value"] for member in result["members"])
    assert all(member["adds"]["difference"]["value"] > 0 for member in result["members"])
    assert abs(result["correlations"][0][1]) < 0.5


def test_a_blend_that_does_not_help_is_said_to(
    files: list[str], gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = _scores(tmp_path / "noise.csv", 0.0, seed=9)
    strong = _scores(tmp_path / "strong.csv", 3.0, seed=8)
    result = _json(capsys, strong, noise, "--gold", gold)
    assert result["over_best"]["better"] == strong
    assert "WORSE" in result["verdict"]
    assert main(["ensemble", strong, noise, "--gold", gold, "task=rules"]) == 0
    assert "adds to the blend" in capsys.readouterr().out


def test_a_file_of_equal_scores_is_left_out_and_named(
    files: list[str], gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = _write(tmp_path / "flat.csv", "id,score\n" + "".join(f"{i},0.5\n" for i in range(ROWS)))
    output = tmp_path / "blend.csv"
    result = _json(capsys, *files, flat, "--gold", gold, "--output", str(output))
    assert list(result["left_out"]) == [flat]
    assert "all rows get the same score" in result["left_out"][flat]
    assert [member["weight"] for member in result["members"]] == pytest.approx([1 / 3] * 3)
    assert len(list(read_answers(output))) == ROWS


def test_a_copy_of_a_member_is_told(
    files: list[str], gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.csv"
    copy.write_bytes(Path(files[0]).read_bytes())
    assert main(["ensemble", *files, str(copy), "--gold", gold, "task=rules"]) == 0
    message = capsys.readouterr().err
    assert f"{copy} has the same scores as {files[0]} in every row, and doubles its weight" in message
    assert main(["ensemble", *files, "--gold", gold, "task=rules"]) == 0
    assert "same scores" not in capsys.readouterr().err


def test_rows_are_matched_by_id_not_by_position(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Path(files[1]).read_text("utf-8").splitlines()
    turned = _write(tmp_path / "turned.csv", "\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    blends = []
    for second in (files[1], turned):
        output = tmp_path / f"out-{Path(second).stem}.csv"
        _json(capsys, files[0], second, "--output", str(output))
        blends.append({answer.id: answer.score for answer in read_answers(output)})
    assert blends[0] == blends[1]


def test_a_saved_blend_serves_other_rows_even_one(
    files: list[str], gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("stack", "rank"):
        saved = tmp_path / f"{method}.json"
        _json(capsys, *files, "--gold", gold, "--method", method, "--save", str(saved))
        tables = []
        for rows in (ROWS, 1):
            members = [_scores(tmp_path / f"new{i}-{rows}.csv", 1.0, seed=20 + i, rows=rows) for i in range(3)]
            output = tmp_path / f"{method}-{rows}.csv"
            _json(capsys, *members, "--model", str(saved), "--output", str(output))
            tables.append({answer.id: answer.score for answer in read_answers(output)})
        assert tables[1]["0"] == pytest.approx(tables[0]["0"])
        assert 0 < (tables[1]["0"] or 0) < 1


@pytest.mark.parametrize("method", ["stack", "rank"])
def test_a_saved_blend_refuses_scores_of_another_scale(
    method: str, files: list[str], gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = str(tmp_path / "blend.json")
    _json(capsys, *files, "--gold", gold, "--method", method, "--save", saved)
    ranked = _write(tmp_path / "d.csv", "id,score\n" + "".join(f"{i},{i / 10}\n" for i in range(ROWS)))
    assert main(["ensemble", files[0], ranked, files[2], "--model", saved, "task=rules"]) == 3
    error = capsys.readouterr().err
    assert f"{ranked} (row '11'): a fitted blend takes probabilities, and scores go from 0 to 23.9" in error
    assert "--method rank, without a fitted blend, takes scores of any scale" in error


def test_a_saved_blend_refuses_its_files_in_another_order(
    files: list[str], gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = str(tmp_path / "blend.json")
    _json(capsys, *files, "--gold", gold, "--save", saved)
    assert main(["ensemble", files[1], files[0], files[2], "--model", saved, "task=rules"]) == 3
    assert "in this order" in capsys.readouterr().err
    _json(capsys, *files, "--model", saved)
    alike = []
    for path in files:  # folders tell them apart, as they do of runs/*/out_of_fold.csv
        folder = tmp_path / f"of-{Path(path).stem}"
        folder.mkdir()
        alike.append(str(Path(path).rename(folder / "scores.csv")))
    _json(capsys, *alike, "--gold", gold, "--save", saved)
    assert main(["ensemble", alike[1], alike[0], alike[2], "--model", saved, "task=rules"]) == 3
    assert "in this order" in capsys.readouterr().err


def test_a_saved_blend_comes_with_the_command_that_uses_it(
    files: list[str], gold: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    equal = _write(tmp_path / "equal.csv", "id,score\n" + "".join(f"{i},0.5\n" for i in range(ROWS)))
    words = [files[0], equal, files[1], "--gold", gold, "--save", "my blend.json", "task=rules"]
    assert main(["ensemble", *words]) == 0
    said = capsys.readouterr().out
    command = next(line for line in said.splitlines() if line.startswith("-> "))
    assert f"NEW-1.csv: of {files[0]}; NEW-2.csv: of {files[1]}" in said, "without what was left out"
    for seed in (1, 2):
        _scores(tmp_path / f"NEW-{seed}.csv", 1.0, seed=seed, rows=5)
    assert main(shlex.split(command)[2:]) == 0
    assert len(list(read_answers("blend.csv"))) == 5


def test_what_weighs_nothing_adds_nothing(files: list[str], gold: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = _json(capsys, *files[:2], "--gold", gold, "--weights", "1,0")["members"]
    assert first["adds"] is None, "without it there is no blend"
    assert second["adds"]["difference"]["value"] == 0


def test_the_file_of_rows_is_where_a_column_is_looked_up(
    files: list[str], gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _write(tmp_path / "rows.csv", "id,body,rule,part\n" + "".join(f"{i},post,r,{i % 4}\n" for i in range(ROWS)))
    result = _json(capsys, *files, "--gold", gold, "--rows", rows, "--within", "part")
    assert result["over_best"] is not None


def test_a_vote_is_judged_by_its_answers(gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    votes = []
    for voter in range(3):
        answers = ["Yes" if (i % 3 == 0) != (i % 5 == voter) else "No" for i in range(ROWS)]
        lines = "".join(f"{i},{answer}\n" for i, answer in enumerate(answers))
        votes.append(_write(tmp_path / f"vote{voter}.csv", "id,answer\n" + lines))
    result = _json(capsys, *votes, "--gold", gold, "--method", "vote")
    assert result["metric"] == "accuracy"
    assert (result["blend"]["value"], result["over_best"]["better"]) == (1, "the blend")


def test_members_that_cannot_vote_are_left_out_and_named(
    gold: str, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [[("Yes" if i % 3 == 0 else "No") for i in range(ROWS)], ["No"] * ROWS, [""] * ROWS]
    answers.append([("Yes" if i % 2 else "No") for i in range(ROWS)])
    paths = [
        _write(tmp_path / f"votes{n}.csv", "id,answer\n" + "".join(f"{i},{text}\n" for i, text in enumerate(column)))
        for n, column in enumerate(answers)
    ]
    result = _json(capsys, *paths, "--method", "vote", "--gold", gold)
    assert [member["file"] for member in result["members"]] == [paths[0], paths[3]]
    assert result["left_out"] == {
        paths[1]: "the same answer 'No' in all 240 rows",
        paths[2]: "no answer in any row",
    }
    assert main(["ensemble", *files, "--method", "vote", "task=rules"]) == 3
    message = capsys.readouterr().err
    assert "no file has answers that a vote could count: no answer in any row" in message
    assert "--method rank or mean blends scores" in message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weights": [0.5, 0.9]}, "its weights are 0.5, 0.9; allowed: from 0 on, with the sum 1"),
        ({"weights": [2, -1]}, "its weights are 2.0, -1.0"),
        ({"weights": [1]}, "differ in number"),
    ],
)
def test_a_saved_blend_that_was_edited_is_refused(
    change: dict[str, Any], complaint: str, files: list[str], gold: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    saved = tmp_path / "blend.json"
    _json(capsys, *files[:2], "--gold", gold, "--calibrate", str(saved))
    content = json.loads(saved.read_text())
    saved.write_text(json.dumps({"calibrated": content["calibrated"] | change}))
    assert main(["ensemble", *files[:2], "--model", str(saved), "task=rules"]) == 3
    assert complaint in capsys.readouterr().err


def test_gold_of_one_label_decides_nothing(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{i},post {i},rule,1" for i in range(ROWS)]
    one_label = _write(tmp_path / "one.csv", "id,body,rule,rule_violation\n" + "\n".join(lines) + "\n")
    verdict = _json(capsys, *files, "--gold", one_label)["verdict"]
    assert verdict.startswith("Whether the blend beats its best member cannot be told: roc_auc undefined")


def test_the_list_of_working_adapters_is_the_list_of_members(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    working = tmp_path / "working.yaml"
    working.write_text('adapters:\n  paths:\n    "a": "/x/a"  # trusted\n    "c": "/x/c"  # warnings\n', "utf-8")
    result = _json(capsys, *files, f"config={working}")
    assert [member["file"] for member in result["members"]] == [files[0], files[2]]
    assert result["left_out"] == {files[1]: "its adapter is not in adapters.paths"}


def test_ranks_within_a_column_of_a_file_without_gold(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _write(tmp_path / "rows.csv", "id,body,rule\n" + "".join(f"{i},post,rule {i % 2}\n" for i in range(ROWS)))
    output = tmp_path / "blend.csv"
    _json(capsys, *files, "--rows", rows, "--within", "rule", "--output", str(output))
    scores = [answer.score or 0.0 for answer in read_answers(output)]
    assert sum(scores[::2]) / 120 == pytest.approx(0.5) == sum(scores[1::2]) / 120


def test_the_page_says_first_whether_the_blend_is_better(
    files: list[str], gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "blend.html"
    blend = tmp_path / "blend.csv"
    result = _json(capsys, *files, "--gold", gold, "--output", str(blend), "--html", str(target))
    assert len(list(read_answers(blend))) == ROWS
    page = target.read_text("utf-8")
    summary = page.partition("<nav")[0].partition('class="summary">')[2]
    best = Path(result["best"]).name
    difference = result["over_best"]["difference"]
    verdict = f"the blend is better than {best}" if result["over_best"]["better"] else f"the blend and {best} apart"
    assert verdict in summary
    assert f"{difference['value']:+.3f} ({difference['low']:.3f} to {difference['high']:.3f})" in summary
    for name in result["members"]:
        adds = name["adds"]["difference"]
        assert f"{adds['value']:+.3f} ({adds['low']:.3f} to {adds['high']:.3f})" in page
    assert "Rank correlation" in page
    assert len(target.with_name("blend.html.csv").read_text("utf-8").splitlines()) == ROWS + 1


def test_the_page_without_gold_claims_nothing(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "blend.html"
    _json(capsys, *files, "--html", str(target), "--run", str(tmp_path / "run"))
    page = target.read_text("utf-8")
    assert "Whether that helps is not known" in page
    assert "better" not in page.partition("<main>")[2]
    assert (tmp_path / "run" / "report.html").read_text("utf-8") == page


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["A"], 2, "a blend needs two or more"),
        (["A", "A"], 2, "a file is named twice"),
        (["A", "B", "--weights", "0.5,0.6"], 2, "their sum is 1.1"),
        (["A", "B", "--weights", "0.5,x"], 2, "allowed: numbers from 0 on"),
        (["A", "B", "--weights", "1"], 2, "1 numbers for 2 files"),
        (["A", "B", "--method", "stack"], 2, "fitted on rows with gold"),
        (["A", "B", "--method", "stack", "--gold", "GOLD", "--weights", "0.5,0.5"], 2, "finds its weights"),
        (["A", "B", "--save", "m.json"], 2, "add --gold FILE"),
        (["A", "B", "--within", "rule"], 2, "--within needs the rows"),
        (["A", "B", "--within", "rul", "--gold", "GOLD"], 3, "did you mean"),
        (["A", "SHORT"], 3, "it lacks 1 of the 240 rows"),
        (["A", "LONG"], 3, "it lacks 1 of the 241 rows"),
        (["A", "SHORT", "--gold", "GOLD"], 3, "it lacks 1 of the 240 rows of"),
        (["A", "LONG", "--gold", "GOLD"], 3, "belong to no row"),
        (["A", "TWICE"], 3, "'1'"),
        (["A", "TEXTS"], 3, "240 of 240 rows have no score"),
        (["A", "NAN"], 3, "finite"),
        (["A", "B", "--model", "GOLD"], 3, "no blend of `lorica ensemble`"),
        (["A", "B", "--output", "blend.txt"], 3, "not the suffix of a result file"),
        (["A", "missing.csv"], 3, "missing.csv"),
        (["A", "B", "--output", "B"], 2, "would replace a file that this command reads"),
        (["A", "NEGATIVE", "--method", "power"], 3, "a power mean takes scores from 0 on"),
        (["A", "B", "--method", "power", "--power", "nan"], 2, "--power nan"),
        (["A", "B", "--within", "rule", "--rows", "FEW"], 3, "it lacks 230 of the 240 rows of the answers"),
        (["A", "B", "--within", "rule", "--gold", "GOLD", "--method", "stack"], 2, "a stack has no ranks"),
        (["A", "LINK"], 2, "a file is named twice"),
        (["A", "B", "--gold", "GOLD", "--save", "GOLD"], 2, "would replace a file that this command reads"),
        (["A", "B", "--gold", "GOLD", "--save", "new.csv", "--output", "./new.csv"], 2, "are one file, new.csv"),
        (["A", "B", "--model", "m.json", "--weights", "0.5,0.5"], 2, "as it was fitted, whatever --weights says"),
        (["A", "B", "--model", "m.json", "--method", "mean"], 2, "leave --method out"),
        (["A", "B", "--model", "m.json", "--within", "rule", "--rows", "GOLD"], 2, "leave --within out"),
        (["A", "B", "--power", "3"], 2, "add --method power"),
        (["A", "B", "--rows", "GOLD"], 2, "add --within COLUMN"),
        (["A", "EQUAL", "--weights", "0,1"], 3, "only members of weight 0 are left to blend"),
    ],
)
def test_mistakes_are_one_clear_message(
    words: list[str],
    code: int,
    message: str,
    files: list[str],
    gold: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = {
        "A": files[0],
        "B": files[1],
        "GOLD": gold,
        "SHORT": _scores(tmp_path / "short.csv", 1.0, seed=5, rows=ROWS - 1),
        "LONG": _scores(tmp_path / "long.csv", 1.0, seed=5, rows=ROWS + 1),
        "TWICE": _write(tmp_path / "twice.csv", "id,score\n1,0.5\n1,0.6\n"),
        "TEXTS": _write(tmp_path / "texts.csv", "id,answer\n" + "".join(f"{i},Yes\n" for i in range(ROWS))),
        "NEGATIVE": _write(tmp_path / "negative.csv", "id,score\n" + "".join(f"{i},{i - 3}\n" for i in range(ROWS))),
        "FEW": _write(tmp_path / "few.csv", "id,body,rule\n" + "".join(f"{i},post,rule {i % 2}\n" for i in range(10))),
        "LINK": str(tmp_path / "link.csv"),
        "EQUAL": _write(tmp_path / "equal.csv", "id,score\n" + "".join(f"{i},0.5\n" for i in range(ROWS))),
        "NAN": _write(tmp_path / "nan.csv", "id,score\n" + "".join(f"{i},nan\n" for i in range(ROWS))),
    }
    Path(paths["LINK"]).symlink_to(paths["A"])
    assert main(["ensemble", *(paths.get(word, word) for word in words), "task=rules"]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_blend_is_submitted_under_the_names_that_a_competition_takes(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns, output = ["--submission", "row_id=id,rule_violation=score"], tmp_path / "blend.csv"
    assert main(["ensemble", *files, "task=rules", *columns]) == 2
    assert "--output blend.csv" in capsys.readouterr().err
    assert main(["ensemble", *files, "task=rules", *columns, "--output", str(output)]) == 0
    lines = (tmp_path / "blend.submission.csv").read_text().splitlines()
    assert lines[0] == "row_id,rule_violation"
    assert [tuple(line.split(",")) for line in lines[1:]] == [(a.id, repr(a.score)) for a in read_answers(output)]


def test_a_member_that_is_left_alone_is_not_said_to_be_ranked(
    files: list[str], gold: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    equal = _write(tmp_path / "equal.csv", "id,score\n" + "".join(f"{i},0.5\n" for i in range(ROWS)))
    verdict = _json(capsys, files[0], equal, "--gold", gold)["verdict"]
    assert verdict == f"Only {files[0]} is left, and there is nothing to blend it with: use that file."


def test_no_setting_is_advised_for_a_file_that_takes_none(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    semicolons = _write(tmp_path / "semi.csv", "id;score\n1;0.5\n")
    assert main(["ensemble", files[0], semicolons, "task=rules"]) == 3
    assert "save it as CSV with commas" in capsys.readouterr().err
    assert main(["check", "--scores", semicolons]) == 12
    assert "save it as CSV with commas" in capsys.readouterr().err
