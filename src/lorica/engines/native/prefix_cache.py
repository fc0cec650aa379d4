"""Shared beginnings that outlive a run: the next window of a file, or the next call, begins with the same prompts.

What is kept gives the bits that computing it anew would give, so it is only used where these depend on nothing else.
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
from lorica.engines.native.scheduler import Plan, Segment
from lorica.records import Request

_SHARE = 0.125  # of the memory that is free without it
_MOST_KNOWN = 64  # beginnings of one adapter that the next plan is shown
_MOST_LOOKED_AT = 16  # longer ones, of which what is wanted may be a part
_TOKEN_BYTES = 40  # of a path: a number, and where it is

Path = tuple[int, ...]
"""All tokens from position 0 to the end of a beginning."""


@dataclass(frozen=True)
class Wanted:
    """A segment of a plan, its path, and what is kept of it, without what lies before."""

    segment: Segment
    path: Path
    kept: Prefix | None


class Beginnings:
    """Those of any number of adapters, the least used dropped first. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str | None, Path], Prefix] = OrderedDict()
        self._paths: defaultdict[str | None, list[Path]] = defaultdict(list)  # the same, in order
        self._seen: dict[str | None, Path] = {}
        self._limit = self._held = 0  # bytes

    def known(self, requests: Sequence[Request]) -> Mapping[str | None, Sequence[Path]]:
        """Of each adapter that is asked: the ends of what is kept, and an earlier prompt, from which a plan learns what
        prompts have in common even where it holds one of them alone.
        """
        found: dict[str | None, list[Path]] = {request.adapter: [] for request in requests}
        with self._lock:
            for adapter, path in reversed(self._kept):
                if adapter in found and len(found[adapter]) < _MOST_KNOWN:
                    found[adapter].append(path)
            for adapter, members in found.items():
                if adapter in self._seen:
                    members.append(self._seen[adapter])
        return found

    def see(self, requests: Sequence[Request]) -> None:
        """Remember a prompt of each adapter."""
        with self._lock:
            self._seen.update((request.adapter, request.prompt[:-1]) for request in reversed(requests))

    def look_up(self, plan: Plan, segments: Sequence[int]) -> list[Wanted]:
        """What is kept of these segments."""
        found = []
        for index in segments:
            segment, path = plan.segments[index], plan.path(index)
            found.append(Wanted(segment, path, self._find(segment.adapter, path, segment.start)))
        return found

    def complete(
        self,
        wanted: Sequence[Wanted],
        parents: Sequence[Prefix | None],
        read: Callable[[Sequence[Wanted], Sequence[Prefix | None]], list[Prefix | None]],
        *,
        keep: bool,
    ) -> list[Prefix | None]:
        """All that is wanted: what is kept, and from `read` what is not, which is kept then unless it is of a single
        row. parents: what lies before each. None stands for what `read` could not compute.
        """
        missing = [number for number, one in enumerate(wanted) if one.kept is None]
        found = [one.kept and replace(one.kept, parent=parent) for one, parent in zip(wanted, parents, strict=True)]
        if missing:
            fresh = read([wanted[number] for number in missing], [parents[number] for number in missing])
            for number, prefix in zip(missing, fresh, strict=True):
                found[number], segment = prefix, wanted[number].segment
                if prefix is not None and keep and segment.shared:
                    with self._lock:
                        self._put((segment.adapter, wanted[number].path), replace(prefix, parent=None))
        return found

    def make_room(self, device: torch.device) -> None:
        """Before a run: find out what may be kept from now on, and drop what is more.

        Nothing is kept where the system does not tell what is free.
        """
        free = free_memory(device)
        with self._lock:
            self._limit = 0 if free is None else int((free + self._held) * _SHARE)
            self._shrink()

    def give_up(self) -> bool:
        """When memory runs out: keep nothing, until there is room again. Returns whether there was anything."""
        with self._lock:
            held, self._limit = self._held, 0
            self._shrink()
        return held > 0

    def drop(self, adapter: str | None) -> None:
        """Forget an adapter: its name may come back with other weights."""
        with self._lock:
            self._seen.pop(adapter, None)
            for path in list(self._paths[adapter]):
                self._remove((adapter, path))

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()
            self._paths.clear()
            self._seen.clear()
            self._held = 0

    def _put(self, key: tuple[str | None, Path], prefix: Prefix) -> None:
        if key in self._kept:
            self._remove(key)
        self._held += _size(key[1], prefix)
        self._kept[key] = prefix
        insort(self._paths[key[0]], key[1])
        self._shrink()

    def _shrink(self) -> None:
        while self._held > self._limit:
            self._remove(next(iter(self._kept)))  # the least used

    def _remove(self, key: tuple[str | None, Path]) -> None:
        adapter, path = key
        self._held -= _size(path, self._kept.pop(key))
        del self._paths[adapter][bisect_left(self._paths[adapter], path)]

    def _find(self, adapter: str | None, path: Path, start: int) -> Prefix | None:
        with self._lock:
            paths = self._paths[adapter]
            first = bisect_left(paths, path)  # whatever begins with it follows
            for whole in paths[first : first + _MOST_LOOKED_AT]:
                if whole[: len(path)] != path:
                    break
                prefix = self._kept[adapter, whole]
                if prefix.start <= start:
                    self._kept.move_to_end((adapter, whole))
                    return _cut(prefix, start, len(path))
        return None


def _cut(prefix: Prefix, start: int, stop: int) -> Prefix:
    part = slice(start - prefix.start, stop - prefix.start)
    keys, values = ([one[:, part] for one in each] for each in (prefix.keys, prefix.values))
    return Prefix(None, start, stop - start, keys, values)


def _size(path: Path, prefix: Prefix) -> int:
    return sum(one.nbytes for one in (*prefix.keys, *prefix.values)) + len(path) * _TOKEN_BYTES
