"""Rotary position embedding (https://arxiv.org/abs/2104.09864) with the scalings of the supported families."""

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
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    inv_freq = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling.rope_type == "linear":
        return inv_freq / scaling.factor
    if scaling.rope_type == "llama3":
        return _llama3(inv_freq, scaling)
    if scaling.rope_type == "yarn":
        return _yarn(inv_freq, config)
    return inv_freq


def _llama3(inv_freq: Tensor, scaling: RopeScaling) -> Tensor:
    # Long waves are slowed by `factor`, short ones kept, those between blended.
    wavelength = 2 * math.pi / inv_freq
    longest = scaling.original_max_positions / scaling.low_freq_factor
    shortest = scaling.original_max_positions / scaling.high_freq_factor
    blend_factor = (scaling.original_max_positions / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - blend_factor) * inv_freq / scaling.factor + blend_factor * inv_freq
    scaled = torch.where(wavelength > longest, inv_freq / scaling.factor, between)
    return torch.where(wavelength < shortest, inv_freq, scaled)


def _yarn(inv_freq: Tensor, config: DecoderConfig) -> Tensor:
    # Fast dimensions are kept, slow ones slowed by `factor`; a ramp over the dimensions lies between.
    scaling, head_dim = config.rope_scaling, config.head_dim
    low, high = (_dimension(rotations, config) for rotations in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    dimension_ramp = (torch.arange(head_dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)
    extrapolated = 1 - dimension_ramp.clamp(0, 1)
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    interpolated = 1.0 / (scaling.factor * config.rope_theta**exponents)
    return interpolated * (1 - extrapolated) + inv_freq * extrapolated


def _dimension(rotations: float, config: DecoderConfig) -> float:
    """The dimension that turns so often over the original positions."""
    length = config.rope_scaling.original_max_positions / (rotations * 2 * math.pi)
    return config.head_dim * math.log(length) / (2 * math.log(config.rope_theta))


def cos_sin_table(positions: Tensor, inv_freq: Tensor, dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """positions [T] -> cosines and sines, each [T, 1, head_dim], times scale.

    Computed in float32 and rounded once: bfloat16 cannot count beyond 256.
    """
    angles = positions.to(torch.float32)[:, None] * inv_freq[None, :]
    angles_twice = torch.cat((angles, angles), dim=-1)[:, None, :]
    if scale == 1.0:
        return angles_twice.cos().to(dtype), angles_twice.sin().to(dtype)
    return (angles_twice.cos() * scale).to(dtype), (angles_twice.sin() * scale).to(dtype)


def apply_rotary(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x [T, H, head_dim] turned by its position; pairs are (i, i + head_dim / 2), as in the published weights."""
    half_dim = x.shape[-1] // 2
    rotated_half = torch.cat((-x[..., half_dim:], x[..., :half_dim]), dim=-1)
    return x * cosine + rotated_half * sine
