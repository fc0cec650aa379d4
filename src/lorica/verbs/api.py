"""The Python API: the same pipeline as `lorica infer`, for records in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lorica.data.read import rows_from_memory
from lorica.data.read_log import ReadLog
from lorica.pipeline.answer import Pipeline
from lorica.records import Answer
from lorica.verbs import build
from lorica.verbs.arguments import resolve
from lorica.verbs.rows import naming_its_task, tell


class RecordPipeline:
    """A loaded model with its adapters; call it with records, get their answers in the same order."""

    def __init__(self, pipeline: Pipeline, columns: Mapping[str, str], constants: Mapping[str, str]) -> None:
        self._pipeline = pipeline
        self._columns = columns
        self._constants = constants
        self._log = ReadLog()

    def __call__(self, records: Iterable[Mapping[str, Any]] | Any) -> list[Answer]:
        """Answer records of one of the task's shapes, such as {"questionID", "subject", "question"}, in their order.

        records: dictionaries in anything that yields them (a list, a generator, a dataset), or a data frame or table of
        pandas, polars or pyarrow; values may be numpy's and pandas' own. A frame's index is not read. What of them is
        not read is said on standard error, once. Raises DataError naming the position of a record that cannot be used.
        """
        task = self._pipeline.task
        with naming_its_task(task):
            rows = rows_from_memory(
                records, task.shapes, columns=self._columns, constants=self._constants, log=self._log
            )
        tell(self._log)
        return self._pipeline.answer(rows)


def load_pipeline(*overrides: str) -> RecordPipeline:
    """Load base model and adapters as `lorica infer` would: `load_pipeline("task=mcq", "adapters.dir=runs/mcq")`.

    Without a `task=...` the task is `qa`: records of questionID, subject and question. The environment counts too
    (ADAPTERS_BASE_DIR, MODEL_NAME, ...; see docs/configuration.md). Raises the same errors as the command line.
    """
    named = any(override.partition("=")[0] == "task" for override in overrides)
    config = resolve(overrides if named else ("task=qa", *overrides)).config
    return RecordPipeline(build.build_pipeline(config), config.task.columns, config.task.constants)
