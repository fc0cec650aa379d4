"""A layer of whole numbers, by the compiled kernels: scaling and rounding are no passes of their own.

The states stay float32. What adapters add for the output and down projections goes to the states at once.
"""

from __future__ import annotations

from torch import Tensor

from lorica.models.batched_lora import AnyUpdates, CompiledUpdates
from lorica.models.compiled import bindings
from lorica.models.cpu.layer import Parts, blocks
from lorica.models.cpu.linear import Int8Product, Product
from lorica.models.cpu.ops import Turn
from lorica.models.decoder import Layer
from lorica.models.packed_attention import Attention
from lorica.precision import PRECISIONS


class Int8Layer:
    """`FastLayer`, only where `suits`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def mix(self, x: Tensor, turn: Turn, attention: Attention, updates: AnyUpdates) -> Tensor:
        """See `AnyLayer.mix`."""
        parts = self._parts
        assert isinstance(updates, CompiledUpdates)
        query, key, value = parts.empty(len(x))
        norm, changed = parts.input_norm, updates.touches(parts.qkv_paths)
        for rows in blocks(len(x)):
            codes, scales, plain = bindings.add_norm_round(x[rows], None, norm.weight, norm.eps, plain=changed)
            y = _unscaled(parts.qkv, codes)
            bindings.scale(y, scales, _whole(parts.qkv).bias)
            if plain is not None:
                updates.add(parts.qkv_paths, parts.heads.widths, plain, y, rows.start)
            parts.heads.take_apart(y, turn.of(rows), (query[rows], key[rows], value[rows]))
        return attention.attend(parts.number, query, key, value).flatten(1)

    def finish(self, x: Tensor, mixed: Tensor, updates: AnyUpdates) -> None:
        """See `AnyLayer.finish`."""
        parts = self._parts
        assert isinstance(updates, CompiledUpdates)
        norm, changed = parts.post_norm, updates.touches(parts.gate_path) or updates.touches(parts.up_path)
        down_changed = updates.touches(parts.down_path)
        for rows in blocks(len(x)):
            states, given = x[rows], mixed[rows]
            codes, scales = bindings.round_rows(given)
            y = _unscaled(parts.output, codes)
            updates.add(parts.output_path, (parts.hidden,), given, states, rows.start)
            codes, factors, plain = bindings.add_norm_round(states, (y, scales), norm.weight, norm.eps, plain=changed)
            opened, up = _unscaled(parts.gate, codes), _unscaled(parts.up, codes)
            if plain is not None:
                for path, y in ((parts.gate_path, opened), (parts.up_path, up)):
                    bindings.scale(y, factors, None)
                    updates.add(path, (parts.wide,), plain, y, rows.start)
            codes, scales, inner = bindings.gate_round(opened, up, None if changed else factors, plain=down_changed)
            y = _unscaled(parts.down, codes)
            if inner is not None:
                updates.add(parts.down_path, (parts.hidden,), inner, states, rows.start)
            bindings.add_scaled(states, y, scales)


def suits(layer: Layer, precision: str) -> bool:
    """Whether a layer of this precision, beside compiled kernels, can be an `Int8Layer`: its one bias may be that of
    query, key and value.
    """
    mlp = layer.mlp
    others = layer.self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj
    return PRECISIONS[precision].products == "int8" and all(one.bias is None for one in others)


def _whole(product: Product) -> Int8Product:
    assert isinstance(product, Int8Product)
    return product


def _unscaled(product: Product, codes: Tensor) -> Tensor:
    return _whole(product).unscaled(codes)
