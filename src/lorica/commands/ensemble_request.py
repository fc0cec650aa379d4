"""What `lorica ensemble` is asked for, from the command line or from Python."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorica.commands.arguments import as_path, check_not_read, parse_weights
from lorica.data.write import check_output, check_place
from lorica.ensemble.blends import METHODS
from lorica.errors import UsageError
from lorica.names import count_of

FOLD = "fold"
"""What `--within` calls the adapter of a fold that gave an out-of-fold score, where the rows have no such column."""


@dataclass(frozen=True)
class BlendRequest:
    """What `lorica ensemble` is asked for; its options say what each is."""

    files: Sequence[Path]
    gold: Path | None = None
    method: str = "rank"
    weights: Sequence[float] | None = None
    within: str | None = None
    rows: Path | None = None
    power: float = 2.0
    output: Path | None = None
    save: Path | None = None
    model: Path | None = None
    allow_training_rows: bool = False


def add_request_options(command: argparse.ArgumentParser) -> None:
    """The options that make a `BlendRequest`."""
    method_help = "; ".join(f"{name}: {about}" for name, about in METHODS.items())
    command.add_argument("--method", choices=tuple(METHODS), default="rank", help=f"{method_help} (%(default)s)")
    command.add_argument("--gold", type=as_path, help="the rows with their gold answers")
    command.add_argument(
        "--within",
        metavar="COLUMN",
        help="take ranks within each value of this column, such as rule; `fold` within the folds of out-of-fold scores",
    )
    command.add_argument(
        "--rows", type=as_path, help="the file of rows that holds the column, where --gold is not given"
    )
    command.add_argument("--weights", type=parse_weights, metavar="W,...", help="one for each file; their sum is 1")
    command.add_argument("--power", type=float, default=2.0, help="the exponent of --method power (%(default)s)")
    command.add_argument("--output", type=as_path, help="where to write the blend (.csv, .jsonl or .parquet)")
    command.add_argument(
        "--save",
        "--calibrate",
        type=as_path,
        metavar="FILE.json",
        help="write the fitted blend: the stack, or with other methods the mean of calibrated probabilities, which "
        "needs no table to rank in and serves a single row",
    )
    command.add_argument("--model", type=as_path, metavar="FILE.json", help="blend by what --save wrote")


def check_request(request: BlendRequest) -> None:
    """Raises UsageError for requests that contradict each other."""
    count = len(request.files)
    refusals = (
        (
            count < (1 if request.model or request.within else 2),
            f"{count_of(count, 'file')}; a blend needs two or more",
            "name the files of answers (one is enough with --within, which ranks it)",
        ),
        (
            len({path.resolve() for path in request.files}) < count,
            "a file is named twice",
            "name each once; --weights gives it more say",
        ),
        (
            request.weights is not None and len(request.weights) != count,
            f"--weights has {len(request.weights or ())} numbers for {count} files",
            "give one for each file, in their order",
        ),
        (request.method == "stack" and request.weights is not None, "a stack finds its weights", "leave --weights out"),
        (
            request.method in ("stack",) and request.gold is None and request.model is None,
            "a stack is fitted on rows with gold",
            "add --gold FILE",
        ),
        (request.save is not None and request.gold is None, "--save fits on rows with gold", "add --gold FILE"),
        (request.save is not None and request.method == "vote", "a vote has nothing to fit", "leave --save out"),
        (
            request.within not in (None, FOLD) and not (request.gold or request.rows),
            "--within needs the rows",
            "add --gold or --rows FILE",
        ),
        (
            bool(request.within) and request.method in ("vote", "stack"),
            f"a {request.method} has no ranks",
            "leave --within out, or --method rank",
        ),
        (request.model is not None and request.gold is not None, "--model fits nothing", "leave --gold out"),
        *_idle_options(request),
        (
            request.power == 0 or not math.isfinite(request.power),
            f"--power {request.power:g}",
            "give another exponent, such as 2",
        ),
    )
    for is_refused, problem, fix in refusals:
        if is_refused:
            raise UsageError(f"lorica ensemble: {problem}", fix=fix)
    written = [path.resolve() for path in (request.output, request.save) if path is not None]
    if len(set(written)) < len(written):
        raise UsageError(f"lorica ensemble: --output and --save are one file, {request.save}", fix="name another file")
    outputs = {"--output": request.output, "--save": request.save}
    check_not_read(outputs, [*request.files, request.gold, request.rows, request.model])
    if request.output is not None:
        check_output(request.output)
    if request.save is not None:
        check_place(request.save)


def _idle_options(request: BlendRequest) -> list[tuple[bool, str, str]]:
    """Options that would change nothing beside the others: (whether one is given, the problem, what to do)."""
    is_changed = {
        "--method": request.method not in ("rank", "stack"),
        "--weights": request.weights is not None,
        "--within": bool(request.within),
    }
    return [
        *(
            (
                request.model is not None and is_set,
                f"--model blends as it was fitted, whatever {option} says",
                f"leave {option} out",
            )
            for option, is_set in is_changed.items()
        ),
        (
            request.power != BlendRequest.power and request.method != "power",
            f"--power {request.power:g} is the exponent of --method power",
            "add --method power, or leave --power out",
        ),
        (
            request.rows is not None and not request.within,
            "--rows names the file that holds the column of --within",
            "add --within COLUMN, or leave --rows out",
        ),
    ]
