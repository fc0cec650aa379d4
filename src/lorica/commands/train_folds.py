"""`lorica train folds=5`: an audit, one adapter for each fold, and out-of-fold scores of every row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.member import Member
from lorica.adapters.registry import TRAINING_RECORD
from lorica.calibration.saved import SavedCalibration
from lorica.commands import build
from lorica.commands.adapter_answers import adapter_answers
from lorica.commands.arguments import emit, inform, warn
from lorica.commands.fold_calibration import FoldCalibrator
from lorica.commands.fold_report import FoldsResult, audit_dict, audit_text, fold_name
from lorica.commands.rows import list_skipped, reading_log, tell
from lorica.commands.run_log import logged_messages, recorded_configuration, run_file
from lorica.commands.train_jobs import SKIPPED_SUFFIX, TrainingRun, listener, locked, nothing_lost, train_locked
from lorica.commands.train_log import RecordedTraining
from lorica.commands.train_plan import read_training_rows, training_root
from lorica.config.compose import Resolved
from lorica.config.decisive import answering_settings
from lorica.config.schema import Config
from lorica.data.answers import PASSAGE_COLUMNS
from lorica.data.digest import file_digest
from lorica.data.fold_audit import FoldAudit, audit_folds
from lorica.data.fold_plan import FoldPlan, TextOf, plan_by_column, plan_folds
from lorica.data.group_columns import EMPTY
from lorica.data.read_log import ReadLog
from lorica.data.split import components_of, require_components
from lorica.data.write import read_answers, write_answers
from lorica.errors import ConfigError, DataError
from lorica.metrics.bootstrap import Estimate
from lorica.names import count_of
from lorica.pipeline.fold_scores import measure_folds
from lorica.pipeline.judged_answers import judge_answers
from lorica.pipeline.train import FEWEST_TO_SPLIT, LossExample, TrainJob
from lorica.records import Answer, Row
from lorica.runs.fold_files import OUT_OF_FOLD_NAME, STATE_NAME, FoldsState, open_folds, write_plan, write_state
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RunMetric, RunRecord
from lorica.tasks.base import Task


@dataclass(frozen=True)
class DividedRows:
    """The training rows and how they are divided. A row's group is that of `folds.group_column`, where it is set."""

    rows: list[Row]
    plan: FoldPlan
    audit: FoldAudit
    source: str

    @property
    def digest(self) -> str:
        return self.plan.digest(self.rows)

    def jobs(self, root: Path) -> list[TrainJob]:
        """An adapter for each fold, on the rows of the others."""
        return [
            TrainJob(fold_name(fold), training_rows, self.source, root / fold_name(fold), held_out)
            for fold, (training_rows, held_out) in enumerate(self.plan.sides(self.rows), start=1)
        ]


def show_audit(config: Config, *, as_json: bool) -> int:
    """Print what the folds are made of and what crosses them, and train nothing. Returns the exit code."""
    task = build.build_task(config)
    read_log = reading_log(config)
    divided = divide_rows(config, task, read_log)
    tell(read_log)
    allowed = config.folds.allow_leaks
    plain_values = audit_dict(divided.audit, divided.digest, leaks_allowed=allowed)
    emit(plain_values, as_json=as_json, text=audit_text(divided.audit, divided.plan.names))
    return DataError.exit_code if divided.audit.leaks and not allowed else 0


def divide_rows(config: Config, task: Task, read_log: ReadLog) -> DividedRows:
    """Read the training rows and divide them. Raises ConfigError where nothing says how, DataError for rows that
    cannot be divided so."""
    folds = config.folds
    if not folds.wanted:
        raise ConfigError("neither folds nor folds.column is set: there is nothing to divide", fix="folds=5")
    if not config.input:
        raise ConfigError("no training file is set", fix="input=FILE folds=5")
    columns = list(filter(None, (folds.group_column, folds.column)))
    rows, values = read_training_rows(config, task, config.input, read_log, columns)
    if folds.group_column:
        groups = values[folds.group_column]
        rows = [msgspec.structs.replace(row, group="" if groups[row.id] == EMPTY else groups[row.id]) for row in rows]
    text, source, need_labels = task.text, config.input, task.answer_type == "score"
    if folds.column:
        of_row = {row_id: value for row_id, value in values[folds.column].items() if value != EMPTY}
        plan = plan_by_column(rows, of_row, text=text, column=folds.column, source=source, need_labels=need_labels)
    else:
        plan = plan_folds(
            rows,
            folds.count,
            seed=config.training.seed,
            text=text,
            stratum=task.stratum,
            source=source,
            need_labels=need_labels,
            join_texts=folds.near_duplicates,
        )
    if config.training.val_ratio:
        _require_validation(rows, plan, text, config)
    row_examples = task.row_examples
    shows_examples = row_examples is not None and task.settings.style in row_examples.styles

    def examples(row: Row) -> list[str]:
        return [task.text(example) for example in row_examples.as_rows(row)] if row_examples and shows_examples else []

    audit = audit_folds(rows, plan, stratum=task.stratum, examples=examples)
    return DividedRows(rows, plan, audit, config.input)


def _require_validation(rows: Sequence[Row], plan: FoldPlan, text: TextOf, config: Config) -> None:
    """Each fold's training rows are divided once more, to choose the best checkpoint by, and near-duplicates stay
    together then, whatever `folds.near_duplicates` says."""
    joined = config.folds.near_duplicates or config.folds.column
    for fold in range(1, plan.count + 1):
        indices = [index for index, row_fold in enumerate(plan.folds) if row_fold != fold]
        training = [rows[index] for index in indices]
        if len(training) < FEWEST_TO_SPLIT:
            continue
        require_components(
            training,
            len({plan.components[index] for index in indices} if joined else components_of(training, text)),
            2,
            f"a training and a validation part beside {fold_name(fold, plan.names)}",
            source=config.input,
            otherwise="training.val_ratio=0 trains on all rows of the other folds",
        )


def train_fold_files(resolved: Resolved, *, words: Sequence[str], resume_command: str) -> TrainingRun:
    """Train an adapter for each fold, answer its held-out rows with it, and measure; see `train.train_files`. Raises
    DataError, before anything is loaded, where something crosses the folds and `folds.allow_leaks` is off."""
    config = resolved.config
    task = build.build_task(config)
    root = training_root(config, task)
    read_log = reading_log(config)
    divided = divide_rows(config, task, read_log)
    tell(read_log)
    inform(f"{divided.source}: {audit_text(divided.audit, divided.plan.names)}")
    _refuse_leaks(divided, allowed=config.folds.allow_leaks)
    jobs = divided.jobs(root)
    calibrator = FoldCalibrator.prepare(config, task, jobs) if config.folds.calibrate != "off" else None
    manifest = _manifest(config, task, divided)
    state = open_folds(root, manifest, resume=config.training.resume)
    rows_file = run_file("rows", divided.source, rows=len(divided.rows))
    record = RunRecord(command="train", **recorded_configuration(resolved), manifest=dict(manifest), inputs=[rows_file])
    with (
        nothing_lost(jobs, resume_command),
        locked(jobs) as locks,
        _no_trace_of_nothing(root, jobs),
        RunFolder.create(root, record, words=words, resume=state is not None, owned=True) as run_log,
        logged_messages(run_log),
    ):
        reading = list_skipped(read_log, root / (task.name + SKIPPED_SUFFIX))
        plan_path = write_plan(root, divided.plan, divided.rows)
        audited = audit_dict(divided.audit, divided.digest, leaks_allowed=config.folds.allow_leaks)
        facts: dict[str, Any] = {"manifest": manifest, "source": divided.source, **audited}
        if state is None:
            write_state(root, facts)
        examples: dict[str, LossExample] = {}
        runs = RecordedTraining.of(resolved, words, jobs)
        results = train_locked(
            config, task, jobs, listener(config), locks, reading=read_log.digests(), examples=examples, recorded=runs
        )
        output = root / OUT_OF_FOLD_NAME
        adapters = build.open_adapters({job.name: job.folder for job in jobs})
        facts["adapters"] = {name: adapter.digest for name, adapter in adapters.items()}
        facts["answering"] = answering_settings(config)
        answers, calibrations = _out_of_fold(config, divided, jobs, adapters, state, calibrator, facts, run_log)
        judged = judge_answers(task, divided.rows, answers, divided.source, str(output))
        table = measure_folds(task, judged, divided.plan.folds)
        result = FoldsResult(
            plan=plan_path,
            digest=divided.digest,
            audit=divided.audit,
            leaks_allowed=config.folds.allow_leaks,
            names=divided.plan.names,
            out_of_fold=output,
            table=table,
            calibrations=calibrations,
        )
        _record(root, facts, result, run_log)
    return TrainingRun(results, examples, reading, result)


def _out_of_fold(
    config: Config,
    divided: DividedRows,
    jobs: Sequence[TrainJob],
    adapters: Mapping[str, Member],
    state: FoldsState | None,
    calibrator: FoldCalibrator | None,
    facts: dict[str, Any],
    run_log: RunFolder,
) -> tuple[dict[str, Answer], dict[str, SavedCalibration]]:
    """The out-of-fold answers of every row, and what each fold's are calibrated by; as far as an earlier call left them
    they are not computed again. facts: for `folds.json`."""
    root = run_log.path
    output, method = root / OUT_OF_FOLD_NAME, config.folds.calibrate
    answers: dict[str, Answer] = {}
    if state is not None and state.scored(facts["adapters"], facts["answering"], output):
        present = state.read_calibrations(root)
        answers = {answer.id: answer for answer in read_answers(output)}
        if state.calibrated == method and present is not None:
            return answers, present
        if state.calibrated != "off":
            answers = {}
    elif state is not None and state.out_of_fold and not state.answering:
        inform("an earlier version of Lorica gave the out-of-fold answers and did not say by which settings")
    if not answers:
        answers = _answer_held_out(
            calibrator.config if calibrator else config, divided, jobs, adapters, output, run_log
        )
    if calibrator is None:
        return answers, {}
    # Where no calibration can be fitted, the scores as they are stay for a call without one.
    write_state(root, {**facts, "out_of_fold": file_digest(output)})
    held_out = {job.name: job.held_out for job in jobs}
    identity = {"plan": divided.digest}
    return calibrator.calibrate(answers, held_out, adapters, output, identity, run_log)


def _refuse_leaks(divided: DividedRows, *, allowed: bool) -> None:
    leaks = divided.audit.leaks
    crossing = f"{count_of(len(leaks), 'set of rows is', 'sets of rows are')} on both sides of a fold"
    if leaks and not allowed:
        raise DataError(
            f"{crossing}; {leaks[0]}",
            path=divided.source,
            row_id=leaks[0].row_ids[0],
            fix="let folds=5 keep them together (without folds.column and folds.near_duplicates=false); "
            "folds.allow_leaks=true trains all the same, and the result says so",
        )
    if leaks:
        warn(f"{crossing}, which folds.allow_leaks allows: the result says so")


def _manifest(config: Config, task: Task, divided: DividedRows) -> dict[str, str]:
    """What a resumed run must share, beside what each fold's training must."""
    folds = config.folds
    return {
        "task": task.name,
        "folds": str(divided.plan.count),
        "folds.column": folds.column,
        "folds.group_column": folds.group_column,
        "folds.allow_leaks": str(folds.allow_leaks),
        "folds.near_duplicates": str(folds.near_duplicates),
        "seed": str(config.training.seed),
        "plan": divided.digest,
    }


@contextmanager
def _no_trace_of_nothing(root: Path, jobs: Sequence[TrainJob]) -> Iterator[None]:
    """Where the block fails before anything was trained, another plan may begin in its folder."""
    try:
        yield
    except BaseException:
        if not any((job.folder / TRAINING_RECORD).is_file() for job in jobs):
            (root / STATE_NAME).unlink(missing_ok=True)
        raise


def _answer_held_out(
    config: Config,
    divided: DividedRows,
    jobs: Sequence[TrainJob],
    adapters: Mapping[str, Member],
    output: Path,
    run_log: RunFolder,
) -> dict[str, Answer]:
    """Answer every row by the fold that did not see it, into `output`, in the order of the rows; after a kill the next
    call goes on."""
    inform("answering the rows of each fold by the adapter that did not see them")
    requested = [(job.name, row) for job in jobs for row in job.held_out]
    journal_folder = output.with_name(output.name + ".partial")
    identity = {"plan": divided.digest}
    with adapter_answers(config, adapters, requested, journal_folder, identity, run_log=run_log) as done:
        pipeline, _, answered = done
        by_id = {answer.id: answer for _, answer in answered}
        answers = {row.id: by_id[row.id] for row in divided.rows}
        columns = () if pipeline.retriever is None else PASSAGE_COLUMNS
        write_answers(output, answers.values(), csv_guard=config.inference.csv_guard, optional_columns=columns)
    return answers


def _record(root: Path, facts: Mapping[str, object], result: FoldsResult, run_log: RunFolder) -> None:
    """Write what came of it into `folds.json` and into the run's record."""
    table = result.table
    row_count = sum(scores.rows for scores in table.folds)
    scored = {
        "names": result.names,
        "table": table,
        "best": fold_name(table.best),
        "pooling": result.pooling,
        "calibrated": result.calibrated,
        "calibrations": {name: calibration.digest for name, calibration in result.calibrations.items()},
    }
    write_state(root, {**facts, **scored, "out_of_fold": file_digest(result.out_of_fold)})
    metrics: dict[str, Estimate | RunMetric | float] = dict(table.pooled)
    metrics |= {f"{name} (mean over folds)": value for name, value in table.mean.items()}
    metrics |= {f"{name} (spread)": value for name, value in table.spread.items()}
    for scores in table.folds:
        metrics |= {f"{fold_name(scores.fold)}: {name}": value for name, value in scores.metrics.items()}
    if table.pooling_cost is not None:
        metrics[f"{table.metric} (cost of pooling)"] = table.pooling_cost
    run_log.write_metrics(metrics, main=table.metric)
    run_log.update(
        rows=row_count,
        outputs=[run_file("answers", result.out_of_fold, rows=row_count), run_file("plan", result.plan)],
        summary={"leaks": len(result.audit.leaks), "leaks_allowed": result.leaks_allowed},
    )
