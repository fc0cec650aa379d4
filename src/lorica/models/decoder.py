"""The decoder that trains and infers: packed tokens in, hidden states out, no padding, no KV cache inside.

Parameter names equal those of the published checkpoints, so weights load without a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from lorica.models.families import DecoderConfig
from lorica.models.lora import Lora, PerTokenLora, linear_with_lora, spans_at
from lorica.models.packed_attention import Attention
from lorica.models.rope import apply_rotary, cos_sin_table, inverse_frequencies


@dataclass(frozen=True)
class OutputRows:
    """The packed tokens whose output is wanted of the last layer: rows [R], ascending; lora: their spans."""

    rows: Tensor
    lora: Lora


class RmsNorm(nn.Module):
    """Root-mean-square norm over the last dimension (https://arxiv.org/abs/1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """Projections and rotary embedding; `Attention` decides which tokens see which."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self._layer = layer
        self._path = f"model.layers.{layer}.self_attn"
        self._head_dim = config.head_dim
        query_width, key_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=config.output_bias)
        self.q_norm = RmsNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RmsNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        cosine: Tensor,
        sine: Tensor,
        attention: Attention,
        lora: Lora,
        outputs: OutputRows | None = None,
    ) -> Tensor:
        """x [T, hidden]; cosine, sine [T, 1, Dh] -> [T, hidden], or [R, hidden] for the R rows of `outputs`."""
        heads = (x.shape[0], -1, self._head_dim)
        key = linear_with_lora(x, self.k_proj, f"{self._path}.k_proj", lora).view(heads)
        value = linear_with_lora(x, self.v_proj, f"{self._path}.v_proj", lora).view(heads)
        key = apply_rotary(key if self.k_norm is None else self.k_norm(key), cosine, sine)
        if outputs is not None and not len(outputs.rows):
            attention.attend(self._layer, key[:0], key, value)
            return x[:0]
        query = linear_with_lora(x, self.q_proj, f"{self._path}.q_proj", lora).view(heads)
        query = apply_rotary(query if self.q_norm is None else self.q_norm(query), cosine, sine)
        attended = attention.attend(self._layer, query, key, value).reshape(x.shape[0], -1)
        if outputs is not None:
            attended, lora = attended.index_select(0, outputs.rows), outputs.lora
        return linear_with_lora(attended, self.o_proj, f"{self._path}.o_proj", lora)


class Mlp(nn.Module):
    """SwiGLU feed-forward (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self._path = f"model.layers.{layer}.mlp"
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor, lora: Lora) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        gate_states = linear_with_lora(x, self.gate_proj, f"{self._path}.gate_proj", lora)
        up_states = linear_with_lora(x, self.up_proj, f"{self._path}.up_proj", lora)
        return linear_with_lora(F.silu(gate_states) * up_states, self.down_proj, f"{self._path}.down_proj", lora)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, layer)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = Mlp(config, layer)

    def forward(
        self,
        x: Tensor,
        cosine: Tensor,
        sine: Tensor,
        attention: Attention,
        lora: Lora,
        outputs: OutputRows | None = None,
    ) -> Tensor:
        """[T, hidden] -> [T, hidden], or [R, hidden] for the R rows of `outputs`."""
        attended = self.self_attn(self.input_layernorm(x), cosine, sine, attention, lora, outputs)
        if outputs is not None:
            x, lora = x.index_select(0, outputs.rows), outputs.lora
        x = x + attended
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x), lora))


class Body(nn.Module):
    """Everything but the output head; named as in the checkpoints."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        embedding_table = torch.empty(config.vocab_size, config.hidden_size)
        if not embedding_table.is_meta:  # there it would draw nothing, and import a compiler for it: seconds
            nn.init.normal_(embedding_table)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=embedding_table)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """A decoder over packed tokens. The head is applied only where a caller asks for logits."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._inv_freq = inverse_frequencies(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the hidden states, which is that of the norms: weights may be held in fewer bytes."""
        return self.model.norm.weight.dtype

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention: Attention,
        lora: Lora = (),
        *,
        output_rows: Tensor | None = None,
        checkpoint: bool = False,
    ) -> Tensor:
        """Hidden states before the final norm.

        tokens, positions: [T] integers. lora: disjoint spans of the packed tokens, or the adapter of each. output_rows:
        the R tokens whose states are wanted, ascending, on the device of the tokens; of the others the last layer
        computes keys and values alone. checkpoint: recompute each layer in the backward pass to save memory. Returns
        [T, hidden], or [R, hidden] with output_rows.
        """
        x = self.model.embed_tokens(tokens)
        if self._inv_freq.device != tokens.device:
            self._inv_freq = self._inv_freq.to(tokens.device)
        cosine, sine = cos_sin_table(positions, self._inv_freq, x.dtype, self.config.rope_scaling.attention_factor)
        assert output_rows is None or not isinstance(lora, PerTokenLora), "decode steps output all rows"
        outputs = (
            None
            if output_rows is None or isinstance(lora, PerTokenLora)
            else OutputRows(output_rows, spans_at(lora, output_rows, len(tokens)))
        )
        for layer_number, layer in enumerate(self.model.layers, 1):
            inputs = (x, cosine, sine, attention, lora, outputs if layer_number == self.config.layers else None)
            x = recompute(layer, *inputs, use_reentrant=False) if checkpoint else layer(*inputs)
        return cast(Tensor, x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [N, hidden] -> final norm and head -> [N, vocab_size]."""
        normed, weight = self.model.norm(hidden), self.lm_head.weight
        return F.linear(normed.to(weight.dtype), weight)  # training keeps states in float32 on a base in bfloat16

    def token_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor | None:
        """hidden [S, hidden], tokens [S] -> float64 [S]: the logit of each token after its hidden state, before
        `logits` rounds it to the precision of the head; None where the head's weight is not at hand."""
        head: nn.Module = self.lm_head  # of a GGUF file it is another
        return exact_logits(self.model.norm(hidden), head.weight[tokens]) if isinstance(head, nn.Linear) else None


def exact_logits(normed: Tensor, token_weights: Tensor) -> Tensor:
    """normed [S, hidden], token_weights [S, hidden] -> float64 [S]: products of their rows, each by itself, with the
    bits of float32: nothing of the order of a sum is left in them."""
    return (normed.double() * token_weights.double()).sum(dim=-1).float().double()
