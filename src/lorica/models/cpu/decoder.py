"""The decoder for inference on a CPU: what `Decoder` computes, with packed weights and few calls.

`Decoder` stays the one that trains, and what this is held to.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import torch
from torch import Tensor, nn

from lorica.models.batched_lora import AnyUpdates, CompiledUpdates, FactorMemory, Updates
from lorica.models.cpu.layer import AnyLayer, FastLayer, KeepOnly, Parts, goes_compiled
from lorica.models.cpu.layer_int8 import Int8Layer, suits
from lorica.models.cpu.linear import make_product, stream_dtype, working_dtype
from lorica.models.cpu.ops import Norm, Turn
from lorica.models.decoder import Decoder, Layer
from lorica.models.lora import LoraSpan, spans_of
from lorica.models.packed_attention import Attention
from lorica.models.rope import inverse_frequencies
from lorica.precision import PRECISIONS


class CpuDecoder:
    """Packed tokens in, hidden states out: the interface of `Decoder`, without gradients.

    dtype: of keys, values and adapters. precision: of the linear layers, a name of `precision.PRECISIONS`. compiled:
    whether the compiled kernels compute what stands between these.
    """

    def __init__(self, decoder: Decoder, precision: str) -> None:
        """Takes the decoder's weights layer by layer, so that both forms never exist at once; it is of no use after."""
        self.config, self.precision = decoder.config, precision
        self.device, self.dtype = decoder.device, working_dtype(precision)
        self.embedding = decoder.model.embed_tokens.weight.detach()
        self._stream, self.compiled = stream_dtype(precision), goes_compiled(self.config, precision)
        layers = decoder.model.layers
        self._parts: list[Parts] = []
        self._layers: list[AnyLayer] = []
        for number in range(self.config.layers):
            layer = layers[number]
            assert isinstance(layer, Layer)
            parts = Parts(layer, self.config, number, precision)
            whole = self.compiled and suits(layer, precision)
            self._parts.append(parts)
            self._layers.append(Int8Layer(parts) if whole else FastLayer(parts))
            layers[number] = nn.Identity()
        self._norm = Norm(decoder.model.norm, self._stream, compiled=self.compiled)
        self._head = make_product((decoder.lm_head,), PRECISIONS[precision].head or precision)
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
        scale = self.config.rope_scaling.attention_factor
        turn = Turn(positions, self._speeds, self._stream, compiled=self.compiled, scale=scale)
        updates = self._updates(lora, len(tokens), self._memory if read is None else None, bundle=bundle)
        for layer in self._layers[:-1]:
            layer.finish(x, layer.mix(x, turn, attention, updates), updates)
        last = self._layers[-1]
        if read is not None and not len(read):
            last.mix(x, turn, KeepOnly(attention), updates)
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

    def replace_layer_weights(self, number: int, layer: Layer, modules: Set[str]) -> None:
        """Put other weights in the place of some of a layer's: see `Parts.renew`."""
        self._parts[number].renew(layer, self.precision, modules)

    def clear_adapter_cache(self) -> None:
        """Let go of what was joined of adapters' matrices for generation."""
        self._memory.keep_only(())


AnyDecoder = Decoder | CpuDecoder
