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
    save_file({"weight": weight}, path.resolve())
    with safe_open(path, framework="pt") as shard:
        return shard.get_tensor("weight")


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize("cached", [False, True])
def test_pages_of_a_file_are_let_go_and_read_again(cached: bool, tmp_path: Path) -> None:
    weight = torch.arange(1 << 22, dtype=torch.float32)  # 16 MiB
    path = tmp_path / "model.safetensors"
    if cached:  # as in Hugging Face's cache
        path = tmp_path / "models--somebody--base" / "snapshots" / "1" / "model.safetensors"
        path.parent.mkdir(parents=True)
        (tmp_path / "models--somebody--base" / "blobs").mkdir()
        path.symlink_to("../../blobs/7777")
    tensor = mapped(path, weight)
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
