"""Many adapters at once: each examined in a process of its own, then compared with one another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from lorica.hardware import usable_cores
from lorica.vetting.files.sources import AdapterSource
from lorica.vetting.files.unpack import opened
from lorica.vetting.levels import Examination, examine
from lorica.vetting.numbers.duplicate_origin import downgrade_originals, duplicate_origin
from lorica.vetting.numbers.duplicates import check_duplicates
from lorica.vetting.numbers.training_runs import RunMember, check_runs

OnDone = Callable[[int], None]

# Starting a process costs as much as examining a few adapters.
_WORTH_A_PROCESS = 4


def examine_all(
    sources: Sequence[AdapterSource],
    stack: ExitStack,
    *,
    max_level: int = 2,
    jobs: int = 0,
    keep_details: bool = False,
    on_done: OnDone | None = None,
) -> list[Examination]:
    """Examine adapters, in their order, and compare their updates. `stack` keeps unpacked archives until it closes.

    max_level: the highest level to carry out, 0 to 2. jobs: processes, 0 for one a core. keep_details: keep what levels
    3 and 4 need, which takes memory for each adapter. on_done(n): n more are done.
    """
    opened_sources = [stack.enter_context(opened(source)) for source in sources]
    jobs = min(jobs or usable_cores(), -(-len(opened_sources) // _WORTH_A_PROCESS))
    examine_source = partial(examine if keep_details or len(opened_sources) == 1 else _slim, max_level=max_level)
    examinations = []
    for examination in _map_in_processes(examine_source, opened_sources, jobs):
        examinations.append(examination)
        if on_done is not None:
            on_done(1)
    return _compare(examinations)


def _slim(source: AdapterSource, *, max_level: int) -> Examination:
    return examine(source, max_level=max_level).slim()


def _map_in_processes(
    examine_source: Callable[[AdapterSource], Examination], sources: Sequence[AdapterSource], jobs: int
) -> Iterator[Examination]:
    if jobs <= 1:
        yield from map(examine_source, sources)
        return
    # Imported here: one adapter needs neither, and a cold process would wait for them.
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # One thread a process: the matrices are small, and the processes fill the cores.
    with _environment("OPENBLAS_NUM_THREADS", "1"), ProcessPoolExecutor(jobs, get_context("spawn")) as process_pool:
        yield from process_pool.map(examine_source, sources, chunksize=_WORTH_A_PROCESS)


def _compare(examinations: list[Examination]) -> list[Examination]:
    entries, members = [], []
    for examination in examinations:
        evidence, numbers = examination.evidence, examination.numbers
        if examination.specimen is not None and numbers is not None:
            entries.append((examination.specimen, numbers))
            logged, step = ((), None) if evidence is None else (evidence.beginning, evidence.steps)
            members.append(RunMember(examination.source.user_path, logged, step, numbers.signature))
    if len(entries) < 2:
        return examinations
    standings = {
        examination.source.name: duplicate_origin(examination.specimen, examination.findings)
        for examination in examinations
        if examination.specimen is not None
    }
    duplicate_findings = downgrade_originals(check_duplicates(entries, members), standings)
    run_findings = check_runs(members, [specimen.name for specimen, _ in entries])
    names = [examination.source.name for examination in examinations]
    return [
        examination.add((*duplicate_findings.get(name, ()), *run_findings.get(name, ())))
        for name, examination in zip(names, examinations, strict=True)
    ]


@contextmanager
def _environment(variable_name: str, variable_value: str) -> Iterator[None]:
    previous = os.environ.get(variable_name)
    os.environ[variable_name] = variable_value
    try:
        yield
    finally:
        if previous is None:
            del os.environ[variable_name]
        else:
            os.environ[variable_name] = previous
