"""Batched LoRA (as SGMV, https://arxiv.org/abs/2310.18547): the adapters of one pass in few matrix products.

Neighbouring short spans of different adapters form a group. All tokens of a group are multiplied with the stacked A
matrices of all its adapters, a mask keeps each token's own adapter, and the result is multiplied with the stacked B
matrices: a few larger products instead of many tiny ones. Modules of one input (query, key, value) share the product
with A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.models.compiled import bindings
from lorica.models.lora import LoraPair, LoraSpan

# A group grows while its tokens times the ranks of its adapters stay within this: beyond, what is computed only to be
# masked costs more than the calls that are saved.
_GROUP_ELEMENTS = 4096
_CACHED_TOKENS = 256  # passes up to this size are decode steps, which repeat with the same adapters


@dataclass(frozen=True, eq=False)
class AdapterGroup:
    """Neighbouring spans of a pass whose adapters share products."""

    spans: tuple[LoraSpan, ...]

    @property
    def start(self) -> int:
        """Its first token."""
        return self.spans[0].start

    @property
    def stop(self) -> int:
        """The token after its last."""
        return self.spans[-1].stop

    @property
    def key(self) -> tuple[int, ...]:
        """The same for groups of the same adapters, as long as these exist."""
        return tuple(id(lora_span.adapter) for lora_span in self.spans)


@dataclass(frozen=True, eq=False)
class StackedFactors:
    """a [R, in]: the A matrices of all modules and adapters, stacked. outputs: of each module its index, its columns
    among the R, and its stacked B [out, columns]. blocks: of each adapter in each module its rank, the index of its
    span in the group, and its scaling.
    """

    a: Tensor
    outputs: tuple[tuple[int, slice, Tensor], ...]
    blocks: tuple[tuple[int, int, float], ...]


class StackedFactorCache:
    """The stacked factors of the adapters that are decoding: decode steps come with the same adapters."""

    def __init__(self) -> None:
        self._stacks: dict[
            tuple[int, ...], tuple[tuple[LoraSpan, ...], dict[tuple[str, ...], StackedFactors | None]]
        ] = {}

    def get_or_stack(
        self, adapter_group: AdapterGroup, paths: tuple[str, ...], dtype: torch.dtype | None
    ) -> StackedFactors | None:
        """Stacked once for the adapters of a group, and held until `retain` drops them."""
        # The spans are held beside their factors, so that no other adapter gets the same id.
        _, factors_by_paths = self._stacks.setdefault(adapter_group.key, (adapter_group.spans, {}))
        if paths not in factors_by_paths:
            factors_by_paths[paths] = _stack_factors(adapter_group, paths, dtype)
        return factors_by_paths[paths]

    def retain(self, adapter_groups: Sequence[AdapterGroup]) -> None:
        """Forget the adapters of all other groups."""
        keys = {adapter_group.key for adapter_group in adapter_groups}
        for key in [key for key in self._stacks if key not in keys]:
            del self._stacks[key]


class BatchedLora:
    """What the adapters of one pass add to the outputs of the base's linear layers."""

    def __init__(
        self,
        spans: Sequence[LoraSpan],
        tokens: int,
        cache: StackedFactorCache | None = None,
        *,
        group_adapters: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        """spans: disjoint, in order. tokens: of the pass. cache: where decode steps find stacked factors.
        group_adapters: False makes every span its own group, which is batch-invariant. dtype: in which factors are
        multiplied; None for that in which they are stored.
        """
        self._dtype = dtype
        self._groups = _group_spans(spans) if group_adapters else [AdapterGroup((lora_span,)) for lora_span in spans]
        self._cache = cache if tokens <= _CACHED_TOKENS else None
        self._masks: dict[tuple[int, tuple[tuple[int, int, float], ...]], Tensor] = {}
        if cache is not None:
            cache.retain(self._groups if self._cache is not None else ())

    def add(self, paths: tuple[str, ...], widths: Sequence[int], x: Tensor, y: Tensor, first_token: int = 0) -> None:
        """Add to y, in place, what the adapters of x's tokens give for it.

        x [N, in]: the tokens first_token.. of the pass. y [N, sum of widths]: the outputs of the modules `paths` side
        by side, `widths` columns each.
        """
        for group_index, adapter_group in enumerate(self._groups):
            start, stop = max(adapter_group.start, first_token), min(adapter_group.stop, first_token + len(x))
            if start >= stop:
                continue
            factors = (
                _stack_factors(adapter_group, paths, self._dtype)
                if self._cache is None
                else self._cache.get_or_stack(adapter_group, paths, self._dtype)
            )
            if factors is None:
                continue
            rows = slice(start - first_token, stop - first_token)
            low_rank = F.linear(x[rows].to(factors.a.dtype), factors.a)
            low_rank *= self._mask(group_index, factors)[start - adapter_group.start : stop - adapter_group.start]
            for index, column_slice, stacked_b in factors.outputs:
                first_column = sum(widths[:index])
                _add_product(y[rows, first_column : first_column + widths[index]], low_rank[:, column_slice], stacked_b)

    def _mask(self, group_index: int, factors: StackedFactors) -> Tensor:
        """[tokens of the group, R]: the scaling of each token's own adapter, 0 in the columns of others."""
        key = (group_index, factors.blocks)
        if key not in self._masks:
            group, a = self._groups[group_index], factors.a
            mask = a.new_zeros(group.stop - group.start, len(a))
            column = 0
            for rank, span_index, scaling in factors.blocks:
                lora_span = group.spans[span_index]
                mask[lora_span.start - group.start : lora_span.stop - group.start, column : column + rank] = scaling
                column += rank
            self._masks[key] = mask
        return self._masks[key]


def _add_product(y: Tensor, low_rank: Tensor, stacked_b: Tensor) -> None:
    # y [N, out] += low_rank [N, r] b^T
    if y.dtype == stacked_b.dtype:
        y.addmm_(low_rank, stacked_b.t())
    else:
        y += F.linear(low_rank, stacked_b)


def _group_spans(spans: Sequence[LoraSpan]) -> list[AdapterGroup]:
    adapter_groups: list[AdapterGroup] = []
    group_spans: list[LoraSpan] = []
    group_rank = 0
    for lora_span in spans:
        rank = max((len(lora_pair.a) for lora_pair in lora_span.adapter.pairs.values()), default=0)
        if group_spans and (lora_span.stop - group_spans[0].start) * (group_rank + rank) > _GROUP_ELEMENTS:
            adapter_groups.append(AdapterGroup(tuple(group_spans)))
            group_spans, group_rank = [], 0
        group_spans.append(lora_span)
        group_rank += rank
    return [*adapter_groups, AdapterGroup(tuple(group_spans))] if group_spans else adapter_groups


def _stack_factors(group: AdapterGroup, paths: tuple[str, ...], dtype: torch.dtype | None) -> StackedFactors | None:
    """None when no adapter of the group changes any of these modules."""
    a_matrices: list[Tensor] = []
    blocks: list[tuple[int, int, float]] = []
    outputs: list[tuple[int, slice, Tensor]] = []
    column = 0
    for module_index, module_path in enumerate(paths):
        lora_pairs = [
            (index, span.adapter.pairs[module_path])
            for index, span in enumerate(group.spans)
            if module_path in span.adapter.pairs
        ]
        if not lora_pairs:
            continue
        first_column = column
        for span_index, lora_pair in lora_pairs:
            a_matrices.append(lora_pair.a.to(dtype))
            blocks.append((len(lora_pair.a), span_index, lora_pair.scaling))
            column += len(lora_pair.a)
        b_matrices = [lora_pair.b.to(dtype) for _, lora_pair in lora_pairs]
        stacked_b = b_matrices[0] if len(b_matrices) == 1 else torch.cat(b_matrices, dim=1)
        outputs.append((module_index, slice(first_column, column), stacked_b))
    if not a_matrices:
        return None
    return StackedFactors(
        a_matrices[0] if len(a_matrices) == 1 else torch.cat(a_matrices), tuple(outputs), tuple(blocks)
    )


class CompiledLora:
    """`BatchedLora` by the compiled kernel, which is batch-invariant: on a CPU."""

    def __init__(self, spans: Sequence[LoraSpan], dtype: torch.dtype) -> None:
        """spans: disjoint. dtype: to which inputs are converted; factors, too, unless it is float32, which multiplies
        any.
        """
        self._dtype = dtype
        self._adapters = [lora_span.adapter for lora_span in spans]
        self._spans = np.array([(lora_span.start, lora_span.stop) for lora_span in spans], np.int64)
        self._tables: dict[tuple[str, ...], bindings.Integers | None] = {}
        self._converted: list[Tensor] = []  # what the tables point to, where an adapter has another dtype

    def add(self, paths: tuple[str, ...], widths: Sequence[int], x: Tensor, y: Tensor, first_token: int = 0) -> None:
        """See `BatchedLora.add`; y is contiguous."""
        lora_pairs = self._pointer_table(paths)
        if lora_pairs is not None:
            layout = bindings.lora_layout(widths, x.shape[1])
            bindings.add_lora(x.to(self._dtype), y, first_token, self._spans, lora_pairs, layout)

    def adapts(self, paths: tuple[str, ...]) -> bool:
        """Whether any adapter changes any of these modules."""
        return self._pointer_table(paths) is not None

    def _pointer_table(self, paths: tuple[str, ...]) -> bindings.Integers | None:
        if paths not in self._tables:
            pairs_or_none = [adapter.pairs.get(path) for adapter in self._adapters for path in paths]
            factors = [None if lora_pair is None else self._converted_factors(lora_pair) for lora_pair in pairs_or_none]
            self._tables[paths] = bindings.lora_pointers(factors) if any(pairs_or_none) else None
        return self._tables[paths]

    def _converted_factors(self, pair: LoraPair) -> tuple[Tensor, Tensor, float]:
        any_dtype = self._dtype == torch.float32 and pair.a.dtype == pair.b.dtype
        dtype = pair.a.dtype if any_dtype else self._dtype
        a, b = (tensor.to(dtype).contiguous() for tensor in (pair.a, pair.b))
        self._converted += [tensor for tensor, original in ((a, pair.a), (b, pair.b)) if tensor is not original]
        return a, b, pair.scaling


AnyBatchedLora = BatchedLora | CompiledLora
