"""The device that a model is computed on, held against what this machine has."""

from __future__ import annotations

import torch

from lorica.errors import ModelError


def find_device(device: torch.device | str) -> torch.device:
    """The device by torch's name. Raises ModelError for a name that is none, and for one that this machine lacks."""
    try:
        torch_device = torch.device(device)
    except RuntimeError:
        raise ModelError(
            f"device {str(device)!r} is none that torch knows", fix="use cpu, cuda, cuda:0, cuda:1 ... or mps"
        ) from None
    if torch_device.type == "cuda" and (torch_device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {torch_device}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use",
            fix="use device=cpu, or install torch with CUDA support",
        )
    if torch_device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError(f"device {torch_device}: this machine has none that torch can use", fix="use device=cpu")
    return torch_device
