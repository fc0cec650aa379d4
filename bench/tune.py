"""`lorica tune` keeps its deadline, goes on after a kill as if nothing had been, and says whether it beat the defaults.

    python bench/tune.py [--minutes 2] [--trials 6] [--kills 10] [KEY=VALUE ...]

On the shipped posts and the embedded base model, or what the keys name: a study of `minutes` from the start of its
process to its end; and one of `trials`, whole and killed with SIGKILL at random moments. Both must have tried the same
settings with the same values. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

POSTS = Path(__file__).resolve().parents[1] / "examples" / "rules" / "posts.csv"
DEFAULTS = ("task=rules", "training=tiny", f"input={POSTS}", "training.epochs=1", "tune.space.training.epochs=[1,2]")
EVERY = ("training.save_steps=5", "training.resume=true")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `lorica tune` in a folder."""
    command = [sys.executable, "-m", "lorica", "tune", *EVERY, f"run_dir={folder}", *words, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def to_end(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The result of a study that nobody kills."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"lorica tune ended with {process.returncode}")
    result: dict[str, Any] = json.loads(output)
    return result


def tried(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What decides of each trial, without its seconds."""
    return [(trial["settings"], trial["state"], trial["value"], trial["curve"]) for trial in result["trials"]]


def killed_study(folder: Path, words: Sequence[str], kills: int, whole_seconds: float) -> tuple[dict[str, Any], int]:
    """The result of a study that is killed at random moments, each within a part of what the whole one took; and how
    often it was."""
    chance, killed = random.Random(0), 0
    for _ in range(kills):
        process = start(folder, *words)
        time.sleep(chance.uniform(0.5, 2.5 * whole_seconds / kills + 3.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    return to_end(start(folder, *words)), killed


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("words", nargs="*", default=list(DEFAULTS), metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    counted = [*options.words, "minutes=60", f"trials={options.trials}"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        timed = to_end(start(Path(folder) / "timed", *options.words, f"minutes={options.minutes:g}"))
        wall = time.perf_counter() - began
        print(timed["verdict"])
        began = time.perf_counter()
        whole = to_end(start(Path(folder) / "whole", *counted))
        killed, kills = killed_study(Path(folder) / "killed", counted, options.kills, time.perf_counter() - began)
    states = [trial["state"] for trial in timed["trials"]]
    counts = " ".join(f"{state}={states.count(state)}" for state in ("finished", "pruned", "failed", "cut"))
    print(
        f"minutes={options.minutes:g} wall_s={wall:.1f} over_s={wall - 60 * options.minutes:.1f} {counts} "
        f"better={str(timed['better']).lower()} kills={kills} same_trials={str(tried(killed) == tried(whole)).lower()}"
    )


if __name__ == "__main__":
    main()
