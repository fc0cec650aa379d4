"""Copies, near copies, rescaled and re-labelled copies, folds and shared starts are told apart; strangers are not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.vetting.numbers_fixtures import Arrays, change, factors, healthy, specimen, write

from lorica.adapters.config import AdapterConfig
from lorica.vetting.findings import Finding
from lorica.vetting.numbers.check_numbers import check_numbers
from lorica.vetting.numbers.duplicates import Entry, check_duplicates, cosine


def entry(folder: Path, arrays: Arrays, *, dtype: str = "F32", alpha: float = 16, base: str | None = None) -> Entry:
    """One adapter as the check of many holds it: without its modules' measures."""
    rank = arrays[factors(arrays, "A")[0]].shape[0]
    config = AdapterConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj", "v_proj"], base_model_name_or_path=base)
    found, layout = specimen(write(folder, arrays, dtype=dtype, config=config))
    return found, check_numbers(found, layout)[0]


def codes(found: dict[str, list[Finding]]) -> dict[str, set[str]]:
    """Name -> codes."""
    return {name: {each.code for each in findings} for name, findings in found.items()}


def moved(arrays: Arrays, share: float, seed: int = 1) -> Arrays:
    """Every B with a random part of `share` of its own size added: trained on from there, or on other folds."""
    draw = np.random.default_rng(seed)
    return change(arrays, "B", lambda x: (x + share * x.std() * draw.standard_normal(x.shape)).astype(np.float32))


def exact_cosine(one: Arrays, two: Arrays) -> float:
    """The oracle: all updates formed and flattened."""
    flat = [
        np.concatenate([
            (arrays[name.replace("lora_A", "lora_B")].astype(np.float64) @ arrays[name]).ravel()
            for name in factors(arrays, "A")
        ])
        for arrays in (one, two)
    ]  # fmt: skip
    return float(flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 2.0])
def test_the_cosine_agrees_with_formed_updates(share: float, tmp_path: Path) -> None:
    one, two = healthy(), moved(healthy(), share)
    entries = entry(tmp_path / "one", one), entry(tmp_path / "two", two)
    expected = exact_cosine(one, two)
    assert cosine(*entries) == pytest.approx(expected, abs=1e-5)
    sketches = [np.frombuffer(each[1].sketch, "<f4") for each in entries]
    assert float(sketches[0] @ sketches[1]) == pytest.approx(expected, abs=0.15)


def test_the_cosine_of_different_ranks(tmp_path: Path) -> None:
    one = healthy(rank=4)
    two = {name: np.concatenate([x, np.zeros_like(x)], axis=0 if ".lora_A." in name else 1) for name, x in one.items()}
    entries = entry(tmp_path / "one", one), entry(tmp_path / "two", two, alpha=32)
    assert cosine(*entries) == pytest.approx(1)
    assert codes(check_duplicates(entries)) == {"one": {"L250"}, "two": {"L250"}}
    other = entry(tmp_path / "other", healthy(inputs=32))
    assert cosine(entries[0], other) is None


def test_strangers_are_strangers(tmp_path: Path) -> None:
    entries = [entry(tmp_path / f"s{seed}", healthy(seed)) for seed in range(8)]
    entries.append(entry(tmp_path / "wider", healthy(0, outputs=128)))
    entries.append(entry(tmp_path / "other_rank", healthy(20, rank=4)))
    assert check_duplicates(entries) == {}


def test_copies(tmp_path: Path) -> None:
    arrays = healthy()
    entries = [entry(tmp_path / name, arrays) for name in ("a", "b", "c")] + [entry(tmp_path / "d", healthy(1))]
    found = check_duplicates(entries)
    assert codes(found) == {"a": {"L250"}, "b": {"L250"}, "c": {"L250"}}
    assert found["a"][0].facts["others"] == ["b", "c"]
    assert found["a"][0].severity == "warn"


def test_the_best_checkpoint_of_a_run_is_no_stranger_to_it(tmp_path: Path) -> None:
    one = entry(tmp_path / "run" / "best", healthy())
    two = entry(tmp_path / "run" / "checkpoints" / "step-100", healthy())
    three = entry(tmp_path / "run" / "checkpoints" / "step-50", moved(healthy(), 0.05))
    found = check_duplicates([one, two, three])
    assert {each.severity for findings in found.values() for each in findings} == {"note"}
    assert codes(found)["step-50"] == {"L251"}


def test_a_copy_in_another_type(tmp_path: Path) -> None:
    entries = [entry(tmp_path / "a", healthy()), entry(tmp_path / "b", healthy(), dtype="BF16")]
    found = check_duplicates(entries)
    assert codes(found) == {"a": {"L250"}, "b": {"L250"}}
    assert "stored in other numbers" in found["b"][0].seen


def test_one_set_of_weights_at_two_scales(tmp_path: Path) -> None:
    entries = [entry(tmp_path / "a", healthy()), entry(tmp_path / "b", healthy(), alpha=64)]
    found = check_duplicates(entries)
    assert codes(found) == {"a": {"L252"}, "b": {"L252"}}
    assert found["b"][0].facts["ratio"] == pytest.approx(4)
    scaled = [entry(tmp_path / "a", healthy()), entry(tmp_path / "c", change(healthy(), "B", lambda x: x * 3))]
    assert check_duplicates(scaled)["c"][0].facts["ratio"] == pytest.approx(3, rel=1e-3)
    negated = [entry(tmp_path / "a", healthy()), entry(tmp_path / "d", change(healthy(), "B", lambda x: -x))]
    assert "opposite" in check_duplicates(negated)["d"][0].seen


def test_one_set_of_weights_for_two_bases(tmp_path: Path) -> None:
    entries = [
        entry(tmp_path / "a", healthy(), base="Qwen/Qwen3-4B"),
        entry(tmp_path / "b", healthy(), base="models/Qwen2.5-1.5B"),
        entry(tmp_path / "c", healthy(), base="/data/Qwen3-4B/"),
    ]
    found = check_duplicates(entries)
    assert all("L253" in each for each in codes(found).values())
    assert "qwen2.5-1.5b" in found["a"][0].seen + found["a"][1].seen


def test_near_copies(tmp_path: Path) -> None:
    entries = [entry(tmp_path / "a", healthy()), entry(tmp_path / "b", moved(healthy(), 0.08))]
    found = check_duplicates(entries)
    assert "L251" in codes(found)["a"] & codes(found)["b"]
    assert found["a"][0].facts["cosine"] == pytest.approx(exact_cosine(healthy(), moved(healthy(), 0.08)), abs=1e-4)


def test_folds_and_runs_of_one_seed(tmp_path: Path) -> None:
    folds = [entry(tmp_path / f"rules_fold_{k}", moved(healthy(), 1.0, seed=k)) for k in range(5)]
    found = check_duplicates(folds)
    assert all(each == {"L255"} for each in codes(found).values())
    assert len(found) == 5
    tasks = [entry(tmp_path / name, moved(healthy(), 3.0, seed=k)) for k, name in enumerate(("algebra", "history"))]
    assert codes(check_duplicates(tasks)) == {"algebra": {"L254"}, "history": {"L254"}}


def test_many_copies_are_confirmed_in_time(tmp_path: Path) -> None:
    one, numbers = entry(tmp_path / "a", healthy(layers=1))
    many = []
    for k in range(600):
        other = msgspec.structs.replace(one, name=f"n{k}", given=Path(f"runs/n{k}"))
        many.append((other, msgspec.structs.replace(numbers, weights_digest=f"d{k}")))
    found = check_duplicates(many)
    assert len(found) == 600


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    entries = [entry(tmp_path / "a", healthy()), entry(tmp_path / "b", moved(healthy(), 0.05))]
    (tmp_path / "b" / "adapter_model.safetensors").unlink()
    assert "L251" not in codes(check_duplicates(entries)).get("a", set())


def test_nan_equals_nothing(tmp_path: Path) -> None:
    """Runs of one seed that diverged are equal to the last bit; neither has an update that the other could copy."""
    lost = {half: change(healthy(), half, lambda x: np.full_like(x, np.nan)) for half in "AB"}
    lost["inf"] = change(healthy(), "B", lambda x: np.full_like(x, np.inf))
    for name, arrays in lost.items():
        entries = [entry(tmp_path / f"{name}-{adapter}", arrays) for adapter in ("history", "algebra")]
        assert "L250" not in {code for each in codes(check_duplicates(entries)).values() for code in each}
    partly = healthy()
    partly[factors(partly, "B")[0]][:] = np.nan
    entries = [entry(tmp_path / adapter, partly) for adapter in ("history", "algebra")]
    assert codes(check_duplicates(entries)) == {"history": {"L250"}, "algebra": {"L250"}}
