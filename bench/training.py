"""The training loop beside TRL + PEFT, and beside an earlier loop of ours: tokens per second, memory, loss curves.

    python bench/training.py --data ../shared/data [--base embedded:lorica_tiny] [--rows plain|shared]
        [--trl PYTHON] [--before SRC] [--variant fp32|bf16|bf16-base] [--trl-variant best] [--updates 12] [--seeds 0]

The same rows (sms_spam as the task `rules` asks it; `shared`: with four examples of the rule before each post), base,
rank, targets, dropout, rates and batches on all sides, loss on the answers alone. Each side is a process below this
one; they make their updates in turns, so that what else the machine does falls on all. tokens/s as a user counts them:
all tokens of all rows. Ratios are medians over the updates of paired ratios; a side's first updates are not counted.

--trl: an interpreter with trl and peft; with --trl-variant=best all of its ways to lay out rows, its precisions and its
attentions run a few updates, and the fastest is compared. --before: the folder `src` of an earlier checkout. --seeds N:
afterwards, N runs of both with other seeds, and the paired difference of their final losses. Floor: the products of the
frozen layers, forward and for the gradient of their inputs, at the rate of large products measured here, for the tokens
that the rows of an update do not share (`computed_share` of all).

The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from lorica.commands import build
from lorica.commands.arguments import resolve
from lorica.data.read import read_rows
from lorica.models.cpu import kernels
from lorica.models.families import read_decoder_config
from lorica.models.locate import locate_model
from lorica.pipeline.train import encode_rows
from lorica.training.batches import plan_epoch
from lorica.training.prefix_tree import build_prefix_tree

PEERS = Path(__file__).parent / "peers"
EXAMPLES = {
    "positive_example_1": "WINNER! You have been chosen for a 900 pound prize. Call now to claim it, code KL341.",
    "positive_example_2": "Cheap loans, no checks, money today. Reply LOAN to 80082. Stop messages: reply STOP.",
    "negative_example_1": "I am late, the bus did not come. Start without me, I will be there in half an hour.",
    "negative_example_2": "Did you see the offer at the shop around the corner? We could get the paint there.",
}
OURS = Path(__file__).resolve().parents[1] / "src"
LAYOUTS, PRECISIONS, ATTENTIONS = (
    ("padded", "padding_free", "packing"),
    ("fp32", "bf16", "bf16-base"),
    ("sdpa", "eager"),
)
FIRST_UPDATES = 2  # of a side that are not timed: libraries and caches warm up
_LARGE = 2048  # rows and columns of a large product
LAST_UPDATES = 8  # whose mean loss is a run's final loss


Rows = list[tuple[list[int], int]]  # token ids, and where the answer begins


@dataclasses.dataclass
class Side:
    """A worker process that trains and waits between updates."""

    name: str
    python: str
    script: str
    job: dict[str, Any]
    source: Path | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    peak_mib: float = 0.0
    process: subprocess.Popen[str] | None = None

    def start(self, folder: Path) -> None:
        """Load, up to the first update. Raises RuntimeError where the process ends before."""
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(self.job), "utf-8")
        environment = os.environ | self.environment
        environment.pop("PYTHONPATH", None)
        if self.source:
            environment["PYTHONPATH"] = str(self.source)
        peers = PEERS if self.source is None else self.source.parent / "bench" / "peers"
        self.process = subprocess.Popen(
            [self.python, str(peers / self.script), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=(folder / f"{self.name}.err").open("w"), text=True, env=environment,
        )  # fmt: skip
        if self._read() is None:
            raise RuntimeError((folder / f"{self.name}.err").read_text("utf-8")[-1500:])

    def update(self) -> dict[str, Any] | None:
        """One update; None when the run is over."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        report = self._read()
        if report is not None:
            self.peak_mib = report["peak_mib"]
        return report

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _read(self) -> dict[str, Any] | None:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        report: dict[str, Any] | None = json.loads(line) if line else None
        return report


def encoded_rows(arguments: argparse.Namespace) -> Rows:
    """Token ids and where the answer begins, as `lorica train` makes them."""
    constants = EXAMPLES if arguments.rows == "shared" else {}
    config = resolve(
        (
            "task=rules", f"model.path={arguments.base}", "task.columns.row_id=id", "task.columns.body=text",
            "task.columns.rule_violation=label", "task.positive_labels=[spam]", "task.negative_labels=[ham]",
            f"task.style={'structured' if arguments.rows == 'shared' else 'plain'}",
        )
    ).config  # fmt: skip
    task = build.build_task(config)
    base = build.base_folder(config)
    source = arguments.data / "sms_spam/messages.jsonl"
    rows = read_rows(
        source, task.schemas, columns=config.task.columns,
        constants={"rule": "No unsolicited advertising.", **constants},
    )  # fmt: skip
    needed = list(itertools.islice(rows, arguments.updates * arguments.batch_size * arguments.accumulation))
    encoder = build.build_encoder(config, base)
    examples = encode_rows(task, encoder, needed, str(source), 2048, "error")
    return [(list(example.encoded.tokens), example.encoded.answer_start) for example in examples]


def make_job(arguments: argparse.Namespace, rows: Rows, variant: str, seed: int) -> dict[str, Any]:
    """What a worker is told."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return {
        "model": str(locate_model(arguments.base, environ=os.environ)), "rows": rows, "variant": variant, "seed": seed,
        "threads": arguments.threads, "batch_size": arguments.batch_size, "accumulation": arguments.accumulation,
        "learning_rate": arguments.learning_rate, "warmup_ratio": 0.1, "scheduler": "cosine", "rank": arguments.rank,
        "alpha": 2 * arguments.rank, "dropout": arguments.dropout, "checkpointing": arguments.checkpointing,
        "targets": targets if arguments.targets == "attention" else [*targets, "gate_proj", "up_proj", "down_proj"],
    }  # fmt: skip


def in_order(rows: Rows, arguments: argparse.Namespace, seed: int) -> Rows:
    """The rows as Lorica's loop takes them, for a side that takes them in order."""
    plan = plan_epoch(
        [len(tokens) for tokens, _ in rows], batch_size=arguments.batch_size, accumulation=arguments.accumulation,
        seed=seed, epoch=0,
    )  # fmt: skip
    return [rows[index] for update in plan for batch in update for index in batch]


def our_side(name: str, source: Path, arguments: argparse.Namespace, rows: Rows, seed: int) -> Side:
    """Lorica, of the checkout whose `src` is given."""
    return Side(name, sys.executable, "training_lorica.py", make_job(arguments, rows, arguments.variant, seed), source)


def trl_side(arguments: argparse.Namespace, rows: Rows, variant: str, seed: int) -> Side:
    """TRL in a variant."""
    job = make_job(arguments, in_order(rows, arguments, seed), variant, seed)
    return Side("trl", arguments.trl, "training_trl.py", job)


def best_trl_variant(arguments: argparse.Namespace, rows: Rows, folder: Path) -> str:
    """The fastest of TRL's variants, by a few updates of each. One whose update takes minutes is given up."""
    rates: dict[str, float] = {}
    for layout, precision, attention in itertools.product(LAYOUTS, PRECISIONS, ATTENTIONS):
        variant = f"{layout}/{precision}/{attention}"
        side = trl_side(arguments, rows[: 4 * arguments.batch_size * arguments.accumulation], variant, 0)
        try:
            side.start(folder)
            reports = [report for report in (side.update() for _ in range(3)) if report is not None]
            rates[variant] = max(report["tokens"] / report["seconds"] for report in reports)
            print(f"  trl {variant}: {rates[variant]:.0f} tokens/s, peak {side.peak_mib:.0f} MiB", flush=True)
        except RuntimeError as error:
            print(f"  trl {variant}: does not run: {str(error).strip().splitlines()[-1]}", flush=True)
        finally:
            side.stop()
    return max(rates, key=lambda variant: rates[variant])


def tokens_by_update(arguments: argparse.Namespace, rows: Rows, seed: int) -> list[int]:
    """All tokens of the rows of each update."""
    lengths = [len(tokens) for tokens, _ in in_order(rows, arguments, seed)]
    size = arguments.batch_size * arguments.accumulation
    return [sum(lengths[start : start + size]) for start in range(0, len(lengths), size)]


def computed_share(arguments: argparse.Namespace, rows: Rows) -> float:
    """Share of the tokens that has to be computed when each update computes what its rows share once."""
    ordered = [tuple(tokens) for tokens, _ in in_order(rows, arguments, 0)]
    size = arguments.batch_size * arguments.accumulation
    updates = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    computed = sum(len(build_prefix_tree([row[:-1] for row in update], share=True).tokens) for update in updates)
    return computed / sum(map(len, ordered))


def compare(sides: list[Side], arguments: argparse.Namespace, rows: Rows, folder: Path) -> dict[str, list[float]]:
    """Tokens/s of each side's timed updates, made in turns."""
    tokens = tokens_by_update(arguments, rows, 0)
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for side in sides:
        side.start(folder)
    try:
        for number in range(arguments.updates):
            for side in sides if number % 2 == 0 else sides[::-1]:
                report = side.update()
                if report is None or number < FIRST_UPDATES:
                    continue
                rates[side.name].append(report.get("tokens", tokens[number]) / report["seconds"])
    finally:
        for side in sides:
            side.stop()
    return rates


def final_loss(side: Side, folder: Path) -> float:
    """Train to the end."""
    side.start(folder)
    losses = []
    while (report := side.update()) is not None:
        losses.append(report["loss"])
    side.stop()
    return float(statistics.mean(losses[-LAST_UPDATES:]))


def floor_rate(arguments: argparse.Namespace) -> float:
    """Tokens/s if there were nothing but the frozen layers' products, at the rate of large products."""
    shape = read_decoder_config(locate_model(arguments.base, environ=os.environ))
    weights = sum(math.prod(layer_shape) for layer_shape in shape.linear_shapes().values())
    dtype = torch.float32 if arguments.variant == "fp32" else torch.bfloat16
    x, weight = torch.randn(_LARGE, _LARGE).to(dtype), torch.randn(_LARGE, _LARGE).to(dtype)
    packed = kernels.prepack(weight) if kernels.can_prepack(dtype) else None
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        F.linear(x, weight) if packed is None else kernels.prepacked_linear(x, packed, None)
        seconds.append(time.perf_counter() - start)
    return float(2 * _LARGE**3 / min(seconds) / (4 * weights))


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the paired ratios."""
    return float(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)))


def arguments_of_command_line() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--base", default="embedded:lorica_tiny", help="as model.path")
    parser.add_argument("--rows", choices=("plain", "shared"), default="plain")
    parser.add_argument("--trl", default="")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--variant", default="fp32", choices=("fp32", "bf16", "bf16-base"), help="ours")
    parser.add_argument("--trl-variant", default="best")
    for name, default in (("updates", 12), ("batch-size", 16), ("accumulation", 1), ("rank", 16), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--targets", choices=("attention", "all"), default="all")
    parser.add_argument("--checkpointing", action="store_true")
    return parser.parse_args()


def loss_differences(arguments: argparse.Namespace, rows: Rows, trl_variant: str, folder: Path) -> dict[str, str]:
    """The paired difference of the final losses, over the seeds."""
    differences = []
    for seed in range(1, arguments.seeds + 1):
        own = final_loss(our_side("lorica", OURS, arguments, rows, seed), folder)
        peer = final_loss(
            trl_side(arguments, rows, trl_variant, seed)
            if arguments.trl
            else our_side("before", arguments.before, arguments, rows, seed),
            folder,
        )
        differences.append(own - peer)
        print(f"  seed {seed}: final loss {own:.4f}, {peer:.4f}", flush=True)
    return {
        "loss_difference": f"{statistics.mean(differences):+.4f}",
        "loss_difference_sd": f"{statistics.stdev(differences):.4f}",
    }


def main() -> None:
    """Measure and print."""
    arguments = arguments_of_command_line()
    torch.set_num_threads(arguments.threads)
    rows = encoded_rows(arguments)
    figures: dict[str, str] = {
        "bench": "training", "base": Path(arguments.base).name, "rows": arguments.rows, "variant": arguments.variant,
        "tokens_per_row": f"{sum(len(tokens) for tokens, _ in rows) / len(rows):.0f}",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides = [our_side("lorica", OURS, arguments, rows, 0)]
        if arguments.before:
            sides.append(our_side("before", arguments.before, arguments, rows, 0))
        trl_variant = arguments.trl_variant
        if arguments.trl:
            if trl_variant == "best":
                trl_variant = best_trl_variant(arguments, rows, folder)
            sides.append(trl_side(arguments, rows, trl_variant, 0))
            figures["trl_variant"] = trl_variant
        rates = compare(sides, arguments, rows, folder)
        for side in sides:
            figures[f"{side.name}_tokens_per_s"] = f"{statistics.median(rates[side.name]):.0f}"
            figures[f"{side.name}_peak_mib"] = f"{side.peak_mib:.0f}"
            if side is not sides[0]:
                figures[f"over_{side.name}"] = f"{ratio(rates['lorica'], rates[side.name]):.2f}"
        computed = computed_share(arguments, rows)
        floor = floor_rate(arguments) / computed
        share = statistics.median(rates["lorica"]) / floor
        figures |= {
            "computed_share": f"{computed:.2f}",
            "floor_tokens_per_s": f"{floor:.0f}",
            "floor_share": f"{share:.2f}",
        }
        if arguments.seeds:
            figures |= loss_differences(arguments, rows, trl_variant, folder)
    print(" ".join(f"{key}={value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
