"""Does `lorica infer` hold memory that grows with the number of rows? Peak memory at few and at many rows.

    python bench/streaming_memory.py [--rows 10000,100000] [--engine native]

Each size is a process of its own on generated posts; its peak resident memory is what the operating system accounts.
Ends with one line of key=value figures.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# ruff: noqa: SIM905
_WORDS = (
    "please buy these shoes now or ask a friend who knows the river and the old town where we walked last summer with "
    "our dog and a basket of bread while the rain came down on the roof of the small house near the school"
).split()


def generate(path: Path, rows: int) -> None:
    """Posts of 8 to 24 words under four rules; the same for the same number of rows."""
    rng = random.Random(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "body", "rule"])
        for number in range(rows):
            body = " ".join(rng.choices(_WORDS, k=rng.randint(8, 24)))
            writer.writerow([f"post-{number:07}", body, f"Rule {number % 4 + 1}: stay on the topic."])


def answer(rows: int, engine: str, folder: Path) -> tuple[float, float]:
    """(peak resident memory in MiB, seconds) of one `lorica infer`."""
    source, output = folder / f"{rows}.csv", folder / f"{rows}.jsonl"
    generate(source, rows)
    command = [sys.executable, "-m", "lorica.cli", "infer", "--json", "task=rules", f"engine={engine}"]
    started = time.perf_counter()
    process = subprocess.Popen([*command, f"input={source}", f"output={output}"], stdout=subprocess.PIPE)
    said = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"lorica infer failed with status {status}")
    assert json.loads(said)["rows"] == rows
    return usage.ru_maxrss / 1024, seconds


def main() -> None:
    """Measure each size and print the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000")
    parser.add_argument("--engine", default="native")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.rows.split(",")]
    figures = []
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            peak, seconds = answer(size, arguments.engine, Path(folder))
            peaks.append(peak)
            print(f"{size} rows: peak {peak:.0f} MiB, {size / seconds:.0f} rows/s", flush=True)
            figures.append(f"peak_mib_{size}={peak:.0f}")
    grown = (peaks[-1] - peaks[0]) * 2**20 / (sizes[-1] - sizes[0])
    print(" ".join([*figures, f"ratio={peaks[-1] / peaks[0]:.3f}", f"bytes_per_further_row={grown:.0f}"]))


if __name__ == "__main__":
    main()
