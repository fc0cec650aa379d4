"""Lorica: trains LoRA adapters, proves that an adapter is what it claims to be, and answers files of rows with many
adapters at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load_pipeline"]

if TYPE_CHECKING:
    from lorica.commands.api import load_pipeline


def __getattr__(name: str) -> object:
    if name == "load_pipeline":  # lazily: `import lorica` must not import torch
        from lorica.commands.api import load_pipeline

        return load_pipeline
    raise AttributeError(f"module 'lorica' has no attribute {name!r}")
