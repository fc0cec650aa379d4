"""The command line: a table of commands, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import MutableMapping, Sequence

from lorica import signals
from lorica.errors import UNCHECKED, ConfigError, LoricaError, UsageError
from lorica.failures import DEBUG, explain
from lorica.names import closest
from lorica.process_start import COMMAND_STARTED, process_started
from lorica.streams import SturdyStream, sturdy_streams
from lorica.version import __version__

# Stage of the life cycle -> command -> (module:function, what it does).
STAGES: dict[str, dict[str, tuple[str, str]]] = {
    "prepare and train": {
        "demo": ("lorica.commands.demo:run", "the whole life cycle on the embedded model, offline, with a report"),
        "convert": ("lorica.commands.convert:run", "a PyTorch pickle or an MLX adapter as PEFT's folder; runs no code"),
        "average": ("lorica.commands.average:run", "one adapter whose update is the mean of several"),
        "train": ("lorica.commands.train:run", "train LoRA adapters or classifiers: per task, subject or fold"),
        "folds": ("lorica.commands.folds:run", "the folds' average, their ensemble or the best fold: which is better"),
        "adapt": ("lorica.commands.adapt:run", "train at test time: on the rows' own examples, and confident scores"),
        "tune": ("lorica.commands.tune:run", "training settings that beat the defaults, within given minutes"),
    },
    "check and diagnose": {
        "check": (
            "lorica.commands.check:run",
            "vet adapters: files, structure, numbers, base, behaviour; many at once",
        ),
        "passport": ("lorica.commands.passport:run", "write or check an adapter's passport: digests and canaries"),
        "diagnose": ("lorica.commands.diagnose:run", "ranked causes for an adapter that misbehaves, with the evidence"),
    },
    "infer": {
        "kb": ("lorica.commands.kb:run", "knowledge bases: an index per subject of documents, for retrieval"),
        "infer": ("lorica.commands.infer:run", "rows in, answers out: routed, batched, validated, resumable"),
    },
    "evaluate and report": {
        "eval": (
            "lorica.commands.eval:run",
            "metrics of answers with confidence intervals; compares files",
        ),
        "score": ("lorica.commands.score:run", "runs ranked by accuracy and latency, and the front of both"),
        "frontier": ("lorica.commands.frontier:run", "which settings are worth their time, within given minutes"),
        "calibrate": (
            "lorica.commands.calibrate:run",
            "scores that come true as often as they say, saved with the adapter",
        ),
        "ensemble": ("lorica.commands.ensemble:run", "one file of answers out of several, and whether that helps"),
        "judge": ("lorica.commands.judge:run", "a model's verdicts on answers, and how far it can be believed"),
        "runs": ("lorica.commands.runs:run", "what was computed, from what, where: lists, shows and compares runs"),
    },
    "configure": {
        "config": ("lorica.commands.config:run", "print the resolved configuration and where each value came from"),
        "doctor": (
            "lorica.commands.doctor:run",
            "this machine: what is fast, what is compiled, what `auto` chooses",
        ),
    },
}
COMMANDS = {name: entry for commands in STAGES.values() for name, entry in commands.items()}

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Alone it costs nothing (0.99 of the default's speed; a tenth of it costs 14%), and beside other work it gains 1.5 to 5
# times (bench/busy_machine.py).
_SPINS = "10000"

UNPRINTED = 8
CLOSED_PIPE = 141

# Their exit codes are verdicts: whatever stops them, but a mistaken command line, leaves them without one.
_VERDICTS = ("check", "diagnose")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Whatever stops it is one message on stderr, never a traceback."""
    if arguments is None:
        COMMAND_STARTED.set(process_started())
    words = list(sys.argv[1:] if arguments is None else arguments)
    wait_briefly(os.environ)
    with sturdy_streams() as output:
        try:
            exit_code = _run(words)
        except SystemExit as end:  # `--help`
            output.flush()
            raise SystemExit(_printed(output, int(end.code or 0))) from None
        output.flush()
        return _printed(output, exit_code)


def wait_briefly(environ: MutableMapping[str, str]) -> None:
    """Let threads that wait for each other spin for tens of microseconds, not milliseconds, unless the user has chosen.

    Beside other work the last one waits for the very processor on which they spin (bench/busy_machine.py). OpenMP reads
    this when torch loads it.
    """
    if not any(name in environ for name in _WAITING):
        environ["GOMP_SPINCOUNT"] = _SPINS


def _run(words: list[str]) -> int:
    try:
        with signals.raised():
            return _dispatch(words)
    except KeyboardInterrupt as error:
        print(f"\nlorica: {explain(error)}", file=sys.stderr)
        return signals.exit_code(error)
    except Exception as error:
        print(f"lorica: {explain(error)}", file=sys.stderr)
        judges = words[0] in _VERDICTS or (words[0] == "passport" and "--check" in words)
        if judges and not isinstance(error, UsageError | ConfigError):
            return UNCHECKED
        return error.exit_code if isinstance(error, LoricaError) else LoricaError.exit_code


def _printed(output: SturdyStream, exit_code: int) -> int:
    """The exit code, after all was printed that could be. A code other than 0 stays."""
    if output.failure is None:
        return exit_code
    if isinstance(output.failure, BrokenPipeError):  # head, or a pager that was left: nothing is wrong
        return exit_code or CLOSED_PIPE
    reason = getattr(output.failure, "strerror", None) or output.failure
    print(f"lorica: standard output cannot be written ({reason}); all else is done", file=sys.stderr)
    return exit_code or UNPRINTED


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"lorica {__version__}")
        return 0
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working folder was removed", fix="cd to a folder that exists") from None
    command = words[0]
    if command not in COMMANDS:
        closest_command = closest(command, COMMANDS)
        suggestion = f"did you mean `lorica {closest_command}`? " if closest_command else ""
        raise UsageError(
            f"unknown command {command!r}; allowed: {', '.join(COMMANDS)}", fix=f"{suggestion}see `lorica --help`"
        )
    module, function = COMMANDS[command][0].split(":")
    exit_code: int = getattr(importlib.import_module(module), function)(words[1:])
    return exit_code


def _help() -> str:
    stages = "\n".join(
        "\n".join(
            [
                f"{stage}:",
                *(f"  {command_name:<9} {description}" for command_name, (_, description) in commands.items()),
            ]
        )
        for stage, commands in STAGES.items()
    )
    return (
        "usage: lorica COMMAND [key=value ...]\n\n"
        "Trains LoRA adapters and answers large files of rows with many adapters at once, offline.\n\n"
        f"{stages}\n\n"
        "  lorica COMMAND --help    what a command takes, with examples\n"
        "  lorica --version\n\n"
        "examples:\n"
        "  lorica demo\n"
        "  lorica train task=rules training=tiny input=examples/rules/posts.csv run_dir=runs/rules\n"
        "  lorica infer task=rules input=posts.csv output=answers.csv adapters.dir=runs/rules\n"
        "  lorica passport adapters/news --base Qwen/Qwen3-0.6B task=rules\n"
        "  lorica config task=mcq lora.r=8\n\n"
        "exit codes:\n"
        "  0 done  2 command line or configuration  3 rows, documents or prompts  4 base model or adapter\n"
        "  5 engine or training, also one that diverged, whose adapter is saved and no better than the base\n"
        "  6 the output or folder belongs to another run, or another process is working on it\n"
        "  7 a package that is not installed  130 interrupted by Ctrl-C  143 by SIGTERM  129 by SIGHUP\n"
        "  8 done, but standard output could not be written  141 done, but its reader went away\n"
        "  1 the machine (memory, disk), or a fault of Lorica's own, whose traceback is kept\n"
        "verdicts of `check` and `passport --check`:\n"
        "  0 trusted  10 warnings  11 rejected  12 unchecked; `diagnose` ends with 0 or 12\n\n"
        f"{DEBUG}=1 prints the traceback of every error."
    )


if __name__ == "__main__":
    sys.exit(main())
