"""What `lorica score` says of one command run again and again, and what measuring costs.

    python bench/score.py [--rows FILE] [--task rules] [--runs 4] [--pairs 15] [key=value ...]

Runs `lorica infer` in processes of its own, alternately cold and with a warm-up, scores all of them together, and takes
the processor time of the native engine with and without a timer, alternately in one process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import lorica
from lorica.commands import build
from lorica.commands.arguments import resolve
from lorica.commands.rows import open_rows
from lorica.engines.base import TimedEngine
from lorica.engines.batch_timer import BatchTimer

ROOT = Path(__file__).resolve().parents[1]


def infer(folder: Path, name: str, words: list[str], warmup: bool) -> Path:
    output = folder / f"{name}.csv"
    command = [sys.executable, "-m", "lorica", "infer", *words, f"output={output}"]
    command.append(f"inference.warmup={str(warmup).lower()}")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    return output


def timer_cost(words: list[str], pairs: int) -> tuple[float, float]:
    """Median of (processor time of a run with a timer / without), and of (the timer's seconds / the run's)."""
    config = resolve(words).config
    pipeline = build.build_pipeline(
        config, build.base_folder(config), build.open_adapters(build.adapter_folders(config))
    )
    rows = list(open_rows(config, pipeline.task, Path(config.input)))
    engine, requests = pipeline.engine, pipeline.requests(rows)
    assert isinstance(engine, TimedEngine)
    measured: list[float] = []

    def add(tokens: Mapping[str, float], seconds: float) -> None:
        total, shares = sum(tokens.values()), {}
        for row_id, count in tokens.items():
            shares[row_id] = seconds * count / total
        measured.append(seconds)

    def timed(timer: BatchTimer) -> tuple[float, float]:
        engine.set_timer(timer)
        engine.clear_prefix_cache()
        started, processor_started = time.perf_counter(), time.process_time()
        engine.run(requests)
        return time.perf_counter() - started, time.process_time() - processor_started

    timed(BatchTimer())
    ratios, shares = [], []
    for pair in range(pairs):
        measured.clear()
        sides = {"on": BatchTimer(add), "off": BatchTimer(clock=lambda: 0.0)}  # nobody listens, and no clock is read
        seconds = {side: timed(sides[side]) for side in (("on", "off") if pair % 2 else ("off", "on"))}
        ratios.append(seconds["on"][1] / seconds["off"][1])
        shares.append(sum(measured) / seconds["on"][0])
    return statistics.median(ratios), statistics.median(shares)


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("--rows", type=Path, default=ROOT / "examples" / "rules" / "test.csv")
    command.add_argument("--task", default="rules")
    command.add_argument("--runs", type=int, default=4)
    command.add_argument("--pairs", type=int, default=15)
    command.add_argument("overrides", nargs="*")
    options = command.parse_args()
    words = [f"task={options.task}", f"input={options.rows}", *options.overrides]
    with tempfile.TemporaryDirectory() as name:
        outputs = [infer(Path(name), f"run{i}", words, warmup=bool(i % 2)) for i in range(options.runs)]
        result = lorica.score(outputs)
        errors = []
        for output in outputs:
            lines = (Path(f"{output}.run") / "timings.jsonl").read_text().splitlines()
            seconds = sum(timing["seconds"] for timing in map(json.loads, lines) if not timing["warmup"])
            latency = next(run.latency.value for run in result.runs if run.name == str(output))
            errors.append(abs(latency * result.rows / seconds - 1))
    scores = {run.name: run.score for run in result.runs}
    gaps = [abs(scores[str(a)].value - scores[str(b)].value) for a, b in itertools.combinations(outputs, 2)]
    widths = [score.high - score.low for score in scores.values()]
    ratio, share = timer_cost(words, options.pairs)
    for run in result.runs:
        warmup = result.facts[run.name].warmup_rows
        start = "warm" if warmup else "cold"
        print(f"{Path(run.name).name} {start} score {run.score} latency {run.latency.value:.5f} s")
    told_apart = sum(bool(pair.better) for pair in result.pairs)
    print(
        f"rows={result.rows} runs={options.runs} score_gap_max={max(gaps):.4f} interval_min={min(widths):.4f} "
        f"run_noise={result.rules.run_noise:.3f} told_apart={told_apart} latency_error_max={max(errors):.2e} "
        f"timer_ratio={ratio:.4f} engine_share_of_run={share:.4f}"
    )


if __name__ == "__main__":
    main()
