"""How much memory is free, how many tokens of a pass it holds, and which errors mean that it ran out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from lorica.engines.base import failed
from lorica.models.families import DecoderConfig
from lorica.records import Output, Request

Item = TypeVar("Item")
Result = TypeVar("Result")

SMALLEST_BATCH = 256
"""Tokens below which a batch is not cut for want of memory: a pass of so few needs next to none."""

_SHARE = 0.5  # of the free memory that a pass may take: caches and adapters live beside it
_ENDLESS = 1 << 60  # a cgroup without a limit states a number near 2 ** 63
_SIGNS = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "bad alloc")


def free_memory(device: torch.device, *, root: Path = Path("/")) -> int | None:
    """Bytes that can be taken now; None where the system does not tell.

    root: where proc and sys are. On a CPU the least of what the machine and the process's own limits leave.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_available(root / "proc/meminfo"), *_limits(root)]
    return min((one for one in found if one is not None), default=None)


def tokens_that_fit(config: DecoderConfig, dtype: torch.dtype, free: int | None) -> int:
    """Tokens of one pass for which this much free memory is enough."""
    if free is None:
        return _ENDLESS
    projected = (config.heads + 2 * config.kv_heads) * config.head_dim
    # States, their norm and the residual; queries, keys and values, gathered for attention and laid back; the inner
    # states of the feed-forward, gate and up.
    each = 6 * config.hidden_size + 4 * projected + 3 * config.intermediate_size
    return max(SMALLEST_BATCH, int(free * _SHARE) // (each * max(dtype.itemsize, 4)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error means that memory ran out, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def in_halves(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Sequence[Item],
    refuse: Callable[[Item], Result],
    *,
    give_up: Callable[[], bool] = lambda: False,
) -> list[Result]:
    """work(items), or where memory runs out, that of each half, and so on; what does not fit alone is refused.

    give_up: lets go of memory that can be done without, before anything is halved; returns whether there was any.
    """
    if not items:
        return []
    try:
        return list(work(items))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: the error holds on to the frames, and with them to what was computed so far.
    given_up = give_up()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if given_up:
        return in_halves(work, items, refuse, give_up=give_up)
    if len(items) == 1:
        return [refuse(items[0])]
    middle = len(items) // 2
    halves = (in_halves(work, half, refuse, give_up=give_up) for half in (items[:middle], items[middle:]))
    return [result for half in halves for result in half]


def too_large(request: Request) -> Output:
    """The output of a row for which memory is short."""
    return failed(request, "there is not enough memory for this row, even alone")


def _available(path: Path) -> int | None:
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _limits(root: Path) -> list[int | None]:
    """What is left below the limits of the cgroups that this process is in, of either version."""
    try:
        groups = (root / "proc/self/cgroup").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return []
    found: list[int | None] = []
    for line in groups:
        _, kinds, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if kinds == "":
            found.append(_left(base / path.lstrip("/"), "memory.max", "memory.current"))
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            found += [_left(base / "memory" / path.lstrip("/"), *names), _left(base / "memory", *names)]
    return found


def _left(folder: Path, limit: str, usage: str) -> int | None:
    try:
        most, used = ((folder / name).read_text("ascii").strip() for name in (limit, usage))
    except (OSError, ValueError):
        return None
    if not most.isdecimal() or int(most) >= _ENDLESS:
        return None
    return max(0, int(most) - int(used) + _reclaimable(folder / "memory.stat"))


def _reclaimable(path: Path) -> int:
    """Files that are cached count as used, and are given up when memory is wanted."""
    try:
        counts = dict(line.split() for line in path.read_text("ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
