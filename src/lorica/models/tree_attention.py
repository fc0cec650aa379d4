"""Causal attention over a prefix tree of packed tokens, forward and backward: what sequences share is computed once.

The tokens lie in depth-first order, so that every token behind a span, up to the end of the span's subtree, continues
it. One call of flash attention (https://arxiv.org/abs/2205.14135) then serves a span: all queries of its subtree meet
its keys, and since the causal mask counts from the upper left, it hides the span's own later tokens from its earlier
ones and nothing from its descendants. A token's results for the spans it continues are merged by log-sum-exp; the
backward pass of each call takes the merged output and log-sum-exp, which makes its gradients those of the whole.

The compiled kernel does this in one call for all spans: a pass over rows of a hundred tokens spends most of its time
between torch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from lorica.models.compiled import training_bindings
from lorica.models.compiled.bindings import is_available
from lorica.models.compiled.training_bindings import AttentionUnits

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
# Added to the score of a pair outside the window. Not infinite: a query that meets no key of a span has a finite
# log-sum-exp of this size there, and no weight in the merge.
_OUTSIDE = -1e30
_UNIT_QUERIES = 128  # of a span, that the kernel takes at once: more wait for each other, fewer gather keys again


@dataclass(frozen=True)
class TreeSpan:
    """The packed tokens start..stop (exclusive) follow each other, and those up to subtree_stop continue them, each in
    its branch. root: nothing is before them.
    """

    start: int
    stop: int
    subtree_stop: int
    root: bool


class TreeAttention:
    """An `Attention` on a CPU: a token meets the spans that it continues, and its own up to itself.

    Computed in float32 or wider, under autocast too: torch's bfloat16 kernel takes 3 times as long for short rows.
    """

    def __init__(self, spans: Sequence[TreeSpan], positions: Tensor, windows: Sequence[int | None]) -> None:
        """spans: in the order of the packed tokens, covering them. positions: [T]. windows: of each layer."""
        self._spans = tuple(spans)
        self._windows = windows
        self._positions = positions
        self._masks: dict[int, dict[int, Tensor]] = {}
        self._units: AttentionUnits | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        window = self._windows[layer]
        dtype = torch.promote_types(query.dtype, torch.float32)
        compiled = dtype == torch.float32 and training_bindings.takes_heads(query.shape[2]) and is_available()
        with torch.autocast("cpu", enabled=False):
            inputs = (query.to(dtype), key.to(dtype), value.to(dtype))
            if compiled:
                self._units = self._units or _units(self._spans)
                output = _CompiledTreeAttention.apply(*inputs, self._units, window or 0)  # type: ignore[no-untyped-call]
            else:
                output = _TreeAttention.apply(*inputs, self._spans, self._window_masks(window))  # type: ignore[no-untyped-call]
        return cast(Tensor, output)

    def _window_masks(self, window: int | None) -> dict[int, Tensor]:
        """Index of each span whose subtree is longer than the window -> [1, 1, queries, keys] to add to the scores."""
        if window is None:
            return {}
        if window not in self._masks:
            self._masks[window] = self._make_masks(window)
        return self._masks[window]

    def _make_masks(self, window: int) -> dict[int, Tensor]:
        masks = {}
        for index, span in enumerate(self._spans):
            query_positions = self._positions[span.start : span.subtree_stop]
            distances = query_positions[:, None] - self._positions[span.start : span.stop]
            if len(distances) and int(query_positions.max() - query_positions[0]) >= window:
                outside = (distances < 0) | (distances >= window)
                masks[index] = torch.zeros(outside.shape).masked_fill_(outside, _OUTSIDE)[None, None]
        return masks


def _units(spans: Sequence[TreeSpan]) -> AttentionUnits:
    """The spans' queries in units for the kernel, each with the segments of packed tokens that they continue."""
    units: list[tuple[int, ...]] = []
    segments: list[tuple[int, int]] = []
    path: list[TreeSpan] = []
    key_count = longest = 0
    for span in spans:
        while path and span.start >= path[-1].subtree_stop:
            path.pop()
        before = sum(ancestor.stop - ancestor.start for ancestor in path)
        for first in range(span.start, span.stop, _UNIT_QUERIES):
            stop = min(first + _UNIT_QUERIES, span.stop)
            units.append((first, stop, before + first - span.start, len(segments), len(path) + 1, key_count))
            segments += [*((ancestor.start, ancestor.stop) for ancestor in path), (span.start, stop)]
            longest = max(longest, before + stop - span.start)
            key_count += before + stop - span.start
        path.append(span)
    return AttentionUnits(torch.tensor(units), torch.tensor(segments), key_count, longest)


class _CompiledTreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, units: AttentionUnits, window: int) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        output, log_sums = training_bindings.tree_attention(query, key, value, units, window)
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.units, ctx.window = units, window
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients = training_bindings.tree_attention_backward(
            ctx.saved_tensors, gradient.contiguous(), ctx.units, ctx.window
        )
        return *gradients, None, None


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, spans: Sequence[TreeSpan], masks: Mapping[int, Tensor]
    ) -> Tensor:
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        log_sums = query.new_empty(query.shape[1], len(query))
        for index, span in enumerate(spans):
            queries, keys = slice(span.start, span.subtree_stop), slice(span.start, span.stop)
            span_output, span_sums = _FLASH(
                *_heads_first(query[queries], key[keys], value[keys]),
                0.0,
                index not in masks,
                attn_mask=masks.get(index),
            )
            span_output, span_sums = span_output[0].transpose(0, 1), span_sums[0]
            if span.root:
                output[queries], log_sums[:, queries] = span_output, span_sums
            else:
                share = torch.sigmoid(span_sums - log_sums[:, queries])
                output[queries].lerp_(span_output, share.t()[..., None])
                log_sums[:, queries] = torch.logaddexp(log_sums[:, queries], span_sums)
        if not math.isfinite(query.sum() + key.sum()):  # torch's kernel makes zeros of some NaN scores
            output.fill_(math.nan)
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.spans, ctx.masks = spans, masks
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sums = ctx.saved_tensors
        query_gradient, key_gradient, value_gradient = (torch.empty_like(inputs) for inputs in (query, key, value))
        for index, span in enumerate(ctx.spans):
            queries, keys = slice(span.start, span.subtree_stop), slice(span.start, span.stop)
            gradients = _FLASH_BACKWARD(
                *_heads_first(gradient[queries], query[queries], key[keys], value[keys], output[queries]),
                log_sums[None, :, queries],
                0.0,
                index not in ctx.masks,
                attn_mask=ctx.masks.get(index),
            )
            of_query, of_key, of_value = (span_gradient[0].transpose(0, 1) for span_gradient in gradients)
            if span.root:
                query_gradient[queries] = of_query
            else:
                query_gradient[queries] += of_query
            key_gradient[keys], value_gradient[keys] = of_key, of_value
        return query_gradient, key_gradient, value_gradient, None, None


def _heads_first(*tensors: Tensor) -> list[Tensor]:
    # [N, H, Dh] -> [1, H, N, Dh]
    return [tensor.transpose(0, 1)[None] for tensor in tensors]
