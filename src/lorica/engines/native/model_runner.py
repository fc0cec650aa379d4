"""The model runner: forward passes that prefill shared prefixes, and that score the choices of rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lorica.engines.native.attention.select import AttentionBackend
from lorica.engines.native.attention.store_kv import StoringAttention
from lorica.engines.native.choice_logprobs import align_scored_rows, choice_logprobs, find_scored_tokens
from lorica.engines.native.packed_batch import PackedBatch, PackedSequence, Prefix, pack_sequences
from lorica.models.cpu.cpu_decoder import AnyDecoder, CpuDecoder
from lorica.models.packed_attention import Attention
from lorica.records import ScoreChoices


class ModelRunner:
    """Runs a decoder with an attention backend; results are batch-invariant if the backend's scores are."""

    def __init__(self, decoder: AnyDecoder, backend: AttentionBackend) -> None:
        self._decoder, self._backend = decoder, backend
        self._batch_invariant = ScoreChoices in backend.batch_invariant

    def prefill(self, sequences: Sequence[PackedSequence]) -> list[Prefix]:
        """Compute the keys and values of shared prefixes."""
        batch = self._pack(sequences)
        prefixes = [Prefix(seq.prefix, seq.start, seq.length, [], []) for seq in sequences]

        def store(layer: int, key: Tensor, value: Tensor) -> None:
            for prefix, start in zip(prefixes, batch.offsets, strict=True):
                tokens = slice(start, start + prefix.length)
                prefix.keys.append(key[tokens].clone().transpose(0, 1))
                prefix.values.append(value[tokens].clone().transpose(0, 1))

        self._hidden(batch, StoringAttention(self._backend.score(batch), store), batch.tokens[:0])
        return prefixes

    def score(self, sequences: Sequence[PackedSequence], requests: Sequence[ScoreChoices]) -> list[list[float]]:
        """The log-probability of every choice; sequences[i] is the suffix of requests[i], with its token tree."""
        batch = self._pack(sequences)
        tree_starts = [start + len(seq.tokens) for start, seq in zip(batch.offsets, sequences, strict=True)]
        scored = find_scored_tokens(requests, tree_starts, self._decoder.device)
        alignment = self._backend.row_alignment
        if self._batch_invariant:
            scored = align_scored_rows(scored, batch.spans, alignment)
        hidden = self._hidden(batch, self._backend.score(batch), scored.rows)
        return choice_logprobs(self._decoder, hidden, requests, scored, alignment)

    def _pack(self, sequences: Sequence[PackedSequence]) -> PackedBatch:
        align = self._backend.row_alignment if self._batch_invariant else 1
        return pack_sequences(sequences, self._decoder.device, align=align)

    def _hidden(self, batch: PackedBatch, attention: Attention, output_rows: Tensor) -> Tensor:
        if isinstance(self._decoder, CpuDecoder):
            # Separate products for each adapter are batch-invariant, and these passes run in parallel.
            return self._decoder.hidden(
                batch.tokens,
                batch.positions,
                attention,
                batch.spans,
                output_rows=output_rows,
                group_adapters=not self._batch_invariant,
            )
        return self._decoder.hidden(batch.tokens, batch.positions, attention, batch.spans, output_rows=output_rows)
