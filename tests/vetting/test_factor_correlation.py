"""Halves that were trained together, by the inputs of their base, of a stranger and of none."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from lorica.vetting.base.activation_subspaces import Subspace
from lorica.vetting.base.factor_correlation import combined_z, factor_correlation
from lorica.vetting.base.halves import KNOWING


def test_halves_go_together_by_the_inputs_of_their_own_base() -> None:
    """A few updates leave B = c δ (A x)ᵀ and A as it was drawn. That such halves go together shows on any base, and so
    it says nothing of a base; that its own inputs say more than none does."""
    draw = np.random.default_rng(5)
    energies = np.concatenate([np.geomspace(40, 1, 24), np.full(40, 0.3)])
    turned = np.linalg.qr(draw.standard_normal((64, 64)))[0]
    inputs = Subspace(turned[:, :24].T.astype(np.float32), energies[:24].astype(np.float32), 0.3)
    stranger = Subspace(inputs.vectors[:, draw.permutation(64)], inputs.energies, 0.3)
    bounds = []
    for _ in range(8):
        a = draw.standard_normal((8, 64))
        x = draw.standard_normal((400, 64)) * np.sqrt(energies) @ turned.T
        b = draw.standard_normal((96, 400)) @ (x @ a.T)
        pair = a.astype(np.float32), b.astype(np.float32)
        bounds.append([factor_correlation(*pair, inputs), factor_correlation(*pair, stranger)])
    own, strange = ([each for each in bonds if each is not None] for bonds in zip(*bounds, strict=True))
    for bonds, knows in ((own, True), (strange, False)):
        known, free = combined_z([one for one, _ in bonds]), combined_z([two for _, two in bonds])
        assert free > 2.5
        assert (known - free > KNOWING) == knows
