"""One layer for inference on a CPU: packed weights, few calls, and rows in blocks that stay in the processor's cache.

Query, key and value are one product; adapters are added by `Updates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from lorica.models.batched_lora import AnyBatchedLora
from lorica.models.compiled import bindings
from lorica.models.cpu.linear import compute_dtype, make_linear, residual_dtype
from lorica.models.cpu.ops import FusedRmsNorm, QkvHeads, RotaryEmbedding, silu_and_mul
from lorica.models.decoder import Layer
from lorica.models.families import DecoderConfig
from lorica.models.packed_attention import Attention

ALL_MODULES = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_BLOCK_ROWS = 256
_BLOCK_STEP = 32  # rows by which kernels go on; products of fewer round otherwise


class LayerWeights:
    """What a layer is made of: products, norms, and the names by which adapters know its modules."""

    def __init__(self, layer: Layer, config: DecoderConfig, layer_index: int, precision: str) -> None:
        attention, path = layer.self_attn, f"model.layers.{layer_index}"
        self.layer_index, self.compiled = layer_index, uses_compiled_kernels(config, precision)
        norm = partial(FusedRmsNorm, dtype=residual_dtype(precision), compiled=self.compiled)
        self.input_norm, self.post_norm = norm(layer.input_layernorm), norm(layer.post_attention_layernorm)
        of_heads = (
            None if norm_or_none is None else norm(norm_or_none)
            for norm_or_none in (attention.q_norm, attention.k_norm)
        )
        self.heads = QkvHeads(config, *of_heads, compiled=self.compiled)
        self.replace_weights(layer, precision)
        self.qkv_paths = tuple(f"{path}.self_attn.{name}_proj" for name in "qkv")
        self.output_path = (f"{path}.self_attn.o_proj",)
        self.gate_path, self.up_path = (f"{path}.mlp.gate_proj",), (f"{path}.mlp.up_proj",)
        self.down_path = (f"{path}.mlp.down_proj",)
        self.hidden_size, self.intermediate_size = config.hidden_size, config.intermediate_size
        self._shapes, self._qkv_dtype = (config.heads, config.kv_heads, config.head_dim), compute_dtype(precision)

    def replace_weights(self, layer: Layer, precision: str, modules: Set[str] = ALL_MODULES) -> None:
        """Make the products anew from `layer`: those that any of these modules (their last names) takes part in."""
        attention, mlp = layer.self_attn, layer.mlp
        if modules & {"q_proj", "k_proj", "v_proj"}:
            self.qkv = make_linear((attention.q_proj, attention.k_proj, attention.v_proj), precision)
        if "o_proj" in modules:
            self.output = make_linear((attention.o_proj,), precision)
        if modules & {"gate_proj", "up_proj"}:
            self.gate, self.up = make_linear((mlp.gate_proj,), precision), make_linear((mlp.up_proj,), precision)
        if "down_proj" in modules:
            self.down = make_linear((mlp.down_proj,), precision)

    def empty_qkv(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Room for queries, keys and values."""
        heads, kv_heads, width = self._shapes
        query, key, value = (torch.empty(tokens, n, width, dtype=self._qkv_dtype) for n in (heads, kv_heads, kv_heads))
        return query, key, value


class AnyLayer(Protocol):
    """One layer; its states are changed in place."""

    def attention_block(self, x: Tensor, rotary: RotaryEmbedding, attention: Attention, lora: AnyBatchedLora) -> Tensor:
        """x [T, hidden] -> what attention gives [T, H * Dh]."""
        ...

    def output_and_mlp(self, x: Tensor, attended: Tensor, lora: AnyBatchedLora) -> None:
        """x [T, hidden] += output projection of `mixed` [T, H * Dh], then += feed-forward; in place."""
        ...


class CpuLayer:
    """A layer of any precision."""

    def __init__(self, weights: LayerWeights) -> None:
        self._weights = weights

    def attention_block(self, x: Tensor, rotary: RotaryEmbedding, attention: Attention, lora: AnyBatchedLora) -> Tensor:
        """See `AnyLayer.mix`."""
        weights = self._weights
        query, key, value = weights.empty_qkv(len(x))
        for rows in row_blocks(len(x)):
            normed = weights.input_norm(x[rows])
            y = weights.qkv(normed)
            lora.add(weights.qkv_paths, weights.heads.widths, normed, y, rows.start)
            weights.heads.split_qkv_and_rotate(y, rotary.rows_of(rows), (query[rows], key[rows], value[rows]))
        return attention.attend(weights.layer_index, query, key, value).flatten(1)

    def output_and_mlp(self, x: Tensor, attended: Tensor, lora: AnyBatchedLora) -> None:
        """See `AnyLayer.finish`."""
        weights = self._weights
        for rows in row_blocks(len(x)):
            states, attended_rows = x[rows], attended[rows].to(x.dtype)
            y = weights.output(attended_rows)
            lora.add(weights.output_path, (weights.hidden_size,), attended_rows, y, rows.start)
            activated = self._activated_mlp(weights.post_norm.add_and_norm(states, y), lora, rows.start)
            y = weights.down(activated)
            lora.add(weights.down_path, (weights.hidden_size,), activated, y, rows.start)
            states += y

    def _activated_mlp(self, normed: Tensor, lora: AnyBatchedLora, start: int) -> Tensor:
        weights = self._weights
        # Two products: side by side in one, gate and up would lie in strides, which costs more than a larger product
        # gains.
        prepared = weights.gate.prepare(normed)
        gate, up = weights.gate(prepared), weights.up(prepared)
        lora.add(weights.gate_path, (weights.intermediate_size,), normed, gate, start)
        lora.add(weights.up_path, (weights.intermediate_size,), normed, up, start)
        return silu_and_mul(gate, up, compiled=weights.compiled)


class KvOnlyAttention:
    """An attention that keeps keys and values, and is asked for nothing."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Returns [0, H, Dh]."""
        return self._attention.attend(layer, query[:0], key, value)


def uses_compiled_kernels(config: DecoderConfig, precision: str) -> bool:
    """Whether the compiled kernels stand between the products: they keep queries, keys and values in bfloat16."""
    return compute_dtype(precision) == torch.bfloat16 and bindings.supports_head_dim(config.head_dim)


def row_blocks(rows: int) -> Iterator[slice]:
    """0..rows in blocks of about one size, whose intermediate results stay in the cache: a small last one would be
    multiplied at a fraction of the speed.
    """
    count = max(1, round(rows / _BLOCK_ROWS))
    step = max(_BLOCK_STEP, -(-rows // (count * _BLOCK_STEP)) * _BLOCK_STEP)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
