"""Tensors as arguments of the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

_TYPE_CODES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}  # as in common.h


def type_code(x: Tensor) -> int:
    """The number that the kernels know a tensor's dtype by."""
    return _TYPE_CODES[x.dtype]


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers lie; None, a null pointer, for none."""
    return None if tensor is None else tensor.data_ptr()
