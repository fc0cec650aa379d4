"""Weights of a mapped file that are let go are read again; memory that is no file's is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from lorica.models.mapped_pages import MappedPages  # noqa: E402


def mapped(path: Path, weight: Any) -> Any:
    save_file({"weight": weight}, path)
    with safe_open(path, framework="pt") as shard:
        return shard.get_tensor("weight")


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_pages_of_a_file_are_let_go_and_read_again(tmp_path: Path) -> None:
    weight = torch.arange(1 << 22, dtype=torch.float32)  # 16 MiB
    tensor = mapped(tmp_path / "model.safetensors", weight)
    assert torch.equal(tensor, weight)
    before = resident_bytes()
    released = MappedPages().release([tensor])
    assert released > 15 << 20
    assert resident_bytes() < before - (14 << 20)
    assert torch.equal(tensor, weight)


def test_memory_of_no_file_is_left_alone(tmp_path: Path) -> None:
    weight = torch.ones(1 << 20)
    assert MappedPages().release([weight, weight.view(1024, 1024).t()]) == 0
    assert weight.sum() == 1 << 20
    assert MappedPages(tmp_path / "missing").release([weight]) == 0
