"""`folds.calibrate`: the scores of separately trained folds on one scale, by a fit for each, kept with its adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorica.adapters.member import Member
from lorica.calibration.fitting import FOLDS, ISOTONIC_ROWS, MIN_ROWS
from lorica.calibration.saved import SavedCalibration, write_calibration
from lorica.commands.adapter_answers import adapter_answers
from lorica.commands.arguments import inform, warn
from lorica.commands.calibrations import answered_with, fit_judged
from lorica.config.schema import Config
from lorica.data.answers import CALIBRATION_COLUMNS, PASSAGE_COLUMNS
from lorica.data.split import label_text
from lorica.data.write import write_answers
from lorica.errors import DataError, TrainingError
from lorica.names import count_of
from lorica.pipeline.apply_calibration import calibrate_answer
from lorica.pipeline.judged_answers import judge_answers
from lorica.pipeline.train import TrainJob, train_val_split
from lorica.records import Answer, Row
from lorica.runs.run_folder import RunFolder
from lorica.tasks.base import Task

_AS_THEY_ARE = "folds.calibrate=off pools the scores as they are"


@dataclass(frozen=True)
class FoldCalibrator:
    """Fits and applies the calibrations of folds. config: one that answers with scores as they are. rows: fold's name
    -> the rows to fit on, those that its training held out to choose the best checkpoint by: it was not trained on
    them, and they are not its held-out fold."""

    config: Config
    task: Task
    rows: Mapping[str, Sequence[Row]]

    @classmethod
    def prepare(cls, config: Config, task: Task, jobs: Sequence[TrainJob]) -> FoldCalibrator:
        """Of a configuration, with the rows of each fold. Raises DataError, before anything is trained, where they are
        too few."""
        training = config.training
        rows = {
            job.name: train_val_split(job, task, val_ratio=training.val_ratio, seed=training.seed).validation
            for job in jobs
        }
        for job in jobs:
            if problem := _problem(task, rows[job.name]):
                raise DataError(
                    f"{job.name}: {problem} in the validation part of its training rows "
                    f"(training.val_ratio={training.val_ratio:g}), and folds.calibrate={config.folds.calibrate} is "
                    "fitted on it",
                    path=job.source,
                    fix=f"give more rows, or a larger training.val_ratio; {_AS_THEY_ARE}",
                )
        return cls(replace(config, adapters=replace(config.adapters, calibration="off")), task, rows)

    def calibrate(
        self,
        answers: Mapping[str, Answer],
        held_out: Mapping[str, Sequence[Row]],
        adapters: Mapping[str, Member],
        output: Path,
        identity: Mapping[str, str],
        run_log: RunFolder,
    ) -> tuple[dict[str, Answer], dict[str, SavedCalibration]]:
        """Calibrated out-of-fold answers, written to `output` in the order of `answers`, and what each fold's are
        calibrated by, which is saved beside its adapter.

        answers: row id -> answer as the fold gave it. held_out: fold's name -> its rows. identity: see
        `adapter_answers`. After a kill the next call goes on. Raises TrainingError where the answers allow no fit.
        """
        method = self.config.folds.calibrate
        inform(f"calibrating each fold ({method}): answering the rows that chose its checkpoint")
        fewest = min(map(len, self.rows.values()))
        if method == "isotonic" and fewest < ISOTONIC_ROWS:
            warn(
                f"isotonic regression of {count_of(fewest, 'row')} gives many rows one score, which costs ROC-AUC "
                f"within each fold: it is for {ISOTONIC_ROWS:,} rows and more; platt and temperature keep ranks"
            )
        requested = [(name, row) for name, rows in self.rows.items() for row in rows]
        journal_folder = output.with_name("calibration.partial")
        with adapter_answers(self.config, adapters, requested, journal_folder, identity, run_log=run_log) as done:
            pipeline, manifest, answered = done
            used_with = answered_with(manifest)
            calibrations = {}
            for name, adapter in adapters.items():
                own_answers = [answer for adapter_name, answer in answered if adapter_name == name]
                calibrations[name] = self._fit(name, adapter, own_answers, used_with)
            for name, calibration in calibrations.items():
                write_calibration(adapters[name].path, calibration)
            calibrated = {
                row.id: calibrate_answer(answers[row.id], tuple(self.task.options(row)), calibrations[name].calibration)
                for name, rows in held_out.items()
                for row in rows
            }
            write_answers(
                output,
                (calibrated[row_id] for row_id in answers),
                csv_guard=self.config.inference.csv_guard,
                optional_columns=(*CALIBRATION_COLUMNS, *(() if pipeline.retriever is None else PASSAGE_COLUMNS)),
            )
        return calibrated, calibrations

    def _fit(
        self, name: str, adapter: Member, answers: Sequence[Answer], used_with: Mapping[str, str]
    ) -> SavedCalibration:
        judged = judge_answers(self.task, self.rows[name], {answer.id: answer for answer in answers})
        try:
            return fit_judged(
                self.task, adapter, judged, self.config.folds.calibrate, f"answers of {name}", used_with=used_with
            ).calibration
        except TrainingError as error:
            raise TrainingError(
                f"{name} cannot be calibrated: {error.message}", fix=f"training.resume=true {_AS_THEY_ARE}; {error.fix}"
            ) from error


def _problem(task: Task, rows: Sequence[Row]) -> str:
    """Why no calibration can be fitted on these rows, "" where one may."""
    if len(rows) < MIN_ROWS:
        return f"there are {count_of(len(rows), 'row')}, and {MIN_ROWS} are needed,"
    if task.answer_type == "score":
        counts = Counter(map(label_text, rows))
        label = min(("0", "1"), key=lambda name: counts[name])
        if counts[label] < FOLDS:
            return f"there are {count_of(counts[label], 'row')} of label {label}, and {FOLDS} are needed,"
    groups = {row.group or f"row {row.id}" for row in rows}
    if len(groups) < FOLDS:
        return f"there are {count_of(len(groups), 'group')} of rows, and {FOLDS} are needed,"
    return ""
