"""Are the demo's gains luck? The demo with other seeds (first weights, order of rows, dropout), on the same test rows.

    python bench/demo_seeds.py --out runs/demo_seeds [--seeds 42,43,44,45,46] [--tasks rules,mcq,saq]

Prints the paired gain of each task and seed (adapter minus base), and ends with one line of key=value figures: for each
task the median gain and for how many of the seeds its 95% interval lies above 0. Seeds that OUT already has are not run
again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

from lorica.commands.demo import choose, run_task
from lorica.commands.experiment import ADAPTER

Figures = dict[str, dict[str, float]]  # task -> score and gain with its interval, seconds


def run_seed(seed: int, task_names: str, out: Path) -> Figures:
    """The figures of one seed, from OUT/SEED.json where they are there."""
    figures_file = out / f"{seed}.json"
    figures: Figures = {}
    if figures_file.is_file():
        figures.update(json.loads(figures_file.read_text("utf-8")))
        return figures
    for demo in choose(task_names):
        started = time.perf_counter()
        outcome = run_task(demo, out / str(seed), (f"training.seed={seed}",))
        main_metric = next(iter(outcome.systems[ADAPTER].metrics.values()))
        figures[demo.name] = {
            "score": main_metric.value,
            "gain": outcome.gain.value,
            "low": outcome.gain.low,
            "high": outcome.gain.high,
            "seconds": time.perf_counter() - started,
        }
    figures_file.write_text(json.dumps(figures), "utf-8")
    return figures


def main() -> None:
    """Run the seeds and print a table and a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--seeds", default="42,43,44,45,46")
    parser.add_argument("--tasks", default="rules,mcq,saq")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    by_seed = {seed: run_seed(seed, arguments.tasks, arguments.out) for seed in seeds}
    summary = []
    for task_name in next(iter(by_seed.values())):
        of_task = {seed: figures[task_name] for seed, figures in by_seed.items()}
        for seed, figures in of_task.items():
            gain = f"{figures['gain']:+.3f} [{figures['low']:+.3f}, {figures['high']:+.3f}]"
            print(f"{task_name} seed {seed}: {figures['score']:.3f}, gain {gain}, {figures['seconds']:.0f} s")
        summary += [
            f"{task_name}.median_score={median(figures['score'] for figures in of_task.values()):.3f}",
            f"{task_name}.median_gain={median(figures['gain'] for figures in of_task.values()):.3f}",
            f"{task_name}.excludes_0={sum(figures['low'] > 0 for figures in of_task.values())}/{len(of_task)}",
        ]
    seconds = median(sum(figures["seconds"] for figures in by_task.values()) for by_task in by_seed.values())
    print(" ".join([*summary, f"median_seconds={seconds:.0f}"]))


if __name__ == "__main__":
    main()
