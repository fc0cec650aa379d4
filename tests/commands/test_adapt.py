"""`lorica adapt`: stages, guards, rollback, ledger, resume. Most tests train a count of words in place of a model."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lorica.adaptation.ledger import read_ledger
from lorica.adapters.registry import SHALLOW_WEIGHTS
from lorica.cli import main
from lorica.commands import adapt_stages, build
from lorica.commands.adapt_stages import folder_digest
from tests.commands.adapt_stub import WordCounts

COLUMNS = ("row_id", "body", "rule", "positive_example_1", "positive_example_2", "negative_example_1",
           "negative_example_2", "rule_violation")  # fmt: skip
QUIET = ("training.val_ratio=0", "task=rules", "run_dir=run")


def rule_rows(rule: int, count: int, generator: random.Random) -> list[tuple[str, ...]]:
    """Rows of a rule whose violations hold words of its own; examples are nobody's post."""

    def post(label: int) -> str:
        words = [f"{'bad' if label else 'fine'}{rule}x{generator.randrange(6)}" for _ in range(3)]
        return " ".join([*words, *(f"word{generator.randrange(400)}" for _ in range(6))])

    return [
        (f"{rule}-{number}", post(number % 2), f"rule {rule}", post(1), post(1), post(0), post(0), str(number % 2))
        for number in range(count)
    ]


def write_rows(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as csv_file:
        writer = csv.writer(csv_file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def read_rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as csv_file:
        return list(csv.reader(csv_file))[1:]


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """train.csv of three rules, test.csv of a fourth, in the working folder."""
    monkeypatch.chdir(tmp_path)
    generator = random.Random(0)
    write_rows(tmp_path / "train.csv", [row for rule in (1, 2, 3) for row in rule_rows(rule, 60, generator)])
    write_rows(tmp_path / "test.csv", rule_rows(4, 120, generator))
    return tmp_path


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> WordCounts:
    stub = WordCounts()
    monkeypatch.setattr(adapt_stages, "train_jobs", stub.train_jobs)
    monkeypatch.setattr(adapt_stages, "load_trainer", stub.load_trainer)
    monkeypatch.setattr(build, "open_adapters", stub.open_adapters)
    monkeypatch.setattr(adapt_stages, "adapter_answers", stub.adapter_answers)
    return stub


def adapt(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["adapt", "input=test.csv", *QUIET, *words, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_it_adapts_from_examples_and_says_beforehand_what_that_gains(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    result = adapt(capsys, "train=train.csv", "adapt.rounds=1", "--html", "page.html")
    estimate = result["estimate"]
    assert estimate["expected"]
    assert estimate["gain"]["low"] > 0.05
    assert not estimate["control_gains"]
    assert estimate["p_value"] == 1 / 4**3
    assert result["unseen"] == ["rule 4"]
    assert result["measured"]["low"] > 0.05
    first_of_input = next(index for index, name in enumerate(models.trained) if not name.startswith("estimate/"))
    assert all(name.startswith("estimate/") for name in models.trained[:first_of_input])
    assert len(models.trained[:first_of_input]) == 3 * (2 + 3)
    for name in models.trained[:first_of_input]:  # nothing of the input is used before the estimate is there
        assert not {row.id for row in models.rows[name] if row.id.startswith("4-")}
    assert (result["stage"], result["rounds"][0]["accepted"]) == ("round-1", True)
    assert "Expected gain" in (tables / "page.html").read_text()
    assert main(["runs", "show", "run"]) == 0
    assert "expected gain" in capsys.readouterr().out


def test_it_ends_with_the_next_commands(tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["input=test.csv", *QUIET, "train=train.csv", "adapt.estimate=off", "adapt.rounds=0"]
    assert main(["adapt", *words, "task.style=plain"]) == 0
    output = capsys.readouterr().out
    assert "-> lorica infer " in output
    assert "task.style=plain adapters.dir=run input=NEW.csv output=answers.csv" in output
    assert not {"train=train.csv", "adapt.rounds=0", "input=test.csv"} & set(output.split())


def test_the_expected_gain_stands_for_a_run_without_gold(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tables / "test.csv", [[*row[:-1], ""] for row in read_rows(tables / "test.csv")])
    adapt(capsys, "train=train.csv", "adapt.rounds=0")
    assert json.loads((tables / "run" / "run.json").read_text())["main_metric"] == "expected gain"


def test_gold_of_the_input_is_never_trained_on(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    adapt(capsys, "train=train.csv", "adapt.estimate=off")
    sound = (tables / "run" / "rules" / "model.json").read_bytes()
    rows = read_rows(tables / "test.csv")
    write_rows(tables / "test.csv", [[*row[:-1], ""] for row in rows])
    result = adapt(capsys, "train=train.csv", "adapt.estimate=off", "run_dir=blind")
    assert (tables / "blind" / "rules" / "model.json").read_bytes() == sound
    assert result["measured"] is None


@pytest.mark.parametrize("extra", [(), ("adapt.max_balance_shift=1",)])
def test_a_class_turned_around_is_stopped_and_rolled_back_to_the_byte(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str], extra: Sequence[str]
) -> None:
    words = ("train=train.csv", "adapt.estimate=off", "adapt.rounds=2", *extra)
    result = adapt(capsys, *words, "adapt.drill=flip_1")
    assert [report["accepted"] for report in result["rounds"]] == [True, False]
    assert result["rolled_back"]
    assert result["stopped"]
    published, last_good = tables / "run" / "rules", tables / "run" / "stages" / "round-1"
    assert {path.name: path.read_bytes() for path in published.iterdir()} == {
        path.name: path.read_bytes() for path in last_good.iterdir()
    }
    assert result["digest"] == folder_digest(published)
    if extra:  # the balance of labels let it pass: those that look at the model have stopped it
        failed = {reading["guard"] for reading in result["rounds"][1]["readings"] if not reading["passed"]}
        assert failed & {"teacher", "balance of answers", "canary rows"}
        assert "round-2" in models.trained
    sound = adapt(capsys, *words, "run_dir=sound")
    assert not sound["rolled_back"]
    early = adapt(capsys, *words, "run_dir=early", "adapt.drill=flip_1", "adapt.min_pseudo_labels=1000")
    assert result["drill"]
    assert not early["drill"], "a drill that did not take place is not told as one"


def test_the_ledger_names_every_label_and_its_rows(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_rows(tables / "test.csv")
    rows[1][3] = rows[0][3]  # the same example twice
    rows[2][5] = rows[0][4]  # one that bears both labels
    write_rows(tables / "test.csv", rows)
    result = adapt(capsys, "train=train.csv", "adapt.estimate=off", "adapt.rounds=1")
    ledger = {entry.text: entry for entry in read_ledger(tables / "run" / "rules")}
    doubled = ledger[rows[0][3]]
    assert (doubled.label, doubled.sources, doubled.origin) == (1, ("4-0", "4-1"), "example")
    assert ledger[rows[0][4]].unused == "contradictory labels"
    assert result["contradictions"][0]["positive"] == ["4-0"]
    assert result["contradictions"][0]["negative"] == ["4-2"]
    origins = Counter(entry.origin for entry in ledger.values() if entry.trained)
    assert origins["train"] == 180
    assert origins["example"] == result["examples"]
    assert origins["pseudo"] == result["rounds"][0]["positive"] + result["rounds"][0]["negative"]
    assert sum(entry.unused.startswith("held out") for entry in ledger.values()) == result["canary_rows"] > 0
    assert all(entry.trained == 3 for entry in ledger.values() if entry.origin == "train")  # three epochs


@pytest.mark.parametrize(
    ("outcome", "passes"),
    [
        ({"best_step": 12, "steps": 24, "stopped_early": True}, 1),  # of 36 updates, 12 for a pass over 180 rows
        ({"best_step": 0, "steps": 40, "weights": SHALLOW_WEIGHTS}, 1),  # a shallow model whose first state is the best
        ({"best_step": 1, "steps": 1, "weights": SHALLOW_WEIGHTS}, 1),
    ],
)
def test_the_ledger_counts_the_passes_that_were_made(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str], outcome: dict[str, Any], passes: int
) -> None:
    rows = read_rows(tables / "test.csv")
    for row in rows:
        row[3:7] = ["", "", "", ""]
    rows[1][3] = rows[0][1]  # the post of the first row is an example of the second
    write_rows(tables / "test.csv", rows)
    models.outcome = outcome
    result = adapt(capsys, "train=train.csv", "adapt.estimate=off", "adapt.rounds=0")
    entries = read_ledger(tables / "run" / "rules")
    assert {entry.trained for entry in entries if entry.origin == "train"} == {passes}
    assert not any(entry.unused for entry in entries)
    assert result["own_rows"] == ["4-0"], "its score proves nothing"


def test_an_interrupted_run_goes_on_and_trains_nothing_twice(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train=train.csv", "adapt.rounds=1")
    models.interrupt_before = "round-1"
    assert main(["adapt", "input=test.csv", *QUIET, *words]) == 130
    error = capsys.readouterr().err
    assert "training.resume=true" in error
    trained = list(models.trained)
    assert (tables / "run" / "rules" / "model.json").exists(), "what was good before the interruption is there"
    assert main(["adapt", "input=test.csv", *QUIET, *words]) == 6
    assert "training.resume=true" in capsys.readouterr().err
    models.interrupt_before = ""
    resumed = adapt(capsys, *words, "training.resume=true")
    assert models.trained == [*trained, "round-1"]
    whole = adapt(capsys, *words, "run_dir=whole")
    assert resumed["digest"] == whole["digest"]
    for setting, change in (
        ("adapt.low=0.1", "adapt.low: was '0.2', is now '0.1'"),
        ("tfidf.analyzer=words", "tfidf.analyzer: was 'words_and_pieces', is now 'words'"),
        ("inference.max_input_tokens=64", "inference.max_input_tokens: was '1024', is now '64'"),
        ("model.dtype=float32", "model.dtype: was 'auto', is now 'float32'"),
    ):
        assert main(["adapt", "input=test.csv", *QUIET, *words, "training.resume=true", setting]) == 6
        assert change in capsys.readouterr().err
    faster = adapt(capsys, *words, "training.resume=true", "inference.batch_tokens=4096")
    assert faster["digest"] == whole["digest"], "how fast it answers decides nothing"
    (tables / "run" / "run.json").unlink()
    for resume in ([], ["training.resume=true"]):
        assert main(["adapt", "input=test.csv", *QUIET, *words, *resume]) == 3
        error = capsys.readouterr().err
        assert "holds a run of `lorica adapt`, and no run.json that says what it was given" in error
        assert "put run.json back as it was; or name another run_dir, or delete" in error


def test_a_control_that_collapses_ranks_nothing_and_stops_nothing(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train=train.csv", "adapt.rounds=0")
    models.collapsing, models.interrupt_before = "estimate/rule-2/shuffled-1", "estimate/rule-2/shuffled-2"
    assert main(["adapt", "input=test.csv", *QUIET, *words]) == 130
    models.collapsing = models.interrupt_before = ""
    estimate = adapt(capsys, *words, "training.resume=true")["estimate"]
    rules = list(estimate["rules"].values())
    assert rules[1]["shuffled"][0] == 0.5
    assert estimate["expected"]
    count = len(models.trained)
    assert models.loads == len(rules) + 1, "the trainings of a rule share one base, but for the interruption"
    assert adapt(capsys, *words, "training.resume=true")["estimate"] == estimate
    assert len(models.trained) == count, "its scores are kept"


def test_a_model_of_true_labels_that_collapses_stops_the_run(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    models.collapsing = "estimate/rule-2/adapted"
    assert main(["adapt", "input=test.csv", *QUIET, "train=train.csv", "adapt.rounds=0"]) == 5
    assert "collapsed to one value" in capsys.readouterr().err


def test_a_round_that_collapses_is_rolled_back(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    models.collapsing = "round-1"
    result = adapt(capsys, "train=train.csv", "adapt.estimate=off", "adapt.rounds=2")
    assert (result["stage"], result["rolled_back"]) == ("examples", True)
    assert "collapsed to one value" in result["stopped"]
    stage = tables / "run" / "stages" / "examples"
    assert folder_digest(tables / "run" / "rules") == folder_digest(stage) == result["digest"]


@pytest.mark.parametrize("name", ["rule-1/shuffled-2", "rule-3/adapted"])
def test_the_estimate_keeps_scores_and_no_weights_and_goes_on_where_it_was(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = ("train=train.csv", "adapt.rounds=0")
    models.interrupt_before = f"estimate/{name}"
    assert main(["adapt", "input=test.csv", *QUIET, *words]) == 130
    models.interrupt_before = ""
    resumed = adapt(capsys, *words, "training.resume=true")
    assert len(models.trained) == len(set(models.trained)) == 3 * 5 + 2, "nothing is trained twice"
    estimates = tables / "run" / "stages" / "estimate"
    assert {path.suffix for path in estimates.rglob("*") if path.is_file()} == {".json"}
    assert len(list(estimates.rglob("*.scores.json"))) == 3 * 5
    assert not list(estimates.rglob("model.json")), "weights of models that have answered are gone"
    again = adapt(capsys, *words, "training.resume=true")
    assert len(models.trained) == 3 * 5 + 2
    assert again["estimate"] == resumed["estimate"]
    files = [path for path in (tables / "run").rglob("*") if path.is_file()]
    in_stages = [path for path in files if "stages" in path.parts]
    assert again["stages_bytes"] == sum(path.stat().st_size for path in in_stages)
    assert 0 < again["stages_bytes"] < again["disk_bytes"]


def test_scores_of_other_rows_are_not_taken_for_the_estimates(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    first = adapt(capsys, "train=train.csv", "adapt.rounds=0")
    path = tables / "run" / "stages" / "estimate" / "rule-1" / "adapted.scores.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"trained": "sha256:0", "scores": dict.fromkeys(stored["scores"], 0.5)}))
    assert adapt(capsys, "train=train.csv", "adapt.rounds=0", "training.resume=true")["estimate"] == first["estimate"]
    assert models.trained.count("estimate/rule-1/adapted") == 2


def test_no_gain_is_refused_where_one_is_required(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.commands.adapt_stub._score", lambda weights, task, row: random.Random(row.id).random())
    words = ["adapt", "input=test.csv", *QUIET, "train=train.csv"]
    assert main([*words, "adapt.estimate=require"]) == 5
    error = capsys.readouterr().err
    assert "No gain is expected" in error
    assert "adapt.estimate=auto training.resume=true" in error
    assert "go on:" not in error, "it would be refused again"
    assert not (tables / "run" / "rules").exists()
    trained = list(models.trained)
    assert main([*words, "adapt.estimate=auto", "training.resume=true"]) == 0
    assert models.trained[: len(trained)] == trained
    assert not any(name.startswith("estimate/") for name in models.trained[len(trained) :])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapt.low=0.9"], "a score must not become both labels"),
        (["adapt.examples=false"], "there are no labels"),
        (["adapt.estimate=require"], "needs rules to leave out"),
        (["adapt.rounds=0", "adapt.drill=flip_1"], "without rounds"),
        (["engine=fake"], "engine=fake cannot train"),
        (["task=mcq"], "task=mcq cannot adapt"),
        (["train=missing.csv"], "missing.csv"),
        (["data.a=train.csv"], "train=FILE"),
        (["adapt.round=1"], "adapt.rounds"),
        (["input="], "input is not set"),
        (["folds=3"], "one for each fold"),
        (["adapters.paths.rules=mean"], "adapt trains from the base on"),
        (["adapters.dir=runs/folds"], "adapt trains from the base on"),
        (["output=test.csv"], "would replace a file that this command reads"),
    ],
)
def test_mistakes_are_one_message(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["adapt", "input=test.csv", *QUIET, *words]) in (2, 3)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not models.trained


def test_labels_of_one_kind_teach_nothing(tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the examples alone nor with train; where train alone has one kind, there is no unadapted model."""
    write_rows(tables / "train.csv", [[*row[:-1], "1"] for row in read_rows(tables / "train.csv")])
    result = adapt(capsys, "train=train.csv", "adapt.rounds=0")
    assert models.trained == ["examples"]
    assert (result["stage"], result["measured"], result["estimate"]) == ("examples", None, None)
    write_rows(tables / "test.csv", [[*row[:5], "", "", row[7]] for row in read_rows(tables / "test.csv")])
    for words in ([], ["train=train.csv"]):
        assert main(["adapt", "input=test.csv", *QUIET, *words, "run_dir=one"]) == 3
        assert "have the label 1" in capsys.readouterr().err
    assert models.trained == ["examples"], "nothing is trained before it is refused"


def test_rows_without_examples_teach_nothing(
    tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]
) -> None:
    (tables / "test.csv").write_text("row_id,body,rule\n1,hello,rule 4\n")
    assert main(["adapt", "input=test.csv", *QUIET]) == 3
    assert "nothing to learn from: no row brings an example, and there is no train" in capsys.readouterr().err
    (tables / "test.csv").write_text("row_id,body,rule,positive_example_1,negative_example_1\n1,a,rule 4,b,b\n")
    assert main(["adapt", "input=test.csv", *QUIET]) == 3
    assert "nothing to learn from: all labelled examples bear both labels" in capsys.readouterr().err
    result = adapt(capsys, "train=train.csv", "adapt.rounds=0")
    assert result["stage"] == "unadapted"


def test_canary_rows_do_not_train(tables: Path, models: WordCounts, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tables / "one.csv", [[*row[:-1], "1"] for row in read_rows(tables / "train.csv")])
    words = ["input=test.csv", "train=train.csv", "adapt.rounds=0", *QUIET]
    assert main(["adapt", *words, "adapt.canaries=one.csv"]) == 3
    assert "all canary rows have the label 1" in capsys.readouterr().err
    assert main(["adapt", *words, "adapt.canaries=train.csv"]) == 0
    assert "labelled texts are canary rows, and nothing is trained on them" in capsys.readouterr().err
