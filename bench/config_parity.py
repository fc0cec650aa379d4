"""Does the native engine compute what transformers computes, whatever a model's folder says? Random folders, in fp32.

    python bench/config_parity.py [--count 300] [--seed 1] [--show]

Each folder is a tiny random model of `tools/config_kinds.py`. Log-probabilities at every position, beyond windows and
original positions, must be those of transformers to 1e-4, or the folder be refused. Ends with one line of key=value
figures: `different` must be 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from tools.config_kinds import draw  # noqa: E402
from tools.config_parity import compare  # noqa: E402


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="every folder and what became of it")
    given = parser.parse_args()
    for name, value in (("TRANSFORMERS_VERBOSITY", "error"), ("HF_HUB_DISABLE_PROGRESS_BARS", "1")):
        os.environ.setdefault(name, value)
    kinds: Counter[str] = Counter()
    worst = 0.0
    for number in range(given.count):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            result = compare(folder, draw(folder, f"{given.seed}:{number}"))
        kinds[result.kind] += 1
        worst = max(worst, result.gap if result.kind == "equal" else 0.0)
        if given.show or result.kind not in ("equal", "refused"):
            said = result.said.replace(place, "")[:300]
            print(f"{number} {result.kind} {result.gap:.1e} {'; '.join(result.changes)}: {said}", file=sys.stderr)
    shown = ("equal", "refused", "different", "reference_refused", "random")
    counts = " ".join(f"{kind}={kinds[kind]}" for kind in shown)
    print(f"count={given.count} seed={given.seed} {counts} worst={worst:.1e}")


if __name__ == "__main__":
    main()
