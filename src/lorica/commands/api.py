"""The Python API: the same pipeline as `lorica infer`, for records in memory, or a file whose answers stay there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorica.commands import build
from lorica.commands.arguments import as_path, resolve
from lorica.commands.rows import naming_its_task, open_rows, reading_log, tell
from lorica.config.schema import Config
from lorica.data.read import rows_from_memory
from lorica.pipeline.answer import Pipeline
from lorica.records import Answer, Row


class RecordPipeline:
    """A loaded model with its adapters; call it with records, get their answers in the same order."""

    def __init__(self, pipeline: Pipeline, config: Config) -> None:
        self._pipeline = pipeline
        self._config = config
        self._log = reading_log(config)

    def __call__(self, records: Iterable[Mapping[str, Any]] | Any) -> list[Answer]:
        """Answer records of one of the task's shapes, such as {"questionID", "subject", "question"}, in their order.

        records: dictionaries in anything that yields them (a list, a generator, a dataset), or a data frame or table of
        pandas, polars or pyarrow; values may be numpy's and pandas' own. A frame's index is not read. Or the path of a
        file of rows. What of them is not read is said on standard error, once. Raises DataError naming the line, or the
        position of a record, that cannot be used.
        """
        rows = self._read(records)
        tell(self._log)
        return self._pipeline.answer(rows)

    def _read(self, records: Any) -> list[Row]:
        task, given = self._pipeline.task, self._config.task
        if isinstance(records, (str, Path)):
            return list(open_rows(self._config, task, as_path(str(records)), log=self._log))
        with naming_its_task(task):
            return rows_from_memory(
                records, task.schemas, columns=given.columns, constants=given.constants, log=self._log
            )


def load_pipeline(*overrides: str) -> RecordPipeline:
    """Load base model and adapters as `lorica infer` would: `load_pipeline("task=mcq", "adapters.dir=runs/mcq")`.

    Without a `task=...` the task is `qa`: records of questionID, subject and question. The environment counts too
    (ADAPTERS_BASE_DIR, MODEL_NAME, ...; see docs/configuration.md). Raises the same errors as the command line.
    """
    named = any(override.partition("=")[0] == "task" for override in overrides)
    config = resolve(overrides if named else ("task=qa", *overrides)).config
    base, adapters = build.base_folder(config), build.open_adapters(build.adapter_folders(config))
    return RecordPipeline(build.build_pipeline(config, base, adapters), config)
