"""LoRA weights in memory (https://arxiv.org/abs/2106.09685): the base is never wrapped, merged or changed.

`LoraSpan`s tell a forward pass which tokens belong to which adapter, so that one pass serves many adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class LoraPair:
    """The update of one linear layer: y += scaling * B A x. a: [r, in]; b: [out, r]."""

    a: Tensor
    b: Tensor
    scaling: float


@dataclass
class LoraWeights:
    """One adapter: module path -> pair. `dropout` is the probability used while `training` is true."""

    name: str
    pairs: dict[str, LoraPair]
    dropout: float = 0.0
    training: bool = False

    def parameters(self) -> list[Tensor]:
        """All A and B matrices, in a stable order."""
        return [tensor for path in sorted(self.pairs) for tensor in (self.pairs[path].a, self.pairs[path].b)]

    def to_tensors(self) -> dict[str, Tensor]:
        """PEFT's tensor names -> tensors."""
        tensors = {}
        for module_path, lora_pair in self.pairs.items():
            tensors[f"base_model.model.{module_path}.lora_A.weight"] = lora_pair.a
            tensors[f"base_model.model.{module_path}.lora_B.weight"] = lora_pair.b
        return tensors


@dataclass(frozen=True)
class LoraSpan:
    """The packed tokens start..stop (exclusive) are answered by `adapter`."""

    adapter: LoraWeights
    start: int
    stop: int


class PerTokenLora:
    """The adapters of a decode step, as one index per token on the device: shapes do not depend on which adapters the
    tokens have, so that the step can be captured as a CUDA graph.

    All tokens are multiplied with the stacked A matrices of all adapters, masked to their own adapter, and multiplied
    with the stacked B matrices.
    """

    def __init__(self, adapters: Sequence[LoraWeights], adapter_indices: Tensor, dtype: torch.dtype) -> None:
        """adapter_indices: [T], of each token, len(adapters) for none; read at each `add`. dtype: of the products."""
        self._adapters, self._adapter_indices, self._dtype = adapters, adapter_indices, dtype
        self._stacked: dict[str, tuple[Tensor, Tensor, Tensor] | None] = {}

    def add(self, module_path: str, x: Tensor, y: Tensor) -> None:
        """y [T, out] += the update of the tokens' adapters for x [T, in] at the module `path`."""
        if module_path not in self._stacked:
            self._stacked[module_path] = self._stack(module_path)
        stacked_factors = self._stacked[module_path]
        if stacked_factors is not None:
            a, b, scalings = stacked_factors
            y.addmm_(F.linear(x, a) * scalings.index_select(0, self._adapter_indices), b)

    def _stack(self, module_path: str) -> tuple[Tensor, Tensor, Tensor] | None:
        """A [R, in], B [R, out], and each adapter's scaling in its own columns [adapters + 1, R]; None where no adapter
        has this module.
        """
        lora_pairs = [
            (index, adapter.pairs[module_path])
            for index, adapter in enumerate(self._adapters)
            if module_path in adapter.pairs
        ]
        if not lora_pairs:
            return None
        a, b = (
            torch.cat(factors).to(self._dtype) for factors in zip(*((p.a, p.b.t()) for _, p in lora_pairs), strict=True)
        )
        scalings = a.new_zeros(len(self._adapters) + 1, len(a))
        column = 0
        for adapter_index, lora_pair in lora_pairs:
            scalings[adapter_index, column : column + len(lora_pair.a)] = lora_pair.scaling
            column += len(lora_pair.a)
        return a, b, scalings


Lora = Sequence[LoraSpan] | PerTokenLora
"""Which tokens of a pass belong to which adapter."""


def spans_at(lora: Sequence[LoraSpan], rows: Tensor, token_count: int) -> list[LoraSpan]:
    """The spans among some of the packed tokens, rows [R], ascending; the result counts in 0..R."""
    if not lora:
        return []
    if (lora[0].start, lora[0].stop) == (0, token_count):  # without waiting for the device
        return [LoraSpan(lora[0].adapter, 0, len(rows))]
    span_edges = torch.tensor([[lora_span.start, lora_span.stop] for lora_span in lora], device=rows.device)
    ranges: list[tuple[int, int]] = torch.searchsorted(rows, span_edges).tolist()
    return [LoraSpan(lora_span.adapter, a, b) for lora_span, (a, b) in zip(lora, ranges, strict=True) if b > a]


def linear_with_lora(x: Tensor, linear: torch.nn.Module, module_path: str, lora: Lora) -> Tensor:
    """x [T, in] -> [T, out]: the base layer, plus each span's update on its own tokens.

    The update is computed in the adapter's precision, or the input's where that is wider, and added in the base's;
    under autocast in float32, for the update of a few steps of training is less than what 16 bits tell apart.
    """
    y: Tensor = linear(x)
    if isinstance(lora, PerTokenLora):
        lora.add(module_path, x, y)
        return y
    if torch.is_autocast_enabled(x.device.type):
        y = y.float()
    for span in lora:
        lora_pair = span.adapter.pairs.get(module_path)
        if lora_pair is None:
            continue
        covers_all = span.start == 0 and span.stop == x.shape[0]
        span_input, span_output = (x, y) if covers_all else (x[span.start : span.stop], y[span.start : span.stop])
        # Scaling the low-rank [N, r] rather than the result [N, out] saves a pass over the larger one.
        low_rank = _project_down(span_input, lora_pair, span.adapter) * lora_pair.scaling
        b = lora_pair.b if torch.is_autocast_enabled(x.device.type) else lora_pair.b.to(low_rank.dtype)
        if low_rank.dtype == b.dtype == span_output.dtype:
            span_output.addmm_(low_rank, b.t())
        else:
            span_output += F.linear(low_rank, b).to(span_output.dtype)
    return y


def _project_down(x: Tensor, lora_pair: LoraPair, adapter: LoraWeights) -> Tensor:
    # [N, in] -> [N, r]
    a = lora_pair.a
    if x.dtype != a.dtype and not torch.is_autocast_enabled(x.device.type):
        dtype = torch.promote_types(x.dtype, a.dtype)
        x, a = x.to(dtype), a.to(dtype)
    if adapter.training and adapter.dropout:
        x = F.dropout(x, adapter.dropout)
    return F.linear(x, a)
