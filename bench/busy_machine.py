"""How training fares on a machine that also does other work, by how long its threads spin before they sleep.

    python bench/busy_machine.py --data ../shared/data [--base embedded:lorica_tiny] [--busy 8] [--spins 0,1000,10000]

Threads that share an operation meet at its end. By default OpenMP lets the first ones spin for milliseconds, which the
last one would need to arrive where more processes want the cores than there are. `default` and each GOMP_SPINCOUNT make
updates of the same training in turns, first alone, then beside `--busy` processes that count. The figures are medians
of paired ratios of tokens/s to `default`. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from bench.training import OURS, Side, compare, encoded_rows, make_job, ratio  # noqa: E402

_COUNT = "while True:\n    pass"


def rates(arguments: argparse.Namespace, folder: Path, busy: int) -> dict[str, list[float]]:
    """Tokens/s of each setting's updates, beside so many other processes."""
    rows = encoded_rows(arguments)
    job = make_job(arguments, rows, "fp32", 0)
    settings: dict[str, dict[str, str]] = {"default": {}} | {
        f"spin_{spins}": {"GOMP_SPINCOUNT": spins} for spins in arguments.spins.split(",")
    }
    sides = [
        Side(name, sys.executable, "training_lorica.py", job, OURS, environment)
        for name, environment in settings.items()
    ]
    others = [subprocess.Popen([sys.executable, "-c", _COUNT]) for _ in range(busy)]
    try:
        return compare(sides, arguments, rows, folder)
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    """Measure both ways and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", default="embedded:lorica_tiny")
    parser.add_argument("--busy", type=int, default=8)
    parser.add_argument("--spins", default="0,1000,10000")
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.set_defaults(
        rows="plain", batch_size=8, accumulation=1, learning_rate=2e-4, rank=8, dropout=0.05, targets="all",
        checkpointing=False,
    )  # fmt: skip
    arguments = parser.parse_args()
    figures = []
    for name, busy in (("alone", 0), ("busy", arguments.busy)):
        with tempfile.TemporaryDirectory() as folder:
            measured = rates(arguments, Path(folder), busy)
        for setting, values in measured.items():
            share = ratio(values, measured["default"])
            print(f"{name} {setting}: {statistics.median(values):.0f} tokens/s, {share:.3f} of default", flush=True)
            figures.append(f"{name}_{setting}={share:.3f}")
        figures.append(f"{name}_default_tokens_s={statistics.median(measured['default']):.0f}")
    print(" ".join(figures))


if __name__ == "__main__":
    main()
