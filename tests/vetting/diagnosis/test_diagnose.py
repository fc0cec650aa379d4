"""Diagnoses from end to end: broken copies of one trained adapter, each with its true cause first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.vetting.diagnosis.conftest import WEIGHTS, Arrays, broken, only_the_adapter

from lorica.records import Row
from lorica.tasks.base import TaskSettings
from lorica.vetting.diagnosis import Diagnosis, DiagnosisInputs, diagnose, to_plain, to_report, to_text
from lorica.vetting.findings import causes
from lorica.vetting.measure.model_session import ModelSession, SessionSettings

Ask = Callable[..., Diagnosis]


def config_of(folder: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    return values


def test_an_adapter_without_a_fault_is_healthy(trained: Path, ask: Ask) -> None:
    found = ask(trained)
    assert found.cause == "healthy", to_text(found)
    assert found.certainty == "likely"  # never settled: it is what remains
    names = [each.name for each in found.experiments]
    # It is healthy only because what could refute it was tried.
    assert {"alignment", "skill", "scale_sweep", "format_sweep"} <= set(names)
    assert found.command.startswith("lorica passport ")


def test_a_base_of_equal_shape_and_other_weights(trained: Path, ask: Ask, bases: tuple[Path, Path]) -> None:
    found = ask(trained, 1, expected=(bases[0],))
    assert found.cause == "wrong_base", to_text(found)
    assert any(each.source == "alignment" for each in found.hypotheses[0].evidence_for)
    # Whether it belongs to the other one was asked, so it is answered, and typed next.
    assert "align_elsewhere" in [each.name for each in found.experiments]
    assert found.command == f"lorica diagnose {trained} --base {bases[0]}"


def test_files_alone_decide_nothing_about_a_sound_adapter(trained: Path) -> None:
    found = diagnose(trained, DiagnosisInputs())
    assert not found.decided
    assert found.command == f"lorica diagnose {trained} --base BASE"
    assert to_text(found).startswith(f"{found.name}: undecided\n")
    assert "base model's folder" in to_text(found)


def test_a_pickle_is_saved_again(trained: Path, tmp_path: Path) -> None:
    folder = only_the_adapter(trained, tmp_path / "pickled")
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02}q\x00.")
    said = to_text(diagnose(folder, DiagnosisInputs()))
    assert "pickle" in said
    assert "safe_serialization=True" in said
    assert "copy the files again" not in said


def test_no_labels_are_needed_to_tell_another_base(trained: Path, ask: Ask) -> None:
    assert ask(trained, 1, rows=()).cause == "wrong_base"


@pytest.mark.parametrize(("factor", "cause"), [(12, "over_scaled"), (1 / 12, "under_scaled")])
def test_an_altered_alpha(trained: Path, tmp_path: Path, ask: Ask, factor: float, cause: str) -> None:
    changed = broken(trained, tmp_path / "changed", lora_alpha=32 * factor)
    found = ask(changed)
    assert found.cause == cause, to_text(found)
    assert "scale_sweep" in [each.name for each in found.experiments]


def _zero(arrays: Arrays) -> Arrays:
    return {name: each * 0 if "lora_B" in name else each for name, each in arrays.items()}


def _nan(arrays: Arrays) -> Arrays:
    name = sorted(arrays)[3]
    arrays[name][0, 0] = np.nan
    return arrays


def _turned(arrays: Arrays) -> Arrays:
    return {name: each.T for name, each in arrays.items()}


def _wrapped(arrays: Arrays) -> Arrays:
    return {name.replace("base_model.model.", "base_model.model.language_model."): a for name, a in arrays.items()}


def _halved(arrays: Arrays) -> Arrays:
    return {name: each for name, each in arrays.items() if not ("lora_B" in name and "layers.1." in name)}


def _torn(arrays: Arrays) -> Arrays:
    """B of the first layer changes places with B of the second."""
    places = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}
    return {
        next((name.replace(a, b) for a, b in places.items() if a in name and "lora_B" in name), name): each
        for name, each in arrays.items()
    }


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (_zero, "no_effect"),
        (_nan, "broken_weights"),
        (_turned, "unsupported"),
        (_torn, "broken_weights"),
        (_wrapped, "not_applied"),
        (_halved, "incomplete"),
    ],
)
def test_a_fault_in_the_tensors(
    trained: Path, tmp_path: Path, ask: Ask, change: Callable[[Arrays], Arrays], cause: str
) -> None:
    found = ask(broken(trained, tmp_path / "changed", change))
    assert found.cause == cause, to_text(found)
    assert found.certainty in ("settled", "likely")


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"target_modules": ["q_proj"]}, "not_applied"),
        ({"r": 8}, "altered"),
        ({"peft_type": "IA3"}, "unsupported"),
        ({"use_dora": True}, "incomplete"),
    ],
)
def test_a_fault_in_the_config(trained: Path, tmp_path: Path, ask: Ask, config: dict[str, object], cause: str) -> None:
    found = ask(broken(trained, tmp_path / "changed", None, **config))
    assert found.cause == cause, to_text(found)


def test_labels_the_wrong_way_round(trained: Path, ask: Ask, held_out: tuple[Row, ...]) -> None:
    turned = tuple(msgspec.structs.replace(row, gold=1 - row.gold) for row in held_out if isinstance(row.gold, int))
    found = ask(trained, rows=turned)
    assert found.cause == "inverted", to_text(found)


def test_another_prompt_than_in_training(trained: Path, ask: Ask, bases: tuple[Path, Path]) -> None:
    setting = SessionSettings(
        bases[0], task="rules", chat_template="plain", task_settings=TaskSettings(style="structured")
    )
    found = ask(trained, session=ModelSession(setting))
    assert found.cause == "prompt_mismatch", to_text(found)
    assert "model.chat_template=auto" in found.command


def test_a_file_that_cannot_be_read_leaves_nothing_else_to_judge(trained: Path, tmp_path: Path, ask: Ask) -> None:
    folder = only_the_adapter(trained, tmp_path / "cut")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    found = ask(folder)
    assert (found.cause, found.experiments) == ("unreadable", ())
    (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n")
    assert ask(folder).command == f"git -C {folder} lfs pull"


def test_it_takes_everything_out_of_the_engine_again(trained: Path, bases: tuple[Path, Path], tmp_path: Path) -> None:
    work = ModelSession(SessionSettings(bases[0], task="rules"))
    means = DiagnosisInputs(base=bases[0], session=work)
    first, second = diagnose(trained, means), diagnose(trained, means)
    assert first.cause == second.cause
    assert not work.engine(more_than_pairs=False)._adapters  # type: ignore[attr-defined]
    assert not list(tmp_path.iterdir())


def test_files_alone_say_what_they_cannot_tell(trained: Path) -> None:
    found = diagnose(trained, DiagnosisInputs())
    assert found.settle[0].startswith("the base model's folder (--base B) would decide about: ")
    # Titles of causes may hold a comma ("healthy adapter, hard task").
    titles = {cause.title for cause in causes().values()}
    assert all(set(hint.partition(" would decide about: ")[2].split("; ")) <= titles for hint in found.settle)
    assert any("needs the base model's folder" in each for each in found.untested)
    said = to_text(found)
    assert "what would settle it" in said
    assert "not tested" in said


def test_a_diagnosis_is_plain_data_and_a_page(trained: Path, ask: Ask) -> None:
    found = ask(trained, rows=())
    assert msgspec.json.decode(msgspec.json.encode(found), type=Diagnosis) == found
    page = to_report(found)
    assert page.sections[0].heading == "Causes"
    assert not re.search(r"\(\d+%\)", to_text(found))
    plain = json.dumps(to_plain(found) | {"findings": [], "measured": None})  # measured facts are numbers
    assert not {"posterior", "prior", "confidence", "weight", "weights"} & set(re.findall(r'"(\w+)":', plain))
    assert all(each.asks.endswith("?") for each in found.experiments)
