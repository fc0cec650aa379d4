"""What stands between the products of a layer, for inference on a CPU: norms, sums, rotations and gates.

Beside bfloat16 keys the compiled kernels do each in one pass over memory; elsewhere, torch's operators.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lorica.models.compiled import bindings
from lorica.models.decoder import RmsNorm
from lorica.models.families import DecoderConfig
from lorica.models.rope import rotation


class Norm:
    """Root-mean-square norm in float32, of states in `dtype`."""

    def __init__(self, norm: RmsNorm, dtype: torch.dtype, *, compiled: bool) -> None:
        self.weight, self.eps, self._compiled = norm.weight.detach().to(dtype).float().contiguous(), norm.eps, compiled

    def __call__(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        if self._compiled:
            return bindings.add_and_norm(x.reshape(-1, x.shape[-1]), None, self.weight, self.eps).view(x.shape)
        # In fewer passes than torch's: one over the squares, one for each factor.
        states = x.float()
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        factor = length.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
        scaled = states * factor if states is x else states.mul_(factor)
        return scaled.mul_(self.weight).to(x.dtype)

    def of_sum(self, x: Tensor, added: Tensor) -> Tensor:
        """x [N, width] += added, in place; the norm of that."""
        if self._compiled:
            return bindings.add_and_norm(x, added, self.weight, self.eps)
        x += added
        return self(x)


def gate(opened: Tensor, up: Tensor, *, compiled: bool) -> Tensor:
    """silu(opened) * up, in the place of opened [N, in]."""
    return bindings.gate(opened, up) if compiled else F.silu(opened, inplace=True).mul_(up)


class Turn:
    """Cosines and sines of the tokens of a pass, in the form in which they are multiplied."""

    def __init__(
        self, positions: Tensor, speeds: Tensor, dtype: torch.dtype, *, compiled: bool, scale: float = 1.0
    ) -> None:
        """positions [T]; dtype: of what is rotated; scale: of cosines and sines."""
        half = len(speeds)
        if compiled:
            both = rotation(positions, speeds, torch.float32, scale)
            self._cosine, self._sine = (each[:, 0, :half].contiguous() for each in both)
        else:
            self._cosine, self._sine = rotation(positions, speeds, dtype, scale)
            self._sine[..., :half].neg_()

    def of(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Those of some tokens."""
        return self._cosine[rows], self._sine[rows]


class Heads:
    """Takes query, key and value apart, which one product gave side by side, and rotates the former two."""

    def __init__(
        self, config: DecoderConfig, query_norm: Norm | None, key_norm: Norm | None, *, compiled: bool
    ) -> None:
        self._query_norm, self._key_norm, self._compiled = query_norm, key_norm, compiled
        self._head_dim = config.head_dim
        self.widths = [heads * config.head_dim for heads in (config.heads, config.kv_heads, config.kv_heads)]
        self._eps = 0.0 if query_norm is None else query_norm.eps
        weights = (None if norm is None else norm.weight for norm in (query_norm, key_norm))
        self._shape = bindings.head_shape(config.heads, config.kv_heads, config.head_dim, *weights)

    def take_apart(self, mixed: Tensor, turn: tuple[Tensor, Tensor], into: tuple[Tensor, Tensor, Tensor]) -> None:
        """mixed [N, (H + 2 * Hkv) * Dh] fills query [N, H, Dh], key and value [N, Hkv, Dh]."""
        if self._compiled:
            bindings.split_and_turn(mixed, into, turn, self._shape, self._eps)
            return
        q, k, v = (part.view(len(mixed), -1, self._head_dim) for part in torch.split(mixed, self.widths, dim=1))
        if self._query_norm is not None and self._key_norm is not None:
            q, k = self._query_norm(q), self._key_norm(k)
        query, key, value = into
        query[:], key[:], value[:] = _turned(q, *turn), _turned(k, *turn), v


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    # x [N, H, Dh], cosine and sine [N, 1, Dh]; the first half of the sines is negated (see `rotate`)
    return torch.mul(x, cosine).addcmul_(x.roll(x.shape[-1] // 2, -1), sine)
