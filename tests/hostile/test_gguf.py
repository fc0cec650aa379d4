"""GGUF files that somebody spoilt on purpose: each is read or refused in words, and none takes long."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from tools.hostile_gguf import Bench, cases, healthy, heavy


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(6):
        bench.run(healthy(number))
    assert bench.counts["accepted"] == 6
    for raw in cases(seed=1, count=150):
        bench.run(raw)
    assert bench.counts["crashes"] == 0
    assert bench.counts["accepted"] < 100


def test_files_at_the_caps_are_read_or_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for title, raw in heavy():
        bench.run(raw, title)
    assert bench.counts["crashes"] == 0
    assert bench.counts["accepted"] == 0
