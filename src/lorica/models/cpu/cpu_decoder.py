"""The decoder for inference on a CPU: what `Decoder` computes, with prepacked weights and few calls.

`Decoder` is the one that trains, and the reference in tests.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor, nn

from lorica.models.batched_lora import AnyBatchedLora, BatchedLora, CompiledLora, StackedFactorCache
from lorica.models.cpu import scratch
from lorica.models.cpu.layer import CpuLayer, DecoderLayer, KvOnlyAttention, LayerWeights, uses_compiled_kernels
from lorica.models.cpu.layer_int8 import Int8Layer, suits_int8_layer
from lorica.models.cpu.linear import compute_dtype, make_linear, residual_dtype, rounds_by_row
from lorica.models.cpu.ops import FusedRmsNorm, RotaryEmbedding
from lorica.models.decoder import Decoder, Layer, exact_logits
from lorica.models.gguf_layers import GgufEmbedding
from lorica.models.lora import LoraSpan, spans_at
from lorica.models.mapped_pages import MappedPages
from lorica.models.packed_attention import Attention
from lorica.models.rope import inverse_frequencies
from lorica.precision import PRECISIONS


class CpuDecoder:
    """Packed tokens in, hidden states out: the interface of `Decoder`, without gradients.

    dtype: of keys, values and adapters. precision: of the linear layers, a name of `precision.PRECISIONS`. compiled:
    whether the compiled kernels compute what is between these.
    """

    def __init__(self, decoder: Decoder, precision: str) -> None:
        """Takes the weights out of `decoder` layer by layer, so that both forms never exist at once: neither in memory
        nor as mapped pages of the file. The head, the largest, comes first, while there is nothing else.
        """
        self.config, self.precision = decoder.config, precision
        self.device, self.dtype = decoder.device, compute_dtype(precision)
        embedding = decoder.model.embed_tokens
        self.embedding: Tensor | GgufEmbedding = (
            embedding if isinstance(embedding, GgufEmbedding) else embedding.weight.detach()
        )
        self._residual_dtype, self.compiled = residual_dtype(precision), uses_compiled_kernels(self.config)
        mapped_pages = MappedPages()
        self._head_weight = self._stored_head(decoder, mapped_pages)
        self._head = make_linear((decoder.lm_head,), PRECISIONS[precision].head or precision)
        mapped_pages.release(decoder.lm_head.parameters())
        layers = decoder.model.layers
        self._layer_weights: list[LayerWeights] = []
        self._layers: list[DecoderLayer] = []
        for layer_index in range(self.config.layers):
            layer = layers[layer_index]
            assert isinstance(layer, Layer)
            weights = LayerWeights(layer, self.config, layer_index, precision)
            as_int8 = self.compiled and suits_int8_layer(layer, weights)
            self._layer_weights.append(weights)
            self._layers.append(Int8Layer(weights) if as_int8 else CpuLayer(weights))
            layers[layer_index] = nn.Identity()
            mapped_pages.release(layer.parameters())
        self._norm = FusedRmsNorm(decoder.model.norm, self._residual_dtype, compiled=self.compiled)
        self._inv_freq = inverse_frequencies(self.config)
        self._factor_cache = StackedFactorCache()

    @property
    def rounds_by_row(self) -> bool:
        """Whether no bit of a linear layer's result depends on how many rows there are."""
        linears = (linear for weights in self._layer_weights for linear in weights.linears())
        return all(map(rounds_by_row, (self._head, *linears)))

    @torch.inference_mode()
    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention: Attention,
        lora: Sequence[LoraSpan] = (),
        *,
        output_rows: Tensor | None = None,
        group_adapters: bool = True,
    ) -> Tensor:
        """Hidden states before the final norm; see `Decoder.hidden`. lora: in the order of the tokens.

        group_adapters: whether short spans of different adapters share products, so that rounding depends on the batch.
        Without output_rows, as in decode steps (which never run concurrently), the stacked factors are cached for the
        next pass.
        """
        x = self.embedding[tokens].to(self._residual_dtype)
        scale = self.config.rope_scaling.attention_factor
        rotary = RotaryEmbedding(positions, self._inv_freq, self._residual_dtype, compiled=self.compiled, scale=scale)
        cache = self._factor_cache if output_rows is None else None
        batched = self._batched_lora(lora, len(tokens), cache, group_adapters=group_adapters)
        with scratch.frame(len(x)):
            for layer in self._layers[:-1]:
                layer.output_and_mlp(x, layer.attention_block(x, rotary, attention, batched), batched)
        last = self._layers[-1]
        if output_rows is not None and not len(output_rows):
            last.attention_block(x, rotary, KvOnlyAttention(attention), batched)
            return x[:0]
        attended = last.attention_block(x, rotary, attention, batched)
        if output_rows is not None:
            x, attended = x[output_rows], attended[output_rows]
            spans = spans_at(lora, output_rows, len(tokens))
            batched = self._batched_lora(spans, len(output_rows), None, group_adapters=group_adapters)
        last.output_and_mlp(x, attended, batched)
        return x

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [N, hidden] -> final norm and head -> [N, vocab_size]."""
        return self._head(self._norm(hidden))

    @torch.inference_mode()
    def token_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor | None:
        """See `Decoder.token_logits`."""
        return None if self._head_weight is None else exact_logits(self._norm(hidden), self._head_weight[tokens])

    def _stored_head(self, decoder: Decoder, mapped_pages: MappedPages) -> Tensor | None:
        """The head's weight as it is stored, where keeping it costs no memory: it is the embedding, or its pages are a
        file's."""
        if not isinstance(decoder.lm_head, nn.Linear) or isinstance(self.embedding, GgufEmbedding):
            return None
        weight = decoder.lm_head.weight.detach()
        is_free = weight.data_ptr() == self.embedding.data_ptr() or mapped_pages.holds(weight)
        return weight if is_free else None

    def _batched_lora(
        self, lora: Sequence[LoraSpan], tokens: int, cache: StackedFactorCache | None, *, group_adapters: bool
    ) -> AnyBatchedLora:
        if self.compiled:
            return CompiledLora(lora, self.dtype)
        return BatchedLora(lora, tokens, cache, group_adapters=group_adapters, dtype=self.dtype)

    def replace_layer_weights(self, layer_index: int, layer: Layer, modules: Set[str]) -> None:
        """See `LayerWeights.replace_weights`."""
        self._layer_weights[layer_index].replace_weights(layer, self.precision, modules)

    def clear_adapter_cache(self) -> None:
        """Free the stacked factors of decode steps."""
        self._factor_cache.retain(())


AnyDecoder = Decoder | CpuDecoder
