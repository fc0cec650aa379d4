"""A calibration of one adapter's answers, fitted on rows with gold: for `lorica calibrate`, and for each fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lorica.adapters.member import Member
from lorica.admission.provenance import rows_facts
from lorica.calibration.calibration_maps import Probabilities, two_choices
from lorica.calibration.figures import CalibrationFit, fit_calibration
from lorica.calibration.fitting import FOLDS, CalibrationRows
from lorica.calibration.saved import FORMAT, LossChange, SavedCalibration
from lorica.commands.arguments import inform
from lorica.errors import DataError
from lorica.names import listed
from lorica.pipeline.judged_answers import JudgedAnswer, bootstrap_clusters, has_no_answer
from lorica.tasks.base import Task
from lorica.version import __version__


@dataclass(frozen=True)
class FittedCalibration:
    """calibration: as it is saved. candidates: method -> its cross-fitted log-loss in nats per row, or why it could not
    be fitted. ties: how many different scores the rows have, and how many of them are left after the calibration."""

    calibration: SavedCalibration
    candidates: dict[str, float | str]
    ties: tuple[int, int]


def fit_judged(
    task: Task,
    adapter: Member,
    judged: Sequence[JudgedAnswer],
    method: str,
    answers_name: str,
    *,
    used_with: Mapping[str, str],
    trained_rows: int = 0,
) -> FittedCalibration:
    """Fit a calibration of the answers that `adapter` gave. answers_name: what a message calls them. used_with: see
    `answered_with`. trained_rows: how many of the rows it was trained on.

    Raises DataError for answers that cannot be fitted on, TrainingError where no fit is possible.
    """
    rows, used = _fitting_rows(task, judged, answers_name)
    fit = fit_calibration(method, rows)
    change = fit.change
    calibration = SavedCalibration(
        format=FORMAT,
        made_by=f"lorica {__version__}",
        adapter=adapter.digest,
        task=task.name,
        calibration=fit.calibration_map,
        rows=rows_facts([judged_row.row for judged_row in used]),
        before=fit.before,
        after=fit.after,
        change=LossChange(change.value, change.low, change.high),
        folds=FOLDS,
        left_out=len(judged) - len(used),
        trained_rows=trained_rows,
        candidates={name: loss for name, loss in fit.candidates.items() if isinstance(loss, float)},
        used_with=dict(used_with),
    )
    return FittedCalibration(calibration, fit.candidates, _ties(rows, fit))


def _fitting_rows(
    task: Task, judged: Sequence[JudgedAnswer], answers_name: str
) -> tuple[CalibrationRows, list[JudgedAnswer]]:
    """What is fitted on, and the answers that it is of: those without an answer of the model's are left out."""
    usable: list[JudgedAnswer] = []
    columns: list[list[float]] = []
    for judged_row in judged:
        answer = judged_row.answer
        if answer.calibration:
            raise DataError(
                f"its scores are calibrated already ({answer.calibration})",
                path=answers_name,
                row_id=answer.id,
                fix="answer the rows again with adapters.calibration=off",
            )
        if not has_no_answer(answer):
            columns.append(_probabilities(task, judged_row, answers_name))
            usable.append(judged_row)
    if len(usable) < len(judged):
        inform(f"{len(judged) - len(usable)} of {len(judged)} rows have no answer of the model's, and are left out")
    width = max(map(len, columns), default=0)
    probabilities = np.full((len(columns), width), np.nan)
    for row_index, values in enumerate(columns):
        probabilities[row_index, : len(values)] = values
    used_rows = [judged_row.row for judged_row in usable]
    is_binary = task.answer_type == "score"
    right_columns = [row.gold if is_binary else task.gold_choice(row) for row in used_rows]
    gold = np.asarray(right_columns, dtype=np.int64)
    return CalibrationRows(probabilities, gold, bootstrap_clusters(used_rows), is_binary), usable


def _probabilities(task: Task, judged_row: JudgedAnswer, answers_name: str) -> list[float]:
    """The probabilities of a row's choices; of labels 0 and 1 for a score. Raises DataError where they are missing."""
    answer = judged_row.answer
    if task.answer_type == "score":
        if answer.score is None or not 0 <= answer.score <= 1:
            problem = "has no score" if answer.score is None else f"has the score {answer.score}, no probability"
            raise DataError(
                f"the answer {problem}", path=answers_name, row_id=answer.id, fix="answers of `lorica infer`"
            )
        return [float(value) for value in two_choices(np.asarray([answer.score]))[0]]
    option_names = tuple(task.options(judged_row.row))
    scores = answer.scores or {}
    if set(scores) != set(option_names) or not all(0 <= score <= 1 for score in scores.values()):
        raise DataError(
            f"its scores are of {listed(sorted(scores), 6) or 'no option'}; needed: a probability of each of "
            + listed(option_names, 6),
            path=answers_name,
            row_id=answer.id,
            fix="take answers of `lorica infer task=mcq`",
        )
    return [scores[option_name] for option_name in option_names]


def _ties(rows: CalibrationRows, fit: CalibrationFit) -> tuple[int, int]:
    def count(probabilities: Probabilities) -> int:
        return len(np.unique(probabilities[:, -1]))

    return count(rows.probabilities), count(fit.calibration_map.apply(rows.probabilities))
