"""Many adapters at once: each examined in a process of its own, then compared with one another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from lorica.vetting.check import Examination, examine
from lorica.vetting.files.sources import Source
from lorica.vetting.files.unpack import opened
from lorica.vetting.numbers.duplicates import check_duplicates
from lorica.vetting.numbers.originals import clear_originals, standing
from lorica.vetting.numbers.runs import RunMember, check_runs

OnDone = Callable[[int], None]

# Starting a process costs as much as examining a few adapters.
_WORTH_A_PROCESS = 4


def examine_all(
    sources: Sequence[Source],
    stack: ExitStack,
    *,
    most: int = 2,
    jobs: int = 0,
    whole: bool = False,
    on_done: OnDone | None = None,
) -> list[Examination]:
    """Examine adapters, in their order, and compare their updates. `stack` keeps unpacked archives until it closes.

    most: the highest level to carry out, 0 to 2. jobs: processes, 0 for one a core. whole: keep what further levels
    need, which takes memory for each adapter. on_done(n): n more are done.
    """
    ready = [stack.enter_context(opened(source)) for source in sources]
    jobs = min(jobs or os.cpu_count() or 1, -(-len(ready) // _WORTH_A_PROCESS))
    found = []
    for each in _each(partial(examine if whole or len(ready) == 1 else _slim, most=most), ready, jobs):
        found.append(each)
        if on_done is not None:
            on_done(1)
    return _compare(found)


def _slim(source: Source, *, most: int) -> Examination:
    return examine(source, most=most).slim()


def _each(work: Callable[[Source], Examination], sources: Sequence[Source], jobs: int) -> Iterator[Examination]:
    if jobs <= 1:
        yield from map(work, sources)
        return
    # Imported here: one adapter needs neither, and a cold process would wait for them.
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # One thread a process: the matrices are small, and the processes fill the cores.
    with _environment("OPENBLAS_NUM_THREADS", "1"), ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(work, sources, chunksize=_WORTH_A_PROCESS)


def _compare(found: list[Examination]) -> list[Examination]:
    numbered = [each for each in found if each.specimen is not None and each.numbers is not None]
    entries = [(each.specimen, each.numbers) for each in numbered if each.specimen and each.numbers]
    if len(entries) < 2:
        return found
    members = [_member(each) for each in numbered]
    known = {each.source.name: standing(each.specimen, each.findings) for each in found if each.specimen is not None}
    alike = clear_originals(check_duplicates(entries, members), known)
    sequences = check_runs(members, [each.source.name for each in numbered])
    return [each.add((*alike.get(each.source.name, ()), *sequences.get(each.source.name, ()))) for each in found]


def _member(found: Examination) -> RunMember:
    evidence, numbers = found.evidence, found.numbers
    return RunMember(
        found.source.given,
        logged=() if evidence is None else evidence.beginning,
        step=None if evidence is None else evidence.steps,
        signature="" if numbers is None else numbers.signature,
    )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
