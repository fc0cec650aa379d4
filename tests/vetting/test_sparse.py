"""Factors whose numbers were dropped: scattered zeros are named, padded ranks and scaled-up rests are not blamed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.vetting.specimens import specimen_of
from tests.vetting.test_base_weights import LAYERS, RANK, WIDTH, make_adapter

from lorica.adapters.arrays import Floats
from lorica.vetting.findings import Finding
from lorica.vetting.numbers.check_numbers import check_numbers


def judged(tmp_path: Path, share: float, scale: float = 1.0, padded: int = 0) -> list[Finding]:
    """L224 of an adapter from PEFT's start, of whose numbers a share is dropped and the rest multiplied. padded: ranks
    that are zero."""
    random = np.random.default_rng(0)

    def half(wide: float) -> Floats:
        made = random.uniform(-wide, wide, (RANK, WIDTH)) * (random.random((RANK, WIDTH)) >= share) * scale
        made[RANK - padded :] = 0
        return made.astype(np.float32)

    halves = [(half(WIDTH**-0.5), np.ascontiguousarray(half(0.01).T)) for _ in range(LAYERS)]
    _, findings = check_numbers(*specimen_of(make_adapter(tmp_path / "adapter", halves)))
    return [each for each in findings if each.code == "L224"]


def test_dropped_numbers_are_named(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, 0.85)
    assert found.severity == "warn"
    assert 0.75 < found.facts["share"] < 0.95


def test_a_rest_that_was_scaled_up_is_a_note(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, 0.85, scale=1 / 0.15)
    assert found.severity == "note"


def test_padded_ranks_and_whole_factors_are_no_news(tmp_path: Path) -> None:
    assert judged(tmp_path, 0.0) == []
    (tmp_path / "padded").mkdir()
    assert judged(tmp_path / "padded", 0.0, padded=6) == []
