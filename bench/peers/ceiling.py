"""What the processor multiplies at best: the largest rate of several large products in each arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench.peers.workloads import Item

from lorica.models.families import read_decoder_config

_ROWS, _TRIES = 2048, 4


class Ceiling:
    """Products of the model's own widths, and square ones."""

    def __init__(self, model: Path, options: dict[str, str]) -> None:
        config = read_decoder_config(model)
        wide = max(config.intermediate_size, 1024)
        self._sizes = [(config.hidden_size, wide), (wide, config.hidden_size), (2048, 2048)]
        if int(options.get("threads", 0)):
            torch.set_num_threads(int(options["threads"]))

    def run(self, items: list[Item]) -> dict[str, Any]:
        """GFLOP/s (for int8 GOP/s); the workload is of no matter."""
        del items
        return {
            "results": None,
            "gops": {
                "bfloat16": self._best(torch.bfloat16),
                "float32": self._best(torch.float32),
                "int8": self._best(torch.int8),
            },
        }

    @torch.inference_mode()
    def _best(self, dtype: torch.dtype) -> float:
        best = 0.0
        for inputs, outputs in self._sizes:
            if dtype == torch.int8:
                a = torch.randint(-9, 9, (_ROWS, inputs), dtype=dtype)
                b = torch.randint(-9, 9, (outputs, inputs), dtype=dtype).t().contiguous()
                best = max(best, _rate(partial(torch._int_mm, a, b), inputs * outputs))
            else:
                x, w = torch.randn(_ROWS, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
                best = max(best, _rate(partial(F.linear, x, w), inputs * outputs))
        return best


def _rate(product: Callable[[], object], cells: int) -> float:
    product()
    taken = []
    for _ in range(_TRIES):
        begun = time.perf_counter()
        product()
        taken.append(time.perf_counter() - begun)
    return 2 * _ROWS * cells / min(taken) / 1e9


def load(model: Path, adapters: Path, options: dict[str, str]) -> Ceiling:
    """For the worker."""
    del adapters
    return Ceiling(model, options)
