"""Principal directions of a base's activations or gradients: the largest eigenvectors of their second moments."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorica.adapters.tensor_map import layer_number
from lorica.vetting.base.conversion_faults import BaseForm

Array = NDArray[np.float32]

MAX_DIRECTIONS = 256  # principal directions kept of one layer's inputs or output gradients
# Wider ones are decomposed in float32, in half the time; of still larger ones only the leading eigenvectors are found,
# by subspace iteration.
_WIDE, _LARGE = 512, 640
_OVERSAMPLING, _ITERATIONS = 64, 2


@dataclass(frozen=True)
class Subspace:
    """Principal directions of some vectors of one width, uncentred.

    vectors: [k, width] orthonormal rows. energies: [k] mean squares along them, falling. rest_energy: mean square
    along each of the other width - k directions.
    """

    vectors: Array
    energies: Array
    rest_energy: float

    @property
    def width(self) -> int:
        """The vectors' length."""
        return int(self.vectors.shape[1])


@dataclass(frozen=True)
class ActivationSubspaces:
    """What `collect_subspaces` measured of one base. inputs, outputs: module path -> directions of its inputs and of
    its output gradients. weights: module path -> Frobenius norm of its weight. hidden, head_dim: widths, 0 where
    unknown. outlier_layers: those that have nothing in common with the others. form: whether its weights are as its
    config says, and its predictions follow its text.
    """

    base: Path
    inputs: dict[str, Subspace]
    outputs: dict[str, Subspace]
    weights: dict[str, float]
    hidden: int
    head_dim: int
    outlier_layers: tuple[int, ...] = ()
    form: BaseForm = field(default_factory=BaseForm)

    @property
    def layers(self) -> int:
        """How many layers the base has."""
        return 1 + max((number for number in map(layer_number, self.inputs) if number is not None), default=-1)


def empty_subspace(width: int) -> Subspace:
    """Stands for vectors whose directions are not wanted."""
    return Subspace(np.zeros((0, width), np.float32), np.zeros(0, np.float32), 1.0)


def principal_subspace(vectors: Tensor, max_directions: int = MAX_DIRECTIONS) -> Subspace | None:
    """The principal directions of [..., width] vectors; None when they are all zero or not finite.

    Zero vectors (padding has no gradient) change nothing.
    """
    tokens = vectors.reshape(-1, vectors.shape[-1]).float()
    tokens = tokens[tokens.abs().amax(1) != 0]  # NaN is not 0, and is found below
    token_count, width = tokens.shape
    if not token_count or not bool(torch.isfinite(tokens).all()):
        return None
    tokens = tokens / tokens.abs().max()  # gradients may be too small to be squared
    tokens = tokens / tokens.square().mean().sqrt()
    energies, principal_axes = _leading(
        tokens.T @ tokens if width <= token_count else tokens @ tokens.T, max_directions
    )
    above_noise = energies > 1e-7 * energies[0]
    energies, principal_axes = energies[above_noise], principal_axes[:, above_noise]
    directions = principal_axes.T if width <= token_count else (tokens.T @ principal_axes / energies.sqrt().float()).T
    rest_energy = (tokens.square().sum() - energies.sum()).clamp_min(0) / max(1, width - len(energies))
    return Subspace(
        vectors=directions.contiguous().numpy().astype(np.float32),
        energies=(energies / token_count).numpy().astype(np.float32),
        rest_energy=float(rest_energy / token_count),
    )


def _leading(moments: Tensor, direction_count: int) -> tuple[Tensor, Tensor]:
    """moments [n, n], symmetric -> its largest eigenvalues, falling, and their vectors [n, direction_count].

    Subspace iteration with oversampling: Halko, Martinsson and Tropp, https://arxiv.org/abs/0909.4061, algorithm 4.4.
    """
    dimension = len(moments)
    if dimension < max(_LARGE, direction_count + 2 * _OVERSAMPLING):
        values, eigenvectors = torch.linalg.eigh(moments.double() if dimension < _WIDE else moments)
        return values.flip(0)[:direction_count].clamp_min(0), eigenvectors.flip(1)[:, :direction_count].float()
    basis = torch.randn(dimension, direction_count + _OVERSAMPLING, generator=torch.Generator().manual_seed(0))
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(moments @ basis).Q
    values, turned = torch.linalg.eigh(basis.T @ (moments @ basis))
    return values.flip(0)[:direction_count].clamp_min(0), basis @ turned.flip(1)[:, :direction_count].float()
