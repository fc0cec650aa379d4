"""What the commands that try an adapter on a base model share: where the base is, how it is asked, which rows; and the
levels of `lorica check` that need it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorica.commands import build
from lorica.commands.arguments import Overrides, names_task, resolve, with_base
from lorica.commands.row_progress import row_progress
from lorica.commands.rows import read_and_tell
from lorica.config.schema import Config
from lorica.engine_table import ENGINES
from lorica.errors import DataError
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from lorica.models.transformers_models import check_config
from lorica.records import Row
from lorica.tasks.base import TaskSettings
from lorica.vetting.levels import Examination
from lorica.vetting.measure.model_session import SessionSettings

if TYPE_CHECKING:
    from lorica.vetting.base_checks import BaseCheckResult

# Experiments take an even sample of the rows; reading more only costs memory.
_MOST_ROWS = 20_000


def locate(base_name: str, config: Config) -> BaseFolder:
    """A base model: a folder, `embedded:NAME` or a Hugging Face id in the cache.

    Warns of what its config.json says in vain. Raises ModelError where there is none, or one that no engine could load
    for its config.
    """
    base_model = BaseFolder(locate_model(base_name, cache_dir=config.model.cache_dir, revision="", environ=os.environ))
    check_config(base_model)
    build.tell_base(base_model)
    return base_model


def some_rows(rows_file: Path, config: Config) -> tuple[Row, ...]:
    """The first rows of a file in the configured task's shapes. Raises DataError."""
    return tuple(read_and_tell(config, build.build_task(config), rows_file, most=_MOST_ROWS))


def labels(path: Path, config: Config) -> dict[str, int]:
    """Row id -> gold, of a file of rows with yes-or-no or multiple-choice gold. Raises DataError without any."""
    rows = read_and_tell(config, build.build_task(config), path)
    gold_by_id = {row.id: row.gold for row in rows if isinstance(row.gold, int)}
    if not gold_by_id:
        raise DataError("no row has a gold label", path=path, fix="name its column with task.columns.KEY=NAME")
    return gold_by_id


def setting(config: Config, base_model: BaseFolder, *, task_named: bool) -> SessionSettings:
    """How the base is asked. task_named: the configured task is meant; else nobody knows what the adapter is for."""
    answer_settings, engine = build.answer_settings(config, base_model), ENGINES[config.engine.name]
    return SessionSettings(
        base=base_model.path,
        task=config.task.name if task_named else "",
        task_settings=build.build_task(config).settings if task_named else TaskSettings(style=engine.style),
        chat_template=config.model.chat_template,
        thinking=config.task.thinking,
        # The default leaves the choice to what the adapter needs.
        engine="" if config.engine.name == "native" else config.engine.name,
        engine_settings=build.engine_settings(config, base_model, proof=True),
        use_stop_tokens=config.inference.use_stop_tokens,
        max_input_tokens=answer_settings.prompt_tokens(build.SHORT_ANSWER if engine.writes else 0),
        truncate=answer_settings.truncate,
    )


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
    from lorica.vetting.base_checks import BaseChecker  # loads torch, and a diagnosis of files does without

    config = resolve(with_base(overrides, base_name)).config
    task_named = names_task(overrides, rows_file)
    base_model = locate(base_name, config)
    first_rows = None if rows_file is None else some_rows(rows_file, config)
    with row_progress(None, "prompts") as advance:
        settings = setting(config, base_model, task_named=task_named)
        checker = BaseChecker(settings, first_rows, top=highest_level, deep=deep, on_done=advance)
        results = [checker.run(examination) for examination in examinations]
    return [examination for examination, _ in results], [base_result for _, base_result in results]
