"""The command line: a table of verbs, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from lorica import __version__, signals
from lorica.errors import LoricaError, UsageError
from lorica.failures import DEBUG, explain
from lorica.names import closest
from lorica.streams import SturdyStream, sturdy_streams

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("lorica.verbs.demo:run", "the whole life cycle on the embedded model, offline, with a report"),
    "check": ("lorica.verbs.check:run", "vet adapters: files, structure, numbers, base, behaviour; many side by side"),
    "diagnose": ("lorica.verbs.diagnose:run", "ranked causes for an adapter that misbehaves, with the evidence"),
    "train": ("lorica.verbs.train:run", "train LoRA adapters: per task, or one per subject"),
    "infer": ("lorica.verbs.infer:run", "rows in, answers out: routed, batched, validated, resumable"),
    "eval": ("lorica.verbs.eval:run", "metrics of answers against gold, with confidence intervals"),
    "passport": ("lorica.verbs.passport:run", "write or check the passport of an adapter: digests and canaries"),
    "convert": ("lorica.verbs.convert:run", "a PyTorch pickle or an MLX adapter as PEFT's folder; runs no code of it"),
    "config": ("lorica.verbs.config:run", "print the resolved configuration and where each value came from"),
}


UNCHECKED = 3  # `check`: no verdict
UNPRINTED = 8
CLOSED_PIPE = 141

# Their exit codes are verdicts, and 2 says "rejected", 1 "warnings": what stops them must end with neither.
_VERDICTS = ("check", "diagnose")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Whatever stops it is one message on stderr, never a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with sturdy_streams() as output:
        try:
            code = _run(given)
        except SystemExit as end:  # `--help`
            output.flush()
            raise SystemExit(_printed(output, int(end.code or 0))) from None
        output.flush()
        return _printed(output, code)


def _run(given: list[str]) -> int:
    try:
        with signals.raised():
            return _dispatch(given)
    except KeyboardInterrupt as error:
        print(f"\nlorica: {explain(error)}", file=sys.stderr)
        return signals.exit_code(error)
    except Exception as error:
        print(f"lorica: {explain(error)}", file=sys.stderr)
        if given[0] in _VERDICTS or (given[0] == "passport" and "--check" in given):
            return UNCHECKED
        return error.exit_code if isinstance(error, LoricaError) else LoricaError.exit_code


def _printed(output: SturdyStream, code: int) -> int:
    """The exit code, after all was printed that could be. A code that says more than 0 goes first."""
    if output.failure is None:
        return code
    if isinstance(output.failure, BrokenPipeError):  # head, or a pager that was left: nothing is wrong
        return code or CLOSED_PIPE
    reason = getattr(output.failure, "strerror", None) or output.failure
    print(f"lorica: standard output cannot be written ({reason}); all else is done", file=sys.stderr)
    return code or UNPRINTED


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if given[0] in ("-V", "--version"):
        print(f"lorica {__version__}")
        return 0
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working folder was removed", fix="cd to a folder that exists") from None
    verb, rest = given[0], given[1:]
    if verb not in VERBS:
        near = closest(verb, VERBS)
        guess = f"did you mean `lorica {near}`? " if near else ""
        raise UsageError(f"unknown verb {verb!r}; allowed: {', '.join(VERBS)}", fix=f"{guess}see `lorica --help`")
    module, function = VERBS[verb][0].split(":")
    code: int = getattr(importlib.import_module(module), function)(rest)
    return code


def _help() -> str:
    verbs = "\n".join(f"  {name:<8} {text}" for name, (_, text) in VERBS.items())
    return (
        "usage: lorica VERB [key=value ...]\n\n"
        "Trains LoRA adapters and answers large files of rows with many adapters at once, offline.\n\n"
        f"{verbs}\n\n"
        "  lorica VERB --help    what a verb takes, with examples\n"
        "  lorica --version\n\n"
        "examples:\n"
        "  lorica demo\n"
        "  lorica train task=rules input=examples/rules/posts.csv run_dir=runs/rules\n"
        "  lorica infer task=rules input=posts.csv output=answers.csv adapters.dir=runs/rules\n"
        "  lorica passport adapters/news --base Qwen/Qwen3-0.6B task=rules\n"
        "  lorica config task=mcq lora.r=8\n\n"
        "exit codes:\n"
        "  0 done  2 command line or configuration  3 rows or prompts  4 base model or adapter\n"
        "  5 engine or training, also one that diverged, whose adapter is saved and no better than the base\n"
        "  6 a resume in the place of another run, or a folder that another process is working on\n"
        "  7 a package that is not installed  130 interrupted by Ctrl-C  143 by SIGTERM  129 by SIGHUP\n"
        "  8 done, but standard output could not be written  141 done, but its reader went away\n"
        "  1 the machine (memory, disk), or a fault of Lorica's own, whose traceback is kept\n"
        "  `check` and `passport --check` end with their verdict instead, 0 to 3;\n"
        "  `diagnose` ends with 3 where it cannot judge\n\n"
        f"{DEBUG}=1 prints the traceback of every error."
    )


if __name__ == "__main__":
    sys.exit(main())
