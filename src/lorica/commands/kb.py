"""`lorica kb`: knowledge bases; a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from lorica.errors import UsageError
from lorica.names import did_you_mean

# Subcommand -> (module:function, what it does).
SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "build": ("lorica.commands.kb_build:run_build", "documents in, an index of one subject out"),
    "update": ("lorica.commands.kb_build:run_update", "bring an index to what its documents hold now"),
    "query": ("lorica.commands.kb_query:run_query", "the passages that are nearest to a question"),
    "info": ("lorica.commands.kb_query:run_info", "which subjects have an index, and what each was built with"),
    "test": ("lorica.commands.kb_test:run", "rows answered with its passages and without: for which subjects it helps"),
}


def run(arguments: Sequence[str]) -> int:
    """Run one subcommand."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        raise SystemExit(0)  # as every command's --help ends
    name = arguments[0]
    if name not in SUBCOMMANDS:
        fix = did_you_mean(name, SUBCOMMANDS, form="`lorica kb {}`", then="see `lorica kb --help`")
        raise UsageError(f"lorica kb: unknown subcommand {name!r}; allowed: {', '.join(SUBCOMMANDS)}", fix=fix)
    module, function = SUBCOMMANDS[name][0].split(":")
    exit_code: int = getattr(importlib.import_module(module), function)(arguments[1:])
    return exit_code


def _help() -> str:
    lines = "\n".join(f"  {name:<8} {description}" for name, (_, description) in SUBCOMMANDS.items())
    return (
        "usage: lorica kb SUBCOMMAND ...\n\n"
        "Knowledge bases for retrieval: one index per subject, built from documents, all on this machine.\n\n"
        f"{lines}\n\n"
        "  lorica kb SUBCOMMAND --help    what it takes, with examples; all take --json\n\n"
        "examples:\n"
        "  lorica kb build --subject algebra --out kb docs/algebra\n"
        '  lorica kb query --subject algebra --kb kb "How is a quadratic equation solved?"\n'
        "  lorica kb test questions.jsonl task=mcq retrieval.dir=kb\n\n"
        "docs/retrieval.md says more."
    )
