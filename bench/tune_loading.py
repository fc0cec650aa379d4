"""How many trials a minute `lorica tune` makes with its base loaded once, and with the base loaded for each trial.

    python bench/tune_loading.py [--pairs 6] [KEY=VALUE ...]

The same settings are trained and answered by one runner, and by a new one for each trial, in turn. The last line is
`key=value`; the ratio is the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from lorica.commands.arguments import resolve
from lorica.commands.tune_plan import StudyPlan, plan_study
from lorica.commands.tune_trial import TrialRunner
from lorica.training.listeners import SilentListener
from lorica.tuning.dimensions import Settings
from lorica.tuning.optuna_study import suggest
from lorica.tuning.trial_store import Trial

POSTS = Path(__file__).resolve().parents[1] / "examples" / "rules" / "posts.csv"
DEFAULTS = ("task=rules", "training=tiny", f"input={POSTS}", "training.epochs=1")


def plan_of(words: list[str], folder: Path) -> StudyPlan:
    """A study in a folder."""
    overrides = [*words, f"run_dir={folder}"]
    return plan_study(resolve(overrides), overrides)


def seconds_of(runner: TrialRunner, plan: StudyPlan, number: int, settings: Settings) -> float:
    """Of a trial: training, and answering the validation rows."""
    began = time.perf_counter()
    folder = runner.train(number, settings, SilentListener())
    runner.open(folder, settings).answer(plan.rows.validation)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("words", nargs="*", default=list(DEFAULTS), metavar="KEY=VALUE")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        separate, shared = plan_of(options.words, Path(folder) / "a"), plan_of(options.words, Path(folder) / "b")
        runner, trials, pairs = TrialRunner(shared), list[Trial](), list[tuple[float, float]]()
        for number in range(options.pairs + 1):
            settings = suggest(shared.dimensions, trials, seed=0, maximize=True)
            if settings is None:
                break
            trials.append(Trial(number=number, settings=settings, state="finished", value=0.5))
            before = seconds_of(TrialRunner(separate), separate, number, settings)
            after = seconds_of(runner, shared, number, settings)
            if number:  # the first one warms up, and loads
                pairs.append((before, after))
                print(f"trial {number}: {before:.2f} s, {after:.2f} s")
    before, after = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    ratio = statistics.median(before / after for before, after in pairs)
    print(f"pairs={len(pairs)} before_per_min={60 / before:.1f} after_per_min={60 / after:.1f} ratio={ratio:.2f}")


if __name__ == "__main__":
    main()
