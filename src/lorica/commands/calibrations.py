"""The calibrations that `lorica calibrate` left beside adapters, as `adapters.calibration` wants them applied."""

from __future__ import annotations

from collections.abc import Mapping

from lorica.adapters.member import Member
from lorica.calibration.saved import CALIBRATION_NAME, SavedCalibration, read_calibration
from lorica.commands.arguments import inform
from lorica.config.schema import Config
from lorica.errors import AdapterError
from lorica.names import listed, shell_word
from lorica.tasks.base import Task

_OFF = "adapters.calibration=off leaves the scores as they are"


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
