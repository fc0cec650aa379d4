"""How fast this processor multiplies in each precision: measured by the layers that the models are made of, and kept
in a file of the user's cache, so that `auto` decides alike in every process of a machine.

A file that is missing, broken or of something else is no error: then it is measured again, in less than a second.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.caches import cache_folder
from lorica.data.write import atomic_file
from lorica.errors import DataError
from lorica.hardware import Hardware, this_machine
from lorica.models.compiled.build import digest
from lorica.models.compiled.library import target
from lorica.models.cpu.linear import compute_dtype, make_linear
from lorica.precision import DTYPE_NAMES, PRECISIONS
from lorica.precision_choice import DECODED_ROWS, PROMPT_TOKENS, Rates

_WIDTH = 768  # of the layer that is measured: a float32 weight of 2.25 MiB
_REPEATS = 5
_BUDGET = 0.02  # seconds for a product: where one takes long, fewer repetitions do
_STREAMED = 1 << 24  # float32 numbers: 64 MiB, which few caches hold
_MEASURED = tuple(name for name in DTYPE_NAMES if name != "gguf")  # whose blocks are of many types
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Multiply = Callable[[Tensor], Tensor]
"""x [T, in] -> [T, out]."""


@cache
def measured_rates() -> Rates:
    """The rates of this machine, from the cache where they are kept there."""
    path = _cache_path(this_machine())
    rates = None if path is None else _read(path)
    if rates is None:
        rates = measure()
        if path is not None:
            _write(path, rates)
    return rates


def cache_problem() -> str:
    """Why `measured_rates` are not kept, or ""."""
    path = _cache_path(this_machine())
    if path is None:
        return "this user has no home folder"
    return "" if path.is_file() else f"{path} cannot be written"


def measure() -> Rates:
    """Measure on one thread, by its processor time, the best of a few repetitions of a millisecond or so: whatever else
    the machine does counts for nothing, or only ever makes one of them slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return Rates(
                prompts=_products(PROMPT_TOKENS, _engine_linear, _MEASURED),
                steps=_products(DECODED_ROWS, _engine_linear, _MEASURED),
                training=_products(PROMPT_TOKENS, _torch_linear, tuple(_DTYPES)),
                memory=_memory_rate(),
            )
    finally:
        torch.set_num_threads(threads)


def _products(rows: int, make: Callable[[str, torch.Generator], Multiply], names: tuple[str, ...]) -> dict[str, float]:
    """Precision -> 10^9 operations a second of a layer for `rows` tokens, most exact precision first."""
    rates: dict[str, float] = {}
    generator = torch.Generator().manual_seed(0)  # the global one belongs to the command
    for name in sorted(names, key=list(PRECISIONS).index, reverse=True):
        multiply, x = make(name, generator), torch.rand(rows, _WIDTH, generator=generator)
        multiply(x)
        times = [_seconds(partial(multiply, x))]
        while len(times) < _REPEATS and sum(times) < _BUDGET:
            times.append(_seconds(partial(multiply, x)))
        rates[name] = 2e-9 * rows * _WIDTH * _WIDTH / min(times)
    return rates


def _engine_linear(name: str, generator: torch.Generator) -> Multiply:
    """A layer as the native engine multiplies it."""
    layer = nn.Linear(_WIDTH, _WIDTH, bias=False, device="meta")
    layer.weight = nn.Parameter(torch.rand(_WIDTH, _WIDTH, generator=generator), requires_grad=False)
    multiply, dtype = make_linear((layer,), name), compute_dtype(name)
    return lambda x: multiply(x.to(dtype))


def _torch_linear(name: str, generator: torch.Generator) -> Multiply:
    """A layer as training and the transformers engine multiply it."""
    weight = torch.rand(_WIDTH, _WIDTH, generator=generator).to(_DTYPES[name])
    return lambda x: F.linear(x.to(weight.dtype), weight)


def _memory_rate() -> float:
    """10^9 bytes a second that one thread reads from memory."""
    numbers = torch.ones(_STREAMED)
    return 4e-9 * _STREAMED / min(_seconds(numbers.sum) for _ in range(3))


def _seconds(work: Callable[[], object]) -> float:
    # The clock of threads is too coarse on Windows.
    clock = time.perf_counter if sys.platform == "win32" else time.thread_time
    begun = clock()
    work()
    return max(clock() - begun, 1e-9)


def _cache_path(machine: Hardware) -> Path | None:
    """The file of this processor, these libraries, these kernels and this environment."""
    key = msgspec.json.encode(
        [
            machine.processor,
            machine.instruction_sets,
            dict(machine.limits),
            version("torch"),
            version("lorica"),
            digest(),
            target(),
        ]
    )
    try:
        return cache_folder("machine") / f"{hashlib.sha256(key).hexdigest()[:16]}.json"
    except OSError:
        return None


def _read(path: Path) -> Rates | None:
    try:
        rates = msgspec.json.decode(path.read_bytes(), type=Rates)
    except (OSError, msgspec.MsgspecError):
        return None
    return rates if rates.plausible() else None


def _write(path: Path, rates: Rates) -> None:
    try:
        with atomic_file(path) as cache_file:
            cache_file.write(msgspec.json.format(msgspec.json.encode(rates), indent=1) + b"\n")
    except (DataError, OSError):
        return  # it is measured again
