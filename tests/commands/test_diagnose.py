"""`lorica diagnose` from the outside, and the story it was made for: a renamed adapter of another size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import save_adapter
from lorica.cli import main

CLAIMED = "Qwen/Qwen2.5-1.5B-Instruct"


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with Qwen3-4B's shapes (hidden 2560) whose config, card and folder say Qwen2.5-1.5B (hidden 1536)."""
    folder = tmp_path_factory.mktemp("hub") / "qwen2.5-1.5b-rules-lora"
    chance = np.random.default_rng(0)
    tensors = {}
    for layer in range(36):
        for name, (out, inputs) in {"self_attn.q_proj": (4096, 2560), "self_attn.v_proj": (1024, 2560)}.items():
            path = f"base_model.model.model.layers.{layer}.{name}"
            a = chance.uniform(-1, 1, (8, inputs)).astype("<f4") / np.float32(np.sqrt(inputs))
            b = 1e-3 * chance.standard_normal((out, 8)).astype("<f4")
            tensors[f"{path}.lora_A.weight"] = ("F32", (8, inputs), a.tobytes())
            tensors[f"{path}.lora_B.weight"] = ("F32", (out, 8), b.astype("<f4").tobytes())
    config = AdapterConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], base_model_name_or_path=CLAIMED)
    card = f"---\nbase_model: {CLAIMED}\n---\n# A rules adapter for Qwen2.5-1.5B\n"
    save_adapter(folder, config, tensors, extra_files={"README.md": card.encode()})
    return folder


def test_an_adapter_for_width_2560_relabelled_as_one_for_width_1536(
    renamed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Story 1: no base model is there at all, and the true cause comes first, with the numbers."""
    assert main(["diagnose", str(renamed), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["cause"] == "wrong_size"
    assert said["certainty"] == "settled"
    reasons = " ".join(each["text"] for each in said["hypotheses"][0]["evidence_for"])
    assert "fits Qwen/Qwen3-4B" in reasons
    assert "hidden 2560, not 1536" in reasons
    assert said["command"] == f"lorica diagnose {renamed} --base Qwen/Qwen3-4B"


def test_the_adapter_may_follow_the_expected_bases(renamed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = "embedded:lorica_tiny"
    assert main(["diagnose", "--base", tiny, "--expected-base", tiny, str(renamed)]) == 0
    assert "another size" in capsys.readouterr().out


def test_what_cannot_be_diagnosed_ends_as_it_does_with_check(
    renamed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in ([str(tmp_path / "none")], [str(renamed), "--base", "no/such"]):
        assert main(["diagnose", *wrong]) == main(["check", *wrong]) == 12, wrong
    for mistaken in ([], [str(renamed), "--bogus"]):
        assert main(["diagnose", *mistaken]) == main(["check", *mistaken]) == 2, mistaken
    assert "no such" in capsys.readouterr().err


def test_a_base_folder_of_another_width_says_the_same(renamed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(renamed), "--base", "embedded:lorica_tiny"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("qwen2.5-1.5b-rules-lora: wrong base: another size (settled)")
    assert "hidden 2560, not 256" in said


def test_a_page_for_people(renamed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "why.html"
    assert main(["diagnose", str(renamed), "--html", str(page)]) == 0
    html = page.read_text("utf-8")
    assert "Diagnosis of qwen2.5-1.5b-rules-lora" in html
    assert "wrong base: another size" in html
    assert "strongly for" in html
    assert "next\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("scores", "cause"),
    [
        ([0.5 if row % 3 == 0 else row / 97 for row in range(60)], "parser_fallbacks"),
        ([row % 2 for row in range(60)], "hard_labels"),
        ([0.0] * 60, "ignores_input"),
    ],
)
def test_answers_alone_say_something(
    renamed: Path, tmp_path: Path, scores: list[float], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "answers.csv"
    table.write_text("id,score\n" + "".join(f"{row},{score}\n" for row, score in enumerate(scores)), "utf-8")
    main(["diagnose", str(renamed), "--answers", str(table), "--json"])
    said = json.loads(capsys.readouterr().out)
    evidence = [each for each in said["evidence"] if each["speaks"].get(cause) in ("for", "strongly for")]
    assert evidence, said["evidence"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "needs an adapter"),
        (["nowhere"], "no such file or folder"),
        (["{adapter}", "--base", "nowhere"], "is not on this machine"),
        (["{adapter}", "--base", "embedded:lorica_tiny", "--rows", "rows.csv"], "--rows needs the task"),
        (["{adapter}", "--html", "why.pdf"], "a report ends in"),
        (["{adapter}", "--rows", "nowhere.csv", "--task", "rules"], "nowhere.csv"),
        (["{adapter}", "lora.rank=3"], "lora.rank"),
    ],
)
def test_a_mistake_is_one_message(
    arguments: list[str], said: str, renamed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["diagnose", *(each.format(adapter=renamed) for each in arguments)])
    assert code > 0
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_bases_and_overrides_may_follow_each_other(renamed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = "embedded:lorica_tiny"
    assert main(["diagnose", str(renamed), "--base", tiny, "--expected-base", tiny, "model.dtype=float32"]) == 0
    assert "another size" in capsys.readouterr().out


def test_the_files_alone_need_no_torch(renamed: Path) -> None:
    code = (
        "import sys; from lorica.cli import main; "
        f"main(['diagnose', {str(renamed)!r}]); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_next_command_names_the_task_of_the_passport(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = trained / "rules"
    assert main(["diagnose", str(adapter), "--base", "embedded:lorica_tiny", "--json"]) == 0
    command = json.loads(capsys.readouterr().out)["command"]
    assert command == f"lorica diagnose {adapter} --base embedded:lorica_tiny --rows ROWS --task rules"
