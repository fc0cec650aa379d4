"""Chooses the attention backend of a loaded model, once, when its engine is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lorica.engines.native.attention.batch_invariant import BatchInvariantAttention
from lorica.engines.native.attention.block import prefers_bmm, uses_flash
from lorica.engines.native.attention.compiled import CompiledAttention, CompiledDecodeAttention
from lorica.engines.native.attention.prefix_merge import PrefixMergeAttention, PrefixMergeDecodeAttention
from lorica.engines.native.attention.varlen import VarlenAttention, fits_varlen
from lorica.engines.native.kv_cache import KVCache
from lorica.engines.native.packed_batch import ROW_ALIGNMENT, PackedBatch, Prefix
from lorica.models.cpu.cpu_decoder import AnyDecoder, CpuDecoder
from lorica.models.cpu.kernels import rounds_by_batch
from lorica.models.packed_attention import Attention
from lorica.records import Generate, Request, ScoreChoices

PrefillAttention = Callable[[PackedBatch], Attention]
"""Makes the attention of a forward pass over new sequences."""

DecodeAttention = Callable[[KVCache, Sequence[int], Sequence[int], Sequence[Prefix | None]], Attention]
"""Makes the attention of a decode step from cache, slots, lengths, prefixes: see `PrefixMergeDecodeAttention`."""


@dataclass(frozen=True)
class AttentionBackend:
    """How a loaded model attends.

    name: the kernel, as `EngineInfo` states it. score: for prefixes, and rows whose choices are scored. generate: for
    rows that are decoded next. decode: for decode steps, which are captured where cuda_graphs. batch_invariant: the
    kinds of requests whose outputs have the same bits in every batch. row_alignment: for that, rows of every matrix
    product are padded to a multiple of this.
    """

    name: Literal["compiled", "varlen", "bmm", "flash", "plain"]
    score: PrefillAttention
    generate: PrefillAttention
    decode: DecodeAttention
    batch_invariant: tuple[type[Request], ...] = ()
    cuda_graphs: bool = False
    row_alignment: int = ROW_ALIGNMENT


def select_backend(decoder: AnyDecoder, *, deterministic: bool) -> AttentionBackend:
    """The fastest backend that fits the decoder. deterministic: on a CPU, one that is batch-invariant."""
    config, dtype, device = decoder.config, decoder.dtype, decoder.device
    deterministic = deterministic and device.type == "cpu"
    if isinstance(decoder, CpuDecoder) and decoder.compiled:
        compiled = partial(CompiledAttention, windows=config.windows)
        compiled_decode = partial(CompiledDecodeAttention, windows=config.windows)
        rows_round_alike = decoder.rounds_by_row or decoder.precision != "bfloat16" or not rounds_by_batch(dtype)
        batch_invariant = (ScoreChoices, Generate) if deterministic and rows_round_alike else ()
        alignment = 1 if decoder.rounds_by_row else ROW_ALIGNMENT
        return AttentionBackend(
            "compiled", compiled, compiled, compiled_decode, batch_invariant, row_alignment=alignment
        )
    prefix_merge = partial(PrefixMergeAttention, windows=config.windows, dtype=dtype)
    decode = partial(PrefixMergeDecodeAttention, windows=config.windows)
    if fits_varlen(config, dtype, device):

        def varlen(batch: PackedBatch) -> Attention:
            has_trees = any(seq.tree.tokens for seq in batch.sequences)
            return prefix_merge(batch) if has_trees else VarlenAttention(batch)

        return AttentionBackend("varlen", varlen, varlen, decode, cuda_graphs=True)
    kernel: Literal["flash", "plain"] = "flash" if uses_flash(device) else "plain"
    if not deterministic or rounds_by_batch(dtype):
        return AttentionBackend(kernel, prefix_merge, prefix_merge, decode)
    bmm = prefers_bmm(dtype, device)
    heads = (config.heads, config.kv_heads)
    tiled = partial(BatchInvariantAttention, windows=config.windows, heads=heads, dtype=dtype, bmm=bmm)
    # Decode steps round by the sequences that are decoded together, so texts are not batch-invariant.
    return AttentionBackend("bmm" if bmm else kernel, tiled, prefix_merge, decode, batch_invariant=(ScoreChoices,))
