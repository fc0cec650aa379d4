"""Thousands of mutated GGUF files against everything that reads a base model.

    python bench/hostile_gguf.py [--cases 2000] [--seed 0]

Every case must be read or end in an error of ours: no other exception, not over a second. The last line gives the
counts as key=value: accepted (read in every way), crashes, slow (over one second of the processor), and peak_mb (the
most memory this process had beyond what it began with).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from tools.hostile_files import forget_peak, peak_megabytes  # noqa: E402
from tools.hostile_gguf import Bench, cases, healthy, heavy  # noqa: E402


def main() -> None:
    """Run all cases and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        bench.run(healthy(), "healthy")  # what is imported and built once
        bench.slowest, bench.counts["slow"] = (0.0, ""), 0
        forget_peak()
        before = peak_megabytes()
        for raw in cases(arguments.seed, arguments.cases):
            bench.run(raw)
        for title, raw in heavy():
            bench.run(raw, title)
        peak = peak_megabytes()
    print(f"slowest: {bench.slowest[0]:.2f} s of processor time, {bench.slowest[1]}")
    counts = " ".join(f"{key}={bench.counts[key]}" for key in ("cases", "accepted", "crashes", "slow"))
    print(f"{counts} slowest_s={bench.slowest[0]:.2f} peak_mb={peak - before:.0f}")


if __name__ == "__main__":
    main()
