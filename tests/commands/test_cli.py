"""The command line itself: help, versions, exit codes, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorica import __version__, errors
from lorica.cli import COMMANDS, STAGES, main, wait_briefly
from lorica.vetting.findings import EXIT_CODES


def test_help_names_every_command_under_its_stage_of_the_life_cycle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    headings = [said.index(f"\n{stage}:\n") for stage in STAGES]
    assert headings == sorted(headings)
    for start, end, commands in zip(headings, [*headings[1:], len(said)], STAGES.values(), strict=True):
        assert all(f"\n  {command} " in said[start:end] for command in commands)
    assert main([]) == 0
    assert capsys.readouterr().out == said


def test_help_names_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out.split("exit codes:")[1]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LoricaError)]
    codes = {kind.exit_code for kind in kinds} - {errors.LoricaError.exit_code}
    assert len(codes) == 6
    assert all(f"  {code} " in said for code in codes | {0, 130})
    assert all(f"  {code} " in said for code in EXIT_CODES.values())
    assert not codes & ({*EXIT_CODES.values()} - {0})


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "lorica", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"lorica {__version__}\n"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert f"usage: lorica {command}" in said
    assert f"  lorica {command} " in said or f"  lorica {command}\n" in said
    assert "--json" in said


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lorica {__version__}\n"


def test_config_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--json", "task=mcq", "lora.r=8"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["config"]["lora"]["r"] == 8
    assert said["origins"]["lora.r"] == "command line"
    assert said["presets"]["task"] == "mcq"


def test_eval_against_the_gold_file(posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "answers.csv"
    assert main(["infer", "engine=fake", "task=rules", f"input={posts}", f"output={output}"]) == 0
    capsys.readouterr()
    assert main(["eval", str(output), str(posts), "task=rules", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    auc = said["metrics"]["roc_auc"]
    assert auc["low"] <= auc["value"] <= auc["high"]
    assert auc["n"] == said["n"] == 464
    assert main(["eval", str(output), str(posts), "task=rules"]) == 0
    assert "roc_auc" in capsys.readouterr().out


def test_the_demo_trains_as_suits_its_base() -> None:
    from lorica.commands.demo import TASKS, demo_overrides

    for task in TASKS:
        embedded, larger = demo_overrides(task, []), demo_overrides(task, ["model=smollm2_135m"])
        assert set(task.overrides) < set(embedded)
        assert "training=tiny" in embedded
        assert {"training=quick", "training.epochs=2", "training.learning_rate=5e-4"} < set(larger)
        assert [word for word in larger if word.startswith("task.")] == [
            word for word in embedded if word.startswith("task.")
        ]


def test_the_demo_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["demo", "--json", "--out", str(tmp_path), "--tasks", "saq", "training.epochs=1", "lora.r=2"]
    assert main([*command, "training.per_subject=false"]) == 0
    said = json.loads(capsys.readouterr().out)
    saq = said["tasks"]["saq"]
    assert set(saq["systems"]) == {"base model alone", "with adapter", "TF-IDF baseline"}
    assert set(saq["adapters"]) == {"lost", "orders", "trips"}
    assert all(check["passed"] for check in saq["checks"]["orders"][:1])
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "saq: What does the message say? Answer in a word." in page
    assert "<svg" in page


def test_output_into_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m lorica.cli config | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.startswith("# presets")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "a.csv", "b.csv", "--htm", "x.html"], "did you mean --html?"),
        (["kb", "info", "--kbb", "kb"], "lorica kb info: "),
        (["infer", "--input", "rows.csv"], "it is a key: input=...; see `lorica infer --help`"),
        (["infer", "--run-dir=x"], "it is a key: run_dir=...;"),
        (["runs", "shw", "a.csv"], "did you mean `lorica runs show`?"),
        (["score", "a.csv", "--task", "rules"], "see `lorica score --help`"),
    ],
)
def test_a_mistaken_option_is_told_the_right_one(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_what_prompts_leave_out_is_no_concern_of_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, answers = tmp_path / "rows.csv", tmp_path / "answers.csv"
    rows.write_text("row_id,body,rule,positive_example_1,rule_violation\n1,a,r,p,1\n2,b,r,p,0\n")
    answers.write_text("id,score\n1,0.4\n2,0.6\n")
    assert main(["eval", str(answers), str(rows), "task=rules"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "nan" not in shown.out
    assert "inf " not in shown.out
    assert main(["infer", "task=rules", f"input={rows}", f"output={tmp_path / 'out.csv'}", "engine=fake"]) == 0
    assert "left out of prompts by task.style=plain" in capsys.readouterr().err


def test_threads_wait_briefly_unless_the_user_has_chosen() -> None:
    environ: dict[str, str] = {"PATH": "/bin"}
    wait_briefly(environ)
    assert environ == {"PATH": "/bin", "GOMP_SPINCOUNT": "10000"}
    for name, value in (("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "5"), ("KMP_BLOCKTIME", "200")):
        chosen = {name: value}
        wait_briefly(chosen)
        assert chosen == {name: value}
