"""Rotary position embedding (https://arxiv.org/abs/2104.09864) with the scalings of the supported
families.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorica.models.families import DecoderConfig, RopeScaling


def inverse_frequencies(config: DecoderConfig) -> Tensor:
    """[head_dim / 2] float32 angular speeds, one per pair of dimensions.

    Always real numbers on the CPU, also where a decoder is built on the meta device to be filled later.
    """
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    speeds = 1.0 / (config.rope_theta**exponent)
    scaling = config.rope_scaling
    if scaling.kind == "linear":
        return speeds / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(speeds, scaling)
    return speeds


def _llama3(speeds: Tensor, scaling: RopeScaling) -> Tensor:
    # Long waves are slowed by `factor`, short ones kept, those between blended.
    wavelength = 2 * math.pi / speeds
    longest = scaling.original_max_positions / scaling.low_freq_factor
    shortest = scaling.original_max_positions / scaling.high_freq_factor
    blend = (scaling.original_max_positions / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - blend) * speeds / scaling.factor + blend * speeds
    scaled = torch.where(wavelength > longest, speeds / scaling.factor, between)
    return torch.where(wavelength < shortest, speeds, scaled)


def rotation(positions: Tensor, speeds: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """positions [T] -> cosines and sines, each [T, 1, head_dim].

    Computed in float32 and rounded once: bfloat16 cannot count beyond 256.
    """
    angles = positions.to(torch.float32)[:, None] * speeds[None, :]
    both = torch.cat((angles, angles), dim=-1)[:, None, :]
    return both.cos().to(dtype), both.sin().to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x [T, H, head_dim] turned by its position; pairs are (i, i + head_dim / 2), as in the published
    weights.
    """
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cosine + turned * sine
