"""The decoder for inference on a CPU: what `Decoder` computes, with packed weights, few calls, and in the cache.

Rows of a pass are worked through in blocks that stay in the processor's cache; query, key and value are one product;
adapters are added by `Updates`. `Decoder` stays the one that trains, and what this is held to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import partial

import torch
from torch import Tensor, nn

from lorica.models.attention import Attention
from lorica.models.between import Heads, Norm, Turn, gate
from lorica.models.compiled import kernels
from lorica.models.decoder import Decoder, Layer
from lorica.models.families import DecoderConfig
from lorica.models.linear import make_product, stream_dtype, working_dtype
from lorica.models.lora import LoraSpan, spans_of
from lorica.models.rope import inverse_frequencies
from lorica.models.updates import AnyUpdates, CompiledUpdates, FactorMemory, Updates

ALL_MODULES = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_BLOCK_ROWS = 256
_BLOCK_STEP = 32  # rows by which kernels go on; products of fewer round otherwise


class FastLayer:
    """One layer; its states are changed in place."""

    def __init__(self, layer: Layer, config: DecoderConfig, number: int, precision: str) -> None:
        attention, stream = layer.self_attn, stream_dtype(precision)
        path = f"model.layers.{number}"
        self._number, self._head_dim, self._kept = number, config.head_dim, working_dtype(precision)
        self._head_counts = config.heads, config.kv_heads, config.kv_heads
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
        query, key, value = (
            torch.empty(len(x), heads, self._head_dim, dtype=self._kept) for heads in self._head_counts
        )
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

    def _inner(self, normed: Tensor, updates: AnyUpdates, start: int) -> Tensor:
        # Two products: side by side in one, gate and up would lie in strides, which costs more than a larger product
        # gains.
        given = self._gate.prepare(normed)
        opened, up = self._gate(given), self._up(given)
        updates.add(self._gate_path, (self._wide,), normed, opened, start)
        updates.add(self._up_path, (self._wide,), normed, up, start)
        return gate(opened, up, compiled=self._compiled)


class FastDecoder:
    """Packed tokens in, hidden states out: the interface of `Decoder`, without gradients.

    dtype: the precision of keys, values and adapters. precision: of the products, one of `linear.PRECISIONS`. compiled:
    whether the compiled kernels stand between these.
    """

    def __init__(self, decoder: Decoder, precision: str) -> None:
        """Takes the decoder's weights layer by layer, so that both forms never exist at once; it is of no use after."""
        self.config, self.precision = decoder.config, precision
        self.device, self.dtype = decoder.device, working_dtype(precision)
        self.embedding = decoder.model.embed_tokens.weight.detach()
        self._stream = stream_dtype(precision)
        layers = decoder.model.layers
        self._layers: list[FastLayer] = []
        for number in range(self.config.layers):
            layer = layers[number]
            assert isinstance(layer, Layer)
            self._layers.append(FastLayer(layer, self.config, number, precision))
            layers[number] = nn.Identity()
        self.compiled = goes_compiled(self.config, precision)
        self._norm = Norm(decoder.model.norm, self._stream, compiled=self.compiled)
        self._head = make_product((decoder.lm_head,), precision)
        self._speeds = inverse_frequencies(self.config)
        self._memory = FactorMemory()

    @torch.inference_mode()
    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention: Attention,
        lora: Sequence[LoraSpan] = (),
        *,
        read: Tensor | None = None,
        bundle: bool = True,
    ) -> Tensor:
        """Hidden states before the final norm; see `Decoder.hidden`. lora: in the order of the tokens.

        bundle: whether short spans of different adapters share products, which rounds them by their company. What is
        joined for that is kept for the next pass where all is read, as in the steps of generation: these do not run
        side by side.
        """
        x = self.embedding[tokens].to(self._stream)
        turn = Turn(positions, self._speeds, self._stream, compiled=self.compiled)
        updates = self._updates(lora, len(tokens), self._memory if read is None else None, bundle=bundle)
        for layer in self._layers[:-1]:
            layer.finish(x, layer.mix(x, turn, attention, updates), updates)
        last = self._layers[-1]
        if read is not None and not len(read):
            last.keep(x, turn, attention, updates)
            return x[:0]
        mixed = last.mix(x, turn, attention, updates)
        if read is not None:
            x, mixed = x[read], mixed[read]
            updates = self._updates(spans_of(lora, read), len(read), None, bundle=bundle)
        last.finish(x, mixed, updates)
        return x

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [N, hidden] -> final norm and head -> [N, vocab_size]."""
        return self._head(self._norm(hidden))

    def _updates(
        self, lora: Sequence[LoraSpan], tokens: int, memory: FactorMemory | None, *, bundle: bool
    ) -> AnyUpdates:
        return (
            CompiledUpdates(lora) if self.compiled else Updates(lora, tokens, memory, bundle=bundle, dtype=self.dtype)
        )

    def renew_layer(self, number: int, layer: Layer, modules: Set[str]) -> None:
        """Put other weights in the place of some of a layer's: see `FastLayer.renew`."""
        self._layers[number].renew(layer, self.precision, modules)

    def forget_adapters(self) -> None:
        """Let go of what was joined of adapters' matrices for generation."""
        self._memory.keep_only(())


AnyDecoder = Decoder | FastDecoder


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
