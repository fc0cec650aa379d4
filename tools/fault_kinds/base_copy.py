"""Copies of a base model's folder with something changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]


def copy_base(
    base: Path,
    to: Path,
    *,
    weights: Callable[[Weights], Weights] | None = None,
    config: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Copy a base; `weights` gets and returns its tensors, `config` changes config.json's object in place."""
    to.mkdir(parents=True)
    for path in base.iterdir():
        if path.is_file() and path.name not in ("zoo.json", "model.safetensors"):
            shutil.copyfile(path, to / path.name)
    if weights is None:
        shutil.copyfile(base / "model.safetensors", to / "model.safetensors")
    else:
        changed = weights(load_file(base / "model.safetensors"))
        kept = {name: tensor.contiguous() for name, tensor in changed.items()}
        save_file(kept, to / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        values = json.loads((to / "config.json").read_text("utf-8"))
        config(values)
        (to / "config.json").write_text(json.dumps(values, indent=2), "utf-8")
    return to
