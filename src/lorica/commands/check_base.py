"""`lorica check --base`: the levels that need a base model. Kept apart because it loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorica.commands import base_trial
from lorica.commands.arguments import Overrides, names_task, resolve, with_base
from lorica.commands.row_progress import row_progress
from lorica.vetting.base_checks import BaseChecker, BaseCheckResult
from lorica.vetting.levels import Examination


def check_on_base(
    examinations: Sequence[Examination],
    base_name: str,
    rows_file: Path | None,
    overrides: Overrides,
    *,
    highest_level: int,
    deep: bool,
) -> tuple[list[Examination], list[BaseCheckResult]]:
    """Levels 3 and 4, up to `highest_level`, of each adapter, and with `deep` of the base model itself. Raises what
    finding the base and reading the rows raises."""
    config = resolve(with_base(overrides, base_name)).config
    task_named = names_task(overrides, rows_file)
    base_model = base_trial.locate(base_name, config)
    first_rows = None if rows_file is None else base_trial.some_rows(rows_file, config)
    with row_progress(None, "prompts") as advance:
        settings = base_trial.setting(config, base_model, task_named=task_named)
        checker = BaseChecker(settings, first_rows, top=highest_level, deep=deep, on_done=advance)
        results = [checker.run(examination) for examination in examinations]
    return [examination for examination, _ in results], [base_result for _, base_result in results]
