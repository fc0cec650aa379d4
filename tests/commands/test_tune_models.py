"""`lorica tune` on every kind of model: what it varies, that it runs, and that a base loaded once changes nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from lorica.adapters.registry import SHALLOW_WEIGHTS
from lorica.cli import main
from lorica.commands import build
from lorica.commands.arguments import resolve
from lorica.commands.tune_plan import StudyPlan, plan_study
from lorica.commands.tune_space import study_dimensions
from lorica.commands.tune_trial import TrialRunner
from lorica.errors import ConfigError
from lorica.models.weights import load_decoder
from lorica.records import Answer
from lorica.training.listeners import SilentListener
from lorica.tuning.dimensions import Settings
from lorica.tuning.optuna_study import suggest
from lorica.tuning.trial_store import Trial
from tests.encoders import save_base

SPAM = ("Win 1,000 pounds now", "Buy cheap watches", "Call 0900-123 today", "you lucky winner")
HAM = ("I will be late, sorry", "see you at home", "Are we meeting for lunch", "tomorrow is fine")
KINDS = {
    "decoder": ("training=tiny", "training.epochs=1", "tune.space.lora.r=[4,8]"),
    "full": ("model.path=base", "training.method=full", "training.epochs=1"),
    "lora": ("model.path=base", "training.method=lora", "training.epochs=1"),
    "tfidf": ("model=tfidf",),
    "centroids": ("model=centroids", "model.path=base", "centroids.triplet_epochs=2"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder, and rows of which half break the rule."""
    folder = tmp_path_factory.mktemp("models")
    save_base("bert", folder / "base")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "body", "rule", "rule_violation"])
        for number in range(120):
            posts = SPAM if number % 2 else HAM
            body = f"{posts[number // 2 % 4]} {'!' * (number % 5)} {number * 7919}"
            writer.writerow([f"r{number}", body, "No advertising", number % 2])
    return folder


@pytest.fixture(autouse=True)
def _working_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def keys(*words: str) -> list[str]:
    resolved = resolve(["task=rules", *words])
    return [dimension.key for dimension in study_dimensions(resolved, build.build_task(resolved.config))]


TRAINING = ["training.learning_rate", "training.epochs", "training.batch_size"]
SHAPE = ["lora.r", "scale", "lora.dropout"]


def test_what_suits_each_model_is_varied_by_itself() -> None:
    assert keys("model.path=base") == ["training.method", *TRAINING, *SHAPE]
    assert keys("model.path=base", "training.method=full") == TRAINING
    assert keys("model.path=base", "training.method=lora") == [*TRAINING, *SHAPE]
    assert keys("model.path=base", "training.learning_rate=1e-4") == TRAINING[1:], "no rate suits both methods"
    assert keys("model=tfidf") == [
        "tfidf.inverse_regularisation", "tfidf.analyzer", "tfidf.word_ngrams", "tfidf.piece_ngrams",
    ]  # fmt: skip
    assert keys("model=tfidf", "tfidf.analyzer=words") == ["tfidf.inverse_regularisation", "tfidf.word_ngrams"]
    triplet = ["centroids.margin", "centroids.triplet_epochs", "centroids.triplet_learning_rate"]
    assert keys("model=centroids") == ["centroids.triplet", *triplet]
    assert keys("model=centroids", "centroids.triplet=true") == triplet


def test_the_learning_rate_is_around_that_of_the_method() -> None:
    resolved = resolve(["task=rules", "model.path=base"])
    space = study_dimensions(resolved, build.build_task(resolved.config))
    trials: list[Trial] = []
    for number in range(6):
        settings = suggest(space, trials, seed=0, maximize=True)
        assert settings is not None
        origin = {"full": 2e-5, "lora": 1e-3}[settings["training.method"]]
        assert origin / 10.1 < settings["training.learning_rate"] < origin * 10.1
        assert ("lora.r" in settings) == (settings["training.method"] == "lora")
        trials.append(Trial(number=number, settings=settings, state="finished", value=number))
    assert {trial.settings["training.method"] for trial in trials} == {"full", "lora"}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["model=tfidf", "tune.space.lora.r=[8,16]"], "lora.r decides nothing: engine=tfidf trains without it"),
        (["tune.space.tfidf.analyzer=[words,pieces]"], "tfidf.analyzer decides nothing: engine=native"),
        (["model=centroids", "centroids.triplet=false"], "there is nothing to tune"),
        (["model=centroids", "centroids.triplet=false", "tune.space.centroids.margin=[0.1,0.2]"], "triplet=false"),
        (["model.path=base", "training.method=full", "tune.space.lora.r=[8,16]"], "training.method=full"),
    ],
)
def test_what_would_decide_nothing_is_refused(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        keys(*words)
    assert problem in str(refused.value)
    assert refused.value.fix


def plan_of(kind: str, folder: Path) -> StudyPlan:
    words = ["task=rules", "input=rows.csv", f"run_dir={folder}", *KINDS[kind]]
    return plan_study(resolve(words), words)


def trial_settings(plan: StudyPlan, count: int) -> list[Settings]:
    trials = [Trial(number=0, settings=plan.defaults, state="finished", origin="defaults", value=0.5)]
    while len(trials) < count:
        settings = suggest(plan.dimensions, trials, seed=plan.seed, maximize=True)
        assert settings is not None
        trials.append(Trial(number=len(trials), settings=settings, state="finished", value=0.5))
    return [trial.settings if trial.number else {} for trial in trials]


def outcome(runner: TrialRunner, plan: StudyPlan, number: int, settings: Settings) -> tuple[dict[str, bytes], Any]:
    """The files of a member that a trial made, and its answers."""
    folder = runner.train(number, settings, SilentListener())
    names = ("adapter_model.safetensors", "model.safetensors", SHALLOW_WEIGHTS, "lorica.json")
    files = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    answers: list[Answer] = runner.open(folder, settings).answer(plan.rows.compared)
    return files, answers


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_is_loaded_once_gives_what_separate_ones_give(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Loading in a fresh process is tested elsewhere.
    monkeypatch.setattr("lorica.pipeline.train_classifier.compare_reloaded", lambda *arguments, **options: 0.0)
    plan, other_plan = plan_of(kind, tmp_path / "shared"), plan_of(kind, tmp_path / "separate")
    settings = trial_settings(plan, 3)
    separate = [outcome(TrialRunner(other_plan), other_plan, number, chosen) for number, chosen in enumerate(settings)]
    loads: list[str] = []
    build_engine = build.build_engine

    def counted_decoder(*arguments: Any, **options: Any) -> Any:
        loads.append("decoder")
        return load_decoder(*arguments, **options)

    def counted_engine(*arguments: Any, **options: Any) -> Any:
        loads.append("engine")
        return build_engine(*arguments, **options)

    monkeypatch.setattr("lorica.commands.train_decoder.load_decoder", counted_decoder)
    monkeypatch.setattr(build, "build_engine", counted_engine)
    runner = TrialRunner(plan)
    shared = [outcome(runner, plan, number, chosen) for number, chosen in enumerate(settings)]
    assert shared == separate
    assert len({str(answers) for _, answers in shared}) > 1, "the trials differ"
    if kind == "decoder":
        assert loads == ["decoder", "engine"]
    if kind in ("tfidf", "centroids"):
        assert not loads


@pytest.mark.parametrize("words", [("model=tfidf",), ("model=centroids", "model.path=base"), ("model.path=base",)])
def test_a_study_of_it_ends_with_a_command_that_trains(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "study"
    command = ["tune", "task=rules", "input=rows.csv", f"run_dir={run_dir}", *words, "trials=4", "minutes=10", "--json"]
    assert main(command) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert [trial["state"] for trial in result["trials"]] == ["finished"] * 4
    assert result["best"] is not None
    assert "10 minutes at most (minutes=...), 4 trials at most (trials=...)" in output.err
    assert output.err.count("in a fresh process") <= 1, "the first trial proves it for all"
    assert "All trials" in (run_dir / "report.html").read_text("utf-8")
