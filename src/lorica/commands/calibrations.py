"""The calibrations beside adapters: opened as `adapters.calibration` wants them applied, and fitted on rows with gold
for `lorica calibrate` and for each fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorica.adapters.member import Member
from lorica.admission.provenance import RETRIEVAL, WITH_PASSAGES, rows_facts
from lorica.calibration.calibration_maps import two_choices
from lorica.calibration.figures import fit_calibration
from lorica.calibration.fitting import FOLDS, CalibrationRows
from lorica.calibration.saved import CALIBRATION_NAME, FORMAT, LossChange, SavedCalibration, read_calibration
from lorica.commands.arguments import inform
from lorica.config.schema import Config
from lorica.errors import AdapterError, DataError
from lorica.names import listed, shell_word
from lorica.pipeline.judged_answers import JudgedAnswer, bootstrap_clusters, has_no_answer
from lorica.tasks import load_task
from lorica.tasks.base import Task, TaskSettings
from lorica.version import __version__

_OFF = "adapters.calibration=off leaves the scores as they are"


@dataclass(frozen=True)
class CalibrationResult:
    """What `lorica calibrate` did. path: the file beside the adapter; None where none was saved, for want of a gain.
    calibration: what stands in it, or would. candidates: method -> its cross-fitted log-loss in nats per row, or why it
    could not be fitted. ties: how many different scores the rows have, and how many of them are left after the
    calibration. former: an earlier calibration that stays, since none was saved."""

    path: Path | None
    calibration: SavedCalibration
    candidates: dict[str, float | str]
    ties: tuple[int, int]
    former: Path | None = None


def open_calibrations(
    config: Config, task: Task, adapters: Mapping[str, Member], used_with: Mapping[str, str]
) -> dict[str, SavedCalibration]:
    """Adapter -> the calibration that its answers get; says on standard error whose are calibrated, and whose not.

    used_with: task, method, style, template, tokenizer and base of this run. Raises AdapterError for a calibration that
    is broken or not for this adapter as it is used, and with `require` where one is missing.
    """
    mode = config.adapters.calibration
    if task.answer_type == "text" or not adapters:
        if mode == "require":
            reason = f"task={task.name} has no scores" if adapters else "no adapter answers"
            raise AdapterError(f"adapters.calibration=require: {reason}", fix=_OFF)
        return {}
    if mode == "off":
        unused = [name for name, adapter in adapters.items() if (adapter.path / CALIBRATION_NAME).is_file()]
        if unused:
            inform(f"calibrations not applied: {listed(unused, 5)}; adapters.calibration=auto applies them")
        return {}
    calibrations = {name: _open(name, adapter, used_with, task) for name, adapter in adapters.items()}
    missing = [name for name, calibration in calibrations.items() if calibration is None]
    if missing and mode == "require":
        folder = shell_word(str(adapters[missing[0]].path))
        raise AdapterError(
            f"adapters.calibration=require: no {CALIBRATION_NAME} in the folder of {listed(missing, 5)}",
            fix=f"lorica calibrate ANSWERS GOLD --adapter {folder} task={task.name}; or {_OFF}",
        )
    applied = {name: calibration for name, calibration in calibrations.items() if calibration is not None}
    if applied:
        inform(
            "calibrated: "
            + listed([f"{name} ({calibration.method})" for name, calibration in applied.items()], 5)
            + (f"; not calibrated, so that their scores are on another scale: {listed(missing, 5)}" if missing else "")
        )
    else:
        inform(f"no adapter has a {CALIBRATION_NAME}: no score is calibrated")
    return applied


def _open(name: str, adapter: Member, used_with: Mapping[str, str], task: Task) -> SavedCalibration | None:
    calibration = read_calibration(adapter.path)
    if calibration is None:
        return None
    problems = calibration.mismatches(adapter.digest, used_with)
    if not problems and task.answer_type == "option" and calibration.method != "temperature":
        problems = [f"it is of the method {calibration.method}, and {task.name} takes a temperature"]
    if problems:
        raise AdapterError(
            f"adapter {name}: {adapter.path / CALIBRATION_NAME} is not for it: {'; '.join(problems)}",
            fix=f"lorica calibrate ANSWERS GOLD --adapter {shell_word(str(adapter.path))} --force "
            f"task={task.name}; or {_OFF}",
        )
    return calibration


def answered_with(manifest: Mapping[str, str]) -> dict[str, str]:
    """Method, style, retrieval, template, tokenizer and base of a run, under the names that the gate has for them."""
    settings = TaskSettings(method=manifest["task.method"], style=manifest["task.style"])
    settings = load_task(manifest["task.name"], settings).settings
    digests = {name: manifest[name] for name in ("template", "tokenizer", "base")}
    passages = WITH_PASSAGES if any(key.startswith("retrieval.") for key in manifest) else "none"
    return {"method": settings.method, "style": settings.style, RETRIEVAL: passages, **digests}


def fit_judged(
    task: Task,
    adapter: Member,
    judged: Sequence[JudgedAnswer],
    method: str,
    answers_name: str,
    *,
    used_with: Mapping[str, str],
    trained_rows: int = 0,
) -> CalibrationResult:
    """Fit a calibration of the answers that `adapter` gave, and save nothing. answers_name: what a message calls them.
    used_with: see `answered_with`. trained_rows: how many of the rows it was trained on.

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
    scores = (rows.probabilities, fit.calibration_map.apply(rows.probabilities))
    before, after = (len(np.unique(probabilities[:, -1])) for probabilities in scores)
    return CalibrationResult(None, calibration, fit.candidates, (before, after))


def _fitting_rows(
    task: Task, judged: Sequence[JudgedAnswer], answers_name: str
) -> tuple[CalibrationRows, list[JudgedAnswer]]:
    """What is fitted on, and the answers that it is of: those without an answer of the model's are left out."""
    usable: list[JudgedAnswer] = []
    columns: list[list[float]] = []
    for judged_row in judged:
        answer = judged_row.answer
        if answer.calibration:
            problem = f"its scores are calibrated already ({answer.calibration})"
            fix = "answer the rows again with adapters.calibration=off"
            raise DataError(problem, path=answers_name, row_id=answer.id, fix=fix)
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
