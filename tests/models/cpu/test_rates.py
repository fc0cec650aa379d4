"""Rates are measured once a machine; a cache that is broken, foreign or cannot be written is harmless."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch")

from lorica.hardware import this_machine  # noqa: E402
from lorica.models.cpu import rates as module  # noqa: E402
from lorica.precision import DTYPE_NAMES  # noqa: E402
from lorica.precision_choice import Rates  # noqa: E402

FAKE = Rates(
    prompts={"float32": 1.0, "bfloat16": 2.0},
    steps={"float32": 1.0, "bfloat16": 2.0},
    training={"float32": 1.0, "bfloat16": 2.0},
    memory=1.0,
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Rates]]:
    """The measurements made, in an empty cache."""
    made: list[Rates] = []

    def measure() -> Rates:
        made.append(FAKE)
        return FAKE

    monkeypatch.setenv("LORICA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "measure", measure)
    module.measured_rates.cache_clear()
    yield made
    module.measured_rates.cache_clear()


def _again() -> Rates:
    module.measured_rates.cache_clear()
    return module.measured_rates()


def _file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "machine").iterdir()
    return path


def test_a_machine_is_measured_once(measured: list[Rates], tmp_path: Path) -> None:
    assert _again() == _again() == FAKE
    assert len(measured) == 1
    assert msgspec.json.decode(_file(tmp_path).read_bytes(), type=Rates) == FAKE
    assert module.cache_problem() == ""


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\x00", b'{"prompts": {}}', msgspec.json.encode(FAKE)[:-2],
                msgspec.json.encode(msgspec.structs.replace(FAKE, memory=-1.0)),
                msgspec.json.encode(msgspec.structs.replace(FAKE, prompts={"float32": 1.0}))],
)  # fmt: skip
def test_a_broken_file_is_measured_anew_and_mended(measured: list[Rates], tmp_path: Path, content: bytes) -> None:
    _again()
    _file(tmp_path).write_bytes(content)
    assert _again() == FAKE
    assert len(measured) == 2
    assert _again() == FAKE
    assert len(measured) == 2


def test_a_cache_that_cannot_be_written_is_harmless(
    measured: list[Rates], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert _again() == _again() == FAKE
    assert len(measured) == 2
    assert "cannot be written" in module.cache_problem()
    monkeypatch.delenv("LORICA_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert _again() == FAKE
    assert module.cache_problem() == "this user has no home folder"


@pytest.mark.parametrize(
    "change",
    [{"processor": "another"}, {"instruction_sets": ("another",)}, {"limits": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}],
)
def test_another_machine_or_environment_has_a_file_of_its_own(
    measured: list[Rates], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    _again()
    machine = replace(this_machine(), **change)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "this_machine", lambda: machine)
    _again()
    assert len(measured) == len(os.listdir(tmp_path / "cache" / "machine")) == 2


def test_other_kernels_are_measured_anew(measured: list[Rates], monkeypatch: pytest.MonkeyPatch) -> None:
    _again()
    monkeypatch.setattr(module, "digest", lambda: "other kernels")
    _again()
    monkeypatch.setattr(module, "target", lambda: "not built yet")
    _again()
    assert len(measured) == 3


def test_every_precision_is_measured_and_nothing_else_changes() -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    rates = module.measure()
    assert rates.plausible()
    assert set(rates.prompts) == set(rates.steps) == set(DTYPE_NAMES) - {"gguf"}
    assert set(rates.training) == {"float32", "bfloat16", "float16"}
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
