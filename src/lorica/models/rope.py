"""Rotary position embedding (https://arxiv.org/abs/2104.09864) with the scalings of the supported
families.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lorica.models.families import DecoderConfig
from lorica.models.rope_config import RopeScaling


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
    if scaling.kind == "yarn":
        return _yarn(speeds, config)
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


def _yarn(speeds: Tensor, config: DecoderConfig) -> Tensor:
    # Fast dimensions are kept, slow ones slowed by `factor`; a ramp over the dimensions lies between.
    scaling, width = config.rope_scaling, config.head_dim
    low, high = (_dimension(turns, config) for turns in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(width // 2, dtype=torch.float32, device="cpu") - low) / (high - low)
    kept = 1 - ramp.clamp(0, 1)
    exponent = torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width
    slowed = 1.0 / (scaling.factor * config.rope_theta**exponent)
    return slowed * (1 - kept) + speeds * kept


def _dimension(turns: float, config: DecoderConfig) -> float:
    """The dimension that turns so often over the original positions."""
    length = config.rope_scaling.original_max_positions / (turns * 2 * math.pi)
    return config.head_dim * math.log(length) / (2 * math.log(config.rope_theta))


def rotation(positions: Tensor, speeds: Tensor, dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """positions [T] -> cosines and sines, each [T, 1, head_dim], times scale.

    Computed in float32 and rounded once: bfloat16 cannot count beyond 256.
    """
    angles = positions.to(torch.float32)[:, None] * speeds[None, :]
    both = torch.cat((angles, angles), dim=-1)[:, None, :]
    if scale == 1.0:
        return both.cos().to(dtype), both.sin().to(dtype)
    return (both.cos() * scale).to(dtype), (both.sin() * scale).to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x [T, H, head_dim] turned by its position; pairs are (i, i + head_dim / 2), as in the published
    weights.
    """
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cosine + turned * sine
