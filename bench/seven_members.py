"""Seven members and their blend on data nobody here wrote, out of fold, by the commands that a user would give.

    python bench/seven_members.py [--data ../shared/data] [--out runs/seven_members] [--tables sms_spam,hatecheck]
        [--members tfidf,centroids,...] [KEY=VALUE ...]

For each table one `lorica train ... folds=N` a member, then `lorica ensemble` over their out-of-fold scores: ROC-AUC
with 95% bootstrap intervals, what each member adds to the blend, and whether the blend beats the best of them. What is
done is kept in --out, and a run that was stopped goes on there. Ends with one line of key=value figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorica.reports.page import ReportTable
from lorica.reports.text_table import plain_table
from lorica.runs.machine import machine_facts

MEMBERS = {
    "tfidf": ("model=tfidf",),
    "centroids": ("model=centroids", "centroids.triplet=false"),
    "centroids_triplet": ("model=centroids", "centroids.triplet=true"),
    "minilm_lora": ("model=minilm", "training.method=lora"),
    "minilm_full": ("model=minilm", "training.method=full"),
    "lorica_tiny_all_linear": ("training=tiny", "lora=all_linear"),
    "lorica_tiny_qv": ("training=tiny", "lora=qv"),
}
TABLES = {"sms_spam": "sms_spam/messages.jsonl", "hatecheck": "hatecheck/cases.jsonl"}
# HateCheck's kinds of hateful cases hold near-duplicates of one another: there are three that can be told apart.
FOLDS = {"sms_spam": "folds=5", "hatecheck": "folds=3"}
_EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@dataclass(frozen=True)
class TableRun:
    """What `lorica ensemble --json` says of a table, and for each member the seconds of its training and scores: by the
    clock, and of the processor, which other programs on the machine change little."""

    blend: dict[str, Any]
    seconds: dict[str, tuple[float, float]]


def lorica(words: Sequence[str]) -> str:
    """The standard output of a command, which is shown; its messages go to standard error."""
    print(f"$ lorica {shlex.join(words)}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "lorica", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def run_table(name: str, rows: Path, out: Path, members: Sequence[str], overrides: Sequence[str]) -> TableRun:
    """Train every member by folds, and blend their out-of-fold scores."""
    seconds_file = out / "seconds.json"
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, tuple[float, float]] = (
        json.loads(seconds_file.read_text("utf-8")) if seconds_file.is_file() else {}
    )
    config = f"config={_EXAMPLES / name}.yaml"
    for member in members:
        if member in seconds:
            continue
        started, processor = time.perf_counter(), _children_seconds()
        words = ["train", config, *MEMBERS[member], f"input={rows}", FOLDS[name], f"run_dir={out / member}", *overrides]
        lorica([*words, "training.resume=true"])
        seconds[member] = time.perf_counter() - started, _children_seconds() - processor
        seconds_file.write_text(json.dumps(seconds), "utf-8")
    scores = [str(out / member / "out_of_fold.csv") for member in members]
    return TableRun(json.loads(lorica(["ensemble", *scores, "--gold", str(rows), config, "--json"])), seconds)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def show(name: str, run: TableRun) -> None:
    """The table of members, best first."""
    blend = run.blend

    def figure(estimate: dict[str, Any]) -> str:
        return f"{estimate['value']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"

    rows: list[tuple[str, ...]] = [("the blend of ranks", figure(blend["blend"]), "", "", "")]
    for member in sorted(blend["members"], key=lambda member: -member["estimate"]["value"]):
        member_name = Path(member["file"]).parent.name
        adds = member["adds"]["difference"] if member["adds"] else None
        rows.append(
            (
                member_name,
                figure(member["estimate"]),
                "" if adds is None else f"{adds['value']:+.4f}",
                *(f"{seconds:.0f}" for seconds in run.seconds[member_name]),
            )
        )
    caption = f"{name}, {FOLDS[name]}, {machine_facts().processor}, {machine_facts().cores} cores"
    print(
        plain_table(
            ReportTable(
                ("member", blend["metric"], "adds to the blend", "seconds", "processor seconds"),
                tuple(rows),
                caption=caption,
            )
        )
    )
    print(blend["verdict"], "\n")


def main() -> None:
    """Run the chosen tables; print a table for each and a line of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/seven_members"))
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--members", default=",".join(MEMBERS))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    if not arguments.data.is_dir():
        print(f"skipped=1 reason=no data at {arguments.data}")
        return
    figures = []
    members = arguments.members.split(",")
    for name in arguments.tables.split(","):
        run = run_table(name, arguments.data / TABLES[name], arguments.out / name, members, arguments.overrides)
        show(name, run)
        figures.append(f"{name}.blend={run.blend['blend']['value']:.4f}")
        figures += [
            f"{name}.{Path(member['file']).parent.name}={member['estimate']['value']:.4f}"
            for member in run.blend["members"]
        ]
        difference = run.blend["over_best"]["difference"]
        figures.append(f"{name}.over_best={difference['value']:+.4f} {name}.over_best_low={difference['low']:+.4f}")
        wall, processor = (sum(run.seconds[member][clock] for member in members) for clock in (0, 1))
        figures.append(f"{name}.seconds={wall:.0f} {name}.processor_seconds={processor:.0f}")
    print(" ".join(figures))


if __name__ == "__main__":
    main()
