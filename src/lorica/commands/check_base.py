"""`lorica check --base`: the levels that need a base model. Kept apart because it loads torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lorica.commands import base_trial
from lorica.commands.arguments import resolve
from lorica.commands.progress import row_progress
from lorica.errors import UsageError
from lorica.vetting.base_checks import BaseChecker, BaseCheckResult
from lorica.vetting.levels import Examination


def try_on_base(
    found: Sequence[Examination], given: argparse.Namespace, top: int
) -> tuple[list[Examination], list[BaseCheckResult | None]]:
    """Try each adapter on `--base`, with `--rows` where they are given. Raises what reading them raises."""
    named = bool(given.task) or any(each.partition("=")[0] == "task" for each in given.overrides)
    if given.rows is not None and not named:
        raise UsageError("--rows needs the task they belong to", fix="add --task rules (or mcq, saq, qa)")
    config = resolve([*([f"task={given.task}"] if given.task else []), *given.overrides]).config
    base = base_trial.locate(given.base, config)
    rows = None if given.rows is None else base_trial.some_rows(given.rows, config)
    with row_progress(None, "prompts") as advance:
        bench = BaseChecker(base_trial.setting(config, base, named=named), rows, top=top, on_done=advance)
        tried = [bench.run(each) for each in found]
    return [each for each, _ in tried], [trial for _, trial in tried]
