"""Folds on data nobody here wrote: out-of-fold ROC-AUC; average, ensemble and best fold on rows that none has seen.

    python bench/folds.py --data ../shared/data --out runs/folds [--tasks sms_spam,hatecheck] [--test 0.3]
        [KEY=VALUE ...]

A share of the rows (near-duplicates and groups stay together) is put aside as the test; `lorica train folds=5` trains
on the others, `lorica folds` compares on the test. HateCheck is grouped by functionality. Ends with one line of
key=value figures; `training.resume=true` keeps what is done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from bench.real_tasks import COMMON, TASKS, RealTask  # noqa: E402

from lorica.commands import build  # noqa: E402
from lorica.commands.arguments import resolve  # noqa: E402
from lorica.data.read import read_rows  # noqa: E402
from lorica.data.split import split  # noqa: E402


def put_aside(real_task: RealTask, data: Path, out: Path, share: float) -> tuple[Path, Path]:
    """The rows of a task as two files: to train on, to test on."""
    config = resolve(real_task.overrides).config
    task, source = build.build_task(config), data / real_task.file
    rows = list(read_rows(source, task.schemas, columns=config.task.columns, constants=config.task.constants))
    _, test_rows = split(rows, ratio=share, seed=0, text=task.text, source=str(source))
    test_lines = {row.line for row in test_rows}
    paths = out / "train.jsonl", out / "test.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    with paths[0].open("w", encoding="utf-8") as training, paths[1].open("w", encoding="utf-8") as test:
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
            (test if number in test_lines else training).write(line)
    return paths


def lorica(*words: str) -> tuple[dict[str, Any], float]:
    """What a command says with --json, and the seconds that it took."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "lorica", *words, "--json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(result.stdout), time.perf_counter() - started


def measure(name: str, data: Path, out: Path, share: float, overrides: list[str]) -> dict[str, str]:
    """The figures of one task."""
    training, test = put_aside(TASKS[name], data, out / name, share)
    words = [*TASKS[name].overrides, *COMMON, *overrides]
    trained, train_seconds = lorica("train", f"input={training}", f"run_dir={out / name / 'run'}", "folds=5", *words)
    plain = [word for word in words if not word.startswith("training.resume")]
    compared, compare_seconds = lorica("folds", str(out / name / "run"), str(test), *plain)
    table = trained["folds"]["table"]
    figures = {"oof_roc_auc": _interval(table["pooled"]["roc_auc"])}
    figures |= {"fold_mean": f"{table['mean']['roc_auc']:.4f}", "fold_spread": f"{table['spread']['roc_auc']:.4f}"}
    best = compared["best_fold"]
    for system in ("average", "ensemble", best):
        label = "best_fold" if system == best else system
        figures[label] = _interval(compared["files"][system]["metrics"]["roc_auc"])
    for pair in compared["pairs"]:
        difference = pair["difference"]
        label = f"{pair['first']}-{pair['second']}".replace(best, "best_fold")
        figures[label] = _interval(difference)
    figures |= {"train_seconds": f"{train_seconds:.0f}", "compare_seconds": f"{compare_seconds:.0f}"}
    print(f"{name}: {compared['verdict']}")
    return {f"{name}.{figure}": value for figure, value in figures.items()}


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.4f}[{estimate['low']:.4f},{estimate['high']:.4f}]"


def main() -> None:
    """Measure every task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="sms_spam,hatecheck")
    parser.add_argument("--test", type=float, default=0.3)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    figures: dict[str, str] = {}
    for name in options.tasks.split(","):
        figures |= measure(name, options.data, options.out, options.test, options.overrides)
    print(" ".join(f"{figure}={value}" for figure, value in figures.items()))


if __name__ == "__main__":
    main()
