"""Memory: how much is free, how many tokens of a forward pass fit into it, and what happens when it runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from lorica.engines.base import failed
from lorica.memory_limit import NO_LIMIT, cgroup_files, meminfo_bytes
from lorica.models.families import DecoderConfig
from lorica.records import Output, Request

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_BATCH_TOKENS = 256
"""Tokens to which a batch is never limited further: a pass of so few needs next to no memory."""

_PASS_SHARE = 0.5  # of the free memory, for one forward pass: caches and adapters need the rest
_MESSAGES = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "bad alloc")


def free_memory(device: torch.device, *, root: Path = Path("/")) -> int | None:
    """Bytes that can be allocated now; None where the system does not tell.

    On a CPU the smallest of what the machine has and what the limits of this process leave. root: where proc and sys
    are.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    sizes = [meminfo_bytes(root, "MemAvailable"), *(_below_limit(*files) for files in cgroup_files(root))]
    return min((size for size in sizes if size is not None), default=None)


def max_batch_tokens(config: DecoderConfig, dtype: torch.dtype, free: int | None) -> int:
    """Tokens of one forward pass that fit into so much free memory."""
    if free is None:
        return NO_LIMIT
    projected = (config.heads + 2 * config.kv_heads) * config.head_dim
    # Hidden states, their norm and the residual; queries, keys and values, gathered for attention and scattered again;
    # the gate and up states of the MLP.
    elements = 6 * config.hidden_size + 4 * projected + 3 * config.intermediate_size
    return max(MIN_BATCH_TOKENS, int(free * _PASS_SHARE) // (elements * max(dtype.itemsize, 4)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error means that memory ran out, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _MESSAGES)


def split_on_out_of_memory(
    compute: Callable[[Sequence[Item]], Sequence[Result]],
    items: Sequence[Item],
    fail: Callable[[Item], Result],
    *,
    evict: Callable[[], bool] = lambda: False,
) -> list[Result]:
    """compute(items), or where memory runs out, that of each half, and so on; an item that does not fit alone fails.

    evict: frees caches before anything is halved; returns whether that freed anything.
    """
    if not items:
        return []
    try:
        return list(compute(items))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: the error holds on to the frames, and with them to what was computed so far.
    has_evicted = evict()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if has_evicted:
        return split_on_out_of_memory(compute, items, fail, evict=evict)
    if len(items) == 1:
        return [fail(items[0])]
    middle = len(items) // 2
    halves = (items[:middle], items[middle:])
    return [result for half in halves for result in split_on_out_of_memory(compute, half, fail, evict=evict)]


def out_of_memory_output(request: Request) -> Output:
    """The output of a row for which memory is short."""
    return failed(request, "there is not enough memory for this row, even alone")


def _below_limit(folder: Path, limit_name: str, usage_name: str) -> int | None:
    try:
        limit, usage = ((folder / name).read_text("ascii").strip() for name in (limit_name, usage_name))
    except (OSError, ValueError):
        return None
    if not limit.isdecimal() or int(limit) >= NO_LIMIT:
        return None
    return max(0, int(limit) - int(usage) + _reclaimable(folder / "memory.stat"))


def _reclaimable(stat: Path) -> int:
    """Bytes of cached files, which count as used but are freed when memory is wanted."""
    try:
        counts = dict(line.split() for line in stat.read_text("ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
