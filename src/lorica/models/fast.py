"""The decoder for inference on a CPU: what `Decoder` computes, with packed weights, few calls, and in the cache.

Rows of a pass are worked through in blocks that stay in the processor's cache; query, key and value are one product;
adapters are added by `Updates`. `Decoder` stays the one that trains, and what this is held to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

import torch
from torch import Tensor, nn

from lorica.models.attention import Attention
from lorica.models.decoder import Decoder, Layer, RmsNorm
from lorica.models.families import DecoderConfig
from lorica.models.linear import gate, make_product, stream_dtype, working_dtype
from lorica.models.lora import LoraSpan, spans_of
from lorica.models.rope import inverse_frequencies, rotation
from lorica.models.updates import FactorMemory, Updates

ALL_MODULES = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_BLOCK_ROWS = 256
_BLOCK_STEP = 32  # rows by which kernels go on; products of fewer round otherwise


class FastLayer:
    """One layer; its states are changed in place."""

    def __init__(self, layer: Layer, config: DecoderConfig, number: int, precision: str) -> None:
        attention, stream = layer.self_attn, stream_dtype(precision)
        path = f"model.layers.{number}"
        self._number, self._head_dim, self._kept = number, config.head_dim, working_dtype(precision)
        self._heads, self._kv_heads = config.heads, config.kv_heads
        self._input_norm = _Norm(layer.input_layernorm, stream)
        self._post_norm = _Norm(layer.post_attention_layernorm, stream)
        self._query_norm = None if attention.q_norm is None else _Norm(attention.q_norm, stream)
        self._key_norm = None if attention.k_norm is None else _Norm(attention.k_norm, stream)
        self.renew(layer, precision)
        self._qkv_paths = tuple(f"{path}.self_attn.{name}_proj" for name in "qkv")
        self._output_path = (f"{path}.self_attn.o_proj",)
        self._gate_path, self._up_path = (f"{path}.mlp.gate_proj",), (f"{path}.mlp.up_proj",)
        self._down_path = (f"{path}.mlp.down_proj",)
        query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self._qkv_widths, self._hidden, self._wide = [query, key, key], config.hidden_size, config.intermediate_size

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

    def mix(self, x: Tensor, turn: tuple[Tensor, Tensor], attention: Attention, updates: Updates) -> Tensor:
        """x [T, hidden], turn: cosines and signed sines [T, 1, Dh] -> what attention gives [T, H * Dh]."""
        query, key, value = self._new(x, self._heads), self._new(x, self._kv_heads), self._new(x, self._kv_heads)
        for rows in blocks(len(x)):
            normed = self._input_norm(x[rows])
            y = self._qkv(normed)
            updates.add(self._qkv_paths, self._qkv_widths, normed, y, rows.start)
            q, k, v = (part.view(len(y), -1, self._head_dim) for part in torch.split(y, self._qkv_widths, dim=1))
            if self._query_norm is not None and self._key_norm is not None:
                q, k = self._query_norm(q), self._key_norm(k)
            cosine, sine = turn[0][rows], turn[1][rows]
            query[rows], key[rows], value[rows] = _turned(q, cosine, sine), _turned(k, cosine, sine), v
        return attention.attend(self._number, query, key, value).flatten(1)

    def keep(self, x: Tensor, turn: tuple[Tensor, Tensor], attention: Attention, updates: Updates) -> None:
        """Compute keys and values for `attention` to keep, and nothing else."""
        self.mix(x, turn, _KeepOnly(attention), updates)

    def finish(self, x: Tensor, mixed: Tensor, updates: Updates) -> None:
        """x [T, hidden] += output projection of `mixed` [T, H * Dh], then += feed-forward; in place."""
        for rows in blocks(len(x)):
            states, given = x[rows], mixed[rows].to(x.dtype)
            y = self._output(given)
            updates.add(self._output_path, (self._hidden,), given, y, rows.start)
            states += y
            inner = self._inner(self._post_norm(states), updates, rows.start)
            y = self._down(inner)
            updates.add(self._down_path, (self._hidden,), inner, y, rows.start)
            states += y

    def _inner(self, normed: Tensor, updates: Updates, start: int) -> Tensor:
        # Two products: side by side in one, gate and up would lie in strides, which costs more than a larger product
        # gains.
        given = self._gate.prepare(normed)
        opened, up = self._gate(given), self._up(given)
        updates.add(self._gate_path, (self._wide,), normed, opened, start)
        updates.add(self._up_path, (self._wide,), normed, up, start)
        return gate(opened, up)

    def _new(self, x: Tensor, heads: int) -> Tensor:
        return torch.empty(len(x), heads, self._head_dim, dtype=self._kept)


class FastDecoder:
    """Packed tokens in, hidden states out: the interface of `Decoder`, without gradients.

    dtype: the precision of keys, values and adapters. precision: of the products, one of `linear.PRECISIONS`.
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
        self._norm = _Norm(decoder.model.norm, self._stream)
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
        cosine, sine = rotation(positions, self._speeds, self._stream)
        sine[..., : self.config.head_dim // 2].neg_()
        turn = cosine, sine
        updates = Updates(lora, len(tokens), self._memory if read is None else None, bundle=bundle, dtype=self.dtype)
        for layer in self._layers[:-1]:
            layer.finish(x, layer.mix(x, turn, attention, updates), updates)
        last = self._layers[-1]
        if read is not None and not len(read):
            last.keep(x, turn, attention, updates)
            return x[:0]
        mixed = last.mix(x, turn, attention, updates)
        if read is not None:
            x, mixed = x[read], mixed[read]
            updates = Updates(spans_of(lora, read), len(read), bundle=bundle, dtype=self.dtype)
        last.finish(x, mixed, updates)
        return x

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [N, hidden] -> final norm and head -> [N, vocab_size]."""
        return self._head(self._norm(hidden))

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


class _Norm:
    """Root-mean-square norm in float32, in fewer passes than torch's: one over the squares, one for each factor."""

    def __init__(self, norm: RmsNorm, dtype: torch.dtype) -> None:
        self._weight, self._eps = norm.weight.detach().to(dtype).float(), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        # [..., width] -> [..., width]
        states = x.float()
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        factor = length.square_().div_(x.shape[-1]).add_(self._eps).rsqrt_()
        scaled = states * factor if states is x else states.mul_(factor)
        return scaled.mul_(self._weight).to(x.dtype)


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    # x [N, H, Dh], cosine and sine [N, 1, Dh]; the first half of the sines is negated (see `rotate`)
    return torch.mul(x, cosine).addcmul_(x.roll(x.shape[-1] // 2, -1), sine)


def blocks(rows: int) -> Iterator[slice]:
    """0..rows in blocks of about one size, whose intermediate results stay in the cache: a small last one would be
    multiplied at a fraction of the speed.
    """
    count = max(1, round(rows / _BLOCK_ROWS))
    step = max(_BLOCK_STEP, -(-rows // (count * _BLOCK_STEP)) * _BLOCK_STEP)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
