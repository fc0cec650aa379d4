"""A decoder's pass for training on a CPU: what `Decoder.hidden` computes with one adapter, and its gradients, faster.

Products are float32 or bfloat16, the states between layers and attention float32. The base's layers are frozen.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from lorica.models.cpu import training_ops
from lorica.models.cpu.adapted_linear import adapted_linear
from lorica.models.cpu.frozen_linear import FrozenLinear
from lorica.models.decoder import Decoder, Layer
from lorica.models.lora import LoraWeights
from lorica.models.packed_attention import Attention
from lorica.models.rope import cos_sin_table, inverse_frequencies

_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


class TrainingDecoder:
    """A decoder's weights in the form in which they are multiplied fastest, with the adapter under training."""

    def __init__(self, decoder: Decoder, adapter: LoraWeights, dtype: torch.dtype, *, prepack: bool) -> None:
        """dtype: of the products. prepack: copy the frozen weights for them (`FrozenLinear`)."""
        self._decoder, self._adapter, self._dtype, self._prepack = decoder, adapter, dtype, prepack
        self._frozen: dict[str, FrozenLinear] = {}
        self._inverse_frequencies = inverse_frequencies(decoder.config)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention: Attention,
        *,
        output_rows: Tensor,
        checkpoint: bool = False,
    ) -> Tensor:
        """As `Decoder.hidden` with the adapter on all tokens: [R, hidden], float32."""
        x: Tensor = self._decoder.model.embed_tokens(tokens).float()
        scale = self._decoder.config.rope_scaling.attention_factor
        cos_sin = cos_sin_table(positions, self._inverse_frequencies, x.dtype, scale)
        added: Tensor | None = None
        for index, layer in enumerate(self._decoder.model.layers):
            rows = output_rows if index == len(self._decoder.model.layers) - 1 else None
            compute = partial(self._layer, cast(Layer, layer), index, cos_sin, attention, rows)
            x, added = recompute(compute, x, added, use_reentrant=False) if checkpoint else compute(x, added)
        return x if added is None else x + added

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [N, hidden] -> final norm and head -> [N, vocab_size] in the dtype of the products."""
        return self._linear(self._decoder.model.norm(hidden), self._decoder, "", ("lm_head",))[0]

    def _layer(
        self,
        layer: Layer,
        index: int,
        cos_sin: training_ops.CosSin,
        attention: Attention,
        rows: Tensor | None,
        x: Tensor,
        added: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """x [T, hidden] and what is to be added to it -> the same behind the layer, of all tokens or of `rows`."""
        attention_path, mlp_path = f"model.layers.{index}.self_attn.", f"model.layers.{index}.mlp."
        x, normed = training_ops.add_and_norm(x, added, layer.input_layernorm, self._dtype)
        query, key, value = self._linear(normed, layer.self_attn, attention_path, _ATTENTION[:3])
        norms = layer.self_attn.q_norm, layer.self_attn.k_norm
        heads = training_ops.rotate_heads((query, key, value), cos_sin, norms)
        attended = attention.attend(index, *heads).flatten(1)
        if rows is not None:
            attended, x = attended.index_select(0, rows), x.index_select(0, rows)
        (projected,) = self._linear(attended, layer.self_attn, attention_path, _ATTENTION[3:])
        x, normed = training_ops.add_and_norm(x, projected, layer.post_attention_layernorm, self._dtype)
        gate, up = self._linear(normed, layer.mlp, mlp_path, _MLP[:2])
        (down,) = self._linear(training_ops.silu_and_mul(gate, up), layer.mlp, mlp_path, _MLP[2:])
        return x, down

    def _linear(self, x: Tensor, parent: nn.Module, path: str, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        """x [T, in] -> [T, out] of each of a module's layers of one input."""
        frozen = self._frozen.get(path + names[0])
        if frozen is None:
            layers = [getattr(parent, name) for name in names]
            # The head meets few tokens, and is too large for copies.
            frozen = FrozenLinear(layers, self._dtype, prepack=self._prepack and path != "")
            self._frozen[path + names[0]] = frozen
        pairs = [self._adapter.pairs.get(path + name) for name in names]
        return adapted_linear(x, frozen, pairs, self._adapter.dropout if self._adapter.training else 0.0)
