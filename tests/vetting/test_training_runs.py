"""Checkpoints of one training run are one run; a copy that bears another name is none of it."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.vetting.numbers_fixtures import Arrays, change, healthy, write
from tests.vetting.specimens import INTRO

from lorica.adapters.config import AdapterConfig
from lorica.commands import check
from lorica.vetting.batch import examine_all
from lorica.vetting.files.sources import find_sources
from lorica.vetting.levels import Examination
from lorica.vetting.numbers.training_runs import RunMember, find_runs

CONFIG = AdapterConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], base_model_name_or_path=INTRO)


def state(step: int, seed: int = 0) -> dict[str, Any]:
    """A trainer's state after `step` steps, logged every 10."""
    draw = np.random.default_rng(seed)
    losses = [2.0 / (1 + i / 5) + 0.01 * float(draw.standard_normal()) for i in range(200)]
    logs = [{"step": 10 * (i + 1), "loss": losses[i]} for i in range(step // 10)]
    return {"log_history": logs, "global_step": step, "max_steps": step}


def save(folder: Path, arrays: Arrays, step: int | None = None, *, dtype: str = "F32", seed: int = 0) -> Path:
    write(folder, arrays, dtype=dtype, config=CONFIG)
    if step is not None:
        (folder / "trainer_state.json").write_text(json.dumps(state(step, seed)), "utf-8")
    return folder


def grown(count: int) -> list[Arrays]:
    """What a run saves as it ends: the update grows and hardly turns."""
    draw = np.random.default_rng(7)
    noise = {name: draw.standard_normal(x.shape) for name, x in healthy().items()}
    return [
        {
            name: (x * (1 + 0.03 * k * (".lora_B." in name)) + (k > 0) * 5e-3 * x.std() * noise[name]).astype(
                np.float32
            )
            for name, x in healthy().items()
        }
        for k in range(count)
    ]


def look(*paths: Path) -> dict[str, Examination]:
    with ExitStack() as stack:
        return {each.source.name: each for each in examine_all(find_sources(paths), stack, jobs=1)}


def alike(found: dict[str, Examination]) -> dict[str, list[str]]:
    """Name -> warned codes about equal adapters."""
    return {
        name: sorted(f.code for f in each.findings if f.code.startswith("L25") and f.severity != "note")
        for name, each in found.items()
    }


def test_checkpoints_of_one_run_are_a_sequence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [100 * k for k in range(1, 11)]
    for step, arrays in zip(steps, grown(10), strict=True):
        save(tmp_path / f"checkpoint-{step}", arrays, step)
    save(tmp_path / "final_model", grown(10)[-1], dtype="BF16")
    found = look(tmp_path)
    assert all(codes == [] for codes in alike(found).values())
    members = next(f.facts["members"] for f in found["checkpoint-100"].findings if f.code == "L256")
    assert members == [*(f"checkpoint-{step}" for step in steps), "final_model"]
    assert check.run([str(tmp_path), "--jobs", "1"]) == 0
    text = capsys.readouterr().out
    assert "checkpoint-100 -> checkpoint-200" in text
    assert text.index("checkpoint-900") < text.index("checkpoint-1000")


def test_a_final_model_and_its_own_last_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "run", healthy())
    save(tmp_path / "run" / "checkpoint-500", healthy(), 500)
    found = look(tmp_path / "run", tmp_path / "run" / "checkpoint-500")
    assert all(codes == [] for codes in alike(found).values())
    assert all(each.verdict.status == "trusted" for each in found.values())


def test_checkpoints_of_lorica(tmp_path: Path) -> None:
    names = ["checkpoints/step-50", "checkpoints/step-100", "checkpoints/best-50", "best"]
    for name, k in zip(names, (0, 1, 0, 0), strict=True):
        save(tmp_path / "rules" / name, grown(2)[k])
    found = look(*(tmp_path / "rules" / name for name in names))
    assert alike(found) == {name: [] for name in found}


ONE_RUN = [
    ["run/checkpoint-1", "run/checkpoint-2", "run"],
    ["run/checkpoints/step-5", "run/best", "run/checkpoints/best-5"],
    ["run-step100", "run-step200", "run", "run_final"],
    ["run/epoch=3-step=500", "run/epoch=4-step=600", "run/last"],
    ["run/global_step100", "run/500-steps", "run/final_adapter", "run/checkpoint-final"],
    ["run-checkpoint-10.zip", "run-checkpoint-20.zip"],
    ["run-000-step-10.safetensors", "run-000-step-20.safetensors"],
    ["run/checkpoint-1/adapter_model.safetensors", "run/adapter_model.safetensors"],
    ["run/iter_0001000", "run/lora_model", "run/adapter"],
]
NO_RUN = [
    ["history", "algebra"],
    ["history/best", "algebra/best"],
    ["history/checkpoint-1", "algebra/checkpoint-1"],
    ["rules_fold_1", "rules_fold_2"],
    ["adapters/1", "adapters/2"],
    ["history.safetensors", "algebra.safetensors"],
    ["history-v1", "history-v2"],
    ["steps", "bestiary"],
    ["all/lora.safetensors", "all/model.safetensors", "all/adapter_a.safetensors", "all/adapter_b.safetensors"],
]


@pytest.mark.parametrize("paths", ONE_RUN, ids=lambda paths: paths[0])
def test_paths_of_one_run(paths: list[str]) -> None:
    assert find_runs([RunMember(Path(path)) for path in paths]) == [0] * len(paths)


@pytest.mark.parametrize("paths", NO_RUN, ids=lambda paths: paths[0])
def test_paths_of_strangers(paths: list[str]) -> None:
    assert find_runs([RunMember(Path(path)) for path in paths]) == list(range(len(paths)))


LOG = tuple((10 * i, 2.0 / i) for i in range(1, 9))
OTHER = (*LOG[:5], *((step, loss + 1e-9) for step, loss in LOG[5:]))


def logged(path: str, step: int | None, log: tuple[tuple[int, float], ...] = LOG) -> RunMember:
    return RunMember(Path(path), log[: (step or 80) // 10], step)


BY_LOG = {
    "two folders, one resumed run": ([logged("day1/checkpoint-50", 50), logged("day2/checkpoint-60", 60)], True),
    "names of their own, other steps": ([logged("rules-a", 50), logged("rules-b", 80)], True),
    "published elsewhere": ([logged("out/checkpoint-40", 40), logged("out/checkpoint-80", 80), logged("my", 80)], True),
    "a copy under another name": ([logged("history", 80), logged("algebra", 80)], False),
    "a copied checkpoint": ([logged("history/checkpoint-50", 50), logged("algebra/checkpoint-50", 50)], False),
    "other losses from some step on": ([logged("a", 50), logged("b", 80, OTHER)], True),
    "other losses": ([logged("a", 70), logged("b", 80, OTHER)], False),
    "too short a log": ([logged("a", 10), logged("b", 80)], False),
    "no step known": ([logged("a", None), logged("b", 80)], False),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_LOG)
def test_logs_tell_a_run(name: str) -> None:
    members, same = BY_LOG[name]
    expected = [0] * len(members) if same else list(range(len(members)))
    assert find_runs(members) == expected
    assert len(set(find_runs(members[::-1]))) == (1 if same else len(members))


@pytest.mark.parametrize("of", ["run", "run/checkpoint-100", "run/checkpoint-200"])
@pytest.mark.parametrize("with_state", [True, False])
def test_a_copy_of_any_of_them_under_another_name_is_warned_of(of: str, with_state: bool, tmp_path: Path) -> None:
    for name, step, arrays in zip(
        ("run/checkpoint-100", "run/checkpoint-200", "run"), (100, 200, 200), (*grown(2), grown(2)[1]), strict=True
    ):
        save(tmp_path / name, arrays, step)
    shutil.copytree(tmp_path / of, tmp_path / "algebra", ignore=shutil.ignore_patterns("checkpoint-*"))
    if not with_state:
        (tmp_path / "algebra" / "trainer_state.json").unlink()
    run = tmp_path / "run"
    found = look(run, run / "checkpoint-100", run / "checkpoint-200", tmp_path / "algebra")
    assert alike(found)["algebra"] == ["L250"]


def test_what_was_changed_within_a_run_stays_a_warning(tmp_path: Path) -> None:
    save(tmp_path / "run" / "checkpoint-100", healthy(), 100)
    save(tmp_path / "run" / "checkpoint-200", change(healthy(), "B", lambda x: x * 4), 200)
    found = look(tmp_path / "run")
    assert alike(found) == {name: ["L252"] for name in found}
    path = save(tmp_path / "other" / "checkpoint-200", healthy(), 200) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"lora_alpha": 64}), "utf-8")
    save(tmp_path / "other" / "final", healthy())
    found = look(tmp_path / "other")
    assert all("L252" in codes for codes in alike(found).values())


def test_one_step_copied_as_another_is_warned_of(tmp_path: Path) -> None:
    for step, k in ((100, 0), (200, 1)):
        save(tmp_path / "run" / f"checkpoint-{step}", grown(2)[k], step)
    shutil.copytree(tmp_path / "run" / "checkpoint-100", tmp_path / "run" / "checkpoint-300")
    found = alike(look(tmp_path / "run"))
    assert found["checkpoint-300"] == ["L250"]
    assert found["checkpoint-200"] == []


def test_the_best_checkpoint_published_at_the_end_is_no_copy(tmp_path: Path) -> None:
    """Trainers load the best checkpoint at the end and save it: its weights are of an earlier step than its record."""
    save(tmp_path / "run" / "checkpoint-100", grown(2)[0], 100)
    save(tmp_path / "run" / "checkpoint-200", grown(2)[1], 200)
    save(tmp_path / "run", grown(2)[0], 200)
    run = tmp_path / "run"
    assert set(map(str, alike(look(run, run / "checkpoint-100", run / "checkpoint-200")).values())) == {"[]"}


def test_runs_of_one_name_stay_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, owner in enumerate(("a", "b")):
        for step in (1, 2):
            save(tmp_path / owner / "run" / f"checkpoint-{step}", healthy(10 * number + step))
    check.run([str(tmp_path), "--jobs", "1", "--json"])
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["run"], run["members"][0]) for run in runs] == [
        ("run", "a/run/checkpoint-1"),
        ("run", "b/run/checkpoint-1"),
    ]
