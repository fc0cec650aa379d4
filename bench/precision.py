"""What each precision of the native engine costs in exactness: errors of log-probabilities, and the AUC on a real task.

    python bench/precision.py --data ../shared/data [--rows 1000] [--epochs 3] [--adapter DIR]

Trains an adapter on half of sms_spam (or takes one), answers rows of the other half with the embedded base model in
float32 and in each other precision, and compares: the mean and the largest difference of the choices' log-probabilities
from float32's (base and adapter each; then with the adapter merged into the weights), and the change of the adapter's
AUC with its paired 95% interval. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import numpy as np  # noqa: E402
from bench.real_tasks import COMMON, TASKS  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.adapters.member import Member  # noqa: E402
from lorica.commands import build  # noqa: E402
from lorica.commands.arguments import resolve  # noqa: E402
from lorica.commands.train_jobs import listener, train_jobs  # noqa: E402
from lorica.config.schema import Config  # noqa: E402
from lorica.data.read import read_rows  # noqa: E402
from lorica.data.split import split  # noqa: E402
from lorica.engines import load_engine  # noqa: E402
from lorica.engines.base import Engine, EngineInfo, EngineSettings, MergeDecision, MergingEngine  # noqa: E402
from lorica.metrics.bootstrap import Estimate, paired_difference  # noqa: E402
from lorica.metrics.metric_table import METRICS  # noqa: E402
from lorica.pipeline.answer import Pipeline  # noqa: E402
from lorica.pipeline.train import TrainJob  # noqa: E402
from lorica.records import Output, Request, Row  # noqa: E402

NAME = "sms_spam"
TASK = TASKS[NAME]
EXACT = "float32"
OTHERS = ("bfloat16", "int8", "int8-weights", "int4-weights", "nf4")

Floats = NDArray[np.float64]


class _Recorder:
    """An engine that keeps the log-probabilities it gave."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.logprobs: list[Floats] = []

    def add_adapter(self, name: str, adapter: Member) -> None:
        """As the engine does."""
        self._engine.add_adapter(name, adapter)

    def remove_adapter(self, name: str) -> None:
        """As the engine does."""
        self._engine.remove_adapter(name)

    @property
    def info(self) -> EngineInfo:
        """As the engine has it."""
        return self._engine.info

    def maybe_merge(self, uses: Mapping[str | None, int], sample: Sequence[Request]) -> MergeDecision:
        """As the engine does."""
        assert isinstance(self._engine, MergingEngine)
        return self._engine.maybe_merge(uses, sample)

    def run(self, requests: Sequence[Request], on_done: object = None, on_outputs: object = None) -> list[Output]:
        """As the engine does, and keep what it says."""
        outputs = self._engine.run(requests)
        self.logprobs += [np.array(output.logprobs) for output in outputs]
        return outputs


def ask(
    config: Config, precision: str, adapter: Path | None, rows: Sequence[Row], *, merged: bool = False
) -> tuple[Floats, Floats]:
    """Scores of the rows [N], and the log-probabilities of all their choices [M]. merged: with the adapter as part of
    the weights.
    """
    base = build.base_folder(config)
    settings = EngineSettings(dtype=EXACT if precision == "nf4" else precision, device="cpu")
    settings = replace(settings, load_in_4bit=precision == "nf4", merge="always")
    engine = _Recorder(load_engine("native", base, settings))
    names = []
    if adapter is not None:
        engine.add_adapter(NAME, open_adapter(adapter))
        config, names = replace(config, adapters=replace(config.adapters, use=NAME)), [NAME]
    pipeline = Pipeline(
        build.build_task(config),
        build.build_encoder(config, base),
        engine,
        names,
        build.answer_settings(config, base),
    )
    if merged:
        print(f"{precision}: {pipeline.maybe_merge({NAME: len(rows)}, rows[:64]).reason}")
    scores = np.array([answer.score for answer in pipeline.answer(rows)], dtype=np.float64)
    return scores, np.concatenate(engine.logprobs)


def train(config: Config, rows: Sequence[Row], out: Path) -> Path:
    """An adapter of these rows."""
    fit = TrainJob(NAME, rows, NAME, out / NAME)
    return train_jobs(config, build.build_task(config), [fit], listener(config))[NAME].folder


def change(gold: Sequence[int], found: Floats, exact: Floats) -> Estimate:
    """Of the AUC, against float32's."""
    return paired_difference(METRICS["roc_auc"], gold, found, exact)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--adapter", type=Path, help="a trained one, instead of training")
    arguments = parser.parse_args()
    source = arguments.data / TASK.file
    if not source.is_file():
        print(f"skipped=1 reason=no data at {source}")
        return
    others = [name for name in OTHERS if name != "nf4" or find_spec("bitsandbytes")]
    with tempfile.TemporaryDirectory() as scratch:
        settings = (*COMMON, *TASK.overrides, f"training.epochs={arguments.epochs}", f"run_dir={scratch}")
        config = resolve(settings).config
        task = build.build_task(config)
        rows = list(read_rows(source, task.schemas, columns=config.task.columns, constants=config.task.constants))
        learned, held = split(rows, ratio=TASK.held_out, seed=0, text=task.text)
        adapter = arguments.adapter or train(config, learned, Path(scratch))
        asked = held[: arguments.rows]
        gold = [int(bool(row.gold)) for row in asked]
        exact = {use: ask(config, EXACT, use, asked) for use in (None, adapter)}
        figures = [f"rows={len(asked)} auc_float32={METRICS['roc_auc'](gold, exact[adapter][0]):.4f}"]
        print(f"{'':14s} {'base mean':>10s} {'largest':>8s} {'adapter':>8s} {'largest':>8s}  change of AUC")
        for name in others:
            found = {use: ask(config, name, use, asked) for use in (None, adapter)}
            apart = {use: np.abs(logprobs - exact[use][1]) for use, (_, logprobs) in found.items()}
            moved = change(gold, found[adapter][0], exact[adapter][0])
            base, own = apart[None], apart[adapter]
            print(f"{name:14s} {base.mean():10.4f} {base.max():8.3f} {own.mean():8.4f} {own.max():8.3f}  {moved}")
            figures.append(
                f"{name}_mean_error={own.mean():.4f} {name}_largest_error={own.max():.3f} "
                f"{name}_auc_change={moved.value:+.4f} "
                f"{name}_auc_low={moved.low:+.4f} {name}_auc_high={moved.high:+.4f}"
            )
        for name in (EXACT, *(each for each in others if each != "nf4")):
            scores, logprobs = ask(config, name, adapter, asked, merged=True)
            far, moved = np.abs(logprobs - exact[adapter][1]), change(gold, scores, exact[adapter][0])
            print(f"{name + ' merged':34s} {far.mean():8.2g} {far.max():8.2g}  {moved}")
            figures.append(f"{name}_merged_mean_error={far.mean():.2g} {name}_merged_auc_change={moved.value:+.4f}")
    print(" ".join(figures))


if __name__ == "__main__":
    main()
