"""Weights out of GPTQ's and AWQ's packed numbers, exactly: integers times scales in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lorica.errors import ModelError
from lorica.models.packing import Packing

_WORD = 32  # bits of one packed integer
# Which of eight neighbouring outputs each four bits of a word hold, the lowest bits first (AWQ's gemm version).
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def unpack(parts: Mapping[str, Tensor], packing: Packing, shape: torch.Size, where: str) -> Tensor:
    """The parts of one layer -> its weight [out, in] in float32.

    Raises ModelError, beginning with `where`, when they do not make up a weight of this shape.
    """
    out, into = shape
    per_word = _WORD // packing.bits
    size = into if packing.group_size == -1 else packing.group_size
    groups = -(-into // size)
    packed = (into // per_word, out) if packing.method == "gptq" else (into, out // per_word)
    expected = {"qweight": packed, "qzeros": (groups, out // per_word), "scales": (groups, out), "g_idx": (into,)}
    for name, tensor in parts.items():
        if tuple(tensor.shape) != expected[name]:
            raise ModelError(
                f"{where}.{name} has shape {list(tensor.shape)}, config.json implies {list(expected[name])}",
                fix="config.json and weights are of different models; download both again",
            )
    group = parts["g_idx"].long() if "g_idx" in parts else torch.arange(into) // size
    if not bool(((group >= 0) & (group < groups)).all()):
        raise ModelError(f"{where}.g_idx names groups beyond the {groups} there are", fix="download the file again")
    zeros = _columns(parts["qzeros"], packing)
    if packing.method == "gptq":
        codes = _bits(parts["qweight"], packing.bits).permute(0, 2, 1).reshape(into, out)
    else:
        codes = _columns(parts["qweight"], packing)
    scales = parts["scales"].float()
    weight = (codes - (zeros + packing.least_zero)[group]).float() * scales[group]
    return weight.t().contiguous()


def _columns(words: Tensor, packing: Packing) -> Tensor:
    # [N, out / per word] -> [N, out]
    numbers = _bits(words, packing.bits)
    if packing.method == "awq":
        numbers = numbers[..., torch.tensor(_AWQ_ORDER).argsort()]
    return numbers.flatten(1)


def _bits(words: Tensor, bits: int) -> Tensor:
    """[A, B] int32 -> [A, B, numbers per word], the lowest bits first."""
    shifts = torch.arange(0, _WORD, bits, dtype=torch.int32)
    return (words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
