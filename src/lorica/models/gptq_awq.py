"""Dequantizes GPTQ and AWQ weights exactly: packed integers times scales, in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lorica.errors import ModelError
from lorica.models.gptq_awq_config import PackedFormat

_WORD_BITS = 32  # bits of one packed integer
# Which of eight neighbouring outputs each four bits of a word hold, the lowest bits first (AWQ's gemm version).
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def dequantize_layer(
    tensors: Mapping[str, Tensor], packed_format: PackedFormat, shape: torch.Size, layer_name: str
) -> Tensor:
    """The packed tensors of one layer -> its weight [out, in] in float32.

    Raises ModelError, beginning with `layer_name`, when they do not make up a weight of this shape.
    """
    out_features, in_features = shape
    per_word = _WORD_BITS // packed_format.bits
    group_size = in_features if packed_format.group_size == -1 else packed_format.group_size
    group_count = -(-in_features // group_size)
    by_rows = packed_format.method == "gptq"  # else by columns
    expected_shapes = {
        "qweight": (in_features // per_word, out_features) if by_rows else (in_features, out_features // per_word),
        "qzeros": (group_count, out_features // per_word),
        "scales": (group_count, out_features),
        "g_idx": (in_features,),
    }
    for tensor_name, tensor in tensors.items():
        expected = expected_shapes[tensor_name]
        if tuple(tensor.shape) != expected:
            raise ModelError(
                f"{layer_name}.{tensor_name} has shape {list(tensor.shape)}, config.json implies {list(expected)}",
                fix="config.json and weights are of different models; download both again",
            )
    group_indices = tensors["g_idx"].long() if "g_idx" in tensors else torch.arange(in_features) // group_size
    if not bool(((group_indices >= 0) & (group_indices < group_count)).all()):
        raise ModelError(
            f"{layer_name}.g_idx names groups beyond the {group_count} there are", fix="download the file again"
        )
    zero_points = _unpack_columns(tensors["qzeros"], packed_format)
    if by_rows:
        codes = _unpack_bits(tensors["qweight"], packed_format.bits).permute(0, 2, 1).reshape(in_features, out_features)
    else:
        codes = _unpack_columns(tensors["qweight"], packed_format)
    scales = tensors["scales"].float()
    weight = (codes - (zero_points + packed_format.zero_offset)[group_indices]).float() * scales[group_indices]
    return weight.t().contiguous()


def _unpack_columns(packed_words: Tensor, packed_format: PackedFormat) -> Tensor:
    # [N, out / per word] -> [N, out]
    numbers = _unpack_bits(packed_words, packed_format.bits)
    if packed_format.method == "awq":
        numbers = numbers[..., torch.tensor(_AWQ_ORDER).argsort()]
    return numbers.flatten(1)


def _unpack_bits(packed_words: Tensor, bits: int) -> Tensor:
    """[A, B] int32 -> [A, B, numbers per word], the lowest bits first."""
    shifts = torch.arange(0, _WORD_BITS, bits, dtype=torch.int32)
    return (packed_words.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
