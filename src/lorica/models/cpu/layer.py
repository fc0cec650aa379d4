"""One layer for inference on a CPU: packed weights, few calls, and rows in blocks that stay in the processor's cache.

Query, key and value are one product; adapters are added by `Updates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from lorica.models.batched_lora import AnyUpdates
from lorica.models.compiled import bindings
from lorica.models.cpu.linear import make_product, stream_dtype, working_dtype
from lorica.models.cpu.ops import Heads, Norm, Turn, gate
from lorica.models.decoder import Layer
from lorica.models.families import DecoderConfig
from lorica.models.packed_attention import Attention

ALL_MODULES = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_BLOCK_ROWS = 256
_BLOCK_STEP = 32  # rows by which kernels go on; products of fewer round otherwise


class Parts:
    """What a layer is made of: products, norms, and the names by which adapters know its modules."""

    def __init__(self, layer: Layer, config: DecoderConfig, number: int, precision: str) -> None:
        attention, path = layer.self_attn, f"model.layers.{number}"
        self.number, self.compiled = number, goes_compiled(config, precision)
        norm = partial(Norm, dtype=stream_dtype(precision), compiled=self.compiled)
        self.input_norm, self.post_norm = norm(layer.input_layernorm), norm(layer.post_attention_layernorm)
        of_heads = (None if one is None else norm(one) for one in (attention.q_norm, attention.k_norm))
        self.heads = Heads(config, *of_heads, compiled=self.compiled)
        self.renew(layer, precision)
        self.qkv_paths = tuple(f"{path}.self_attn.{name}_proj" for name in "qkv")
        self.output_path = (f"{path}.self_attn.o_proj",)
        self.gate_path, self.up_path = (f"{path}.mlp.gate_proj",), (f"{path}.mlp.up_proj",)
        self.down_path = (f"{path}.mlp.down_proj",)
        self.hidden, self.wide = config.hidden_size, config.intermediate_size
        self._shapes, self._kept = (config.heads, config.kv_heads, config.head_dim), working_dtype(precision)

    def renew(self, layer: Layer, precision: str, modules: Set[str] = ALL_MODULES) -> None:
        """Make the products anew from `layer`: those that any of these modules (their last names) takes part in."""
        attention, mlp = layer.self_attn, layer.mlp
        if modules & {"q_proj", "k_proj", "v_proj"}:
            self.qkv = make_product((attention.q_proj, attention.k_proj, attention.v_proj), precision)
        if "o_proj" in modules:
            self.output = make_product((attention.o_proj,), precision)
        if modules & {"gate_proj", "up_proj"}:
            self.gate, self.up = make_product((mlp.gate_proj,), precision), make_product((mlp.up_proj,), precision)
        if "down_proj" in modules:
            self.down = make_product((mlp.down_proj,), precision)

    def empty(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Room for queries, keys and values."""
        heads, kv_heads, width = self._shapes
        query, key, value = (torch.empty(tokens, n, width, dtype=self._kept) for n in (heads, kv_heads, kv_heads))
        return query, key, value


class AnyLayer(Protocol):
    """One layer; its states are changed in place."""

    def mix(self, x: Tensor, turn: Turn, attention: Attention, updates: AnyUpdates) -> Tensor:
        """x [T, hidden] -> what attention gives [T, H * Dh]."""
        ...

    def finish(self, x: Tensor, mixed: Tensor, updates: AnyUpdates) -> None:
        """x [T, hidden] += output projection of `mixed` [T, H * Dh], then += feed-forward; in place."""
        ...


class FastLayer:
    """A layer of any precision."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def mix(self, x: Tensor, turn: Turn, attention: Attention, updates: AnyUpdates) -> Tensor:
        """See `AnyLayer.mix`."""
        parts = self._parts
        query, key, value = parts.empty(len(x))
        for rows in blocks(len(x)):
            normed = parts.input_norm(x[rows])
            y = parts.qkv(normed)
            updates.add(parts.qkv_paths, parts.heads.widths, normed, y, rows.start)
            parts.heads.take_apart(y, turn.of(rows), (query[rows], key[rows], value[rows]))
        return attention.attend(parts.number, query, key, value).flatten(1)

    def finish(self, x: Tensor, mixed: Tensor, updates: AnyUpdates) -> None:
        """See `AnyLayer.finish`."""
        parts = self._parts
        for rows in blocks(len(x)):
            states, given = x[rows], mixed[rows].to(x.dtype)
            y = parts.output(given)
            updates.add(parts.output_path, (parts.hidden,), given, y, rows.start)
            inner = self._inner(parts.post_norm.of_sum(states, y), updates, rows.start)
            y = parts.down(inner)
            updates.add(parts.down_path, (parts.hidden,), inner, y, rows.start)
            states += y

    def _inner(self, normed: Tensor, updates: AnyUpdates, start: int) -> Tensor:
        parts = self._parts
        # Two products: side by side in one, gate and up would lie in strides, which costs more than a larger product
        # gains.
        given = parts.gate.prepare(normed)
        opened, up = parts.gate(given), parts.up(given)
        updates.add(parts.gate_path, (parts.wide,), normed, opened, start)
        updates.add(parts.up_path, (parts.wide,), normed, up, start)
        return gate(opened, up, compiled=parts.compiled)


class KeepOnly:
    """An attention that keeps keys and values, and is asked for nothing."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Returns [0, H, Dh]."""
        return self._attention.attend(layer, query[:0], key, value)


def goes_compiled(config: DecoderConfig, precision: str) -> bool:
    """Whether the compiled kernels stand between the products: they keep queries, keys and values in bfloat16."""
    return working_dtype(precision) == torch.bfloat16 and bindings.supports_head_dim(config.head_dim)


def blocks(rows: int) -> Iterator[slice]:
    """0..rows in blocks of about one size, whose intermediate results stay in the cache: a small last one would be
    multiplied at a fraction of the speed.
    """
    count = max(1, round(rows / _BLOCK_ROWS))
    step = max(_BLOCK_STEP, -(-rows // (count * _BLOCK_STEP)) * _BLOCK_STEP)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
