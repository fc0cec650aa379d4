"""The fault bench: adapters spoilt in many ways, and healthy ones of many kinds, given to check, diagnose and PEFT.

    python bench/faults.py [--seeds 5] [--kinds NAME ...] [--out faults.jsonl] [--with-passport] [--healthy-only]

Needs the zoo (`python -m tools.zoo`). Each finished case is a line of --out, so an interrupted run goes on where it
stopped. docs/research/faults.md describes the kinds. The last line is key=value.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from tools.fault_kinds.all_kinds import KINDS  # noqa: E402
from tools.fault_kinds.case import Case, Kind, Site  # noqa: E402
from tools.fault_kinds.records import add_records  # noqa: E402
from tools.fault_kinds.truths import causes_of  # noqa: E402
from tools.fault_run.judge import Judge  # noqa: E402
from tools.fault_run.tables import Entry, fault_table, healthy_table, last_line, reliability_lines, split_lines  # noqa: E402


def main() -> None:
    """Run what the log lacks, then print the tables."""
    given = _parse()
    torch.set_num_threads(1)
    wanted = [kind for kind in KINDS if _is_wanted(kind, given)]
    done = {(each["kind"], each["seed"]): each for each in _read(given.out)}
    judge = Judge(given.rows)
    for kind, seed in _cases(wanted, given.seeds):
        if (kind.name, seed) not in done and not given.report:
            try:
                done[kind.name, seed] = _one(kind, seed, judge, given)
            except LookupError as error:  # an adapter of the zoo that is not built yet
                print(f"not built: {kind.name} {seed}: {error}", file=sys.stderr)
    names = {kind.name for kind in wanted}
    entries = [each for each in done.values() if each["kind"] in names]
    faults = [each for each in entries if not each["healthy"]]
    healthy = [each for each in entries if each["healthy"]]
    order = {kind.name: i for i, kind in enumerate(KINDS)}
    faults.sort(key=lambda one: (order[one["kind"]], one["seed"]))
    for text in (fault_table(faults), healthy_table(healthy), *split_lines(faults), *reliability_lines(faults)):
        print(text)
    for each in faults:
        if each.get("harmless"):
            print(
                f"no harm done, not counted: {each['kind']} {each['seed']}: AUC {each['auc_before']} -> {each['auc']}"
            )
    faults = [each for each in faults if not each.get("harmless")]
    lacking = len(list(_cases(wanted, given.seeds))) - len(entries)
    if lacking:
        print(f"{lacking} cases of these kinds are not in the log: not run yet, or the zoo is not whole")
    print(f"seconds of all cases: {sum(each['seconds'] for each in entries):.0f}")
    print(last_line(faults, healthy))


def _parse() -> argparse.Namespace:
    asked = argparse.ArgumentParser(description="Run the fault bench.")
    asked.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "lorica-faults.jsonl")
    asked.add_argument("--kinds", nargs="*", default=[], help="names, or their beginnings")
    asked.add_argument("--seeds", type=int, default=5)
    asked.add_argument("--rows", type=int, default=128, help="held-out rows each behaviour case is asked")
    asked.add_argument("--quick", action="store_true", help="one seed a kind, 64 rows")
    asked.add_argument("--healthy-only", action="store_true")
    asked.add_argument("--faults-only", action="store_true")
    asked.add_argument("--with-passport", action="store_true", help="leave a passport and a record with each adapter")
    asked.add_argument("--report", action="store_true", help="run nothing, print what the log has")
    given = asked.parse_args()
    if given.quick:
        given.seeds, given.rows = 1, 64
    return given


def _is_wanted(kind: Kind, given: argparse.Namespace) -> bool:
    if (given.healthy_only and not kind.healthy) or (given.faults_only and kind.healthy):
        return False
    return not given.kinds or any(kind.name.startswith(name) for name in given.kinds)


def _cases(kinds: Iterable[Kind], seeds: int) -> Iterator[tuple[Kind, int]]:
    """Healthy variants once each, on bases in turn; faults with every seed."""
    for number, kind in enumerate(kinds):
        for seed in [number] if kind.healthy else range(seeds):
            yield kind, seed


def _one(kind: Kind, seed: int, judge: Judge, given: argparse.Namespace) -> Entry:
    place = Path(tempfile.mkdtemp(prefix="lorica-fault-"))
    started = time.perf_counter()
    try:
        site = Site(seed, place)
        case: Case = kind.build(site)
        if given.with_passport and site.used is not None and not kind.healthy:
            add_records(site.used, case.path)
        causes = causes_of(kind, case)
        entry: Entry = {
            "kind": kind.name,
            "seed": seed,
            "level": kind.level,
            "unseen": kind.unseen,
            "healthy": kind.healthy,
            "truth": kind.truth,
            "causes": sorted(causes),
            "from": "" if site.used is None else f"{site.used.base}/{site.used.name}",
            **judge.judge(kind, case, causes),
            **judge.harm(kind, case, site.used),
        }
    finally:
        shutil.rmtree(place, ignore_errors=True)
    entry["seconds"] = round(time.perf_counter() - started, 2)
    with given.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    told = (entry["check"].get("caught", "crash"), entry["diagnosis"].get("causes", ["crash"])[:3])
    print(f"{kind.name} {seed} {told[0]} {told[1]} of {entry['causes']} {entry['seconds']} s", file=sys.stderr)
    return entry


def _read(path: Path) -> list[Entry]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.endswith("}")]


if __name__ == "__main__":
    main()
