"""Thousands of mutated headers, configs, archives and pickles against the reading of adapters (L0).

    python bench/hostile.py [--cases 10000] [--seed 0]

Every case must end in findings: no exception, not over a second, and never a file accepted that `safetensors` refuses.
The last line gives the counts as key=value: crashes, slow (over one second by the clock) and slow_cpu (by the
processor), lenient (accepted where the library refuses), differing (accepted by both and read differently), peak_mb
(the most memory this process had while it examined a case), growth_mb (how much more at the end than after the first).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from tools.hostile_files import Bench, cases, forget_peak, heavy, peak_megabytes  # noqa: E402


def main() -> None:
    """Run all cases and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        bench.run("header", bench.weights)
        forget_peak()
        before = peak_megabytes()
        for kind, raw in cases(arguments.seed, arguments.cases):
            bench.run(kind, raw)
        forget_peak()
        after = peak_megabytes()
        for kind, raw in heavy():
            bench.run(kind, raw)
    print("codes:", " ".join(f"{code}x{count}" for code, count in sorted(bench.codes.items())))
    print(f"slowest: {bench.slowest[0]:.2f} s of processor time, {bench.slowest[1]}")
    counts = " ".join(
        f"{key}={bench.counts[key]}"
        for key in ("cases", "accepted", "crashes", "slow", "slow_cpu", "lenient", "differing")
    )
    print(f"{counts} codes={len(bench.codes)} peak_mb={bench.peak:.0f} growth_mb={after - before:.0f}")


if __name__ == "__main__":
    main()
