"""`lorica calibrate`: scores that come true as often as they say, by a fit on held-out rows, kept with the adapter."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.member import Member, open_member
from lorica.calibration.calibration_maps import METHODS, CalibrationMap, IsotonicSteps, PlattScaling
from lorica.calibration.saved import CALIBRATION_NAME, write_calibration
from lorica.commands.arguments import Overrides, as_path, emit, inform, parser, resolve, split_words, warn
from lorica.commands.calibrations import CalibrationResult, answered_with, fit_judged
from lorica.commands.gold_file import GoldFile, read_gold
from lorica.commands.next_command import infer_calibrated
from lorica.data.write import check_place
from lorica.errors import AdapterError, UsageError
from lorica.names import count_of, listed
from lorica.pipeline.judged_answers import JudgedAnswer
from lorica.records import Answer
from lorica.reports.page import ReportTable
from lorica.reports.text_table import plain_table
from lorica.runs.run_record import RunRecord
from lorica.runs.stored_run import record_of_answers
from lorica.vetting.files.check_files import examine_files
from lorica.vetting.files.sources import find_sources
from lorica.vetting.files.unpack import opened
from lorica.vetting.measure.contamination import training_row_ids

AUTO = "auto"
_FEW_ROWS = 200  # below which a fit is worth a warning
_EXAMPLES = """  lorica calibrate answers.csv held_out.csv --adapter runs/rules/rules task=rules
  lorica calibrate answers.csv held_out.csv --adapter runs/rules/rules --method isotonic task=rules
  lorica calibrate answers.jsonl held_out.jsonl --adapter runs/mcq/mcq task=mcq --json
  lorica infer task=rules input=new.csv output=new-answers.csv adapters.dir=runs/rules adapters.calibration=require"""


def run(arguments: Sequence[str]) -> int:
    """Fit, measure, save, and say what it is worth."""
    options = _parse(arguments)
    result = calibrate_answers(
        options.overrides,
        options.answers,
        options.gold,
        options.adapter,
        method=options.method,
        allow_training_rows=options.allow_training_rows,
        replace=options.force,
        save_anyway=options.save_anyway,
    )
    emit(_calibration_dict(result), as_json=options.json, text=_calibration_text(result, _answering(options, result)))
    return 0


def calibrate_answers(
    overrides: Overrides,
    answers: Path | Sequence[Answer],
    gold_file: Path,
    adapter_folder: Path,
    *,
    method: str = AUTO,
    allow_training_rows: bool = False,
    replace: bool = False,
    save_anyway: bool = False,
) -> CalibrationResult:
    """Fit a calibration of the adapter's answers on rows with gold, and write it beside the adapter where the rows show
    a gain (an interval of the change of log-loss below 0), or `save_anyway`.

    Raises DataError for answers that cannot be fitted on, AdapterError for an adapter that did not give them or was
    trained on the rows, TrainingError where no fit is possible.
    """
    adapter = open_member(adapter_folder)
    path = adapter.path / CALIBRATION_NAME
    if path.exists() and not replace:
        raise AdapterError(f"{path} is there already", fix="--force (from Python replace=True) writes over it")
    check_place(path)
    record = record_of_answers(answers) if isinstance(answers, Path) else None
    config = resolve(overrides).config
    gold = read_gold(config, gold_file, [], allow_training_rows=allow_training_rows)
    if gold.task.answer_type == "text":
        reason = f"task={gold.task.name} writes its answers: it has no scores to calibrate"
        raise UsageError(reason, fix="task=rules or mcq")
    if gold.task.answer_type == "option" and method not in (AUTO, "temperature"):
        raise UsageError(f"--method {method}: options are calibrated by a temperature", fix="--method temperature")
    answers_name = str(answers) if isinstance(answers, Path) else "answers"
    judged = _of_adapter(gold.judge(gold.read_answers(answers), answers_name), adapter, record, answers_name)
    trained_rows = _count_trained(adapter, gold, judged, allow_training_rows)
    used_with = {} if record is None else answered_with(record.manifest)
    result = fit_judged(
        gold.task, adapter, judged, method, answers_name, used_with=used_with, trained_rows=trained_rows
    )
    calibration = result.calibration
    if calibration.rows.rows < _FEW_ROWS:
        warn(f"{calibration.rows.rows} rows are few to calibrate on: the interval of the change says how sure it is")
    if not (save_anyway or calibration.change.high < 0):
        former = path if path.exists() else None
        return CalibrationResult(None, calibration, result.candidates, result.ties, former)
    write_calibration(adapter.path, calibration)
    return CalibrationResult(path, calibration, result.candidates, result.ties)


def _answering(options: argparse.Namespace, result: CalibrationResult) -> str:
    """The command that answers rows to come with calibrated scores."""
    adapters = f"adapters.paths.{result.calibration.task}={options.adapter}"
    return infer_calibrated(record_of_answers(options.answers), adapters, options.overrides)


def _of_adapter(
    judged: Sequence[JudgedAnswer], adapter: Member, record: RunRecord | None, answers_name: str
) -> list[JudgedAnswer]:
    """The answers that this adapter gave, as far as the answers and their record tell. Raises AdapterError where it
    gave none."""
    answering = {judged_row.answer.adapter for judged_row in judged} - {""}
    if record is not None:
        names = {name for name, digest in record.adapters.items() if digest == adapter.digest}
        if not names:
            fix = f"answer the rows with it: lorica infer ... adapters.paths.NAME={adapter.path}"
            raise AdapterError(f"{adapter.path} did not give {answers_name}: their record names other weights", fix=fix)
    else:
        inform(f"{answers_name} has no record of its run: that this adapter gave it is taken for granted")
        names = {adapter.path.name} & answering or (answering - {"base"} if len(answering) == 1 else set())
    if not answering and record is None:
        return list(judged)
    own_rows = [judged_row for judged_row in judged if judged_row.answer.adapter in names]
    if not own_rows:
        raise AdapterError(
            f"none of the answers in {answers_name} is of the adapter {adapter.path.name}; they are of "
            + listed(sorted(answering), 5),
            fix="name the folder of one of these",
        )
    if len(own_rows) < len(judged):
        inform(f"{len(judged) - len(own_rows)} of {len(judged)} rows were answered by others, and are not fitted on")
    return own_rows


def _count_trained(adapter: Member, gold: GoldFile, judged: Sequence[JudgedAnswer], allow_training_rows: bool) -> int:
    """How many of the rows the adapter was trained on. Raises AdapterError for any, unless that is allowed."""
    with opened(find_sources([adapter.path])[0]) as source:
        specimen = examine_files(source)[0]
    if specimen is None:
        return 0
    own_ids = {judged_row.row.id for judged_row in judged}
    trained_count = len(training_row_ids(specimen, gold.rows, gold.task) & own_ids)
    if trained_count and not allow_training_rows:
        raise AdapterError(
            f"the adapter was trained on {trained_count} of the {len(own_ids)} rows of {gold.path}: it is surer of "
            "them than of any others, and a calibration would take that over",
            fix="answer held-out rows, and fit on these; --allow-training-rows (from Python allow_training_rows=True) "
            "fits all the same and says so in the file",
        )
    return trained_count


def _calibration_dict(result: CalibrationResult) -> dict[str, Any]:
    saved: dict[str, Any] = msgspec.to_builtins(result.calibration)
    scores = {"different_before": result.ties[0], "different_after": result.ties[1]}
    return saved | {"output": result.path, "candidates": result.candidates, "scores": scores}


def _calibration_text(result: CalibrationResult, next_command: str) -> str:
    """The result for people. next_command: what answers rows to come with it."""
    calibration, change = result.calibration, result.calibration.change
    figures = ReportTable(
        ("figure", "as it was", "calibrated"),
        tuple(
            (name, f"{getattr(calibration.before, name):.4f}", f"{getattr(calibration.after, name):.4f}")
            for name in ("log_loss", "brier", "ece")
        ),
    )
    verdict = "better" if change.high < 0 else "WORSE" if change.low > 0 else "not told apart on so few rows"
    others = [
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in result.candidates.items()
    ]
    lines = [
        f"{calibration.method}: {_parameters(calibration.calibration)}; fitted on "
        f"{count_of(calibration.rows.rows, 'row')}",
        plain_table(figures),
        f"log-loss {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}] nats per row: {verdict}",
        f"(each row by a fit on other rows, in {calibration.folds} folds)",
    ]
    if len(others) > 1:
        lines.append(f"log-loss by method: {'; '.join(others)}")
    before, after = result.ties
    if calibration.method == "isotonic":
        lines.append(f"{before} different scores become {after}: ties, which ranks and ROC-AUC feel")
    else:
        lines.append("ranks and ROC-AUC stay as they are")
    if calibration.left_out:
        lines.append(f"left out: {count_of(calibration.left_out, 'row')} without an answer")
    if calibration.trained_rows:
        lines.append(f"WARNING: the adapter was trained on {calibration.trained_rows} of these rows; the file says so")
    no_gain = "" if change.high < 0 else "these rows show no gain: "
    if result.path is None:
        lines.append(
            f"NOT SAVED: {no_gain}answer with the scores as they are, or calibrate on more rows; --save-anyway "
            "saves it all the same"
        )
        if result.former is not None:
            lines.append(f"the former calibration stays, and is applied where one is wanted: {result.former}")
    else:
        lines.append(f"saved{f', though {no_gain}' if no_gain else ': '}{result.path}")
        lines.append(f"-> {next_command}\n   (NEW.csv: further rows, whose scores it calibrates)")
    return "\n".join(lines)


def _parameters(fitted: CalibrationMap) -> str:
    if isinstance(fitted, PlattScaling):
        return f"slope {fitted.slope:.4f}, intercept {fitted.intercept:+.4f}"
    if isinstance(fitted, IsotonicSteps):
        return count_of(len(fitted.scores), "point")
    return f"temperature {fitted.temperature:.4f}"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = parser(
        "calibrate",
        "Fit a calibration of an adapter's scores (rules, mcq) on answers to rows with gold that it was not trained\n"
        "on, say what it is worth on rows that the fit has not seen, and save it as calibration.json beside the\n"
        "adapter. `lorica infer` applies it with adapters.calibration=auto or require. docs/calibration.md.",
        _EXAMPLES,
        overrides=False,
    )
    command.add_argument("words", nargs="*", metavar="ANSWERS GOLD [key=value ...]", help="as `lorica eval` takes them")
    command.add_argument("--adapter", type=as_path, required=True, help="the folder of the adapter that answered")
    command.add_argument(
        "--method",
        choices=(AUTO, *METHODS),
        default=AUTO,
        help="auto: the one of lowest log-loss; platt: two parameters, keeps ranks; temperature: one, keeps ranks; "
        "isotonic: any rising function, for 1,000 rows and more, makes ties (%(default)s)",
    )
    command.add_argument(
        "--allow-training-rows", action="store_true", help="fit also on rows that the adapter was trained on"
    )
    command.add_argument("--force", action="store_true", help="write over the calibration that is there")
    command.add_argument(
        "--save-anyway", action="store_true", help="save it also where the rows do not show that it helps"
    )
    options = command.parse_args(list(arguments))
    files, options.overrides = split_words(options.words)
    if len(files) != 2:
        fix = "lorica calibrate ANSWERS GOLD --adapter DIR task=..."
        raise UsageError(f"lorica calibrate needs two files, answers and gold; got {len(files)}", fix=fix)
    options.answers, options.gold = files
    return options
