"""A base made larger by repeating its layers: an adapter that covers fewer of them has lost none."""

from __future__ import annotations

from pathlib import Path

from tests.vetting.test_fit import LLAMA, judged, save_base

from lorica.adapters.header import read_header
from lorica.vetting.diagnosis.finding_likelihoods import finding_likelihoods


def test_a_base_that_repeats_its_layers_is_larger_than_the_adapters_own(tmp_path: Path) -> None:
    config = {**LLAMA, "num_hidden_layers": 4}
    base = save_base(tmp_path / "base", config)
    file = base / "model.safetensors"
    header = read_header(file)
    content = bytearray(file.read_bytes())
    for name, info in header.tensors.items():  # layers 0 1 2 1: the last is a copy
        layer = {"layers.0": 1, "layers.1": 2, "layers.2": 3, "layers.3": 2}.get(".".join(name.split(".")[1:3]), 4)
        content[info.start : info.stop] = bytes([0, 0x3C + layer]) * ((info.stop - info.start) // 2)
    file.write_bytes(content)
    (found,) = judged(base, layers=range(2))
    assert found.code == "L303"
    assert "of which 3 are copies of earlier ones" in found.seen
    weights = finding_likelihoods(found)
    assert max(weights, key=lambda cause: weights[cause]) == "wrong_size"
    assert weights["incomplete"] < 0
