"""`lorica tune` keeps its deadline, goes on after a kill as if nothing had been, and says whether it beat the defaults.

    python bench/tune.py [--minutes 2] [--trials 6]

On the shipped posts and the embedded base model: a study of `minutes` from the start of its process to its end; and one
of `trials`, whole and killed with SIGKILL in a random trial, again and again, until it ends. Both must have tried the
same settings with the same values. The last line is `key=value`.
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
from pathlib import Path
from typing import Any

from lorica.tuning.trial_store import TrialStore

POSTS = Path(__file__).resolve().parents[1] / "examples" / "rules" / "posts.csv"
SETTINGS = ("tune", "task=rules", "training=tiny", "training.save_steps=5", f"input={POSTS}", "training.resume=true")
SHORT = ("training.epochs=1", "tune.space.training.epochs=[1,2]", "minutes=60")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start `lorica tune` in a folder."""
    command = [sys.executable, "-m", "lorica", *SETTINGS, f"run_dir={folder}", *words, "--json"]
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


def killed_study(folder: Path, trials: int) -> tuple[dict[str, Any], int]:
    """The result of a study that is killed in each of its trials, at a random moment; and how often it was."""
    chance, kills = random.Random(0), 0
    for trial in range(trials):
        process = start(folder, *SHORT, f"trials={trials}")
        while process.poll() is None and len(TrialStore(folder).all if folder.exists() else ()) <= trial - 1:
            time.sleep(0.1)
        time.sleep(chance.uniform(0.5, 6.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    return to_end(start(folder, *SHORT, f"trials={trials}")), kills


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--trials", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        timed = to_end(start(Path(folder) / "timed", f"minutes={options.minutes:g}"))
        wall = time.perf_counter() - began
        print(timed["verdict"])
        whole = to_end(start(Path(folder) / "whole", *SHORT, f"trials={options.trials}"))
        killed, kills = killed_study(Path(folder) / "killed", options.trials)
    states = [trial["state"] for trial in timed["trials"]]
    counts = " ".join(f"{state}={states.count(state)}" for state in ("finished", "pruned", "failed", "cut"))
    print(
        f"minutes={options.minutes:g} wall_s={wall:.1f} over_s={wall - 60 * options.minutes:.1f} {counts} "
        f"better={str(timed['better']).lower()} kills={kills} same_trials={str(tried(killed) == tried(whole)).lower()}"
    )


if __name__ == "__main__":
    main()
