"""Attention that never copies a shared prefix: the prefixes and the suffix of a sequence are attended to separately,
then merged exactly by log-sum-exp (cascade attention). In torch's operators, on every device.

Masks and gather indices are made once per forward pass; the layers only index and multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorica.engines.native.attention.block import attend_block
from lorica.engines.native.kv_cache import KVCache
from lorica.engines.native.packed_batch import PackedBatch, PackedSequence, Prefix, prefix_chain

_MIN_BUCKET_LENGTH = 16


@dataclass(frozen=True)
class _WindowMask:
    """What a sliding window hides of a prefix. mask: additive [Tr, L]. blind: [1, 1, Tr], queries that see nothing."""

    mask: Tensor | None
    blind: Tensor | None


class PrefixAttention:
    """Attention of the queries start..stop of a forward pass to one prefix."""

    def __init__(
        self, prefix: Prefix, start: int, stop: int, positions: Tensor, windows: set[int], dtype: torch.dtype
    ) -> None:
        self._prefix, self._queries = prefix, slice(start, stop)
        self._window_masks: dict[int | None, _WindowMask | None] = {None: _WindowMask(None, None)}
        for window in windows:
            self._window_masks[window] = self._window_mask(window, positions[start:stop], dtype)

    def merge(self, layer: int, window: int | None, query: Tensor, output: Tensor, logsumexp: Tensor) -> None:
        """Add the prefix to the attention so far, in place: query, output [T, H, Dh]; logsumexp [T, H]."""
        window_mask = self._window_masks[window]
        if window_mask is None:
            return
        prefix_output, prefix_logsumexp = attend_block(
            query[self._queries].transpose(0, 1).unsqueeze(0),
            self._prefix.keys[layer].unsqueeze(0),
            self._prefix.values[layer].unsqueeze(0),
            window_mask.mask,
        )
        if window_mask.blind is not None:
            prefix_logsumexp = prefix_logsumexp.masked_fill(window_mask.blind, -torch.inf)
            prefix_output = prefix_output.masked_fill(window_mask.blind.unsqueeze(-1), 0.0)
        prefix_output, prefix_logsumexp = prefix_output[0].transpose(0, 1), prefix_logsumexp[0].transpose(0, 1)
        previous = logsumexp[self._queries]
        weight = torch.sigmoid(prefix_logsumexp - previous).unsqueeze(-1).to(prefix_output.dtype)
        output[self._queries] = torch.lerp(output[self._queries], prefix_output, weight)
        logsumexp[self._queries] = torch.logaddexp(previous, prefix_logsumexp)

    def _window_mask(self, window: int, positions: Tensor, dtype: torch.dtype) -> _WindowMask | None:
        """None where the window hides the whole prefix from all queries."""
        key_positions = torch.arange(self._prefix.start, self._prefix.stop, device=positions.device)
        visible = positions[:, None] - key_positions[None, :] < window
        if bool(visible.all()):
            return _WindowMask(None, None)
        sees_any = visible.any(dim=1)
        if not bool(sees_any.any()):
            return None
        return _WindowMask(additive_mask(visible, dtype), None if bool(sees_any.all()) else ~sees_any[None, None, :])


def prefix_attentions(
    prefixes: Sequence[Prefix | None],
    lengths: Sequence[int],
    positions: Tensor,
    windows: set[int],
    dtype: torch.dtype,
) -> list[PrefixAttention]:
    """For packed sequences with these prefixes and lengths: one for each run of neighbours that share a prefix."""
    runs: list[tuple[Prefix, int, int]] = []
    last_run: dict[int, int] = {}
    start = 0
    for prefix, length in zip(prefixes, lengths, strict=True):
        stop = start + length
        for link in prefix_chain(prefix):
            run = last_run.get(id(link))
            if run is not None and runs[run][2] == start:
                runs[run] = (link, runs[run][1], stop)
            else:
                last_run[id(link)] = len(runs)
                runs.append((link, start, stop))
        start = stop
    return [PrefixAttention(link, run_start, run_stop, positions, windows, dtype) for link, run_start, run_stop in runs]


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Booleans -> 0 where true, -inf where false."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, -torch.inf)


class _Bucket:
    """Suffixes of similar length, padded to the longest for one attention call per layer.

    Padding follows the real tokens, so causality alone hides it from them.
    """

    def __init__(
        self,
        sequences: Sequence[PackedSequence],
        offsets: Sequence[int],
        windows: set[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        lengths = torch.tensor([seq.length for seq in sequences], device=device)
        self._length = int(lengths.max())
        column = torch.arange(self._length, device=device)
        is_real = column < lengths[:, None]
        self._gather = torch.where(is_real, torch.tensor(offsets, device=device)[:, None] + column, 0)
        self.real_cells = is_real.reshape(-1).nonzero().squeeze(1)
        self.tokens = self._gather.reshape(-1)[self.real_cells]
        self.cells = len(sequences) * self._length
        self._masks: dict[int | None, Tensor | None] = dict.fromkeys([None, *windows])
        has_trees = any(seq.tree.tokens for seq in sequences)
        for window in self._masks:
            if has_trees or (window is not None and window < self._length):
                self._masks[window] = additive_mask(self._visible(sequences, window, column), dtype)

    def attend(self, window: int | None, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Packed query, key, value -> padded output [B * L, H, Dh] and log-sum-exp [B * L, H]."""
        mask = self._masks[window]
        output, logsumexp = attend_block(
            query[self._gather].transpose(1, 2),
            key[self._gather].transpose(1, 2),
            value[self._gather].transpose(1, 2),
            mask,
            causal=mask is None,
        )
        return output.transpose(1, 2).flatten(0, 1), logsumexp.transpose(1, 2).flatten(0, 1)

    def _visible(self, sequences: Sequence[PackedSequence], window: int | None, column: Tensor) -> Tensor:
        # [B, 1, L, L]; a padding query sees itself, so that no query sees nothing
        def padded(values: list[list[int]], padding: int) -> Tensor:
            rows = [(row + [padding] * self._length)[: self._length] for row in values]
            return torch.tensor(rows, device=column.device)

        subtree_ends = padded([seq.subtree_ends() for seq in sequences], self._length)
        visible = (column[:, None] >= column[None, :]) & (column[:, None] < subtree_ends[:, None, :])
        if window is not None:
            positions = padded([seq.positions() for seq in sequences], 0)
            in_window = positions[:, :, None] - positions[:, None, :] < window
            visible = visible & (in_window | (column[:, None] == column[None, :]))
        return visible.unsqueeze(1)


class PrefixMergeAttention:
    """Attention of a forward pass over new sequences, for `Decoder.hidden`."""

    def __init__(self, batch: PackedBatch, *, windows: Sequence[int | None], dtype: torch.dtype) -> None:
        self._windows = windows
        distinct_windows = {window for window in windows if window is not None}
        device = batch.tokens.device
        bucket_members: dict[tuple[bool, int], list[int]] = {}
        for index, seq in enumerate(batch.sequences):
            bucket_length = max(_MIN_BUCKET_LENGTH, 1 << (seq.length - 1).bit_length())
            bucket_members.setdefault((bool(seq.tree.tokens), bucket_length), []).append(index)
        self._buckets = [
            _Bucket(
                [batch.sequences[index] for index in indices],
                [batch.offsets[index] for index in indices],
                distinct_windows,
                dtype,
                device,
            )
            for indices in bucket_members.values()
        ]
        self._prefix_attentions = prefix_attentions(
            [seq.prefix for seq in batch.sequences],
            [seq.length for seq in batch.sequences],
            batch.positions,
            distinct_windows,
            dtype,
        )
        # token -> its row in the outputs of all buckets end to end
        self._output_row = torch.empty_like(batch.tokens)
        start = 0
        for bucket in self._buckets:
            self._output_row[bucket.tokens] = bucket.real_cells + start
            start += bucket.cells

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        window = self._windows[layer]
        outputs, logsumexps = zip(*(bucket.attend(window, query, key, value) for bucket in self._buckets), strict=True)
        output = torch.cat(outputs)[self._output_row]
        if self._prefix_attentions:
            logsumexp = torch.cat(logsumexps)[self._output_row]
            for prefix_attention in self._prefix_attentions:
                prefix_attention.merge(layer, window, query, output, logsumexp)
        return output


class PrefixMergeDecodeAttention:
    """Attention of a decode step: the new token of each row sees the row's prefixes, its cache slot, and itself.

    slots[i], lengths[i]: the cache slot of row i, and the tokens in it. The cache has room for one more.
    """

    def __init__(
        self,
        cache: KVCache,
        slots: Sequence[int],
        lengths: Sequence[int],
        prefixes: Sequence[Prefix | None],
        *,
        windows: Sequence[int | None],
    ) -> None:
        dtype, device = cache.keys[0].dtype, cache.keys[0].device
        self._cache, self._windows = cache, windows
        self._rows, self._max_length = len(slots), max(lengths) + 1
        self._slots = torch.tensor(slots, device=device)
        self._lengths = torch.tensor(lengths, device=device)
        self._by_slot = torch.argsort(self._slots)
        self._by_row = torch.argsort(self._by_slot)
        # Slots without gaps are read in place.
        self._used_slots = slice(self._rows) if max(slots) < self._rows else self._slots[self._by_slot]
        newest = self._lengths[self._by_slot][:, None]
        column = torch.arange(self._max_length, device=device)[None, :]
        self._masks: dict[int | None, Tensor] = {}
        for window in set(windows):
            visible = column <= newest
            if window is not None:
                visible = visible & (newest - column < window)
            self._masks[window] = additive_mask(visible, dtype)[:, None, None, :]
        distinct_windows = {window for window in windows if window is not None}
        positions = self._lengths
        if distinct_windows:
            starts = [0 if prefix is None else prefix.stop for prefix in prefixes]
            positions = positions + torch.tensor(starts, device=device)
        self._prefix_attentions = prefix_attentions(prefixes, [1] * self._rows, positions, distinct_windows, dtype)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, H, Dh], key and value [T, Hkv, Dh], rotated -> [T, H, Dh]."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._slots, self._lengths] = key
        values[self._slots, self._lengths] = value
        window = self._windows[layer]
        # The query heads of one key head stand in for queries: [n, H, Dh] -> [n, Hkv, H / Hkv, Dh].
        grouped_query = query[self._by_slot].view(self._rows, key.shape[1], -1, query.shape[2])
        output, logsumexp = attend_block(
            grouped_query,
            keys[self._used_slots, : self._max_length].transpose(1, 2),
            values[self._used_slots, : self._max_length].transpose(1, 2),
            self._masks[window],
        )
        output = output.reshape(query.shape)[self._by_row]
        if self._prefix_attentions:
            logsumexp = logsumexp.reshape(query.shape[:2])[self._by_row]
            for prefix_attention in self._prefix_attentions:
                prefix_attention.merge(layer, window, query, output, logsumexp)
        return output
