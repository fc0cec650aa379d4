"""Linear layers held as NF4 (4-bit NormalFloat, https://arxiv.org/abs/2305.14314), through bitsandbytes."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.errors import MissingExtraError

BLOCK = 64  # weights that share one scale, as in QLoRA


def require_bitsandbytes() -> Any:
    """The module bitsandbytes. Raises MissingExtraError when it is not installed."""
    if sys.modules.get("bitsandbytes") is not None:
        return sys.modules["bitsandbytes"]
    # On some processors its import would fetch a compiled kernel from the network if the package `kernels` is
    # there, and complains if it is not. Lorica is offline, and the built-in kernels do.
    logger = logging.getLogger("bitsandbytes")
    log_level, kernels_module = logger.level, sys.modules.get("kernels")
    logger.setLevel(logging.ERROR)
    cast(dict[str, Any], sys.modules)["kernels"] = None
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        if error.name != "bitsandbytes":
            raise
        raise MissingExtraError("bitsandbytes", extra="quant", needed_for="model.load_in_4bit") from None
    finally:
        logger.setLevel(log_level)
        del sys.modules["kernels"]
        if kernels_module is not None:
            sys.modules["kernels"] = kernels_module


def is_quantized(model: nn.Module) -> bool:
    """Whether any layer of the model is held in 4 bits."""
    return any(isinstance(module, Nf4Linear) for module in model.modules())


class Nf4Linear(nn.Module):
    """A frozen linear layer: y = x W^T + bias with W in 4 bits. Gradients flow to x, so adapters train through it.

    About 4.5 bits a weight. W is dequantized to the dtype of x for each product and never kept.
    """

    packed: Tensor

    def __init__(self, weight: Tensor, dtype: torch.dtype, *, bias: bool) -> None:
        """weight [out, in] is quantized on its device; dtype: of the activations. The bias is filled in later."""
        super().__init__()
        library = require_bitsandbytes()
        precision = torch.float32 if dtype == torch.float64 else dtype
        packed_weight, self._state = library.functional.quantize_4bit(
            weight.to(precision).contiguous(), blocksize=BLOCK, quant_type="nf4"
        )
        self.register_buffer("packed", packed_weight, persistent=False)
        self.bias = nn.Parameter(torch.empty(weight.shape[0], device="meta")) if bias else None
        self._shape = weight.shape
        self._fills_blocks = weight.shape[1] % BLOCK == 0
        if not self._fills_blocks:
            # On the CPU bitsandbytes 0.50 dequantizes rows that end within a block wrongly, one long row rightly.
            self._state.shape = torch.Size((1, weight.numel()))
        self._product = library.matmul_4bit
        self._dequantize = library.functional.dequantize_4bit

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out]."""
        if self._fills_blocks:
            return cast(Tensor, self._product(x, self.packed, quant_state=self._state, bias=self.bias))
        return cast(Tensor, _FrozenLinear.apply(x, self.dequantized, self.bias))  # type: ignore[no-untyped-call]

    def dequantized(self) -> Tensor:
        """The weight [out, in] in floating point."""
        return cast(Tensor, self._dequantize(self.packed, self._state)).view(self._shape)


class _FrozenLinear(torch.autograd.Function):
    """x W^T + bias for a frozen W that is dequantized again in the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dequantize: Callable[[], Tensor], bias: Tensor | None) -> Tensor:
        ctx.dequantize = dequantize
        return F.linear(x, dequantize().to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.dequantize().to(gradient.dtype), None, None
