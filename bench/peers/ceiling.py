"""What the processor multiplies: the largest rate of several large products in each arithmetic (torch's own, and of
packed weights; on a GPU in bfloat16 alone), each held for a while, for a run of seconds cannot be faster than what can
be kept up; beside it the rate of the fastest single product, and in bfloat16 that of torch's own product of 8192 x 8192
x 8192.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench.peers.workloads import Item

from lorica.models.compiled import library
from lorica.models.compiled.products import multiply, pack_codes
from lorica.models.cpu import kernels
from lorica.models.families import read_decoder_config

_ROWS, _SECONDS, _CUBE = 2048, 0.6, 8192
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "int8": torch.int8, "int16": torch.int16}


class Ceiling:
    """Products of the model's own widths, and square ones."""

    def __init__(self, model: Path, options: dict[str, str]) -> None:
        config = read_decoder_config(model)
        wide = max(config.intermediate_size, 1024)
        self._sizes = [(config.hidden_size, wide), (wide, config.hidden_size), (2048, 2048)]
        self._device = options.get("device", "cpu")
        if int(options.get("threads", 0)):
            torch.set_num_threads(int(options["threads"]))

    def run(self, items: list[Item]) -> dict[str, Any]:
        """GFLOP/s (for int8 GOP/s); the workload is of no matter."""
        del items
        rates = {name: self._best(_DTYPES[name]) for name in self._arithmetics()}
        return {
            "results": None,
            "gops": {name: kept for name, (kept, _) in rates.items()},
            "peak_gops": {name: peak for name, (_, peak) in rates.items()},
            "cube_gops": self._cube() if "bfloat16" in rates else 0.0,
        }

    def _arithmetics(self) -> list[str]:
        """Those that the processor multiplies at a rate that anything runs at."""
        if self._device != "cpu":
            return ["bfloat16"]
        names = ["float32", *(["int16"] if library.target() else [])]
        names += ["int8"] if kernels.has_int8_linear() else []
        return names + (["bfloat16"] if kernels.can_prepack(torch.bfloat16) else [])

    @torch.inference_mode()
    def _cube(self) -> float:
        a, b = (torch.randn(_CUBE, _CUBE).to(self._device, torch.bfloat16) for _ in range(2))
        found = torch.empty(_CUBE, _CUBE, dtype=torch.bfloat16, device=self._device)
        return _rates(partial(torch.mm, a, b, out=found), 2 * _CUBE**3 / 1e9, 2 * _SECONDS)[1]

    @torch.inference_mode()
    def _best(self, dtype: torch.dtype) -> tuple[float, float]:
        found = []
        for inputs, outputs in self._sizes:
            products: list[Callable[[], object]]
            if dtype == torch.int8:
                a = torch.randint(-9, 9, (_ROWS, inputs), dtype=dtype)
                b = torch.randint(-9, 9, (outputs, inputs), dtype=dtype).t().contiguous()
                packed, scales = kernels.prepack_int8(b.t().contiguous()), torch.ones(outputs)
                int8_linear = partial(kernels.int8_linear, a.view(torch.uint8), packed, scales)
                products = [partial(torch._int_mm, a, b), int8_linear]
            elif dtype == torch.int16:
                panels = pack_codes(torch.randn(outputs, inputs), 16)
                products = [partial(multiply, torch.randn(_ROWS, inputs), panels, None)]
            else:
                x, w = (torch.randn(rows, inputs).to(self._device, dtype) for rows in (_ROWS, outputs))
                products = [partial(F.linear, x, w)]
                if self._device == "cpu" and kernels.can_prepack(dtype):
                    products.append(partial(kernels.prepacked_linear, x, kernels.prepack(w), None))
            found += [_rates(product, 2 * _ROWS * inputs * outputs / 1e9) for product in products]
        return max(kept for kept, _ in found), max(peak for _, peak in found)


def _rates(product: Callable[[], object], cost: float, seconds: float = _SECONDS) -> tuple[float, float]:
    """cost: of one product, in 10^9 operations -> the rate of all that are done in a while, and of the fastest."""

    def done() -> None:
        product()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    done()
    taken: list[float] = []
    while sum(taken) < seconds:
        begun = time.perf_counter()
        done()
        taken.append(time.perf_counter() - begun)
    return cost * len(taken) / sum(taken), cost / min(taken)


def load(model: Path, adapters: Path, options: dict[str, str]) -> Ceiling:
    """For the worker."""
    del adapters
    return Ceiling(model, options)
