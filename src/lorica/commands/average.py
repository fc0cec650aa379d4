"""`lorica average`: one adapter whose update is the mean of several, such as the folds of one training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lorica.adapters.average import average_adapters
from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import open_adapter, save_adapter
from lorica.commands.arguments import as_path, emit, parse_weights, parser
from lorica.errors import UsageError
from lorica.names import shell_word

_EXAMPLES = """  lorica average runs/fold-* --output runs/mean
  lorica average a b c --weights 0.5,0.25,0.25 --rank 16 --output mean"""


def run(arguments: Sequence[str]) -> int:
    """Average, write, and say what it cost."""
    options = _parse(arguments)
    adapters = [open_adapter(path) for path in options.adapters]
    weights = options.weights or [1 / len(adapters)] * len(adapters)
    average = average_adapters(adapters, weights, options.rank)
    save_adapter(options.output, average.config, average.tensors)
    result = {
        "output": str(options.output),
        "adapters": [
            {"path": str(adapter.path), "digest": adapter.digest, "weight": weight}
            for adapter, weight in zip(adapters, weights, strict=True)
        ],
        "rank": average.rank,
        "error": average.error,
    }
    cost = f"{average.error:.2%} of the update is lost" if average.error else "exact"
    text = (
        f"{options.output}: the mean of {len(adapters)} adapters, rank {average.rank}, {cost}\n"
        f"  -> compare it with the ensemble of their answers, and give it a passport: "
        f"lorica passport {shell_word(str(options.output))} --base BASE task=..."
    )
    emit(result, as_json=options.json, text=text)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "average",
        "Write one adapter whose update is the mean of several adapters' of one base: exact, with the sum of their\n"
        "ranks, or cut to --rank by singular values, with the error stated. It answers as fast as one adapter.\n"
        "Whether it is as good as the ensemble of their answers, `lorica eval` says on rows with gold.",
        _EXAMPLES,
        overrides=False,
    )
    command.add_argument("adapters", nargs="+", type=as_path, metavar="ADAPTER", help="folders of adapters")
    command.add_argument("--output", type=as_path, required=True, help="the folder to write, new")
    command.add_argument("--weights", type=parse_weights, metavar="W,...", help="one for each adapter; their sum is 1")
    command.add_argument("--rank", type=int, default=0, help="cut the mean to this rank (0: exact)")
    options = command.parse_args(list(arguments))
    if len(options.adapters) < 2:
        raise UsageError("lorica average: one adapter; a mean needs two or more", fix="name their folders")
    if options.weights is not None and len(options.weights) != len(options.adapters):
        raise UsageError(
            f"--weights has {len(options.weights)} numbers for {len(options.adapters)} adapters",
            fix="give one for each, in their order",
        )
    if options.rank < 0:
        raise UsageError(f"--rank {options.rank}; allowed: 0 (exact) or more", fix="--rank 16")
    if (options.output / CONFIG_NAME).exists():
        raise UsageError(f"--output {options.output}: holds an adapter already", fix="name a new folder")
    return options
