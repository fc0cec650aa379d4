"""What a base's stored weights tell without torch: few levels, and updates that are a part of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.vetting.specimens import specimen_of

from lorica.adapters.arrays import Floats
from lorica.adapters.header import header_bytes
from lorica.vetting.base.base_fit import check_fit
from lorica.vetting.base.quantization_levels import FEW, check_quantization_levels, quantization_levels
from lorica.vetting.diagnosis.finding_likelihoods import finding_likelihoods
from lorica.vetting.findings import Finding

WIDTH, LAYERS, RANK = 64, 3, 8
CONFIG = {"model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
          "intermediate_size": 2 * WIDTH, "vocab_size": 40}  # fmt: skip


def write(path: Path, tensors: dict[str, Floats]) -> None:
    head, order = header_bytes({name: ("F32", each.shape) for name, each in tensors.items()}, {"format": "pt"})
    path.write_bytes(head + b"".join(np.ascontiguousarray(tensors[name], np.float32).tobytes() for name in order))


def make_base(folder: Path, change: Callable[[Floats], Floats] = lambda one: one) -> tuple[Path, list[Floats]]:
    """A base with random query projections, and these."""
    folder.mkdir()
    random = np.random.default_rng(0)
    made = [change(random.standard_normal((WIDTH, WIDTH)).astype(np.float32) * 0.05) for _ in range(LAYERS)]
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = {f"model.layers.{number}.self_attn.q_proj.weight": each for number, each in enumerate(made)}
    write(folder / "model.safetensors", tensors | {"model.embed_tokens.weight": np.ones((40, WIDTH), np.float32)})
    return folder, made


def make_adapter(folder: Path, halves: list[tuple[Floats, Floats]]) -> Path:
    """halves: (A, B) of each layer; alpha equals the rank."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors: dict[str, Floats] = {}
    for number, (a, b) in enumerate(halves):
        path = f"base_model.model.model.layers.{number}.self_attn.q_proj"
        tensors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
    write(folder / "adapter_model.safetensors", tensors)
    return folder


def rounded(bits: int) -> Callable[[Floats], Floats]:
    """To the levels of a symmetric rounding with a scale for each row."""

    def change(one: Floats) -> Floats:
        most = 2 ** (bits - 1) - 1
        step = np.abs(one).max(axis=1, keepdims=True) / most
        found: Floats = (np.round(one / step) * step).astype(np.float32)
        return found

    return change


def test_a_trained_base_has_many_levels(tmp_path: Path) -> None:
    base, _ = make_base(tmp_path / "base")
    assert quantization_levels(base) == 32
    assert check_quantization_levels(base) == []


@pytest.mark.parametrize(("bits", "severity"), [(2, "warn"), (3, "warn"), (4, "note")])
def test_one_that_was_rounded_is_named(tmp_path: Path, bits: int, severity: str) -> None:
    base, _ = make_base(tmp_path / "base", rounded(bits))
    (found,) = check_quantization_levels(base)
    assert (found.code, found.severity) == ("L333", severity)
    assert finding_likelihoods(found)["wrong_revision"] > (5 if severity == "warn" else 0)


def test_eight_bits_and_zeros_are_no_news(tmp_path: Path) -> None:
    assert check_quantization_levels(make_base(tmp_path / "eight", rounded(8))[0]) == []
    zero, _ = make_base(tmp_path / "zero", np.zeros_like)
    assert quantization_levels(zero) is None
    pruned, _ = make_base(tmp_path / "pruned", lambda one: np.where(np.abs(one) < 0.04, 0, one).astype(np.float32))
    assert (quantization_levels(pruned) or 0) > FEW
    assert check_quantization_levels(tmp_path / "nowhere") == []


def judged(tmp_path: Path, halves: Callable[[Floats], tuple[Floats, Floats]]) -> list[Finding]:
    base, weights = make_base(tmp_path / "base")
    folder = make_adapter(tmp_path / "adapter", [halves(each) for each in weights])
    return [each for each in check_fit(*specimen_of(folder), base) if each.code == "L327"]


def principal(weight: Floats) -> tuple[Floats, Floats]:
    """PiSSA's start."""
    left, sizes, right = np.linalg.svd(weight, full_matrices=False)
    root = np.sqrt(sizes[:RANK])
    return (root[:, None] * right[:RANK]).astype(np.float32), (left[:, :RANK] * root).astype(np.float32)


def test_principal_parts_left_in_the_adapter_are_named(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, principal)
    assert found.severity == "warn"
    assert found.facts["held"] == pytest.approx(1, abs=0.02)


def test_an_update_of_training_is_not_like_the_weight(tmp_path: Path) -> None:
    random = np.random.default_rng(1)

    def trained(_: Floats) -> tuple[Floats, Floats]:
        a, b = random.standard_normal((2, RANK, WIDTH)).astype(np.float32) * 0.05
        return a, np.ascontiguousarray(b.T)

    assert judged(tmp_path, trained) == []


def test_a_converted_adapter_holds_the_difference_only(tmp_path: Path) -> None:
    random = np.random.default_rng(2)

    def difference(weight: Floats) -> tuple[Floats, Floats]:
        a, b = principal(weight)
        half = RANK // 2
        moved = a[:half] + 0.1 * random.standard_normal((half, WIDTH)).astype(np.float32) * np.abs(a[:half]).mean()
        return np.concatenate([moved, a[:half]]), np.concatenate([b[:, :half], -b[:, :half]], axis=1)

    assert judged(tmp_path, difference) == []
