"""What the commands that try an adapter on a base model share: where the base is, how it is asked, which rows."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from lorica.commands import build
from lorica.commands.rows import open_rows, reading_log, tell
from lorica.config.schema import Config
from lorica.engine_table import ENGINES
from lorica.errors import DataError
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from lorica.models.transformers_models import check_config
from lorica.records import Row
from lorica.tasks.base import TaskSettings
from lorica.vetting.measure.model_session import SessionSettings

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
    task = build.build_task(config)
    read_log = reading_log(config)
    first_rows = tuple(islice(open_rows(config, task, rows_file, read_log=read_log), _MOST_ROWS))
    tell(read_log)
    return first_rows


def labels(path: Path, config: Config) -> dict[str, int]:
    """Row id -> gold, of a file of rows with yes-or-no or multiple-choice gold. Raises DataError without any."""
    task = build.build_task(config)
    log = reading_log(config)
    gold_by_id = {row.id: row.gold for row in open_rows(config, task, path, read_log=log) if isinstance(row.gold, int)}
    tell(log)
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
