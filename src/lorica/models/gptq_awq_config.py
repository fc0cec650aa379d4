"""The format of a GPTQ or AWQ checkpoint, from its `config.json`. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorica.errors import ModelError

PACKED_TENSORS = ("qweight", "qzeros", "scales", "g_idx")
"""The tensors that a file has in place of a layer's `weight`; g_idx may be missing."""


@dataclass(frozen=True)
class PackedFormat:
    """W[o, i] = scales[g, o] * (codes[o, i] - zeros[g, o]) for the group g of input i.

    group_size: inputs that share a group, -1 for all; g_idx in the file overrides it. zero_offset: what is added to a
    stored zero (the first format of GPTQ stores zeros less one).
    """

    method: Literal["gptq", "awq"]
    bits: int
    group_size: int
    zero_offset: int


def read_packed_format(raw_config: Mapping[str, Any], config_path: Path) -> PackedFormat | None:
    """From the content of `config.json` at `path`; None for plain weights.

    Raises ModelError for other methods and for variants whose order of bits is another.
    """
    stated = raw_config.get("quantization_config")
    if stated is None:
        return None
    quantization = stated if isinstance(stated, dict) else {}
    quant_method = quantization.get("quant_method")
    weight_bits, group_size = quantization.get("bits"), quantization.get("group_size", 128)
    valid_sizes = isinstance(weight_bits, int) and isinstance(group_size, int) and (group_size == -1 or group_size > 0)
    if quant_method == "gptq" and valid_sizes and weight_bits in (2, 4, 8):
        checkpoint_format = quantization.get("checkpoint_format") or "gptq"
        if checkpoint_format in ("gptq", "gptq_v2"):
            return PackedFormat("gptq", weight_bits, group_size, 1 if checkpoint_format == "gptq" else 0)
    if (
        quant_method == "awq"
        and valid_sizes
        and weight_bits == 4
        and str(quantization.get("version", "gemm")).lower() == "gemm"
    ):
        return PackedFormat("awq", 4, group_size, 0)
    details = ", ".join(
        f"{key} {quantization[key]}" for key in ("bits", "version", "checkpoint_format") if key in quantization
    )
    raise ModelError(
        f"{config_path}: the weights are quantised ({quant_method or 'method unknown'}"
        f"{': ' + details if details else ''}); the native decoder reads fp32, bf16, fp16, GPTQ of 2, 4 or 8 bits and "
        "AWQ (gemm) of 4 bits",
        fix="use the model's unquantised repository (load_in_4bit quantises while loading), or engine=transformers",
    )
