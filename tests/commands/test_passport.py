"""`lorica passport`, and the passports that `lorica train` leaves and everything that loads adapters asks for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from lorica import load_pipeline
from lorica.adapters.passport import SCHEMA, read_passport
from lorica.cli import main
from lorica.errors import AdapterError
from tests.commands.conftest import QUICK
from tests.passports import make_adapter

BASE = "embedded:lorica_tiny"


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """The trained adapter `rules`, free to be changed."""
    return Path(shutil.copytree(trained / "rules", tmp_path / "runs" / "rules"))


def _alter(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _infer(folder: Path, posts: Path, *more: str) -> int:
    output = folder.parent / "answers.csv"
    return main(["infer", "task=rules", f"input={posts}", f"output={output}", f"adapters.paths.rules={folder}", *more])


def test_training_leaves_a_passport_that_holds_no_rows_and_no_places(trained: Path, few_posts: Path) -> None:
    passport = read_passport(trained / "rules")
    assert passport is not None
    assert (passport.prompt.task, passport.prompt.method, passport.prompt.style) == ("rules", "choice", "plain")
    assert len(passport.canaries.items) == 8
    assert passport.canaries.kind == "probes"
    assert passport.data is not None
    assert passport.data.validation is not None
    assert passport.data.source == "posts.csv"
    assert passport.data.all.rows == passport.data.train.rows + passport.data.validation.rows == 40
    assert passport.metrics.on == "validation"
    assert passport.metrics.rows == passport.data.validation.rows
    for figures in (passport.metrics.base, passport.metrics.adapter):
        assert figures is not None
        auc = figures["roc_auc"]
        assert auc.value is None or (auc.low is not None and auc.high is not None and auc.low <= auc.value <= auc.high)
    assert passport.training is not None
    assert passport.training.settings["learning_rate"] == 2e-3
    assert "save_steps" not in passport.training.settings
    text = (trained / "rules" / "lorica.json").read_text("utf-8")
    assert str(trained) not in text
    assert str(few_posts.parent) not in text
    posts = [line.split(",")[1] for line in few_posts.read_text("utf-8").splitlines()[1:]]
    assert not [post for post in posts if len(post) > 12 and post in text]


def test_a_finished_run_without_its_passport_gets_the_same_one_again(
    trained: Path, few_posts: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    whole = (run / "rules" / "lorica.json").read_bytes()
    (run / "rules" / "lorica.json").unlink()  # as a kill between the two leaves it
    (run / "rules" / ".lorica.json.00000000.tmp").write_bytes(whole[:100])
    again = ["train", "task=rules", f"input={few_posts}", f"run_dir={run}", *QUICK, "training.resume=true"]
    assert main(again) == 0
    assert (run / "rules" / "lorica.json").read_bytes() == whole
    assert not list((run / "rules").glob(".*.tmp"))
    # And one that is there is never made anew: it would bless whatever has happened since.
    _alter(run / "rules", {"lora_alpha": 64})
    assert main(again) == 0
    assert (run / "rules" / "lorica.json").read_bytes() == whole


def test_without_held_out_rows_the_passport_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"question {i}", "answer": f"answer {i}"} for i in range(6)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    run = tmp_path / "run"
    assert main(["train", "task=saq", f"input={tmp_path / 'rows.json'}", f"run_dir={run}", *QUICK]) == 0
    passport = read_passport(run / "saq")
    assert passport is not None
    assert passport.metrics.base is passport.metrics.adapter is None
    assert passport.metrics.note == "no rows were held out"
    assert passport.data is not None
    assert passport.data.validation is None
    assert all(len(item.choices) == 4 for item in passport.canaries.items)


def test_infer_and_the_api_refuse_what_does_not_reproduce_its_passport(
    copy: Path, few_posts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _infer(copy, few_posts) == 0
    assert capsys.readouterr().err.count("warning") == 0
    _alter(copy, {"lora_alpha": 320})
    assert _infer(copy, few_posts) == 4
    said = capsys.readouterr().err
    assert "does not reproduce the canaries of its passport" in said
    assert "lora_alpha 32 -> 320" in said
    with pytest.raises(AdapterError, match="canaries"):
        load_pipeline("rules", adapters={"rules": copy})
    assert _infer(copy, few_posts, "adapters.gate=off") == 0


def test_without_a_passport_there_is_one_warning_and_require_refuses(
    copy: Path, few_posts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "lorica.json").unlink()
    assert _infer(copy, few_posts) == 0
    assert capsys.readouterr().err.count("no passport: rules") == 1
    assert _infer(copy, few_posts, "adapters.gate=require") == 4
    assert "adapters.gate=require" in capsys.readouterr().err


def test_making_one_for_an_adapter_from_elsewhere(
    tmp_path: Path, few_posts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_adapter(tmp_path / "news")
    command = ["passport", str(folder), "--base", BASE, "--json", "task=rules"]
    assert main([*command, "--rows", str(few_posts), "--full"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(folder / "lorica.json")
    passport = read_passport(folder)
    assert passport is not None
    assert passport.metrics.on == "given"
    assert passport.metrics.rows == 40
    assert set(passport.base.files) == {"model.safetensors"}
    assert passport.training is None
    written = (folder / "lorica.json").read_bytes()
    assert main([*command]) == 4
    assert "has a passport already" in capsys.readouterr().err
    assert (folder / "lorica.json").read_bytes() == written
    assert main([*command, "--rows", str(few_posts), "--full", "--force"]) == 0
    assert (folder / "lorica.json").read_bytes() == written
    assert main(["passport", str(folder), "--base", BASE, "--check", "--full"]) == 0


def test_canaries_from_rows_only_when_asked(tmp_path: Path, few_posts: Path) -> None:
    folder = make_adapter(tmp_path / "news")
    command = ["passport", str(folder), "--base", BASE, "task=rules", "--rows", str(few_posts)]
    assert main([*command, "--canaries-from", "rows"]) == 0
    passport = read_passport(folder)
    assert passport is not None
    assert passport.canaries.kind == "rows"
    assert main(["passport", str(folder), "--base", BASE, "--check"]) == 0


def test_a_new_passport_keeps_what_is_known_of_the_same_weights(copy: Path) -> None:
    before = read_passport(copy)
    assert main(["passport", str(copy), "--base", BASE, "--force"]) == 0
    after = read_passport(copy)
    assert before is not None
    assert after is not None
    assert (after.data, after.training, after.prompt) == (before.data, before.training, before.prompt)
    # The training record tells the task, so the same is asked; training computes with weights that are not packed.
    assert [each.prompt for each in after.canaries.items] == [each.prompt for each in before.canaries.items]
    expected = [choice.adapter for item in before.canaries.items for choice in item.choices]
    assert [choice.adapter for item in after.canaries.items for choice in item.choices] == pytest.approx(
        expected, abs=1e-4
    )


def test_what_changes_nothing_gets_no_passport(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_adapter(tmp_path / "zero", b=0.0)
    assert main(["passport", str(folder), "--base", BASE]) == 4
    assert "L210" in capsys.readouterr().err
    assert main(["passport", str(folder), "--base", BASE, "--force"]) == 4
    assert "would prove nothing" in capsys.readouterr().err
    assert not (folder / "lorica.json").exists()


def test_the_check_has_an_exit_code_for_each_outcome(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = ["passport", str(copy), "--check", "--json"]

    def codes(*more: str) -> tuple[int, set[str]]:
        code = main([*check, *more])
        said = json.loads(capsys.readouterr().out)
        assert said["exit_code"] == code
        return code, {each["code"] for each in said["findings"] if each["severity"] != "note"}

    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    assert codes() == (0, set())
    assert codes("--base", BASE) == (0, set())
    assert before == {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    passport = json.loads(before["lorica.json"])
    passport["prompt"]["template"] = "sha256:" + "0" * 64
    (copy / "lorica.json").write_text(json.dumps(passport))
    assert codes("--base", BASE) == (10, {"L347"})
    (copy / "lorica.json").write_bytes(before["lorica.json"])
    _alter(copy, {"lora_alpha": 640})
    assert codes() == (11, {"L342"})
    assert codes("--base", BASE) == (11, {"L342", "L372"})
    (copy / "lorica.json").unlink()
    assert codes()[0] in (11, 12)  # the older record tells that the config was changed
    assert main([*check, "--base", str(copy.parent / "nowhere")]) == 12


def test_nothing_to_check_by_is_its_own_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_adapter(tmp_path / "bare")
    assert main(["passport", str(folder), "--check"]) == 12
    assert "unchecked" in capsys.readouterr().out


def test_a_check_without_a_base_says_that_the_canaries_were_not_asked(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["passport", str(copy), "--check"]) == 0
    said = capsys.readouterr().out
    assert "its canaries were not asked" in said.splitlines()[0]
    assert "L377" in said
    assert "--base BASE" in said


def test_archives_are_checked_where_they_are_unpacked(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = shutil.make_archive(str(tmp_path / "rules"), "zip", copy.parent, "rules")
    assert main(["passport", archive, "--check", "--base", BASE]) == 0
    said = capsys.readouterr().out
    assert "L374" in said
    entry = tmp_path / "models--org--name" / "snapshots" / "0123"
    shutil.copytree(copy, entry)
    assert main(["passport", str(entry.parents[1]), "--check", "--base", BASE]) == 0
    assert "L374" in capsys.readouterr().out
    _alter(copy, {"target_modules": ["q_proj"]})
    archive = shutil.make_archive(str(tmp_path / "broken"), "zip", copy.parent, "rules")
    assert main(["passport", archive, "--check", "--base", BASE]) == 11
    said = capsys.readouterr().out
    assert "L376" in said
    assert "lorica-" not in said.replace("lorica-tiny", "")


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passport", "--schema"]) == 0
    assert capsys.readouterr().out == SCHEMA.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["passport"], "no adapter is named"),
        (["passport", "task=rules"], "is no folder"),
        (["passport", "{d}"], "needs the base model"),
        (["passport", "{d}/none", "--base", BASE], "no such folder"),
        (["passport", "{d}", "--base", BASE, "--canaries-from", "rows"], "needs the rows"),
        (["passport", "{d}", "--base", BASE, "--rows", "x.csv"], "needs the task"),
        (["passport", "{d}", "--base", BASE, "engine=fake"], "proves nothing"),
        (["passport", "{d}", "--base", "nowhere/at-all"], "is not on this machine"),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
def test_mistakes_are_explained(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_adapter(tmp_path / "bare")
    assert main([each.replace("{d}", str(folder)) for each in arguments]) > 0
    said = capsys.readouterr()
    assert says in said.err
    assert said.out == ""
    assert not (folder / "lorica.json").exists()
