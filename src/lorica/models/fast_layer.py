"""One layer for inference on a CPU: packed weights, few calls, and rows in blocks that stay in the processor's cache.

Query, key and value are one product; adapters are added by `Updates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from functools import partial

import torch
from torch import Tensor

from lorica.models.attention import Attention
from lorica.models.between import Heads, Norm, Turn, gate
from lorica.models.compiled import kernels
from lorica.models.decoder import Layer
from lorica.models.families import DecoderConfig
from lorica.models.linear import make_product, stream_dtype, working_dtype
from lorica.models.updates import AnyUpdates

ALL_MODULES = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_BLOCK_ROWS = 256
_BLOCK_STEP = 32  # rows by which kernels go on; products of fewer round otherwise


class FastLayer:
    """One layer; its states are changed in place."""

    def __init__(self, layer: Layer, config: DecoderConfig, number: int, precision: str) -> None:
        attention, stream = layer.self_attn, stream_dtype(precision)
        path = f"model.layers.{number}"
        self._number, self._head_dim, self._kept = number, config.head_dim, working_dtype(precision)
        self._head_counts = config.heads, config.kv_heads
        self._compiled = goes_compiled(config, precision)
        norm = partial(Norm, dtype=stream, compiled=self._compiled)
        self._input_norm, self._post_norm = norm(layer.input_layernorm), norm(layer.post_attention_layernorm)
        of_heads = (None if one is None else norm(one) for one in (attention.q_norm, attention.k_norm))
        self._heads = Heads(config, *of_heads, compiled=self._compiled)
        self.renew(layer, precision)
        self._qkv_paths = tuple(f"{path}.self_attn.{name}_proj" for name in "qkv")
        self._output_path = (f"{path}.self_attn.o_proj",)
        self._gate_path, self._up_path = (f"{path}.mlp.gate_proj",), (f"{path}.mlp.up_proj",)
        self._down_path = (f"{path}.mlp.down_proj",)
        self._hidden, self._wide = config.hidden_size, config.intermediate_size

    def renew(self, layer: Layer, precision: str, modules: Set[str] = ALL_MODULES) -> None:
        """Make the products anew from `layer`: those that any of these modules (their last names) takes part in."""
        attention, mlp = layer.self_attn, layer.mlp
        if modules & {"q_proj", "k_proj", "v_proj"}:
            self._qkv = make_product((attention.q_proj, attention.k_proj, attention.v_proj), precision)
        if "o_proj" in modules:
            self._output = make_product((attention.o_proj,), precision)
        if modules & {"gate_proj", "up_proj"}:
            self._gate, self._up = make_product((mlp.gate_proj,), precision), make_product((mlp.up_proj,), precision)
        if "down_proj" in modules:
            self._down = make_product((mlp.down_proj,), precision)

    def mix(self, x: Tensor, turn: Turn, attention: Attention, updates: AnyUpdates) -> Tensor:
        """x [T, hidden] -> what attention gives [T, H * Dh]."""
        query, key, value = self._empty(len(x))
        for rows in blocks(len(x)):
            normed = self._input_norm(x[rows])
            y = self._qkv(normed)
            updates.add(self._qkv_paths, self._heads.widths, normed, y, rows.start)
            self._heads.take_apart(y, turn.of(rows), (query[rows], key[rows], value[rows]))
        return attention.attend(self._number, query, key, value).flatten(1)

    def keep(self, x: Tensor, turn: Turn, attention: Attention, updates: AnyUpdates) -> None:
        """Compute keys and values for `attention` to keep, and nothing else."""
        self.mix(x, turn, _KeepOnly(attention), updates)

    def finish(self, x: Tensor, mixed: Tensor, updates: AnyUpdates) -> None:
        """x [T, hidden] += output projection of `mixed` [T, H * Dh], then += feed-forward; in place."""
        for rows in blocks(len(x)):
            states, given = x[rows], mixed[rows].to(x.dtype)
            y = self._output(given)
            updates.add(self._output_path, (self._hidden,), given, y, rows.start)
            inner = self._inner(self._post_norm.of_sum(states, y), updates, rows.start)
            y = self._down(inner)
            updates.add(self._down_path, (self._hidden,), inner, y, rows.start)
            states += y

    def _empty(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Room for queries, keys and values."""
        heads, kv_heads = self._head_counts
        query, key, value = (
            torch.empty(tokens, n, self._head_dim, dtype=self._kept) for n in (heads, kv_heads, kv_heads)
        )
        return query, key, value

    def _inner(self, normed: Tensor, updates: AnyUpdates, start: int) -> Tensor:
        # Two products: side by side in one, gate and up would lie in strides, which costs more than a larger product
        # gains.
        given = self._gate.prepare(normed)
        opened, up = self._gate(given), self._up(given)
        updates.add(self._gate_path, (self._wide,), normed, opened, start)
        updates.add(self._up_path, (self._wide,), normed, up, start)
        return gate(opened, up, compiled=self._compiled)


class _KeepOnly:
    """An attention that is asked for nothing."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Returns [0, H, Dh]."""
        return self._attention.attend(layer, query[:0], key, value)


def goes_compiled(config: DecoderConfig, precision: str) -> bool:
    """Whether the compiled kernels stand between the products: they keep queries, keys and values in bfloat16."""
    return working_dtype(precision) == torch.bfloat16 and kernels.fits(config.head_dim)


def blocks(rows: int) -> Iterator[slice]:
    """0..rows in blocks of about one size, whose intermediate results stay in the cache: a small last one would be
    multiplied at a fraction of the speed.
    """
    count = max(1, round(rows / _BLOCK_ROWS))
    step = max(_BLOCK_STEP, -(-rows // (count * _BLOCK_STEP)) * _BLOCK_STEP)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
