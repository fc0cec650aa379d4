"""What a layer computes between its linear layers, on a CPU: RMS norm, residual sum, rotary embedding, SiLU.

With keys in bfloat16 the compiled kernels do each in one pass over memory; else torch's operators.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.models.compiled import bindings
from lorica.models.cpu import scratch
from lorica.models.decoder import RmsNorm
from lorica.models.families import DecoderConfig
from lorica.models.rope import cos_sin_table


class FusedRmsNorm:
    """RMS norm of hidden states in `dtype`, computed in float32; fused with the residual sum where there is one."""

    def __init__(self, rms_norm: RmsNorm, dtype: torch.dtype, *, compiled: bool) -> None:
        self.weight = rms_norm.weight.detach().to(dtype).float().contiguous()
        self.eps, self._compiled = rms_norm.eps, compiled

    def __call__(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        if self._compiled:
            normed = scratch.empty(*x.shape, dtype=x.dtype)
            bindings.add_and_norm(x.reshape(-1, x.shape[-1]), None, self.weight, self.eps, normed)
            return normed
        # In fewer passes than torch's: one over the squares, one for each factor.
        states = x.float()
        l2_norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        factor = l2_norm.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
        scaled = states * factor if states is x else states.mul_(factor)
        return scaled.mul_(self.weight).to(x.dtype)

    def add_and_norm(self, x: Tensor, added: Tensor) -> Tensor:
        """x [N, width] += added, in place; returns the norm of the sum, which may lie in the memory of added."""
        if self._compiled:
            return bindings.add_and_norm(x, added, self.weight, self.eps, added)
        x += added
        return self(x)


def silu_and_mul(gate: Tensor, up: Tensor, *, compiled: bool) -> Tensor:
    """silu(gate) * up, in the memory of gate [N, in]."""
    return bindings.silu_and_mul(gate, up) if compiled else F.silu(gate, inplace=True).mul_(up)


class RotaryEmbedding:
    """Cosines and sines of the positions of a pass, in the form in which the kernels multiply them."""

    def __init__(
        self, positions: Tensor, inv_freq: Tensor, dtype: torch.dtype, *, compiled: bool, scale: float = 1.0
    ) -> None:
        """positions [T]; dtype: of what is rotated; scale: of cosines and sines."""
        half_dim = len(inv_freq)
        if compiled:
            cos_sin = cos_sin_table(positions, inv_freq, torch.float32, scale)
            self._cosine, self._sine = (table[:, 0, :half_dim].contiguous() for table in cos_sin)
        else:
            self._cosine, self._sine = cos_sin_table(positions, inv_freq, dtype, scale)
            self._sine[..., :half_dim].neg_()

    def rows_of(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Cosines and sines of some tokens."""
        return self._cosine[rows], self._sine[rows]


class QkvHeads:
    """Splits the output of a fused QKV projection into heads; norms (in some families) and rotates query and key."""

    def __init__(
        self, config: DecoderConfig, query_norm: FusedRmsNorm | None, key_norm: FusedRmsNorm | None, *, compiled: bool
    ) -> None:
        self._query_norm, self._key_norm, self._compiled = query_norm, key_norm, compiled
        self._head_dim = config.head_dim
        self.widths = [heads * config.head_dim for heads in (config.heads, config.kv_heads, config.kv_heads)]
        self._eps = 0.0 if query_norm is None else query_norm.eps
        weights = (None if rms_norm is None else rms_norm.weight for rms_norm in (query_norm, key_norm))
        self._layout = bindings.head_layout(config.heads, config.kv_heads, config.head_dim, *weights)

    def split_qkv_and_rotate(
        self, qkv: Tensor, cos_sin: tuple[Tensor, Tensor], outputs: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """qkv [N, (H + 2 * Hkv) * Dh] fills query [N, H, Dh], key and value [N, Hkv, Dh]."""
        if self._compiled:
            bindings.split_qkv_and_rotate(qkv, outputs, cos_sin, self._layout, self._eps)
            return
        q, k, v = (projection.view(len(qkv), -1, self._head_dim) for projection in torch.split(qkv, self.widths, dim=1))
        if self._query_norm is not None and self._key_norm is not None:
            q, k = self._query_norm(q), self._key_norm(k)
        query, key, value = outputs
        query[:], key[:], value[:] = _rotate(q, *cos_sin), _rotate(k, *cos_sin), v


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    # x [N, H, Dh], cosine and sine [N, 1, Dh]; the first half of the sines is negated (see `rope.apply_rotary`)
    return torch.mul(x, cosine).addcmul_(x.roll(x.shape[-1] // 2, -1), sine)
