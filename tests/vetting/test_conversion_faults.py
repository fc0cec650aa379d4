"""A base that was converted wrongly, merged with another or turned is found by itself; sound ones are left alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from lorica.models.locate import locate_model  # noqa: E402
from lorica.vetting.base.collect_subspaces import collect_subspaces  # noqa: E402
from lorica.vetting.base.conversion_faults import BaseForm, check_conversion_fault  # noqa: E402

Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def changed(folder: Path, change: Callable[[Weights], Weights]) -> Path:
    """The embedded base with other weights."""
    shutil.copytree(locate_model("embedded:lorica_tiny", environ={}), folder)
    weights = change(load_file(folder / "model.safetensors"))
    save_file(
        {name: each.contiguous() for name, each in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def offset(step: float) -> Callable[[Weights], Weights]:
    return lambda weights: {n: w + step if n.endswith("norm.weight") else w for n, w in weights.items()}


def in_pairs(*kinds: str) -> Callable[[Weights], Weights]:
    """Rotary channels as Meta's format has them."""
    width = json.loads((locate_model("embedded:lorica_tiny", environ={}) / "config.json").read_text())["head_dim"]

    def change(weights: Weights) -> Weights:
        for name, each in weights.items():
            if any(f"{kind}.weight" in name for kind in kinds):
                heads = each.reshape(-1, 2, width // 2, each.shape[1])
                weights[name] = heads.transpose(1, 2).reshape(each.shape)
            # the norms of each head's channels go with them
            if any(name.endswith(f"{kind[0]}_norm.weight") for kind in kinds):
                weights[name] = each.reshape(2, -1).T.reshape(-1)
        return weights

    return change


def with_a_stranger(weights: Weights) -> Weights:
    """The mean with a model whose residual stream has its coordinates in another order: the same model, elsewhere."""
    hidden = weights["model.norm.weight"].shape[0]
    order = torch.randperm(hidden, generator=torch.Generator().manual_seed(0))
    other = {}
    for name, each in weights.items():
        moved = each
        if re.search(r"(o_proj|down_proj).weight$", name) or name.endswith("norm.weight"):
            moved = each[order] if each.shape[0] == hidden else each
        elif each.ndim == 2:
            moved = each[:, order]
        other[name] = ((each.float() + moved.float()) / 2).to(each.dtype)
    return other


def test_a_sound_base_is_in_its_form() -> None:
    form = collect_subspaces(locate_model("embedded:lorica_tiny", environ={})).form
    assert form.other_form == ""
    assert form.text_gain > 0.5
    assert check_conversion_fault(form) == []


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (offset(-1.0), "L329", "1 added to its norms"),
        (in_pairs("q_proj", "k_proj"), "L329", "rotary channels of q_proj and k_proj in halves"),
        (in_pairs("k_proj"), "L329", "rotary channels"),
        (with_a_stranger, "L319", "other places of the text"),
    ],
    ids=["norms", "rotary", "rotary-of-k", "averaged"],
)
def test_a_spoilt_base_is_named(change: Callable[[Weights], Weights], code: str, says: str, tmp_path: Path) -> None:
    (found,) = check_conversion_fault(collect_subspaces(changed(tmp_path / "base", change)).form)
    assert (found.code, found.severity) == (code, "reject" if code == "L329" else "warn")
    assert says in found.seen


def test_what_was_tried_is_taken_back(tmp_path: Path) -> None:
    base = changed(tmp_path / "base", offset(-1.0))
    before = collect_subspaces(base).form
    (tmp_path / "base" / "model.safetensors").touch()  # collected anew
    assert collect_subspaces(base).form == before


def test_guessing_evenly_and_the_unknown_are_not_called_a_failed_merge() -> None:
    assert check_conversion_fault(BaseForm()) == []
    assert check_conversion_fault(BaseForm(loss=8.7, shifted_loss=8.7, uniform_loss=8.7)) == []
    assert [each.code for each in check_conversion_fault(BaseForm(loss=7.0, shifted_loss=8.0, uniform_loss=8.7))] == [
        "L319"
    ]
