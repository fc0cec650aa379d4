"""One file of answers with all that its page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lorica.commands.arguments import inform
from lorica.commands.gold_file import GoldFile
from lorica.data.row_timings import read_timings
from lorica.errors import DataError
from lorica.metrics.normalise import LORICA
from lorica.pipeline.evaluate import Evaluation
from lorica.pipeline.judged_answers import JudgedAnswer, correctness_metric, is_right
from lorica.records import RowTiming
from lorica.reports.short_names import short_paths
from lorica.runs.run_record import TIMINGS_NAME, RunRecord, run_folder_of
from lorica.runs.stored_run import record_of_answers


@dataclass(frozen=True)
class EvaluatedFile:
    """name: of the file, or what it is; shown: how the page calls it. judged: its rows as the task reads them; right:
    whether each is. record: of the run that wrote it, where it left one; timings: of the evaluated rows that the run
    measured."""

    name: str
    shown: str
    judged: Sequence[JudgedAnswer]
    right: Sequence[bool]
    evaluation: Evaluation
    record: RunRecord | None
    timings: Sequence[RowTiming]

    @property
    def main_metric(self) -> str:
        """The metric that decides."""
        return next(iter(self.evaluation.metrics))

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Row id -> the engine's seconds, of the evaluated rows that the run measured."""
        return {timing.id: timing.seconds for timing in self.timings if timing.seconds}


def evaluated_files(
    gold: GoldFile,
    judged_sets: Mapping[str, Sequence[JudgedAnswer]],
    evaluations: Mapping[str, Evaluation],
    normalisation: str = LORICA.name,
) -> list[EvaluatedFile]:
    """Files of answers with their measures, by their names."""
    correctness, shown = correctness_metric(gold.task, normalisation), short_paths(judged_sets)
    files = []
    for name, judged in judged_sets.items():
        record, timings = _answering_run(Path(name))
        measured = [timings[judged_row.row.id] for judged_row in judged if judged_row.row.id in timings]
        right = is_right(correctness, judged)
        files.append(EvaluatedFile(name, shown[name], judged, right, evaluations[name], record, measured))
    return files


def _answering_run(answers_path: Path) -> tuple[RunRecord | None, dict[str, RowTiming]]:
    """The record of the run beside a file of answers, and its timings by row id, without its warm-up; nothing, with a
    message where there is one, if it does not tell of this file."""
    try:
        record = record_of_answers(answers_path)
        timings_path = run_folder_of(answers_path) / TIMINGS_NAME
        timings = read_timings(timings_path) if record is not None and timings_path.exists() else []
    except DataError as error:
        inform(f"the page shows nothing of that run: {error}")
        return None, {}
    return record, {timing.id: timing for timing in timings if not timing.warmup}


def shown_names(files: Iterable[EvaluatedFile]) -> dict[str, str]:
    """Name -> how the page calls it."""
    return {file.name: file.shown for file in files}
