"""A decoder layer for inference on a CPU: prepacked weights, few calls, tokens in blocks that stay in the cache.

Query, key and value are one fused projection; adapters are added by `batched_lora`.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from functools import partial
from typing import Protocol

from torch import Tensor

from lorica.models.batched_lora import AnyBatchedLora, CompiledLora
from lorica.models.compiled import bindings
from lorica.models.cpu import scratch
from lorica.models.cpu.linear import Int8Linear, Linear, compute_dtype, make_linear, quantize_rows, residual_dtype
from lorica.models.cpu.ops import FusedRmsNorm, QkvHeads, RotaryEmbedding, silu_and_mul
from lorica.models.cpu.weight_only import WeightOnlyLinear, gated_product
from lorica.models.decoder import Layer
from lorica.models.families import DecoderConfig
from lorica.models.packed_attention import Attention

ALL_MODULES = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_BLOCK_ROWS = 256
_BLOCK_STEP = 32  # rows that kernels take at once; products of fewer round differently


class LayerWeights:
    """The linear layers and norms of a layer, and the module paths by which adapters name them."""

    def __init__(self, layer: Layer, config: DecoderConfig, layer_index: int, precision: str) -> None:
        attention, path = layer.self_attn, f"model.layers.{layer_index}"
        self.layer_index, self.compiled = layer_index, uses_compiled_kernels(config)
        norm = partial(FusedRmsNorm, dtype=residual_dtype(precision), compiled=self.compiled)
        self.input_norm, self.post_norm = norm(layer.input_layernorm), norm(layer.post_attention_layernorm)
        qk_norms = (None if rms_norm is None else norm(rms_norm) for rms_norm in (attention.q_norm, attention.k_norm))
        self.heads = QkvHeads(config, *qk_norms, compiled=self.compiled)
        self.replace_weights(layer, precision)
        self.qkv_paths = tuple(f"{path}.self_attn.{name}_proj" for name in "qkv")
        self.output_path = (f"{path}.self_attn.o_proj",)
        self.gate_path, self.up_path = (f"{path}.mlp.gate_proj",), (f"{path}.mlp.up_proj",)
        self.down_path = (f"{path}.mlp.down_proj",)
        self.hidden_size, self.intermediate_size = config.hidden_size, config.intermediate_size
        self._shapes, self.qkv_dtype = (config.heads, config.kv_heads, config.head_dim), compute_dtype(precision)

    def replace_weights(self, layer: Layer, precision: str, modules: Set[str] = ALL_MODULES) -> None:
        """Make those linear layers anew from `layer` that contain one of these modules (last names)."""
        attention, mlp = layer.self_attn, layer.mlp
        if modules & {"q_proj", "k_proj", "v_proj"}:
            self.qkv = make_linear((attention.q_proj, attention.k_proj, attention.v_proj), precision)
        if "o_proj" in modules:
            self.output = make_linear((attention.o_proj,), precision)
        if modules & {"gate_proj", "up_proj"}:
            self.gate, self.up = make_linear((mlp.gate_proj,), precision), make_linear((mlp.up_proj,), precision)
        if "down_proj" in modules:
            self.down = make_linear((mlp.down_proj,), precision)

    def linears(self) -> tuple[Linear, ...]:
        """All linear layers."""
        return self.qkv, self.output, self.gate, self.up, self.down

    def empty_qkv(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Uninitialized query [T, H, Dh], key and value [T, Hkv, Dh]."""
        heads, kv_heads, width = self._shapes
        query, key, value = (scratch.empty(tokens, n, width, dtype=self.qkv_dtype) for n in (heads, kv_heads, kv_heads))
        return query, key, value


class DecoderLayer(Protocol):
    """A layer in two halves; the hidden states are changed in place."""

    def attention_block(self, x: Tensor, rotary: RotaryEmbedding, attention: Attention, lora: AnyBatchedLora) -> Tensor:
        """x [T, hidden] -> the output of attention [T, H * Dh], before the output projection."""
        ...

    def output_and_mlp(self, x: Tensor, attended: Tensor, lora: AnyBatchedLora) -> None:
        """x [T, hidden] += output projection of attended [T, H * Dh], then += MLP; in place."""
        ...


class CpuLayer:
    """`DecoderLayer` in any precision."""

    def __init__(self, weights: LayerWeights) -> None:
        self._weights = weights

    def attention_block(self, x: Tensor, rotary: RotaryEmbedding, attention: Attention, lora: AnyBatchedLora) -> Tensor:
        """See `DecoderLayer`."""
        weights = self._weights
        with scratch.frame(len(x)):
            query, key, value = weights.empty_qkv(len(x))
            for row_slice in row_blocks(len(x)):
                with scratch.frame(len(x)):
                    normed = weights.input_norm(x[row_slice])
                    y = weights.qkv(normed)
                    lora.add(weights.qkv_paths, weights.heads.widths, normed, y, row_slice.start)
                    weights.heads.split_qkv_and_rotate(
                        y, rotary.rows_of(row_slice), (query[row_slice], key[row_slice], value[row_slice])
                    )
            return attention.attend(weights.layer_index, query, key, value).flatten(1)

    def output_and_mlp(self, x: Tensor, attended: Tensor, lora: AnyBatchedLora) -> None:
        """See `DecoderLayer`."""
        for row_slice in row_blocks(len(x)):
            with scratch.frame(len(x)):
                self._add_block(x[row_slice], attended[row_slice], lora, row_slice.start)

    def _add_block(self, states: Tensor, attended: Tensor, lora: AnyBatchedLora, start: int) -> None:
        weights = self._weights
        y = weights.output(attended)
        lora.add(weights.output_path, (weights.hidden_size,), attended, y, start)
        normed = weights.post_norm.add_and_norm(states, y)
        activated = self._activated_mlp(normed, lora, start)
        del normed, y  # the last product needs the memory
        y = weights.down(activated)
        lora.add(weights.down_path, (weights.hidden_size,), activated, y, start)
        states += y

    def _activated_mlp(self, normed: Tensor, lora: AnyBatchedLora, start: int) -> Tensor:
        weights = self._weights
        if (
            isinstance(weights.gate, WeightOnlyLinear)
            and isinstance(weights.up, WeightOnlyLinear)
            and weights.gate.compiled
            and isinstance(lora, CompiledLora)
            and not any(map(lora.adapts, (weights.gate_path, weights.up_path)))
        ):
            return gated_product(weights.gate, weights.up, normed)
        # Not fused: gate and up would be strided then, which costs more than a larger product gains.
        if isinstance(weights.gate, Int8Linear) and isinstance(weights.up, Int8Linear):
            quantized = quantize_rows(normed)
            gate, up = weights.gate(quantized), weights.up(quantized)
        else:
            gate, up = weights.gate(normed), weights.up(normed)
        lora.add(weights.gate_path, (weights.intermediate_size,), normed, gate, start)
        lora.add(weights.up_path, (weights.intermediate_size,), normed, up, start)
        return silu_and_mul(gate, up, compiled=weights.compiled)


class KvOnlyAttention:
    """Attention that stores keys and values and computes no output."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Returns [0, H, Dh]."""
        return self._attention.attend(layer, query[:0], key, value)


def uses_compiled_kernels(config: DecoderConfig) -> bool:
    """Whether the compiled kernels compute what is between the linear layers."""
    return bindings.supports_head_dim(config.head_dim)


def row_blocks(rows: int) -> Iterator[slice]:
    """0..rows in blocks of about equal size whose intermediate results stay in the cache; a small last block would be
    multiplied at a fraction of the speed.
    """
    block_count = max(1, round(rows / _BLOCK_ROWS))
    block_size = max(_BLOCK_STEP, -(-rows // (block_count * _BLOCK_STEP)) * _BLOCK_STEP)
    for start in range(0, rows, block_size):
        yield slice(start, min(start + block_size, rows))
