"""A decoder layer in int8 by the compiled kernels, which fuse scaling and quantization into norm and activation.

Hidden states stay float32. The LoRA of the output and down projections is added to the hidden states directly.
"""

from __future__ import annotations

from torch import Tensor

from lorica.models.batched_lora import AnyBatchedLora, CompiledLora
from lorica.models.compiled import bindings
from lorica.models.cpu import scratch
from lorica.models.cpu.layer import LayerWeights, row_blocks
from lorica.models.cpu.linear import Int8Linear, Linear
from lorica.models.cpu.ops import RotaryEmbedding
from lorica.models.decoder import Layer
from lorica.models.packed_attention import Attention


class Int8Layer:
    """`DecoderLayer`, where `suits_int8_layer`."""

    def __init__(self, weights: LayerWeights) -> None:
        self._weights = weights

    def attention_block(self, x: Tensor, rotary: RotaryEmbedding, attention: Attention, lora: AnyBatchedLora) -> Tensor:
        """See `DecoderLayer`."""
        weights = self._weights
        assert isinstance(lora, CompiledLora)
        rms_norm, kept = weights.input_norm, weights.qkv_dtype if lora.adapts(weights.qkv_paths) else None
        with scratch.frame(len(x)):
            query, key, value = weights.empty_qkv(len(x))
            for row_slice in row_blocks(len(x)):
                codes, scales, normed = bindings.add_norm_quantize(
                    x[row_slice], None, rms_norm.weight, rms_norm.eps, keep_normed=kept
                )
                y = _matmul_unscaled(weights.qkv, codes)
                bindings.scale_rows(y, scales, _int8_linear(weights.qkv).bias)
                if normed is not None:
                    lora.add(weights.qkv_paths, weights.heads.widths, normed, y, row_slice.start)
                weights.heads.split_qkv_and_rotate(
                    y, rotary.rows_of(row_slice), (query[row_slice], key[row_slice], value[row_slice])
                )
            return attention.attend(weights.layer_index, query, key, value).flatten(1)

    def output_and_mlp(self, x: Tensor, attended: Tensor, lora: AnyBatchedLora) -> None:
        """See `DecoderLayer`."""
        weights = self._weights
        assert isinstance(lora, CompiledLora)
        rms_norm, adapted = weights.post_norm, lora.adapts(weights.gate_path) or lora.adapts(weights.up_path)
        down_adapted = lora.adapts(weights.down_path)
        for row_slice in row_blocks(len(x)):
            states, attended_rows = x[row_slice], attended[row_slice]
            codes, scales = bindings.quantize_rows(attended_rows)
            y = _matmul_unscaled(weights.output, codes)
            lora.add(weights.output_path, (weights.hidden_size,), attended_rows, states, row_slice.start)
            codes, factors, normed = bindings.add_norm_quantize(
                states, (y, scales), rms_norm.weight, rms_norm.eps, keep_normed=weights.qkv_dtype if adapted else None
            )
            gate, up = _matmul_unscaled(weights.gate, codes), _matmul_unscaled(weights.up, codes)
            if normed is not None:
                for path, y in ((weights.gate_path, gate), (weights.up_path, up)):
                    bindings.scale_rows(y, factors, None)
                    lora.add(path, (weights.intermediate_size,), normed, y, row_slice.start)
            codes, scales, activated = bindings.silu_and_mul_quantize(
                gate, up, None if adapted else factors, keep_product=weights.qkv_dtype if down_adapted else None
            )
            y = _matmul_unscaled(weights.down, codes)
            if activated is not None:
                lora.add(weights.down_path, (weights.hidden_size,), activated, states, row_slice.start)
            bindings.add_scaled(states, y, scales)


def suits_int8_layer(layer: Layer, weights: LayerWeights) -> bool:
    """Whether a layer, with compiled kernels, can be an `Int8Layer`: only query, key and value may have a bias."""
    mlp = layer.mlp
    unbiased = layer.self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj
    return isinstance(weights.qkv, Int8Linear) and all(linear.bias is None for linear in unbiased)


def _int8_linear(linear: Linear) -> Int8Linear:
    assert isinstance(linear, Int8Linear)
    return linear


def _matmul_unscaled(linear: Linear, codes: Tensor) -> Tensor:
    return _int8_linear(linear).matmul_unscaled(codes)
