"""The prefix cache: keys and values of shared prefixes, kept from run to run.

The next window of a file, or the next call, begins with the same prompts. A cached prefix has the bits that computing
it again would give, so the cache is used only where these depend on nothing else (batch invariance).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock

import torch

from lorica.engines.native.memory import free_memory
from lorica.engines.native.packed_batch import Prefix
from lorica.engines.native.scheduler import Plan, PrefixNode
from lorica.records import Request

_MEMORY_SHARE = 0.125  # of the memory that would be free without the cache
_MAX_PLANNED = 64  # cached prefixes of one adapter that a plan takes into account
_MAX_CANDIDATES = 16  # longer cached prefixes that a lookup tries
_TOKEN_BYTES = 40  # of a path: an int, and the pointer to it

Path = tuple[int, ...]
"""All tokens from position 0 to the end of a prefix."""


@dataclass(frozen=True)
class PrefixMatch:
    """A prefix node of a plan, its path, and its cached keys and values (without its parent), if there are any."""

    node: PrefixNode
    path: Path
    cached: Prefix | None


class PrefixCache:
    """Prefixes of any number of adapters, evicted least recently used first. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._entries: OrderedDict[tuple[str | None, Path], Prefix] = OrderedDict()
        self._sorted_paths: defaultdict[str | None, list[Path]] = defaultdict(list)
        self._sample_prompts: dict[str | None, Path] = {}
        self._budget = self._used = 0  # bytes

    def prefixes(self, requests: Sequence[Request]) -> Mapping[str | None, Sequence[Path]]:
        """For each adapter of the requests: cached prefixes, and an earlier prompt, which shows the scheduler what
        prompts have in common even where it has a single one.
        """
        paths: dict[str | None, list[Path]] = {request.adapter: [] for request in requests}
        with self._lock:
            for adapter, path in reversed(self._entries):
                if adapter in paths and len(paths[adapter]) < _MAX_PLANNED:
                    paths[adapter].append(path)
            for adapter, adapter_paths in paths.items():
                if adapter in self._sample_prompts:
                    adapter_paths.append(self._sample_prompts[adapter])
        return paths

    def observe(self, requests: Sequence[Request]) -> None:
        """Remember one prompt of each adapter, for `prefixes`."""
        with self._lock:
            self._sample_prompts.update((request.adapter, request.prompt[:-1]) for request in reversed(requests))

    def match(self, plan: Plan, nodes: Sequence[int]) -> list[PrefixMatch]:
        """Look up prefix nodes of a plan."""
        matches = []
        for index in nodes:
            node, path = plan.nodes[index], plan.prefix_tokens(index)
            matches.append(PrefixMatch(node, path, self._find(node.adapter, path, node.start)))
        return matches

    def get_or_compute(
        self,
        matches: Sequence[PrefixMatch],
        parents: Sequence[Prefix | None],
        compute: Callable[[Sequence[PrefixMatch], Sequence[Prefix | None]], list[Prefix | None]],
        *,
        store: bool,
    ) -> list[Prefix | None]:
        """The prefix of each match: the cached one, or that of `compute`; None where `compute` gives None.

        parents: of each prefix. store: put computed prefixes into the cache, if they are shared.
        """
        pairs = zip(matches, parents, strict=True)
        prefixes = [match.cached and replace(match.cached, parent=parent) for match, parent in pairs]
        missing = [index for index, match in enumerate(matches) if match.cached is None]
        if missing:
            computed = compute([matches[index] for index in missing], [parents[index] for index in missing])
            for index, prefix in zip(missing, computed, strict=True):
                prefixes[index], node = prefix, matches[index].node
                if prefix is not None and store and node.shared:
                    with self._lock:
                        self._put((node.adapter, matches[index].path), replace(prefix, parent=None))
        return prefixes

    def set_budget(self, device: torch.device) -> None:
        """Before a run: set the budget by the memory that is free now, and evict what exceeds it.

        Nothing is cached where the system does not tell how much is free.
        """
        free = free_memory(device)
        with self._lock:
            self._budget = 0 if free is None else int((free + self._used) * _MEMORY_SHARE)
            self._evict()

    def evict_all(self) -> bool:
        """When memory runs out: cache nothing until the next `set_budget`. Returns whether anything was freed."""
        with self._lock:
            used, self._budget = self._used, 0
            self._evict()
        return used > 0

    def invalidate(self, adapter: str | None) -> None:
        """Drop an adapter's prefixes: other weights may get its name."""
        with self._lock:
            self._sample_prompts.pop(adapter, None)
            for path in list(self._sorted_paths[adapter]):
                self._remove((adapter, path))

    def clear(self) -> None:
        """Drop all prefixes and observed prompts."""
        with self._lock:
            self._entries.clear()
            self._sorted_paths.clear()
            self._sample_prompts.clear()
            self._used = 0

    def _put(self, key: tuple[str | None, Path], prefix: Prefix) -> None:
        if key in self._entries:
            self._remove(key)
        self._used += _entry_bytes(key[1], prefix)
        self._entries[key] = prefix
        insort(self._sorted_paths[key[0]], key[1])
        self._evict()

    def _evict(self) -> None:
        while self._used > self._budget:
            self._remove(next(iter(self._entries)))  # the least recently used

    def _remove(self, key: tuple[str | None, Path]) -> None:
        adapter, path = key
        self._used -= _entry_bytes(path, self._entries.pop(key))
        del self._sorted_paths[adapter][bisect_left(self._sorted_paths[adapter], path)]

    def _find(self, adapter: str | None, path: Path, start: int) -> Prefix | None:
        with self._lock:
            paths = self._sorted_paths[adapter]
            first = bisect_left(paths, path)  # paths that begin with this one follow
            for longer_path in paths[first : first + _MAX_CANDIDATES]:
                if longer_path[: len(path)] != path:
                    break
                prefix = self._entries[adapter, longer_path]
                if prefix.start <= start:
                    self._entries.move_to_end((adapter, longer_path))
                    return _slice_prefix(prefix, start, len(path))
        return None


def _slice_prefix(prefix: Prefix, start: int, stop: int) -> Prefix:
    tokens = slice(start - prefix.start, stop - prefix.start)
    keys, values = ([layer[:, tokens] for layer in layers] for layers in (prefix.keys, prefix.values))
    return Prefix(None, start, stop - start, keys, values)


def _entry_bytes(path: Path, prefix: Prefix) -> int:
    return sum(tensor.nbytes for tensor in (*prefix.keys, *prefix.values)) + len(path) * _TOKEN_BYTES
