"""`lorica check --base`: the levels that need a base model. Kept apart because it loads torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lorica.errors import UsageError
from lorica.verbs import on_base
from lorica.verbs.arguments import resolve
from lorica.verbs.progress import row_progress
from lorica.vetting.check import Examination
from lorica.vetting.tried import BaseChecker, BaseCheckResult


def try_on_base(
    found: Sequence[Examination], given: argparse.Namespace, top: int
) -> tuple[list[Examination], list[BaseCheckResult | None]]:
    """Try each adapter on `--base`, with `--rows` where they are given. Raises what reading them raises."""
    named = bool(given.task) or any(each.partition("=")[0] == "task" for each in given.overrides)
    if given.rows is not None and not named:
        raise UsageError("--rows needs the task they belong to", fix="add --task rules (or mcq, saq, qa)")
    config = resolve([*([f"task={given.task}"] if given.task else []), *given.overrides]).config
    base = on_base.locate(given.base, config)
    rows = None if given.rows is None else on_base.some_rows(given.rows, config)
    with row_progress(None, "prompts") as advance:
        bench = BaseChecker(on_base.setting(config, base, named=named), rows, top=top, on_done=advance)
        tried = [bench.run(each) for each in found]
    return [each for each, _ in tried], [trial for _, trial in tried]
