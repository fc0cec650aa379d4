"""One session of a study, recorded in its run folder: begun, or gone on with, and its result written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorica.commands.arguments import Overrides, going_on, inform
from lorica.commands.pages.page_files import write_pages
from lorica.commands.pages.tune_page import tune_page
from lorica.commands.run_log import goes_on, logged_messages, recorded_configuration, run_file
from lorica.commands.tune_plan import ATTEMPT, StudyPlan
from lorica.commands.tune_result import RESULT_NAME, TuneResult, progress_line, tune_dict
from lorica.commands.tune_study import DEFAULTS, Ending, Study
from lorica.commands.tune_trial import TRIALS, Runner, TrialRunner
from lorica.data.write import atomic_file
from lorica.names import count_of
from lorica.runs.run_clock import CLOCK_NAME, RunClock
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RunMetric, RunRecord, record_json
from lorica.tuning.optuna_study import importances
from lorica.tuning.trial_store import TRIALS_NAME, Trial, TrialStore


@dataclass(frozen=True)
class StudyCall:
    """How `lorica tune` was called. words: of its command line; () from Python. started: of this session, by
    `time.monotonic`. html: where a page is wanted."""

    overrides: Overrides
    words: Sequence[str] = ()
    resume_command: str = ""
    started: float | None = None
    html: Path | None = None


def run_study(
    plan: StudyPlan, call: StudyCall, *, make_runner: Callable[[StudyPlan], Runner] = TrialRunner
) -> TuneResult:
    """Begin the study, or go on with it, until something is used up; its result is in its folder, too.

    make_runner: makes what trains and answers. Raises ResumeError where another study is there, or one that is not
    to be resumed.
    """
    resume = resumes(plan)
    with (
        RunFolder.create(plan.folder, study_record(plan), words=call.words, resume=resume) as run_log,
        logged_messages(run_log),
    ):
        if not resume:
            (plan.folder / CLOCK_NAME).unlink(missing_ok=True)
        clock = RunClock(plan.folder, limit=60 * plan.minutes, started=call.started)
        store = TrialStore(plan.folder)
        inform(opening_text(plan, clock, store))

        def on_trial(trial: Trial) -> None:
            inform(progress_line(trial, study.best, plan.metric.name, clock.used, plan.minutes))

        study = Study(plan, make_runner(plan), clock, store, on_trial)
        try:
            ending = study.search()
            result = _result(study, ending, _more_command(call, plan, ending))
        except BaseException as error:
            if store.all or isinstance(error, KeyboardInterrupt):
                kept_trials = count_of(len(store.ended), "trial")
                error.add_note(f"kept in {plan.folder}: {kept_trials}; go on: {call.resume_command}")
            raise
        _write(run_log, result, call.html)
        clock.save(force=True)
    inform(f"run: {plan.folder}")
    return result


def opening_text(plan: StudyPlan, clock: RunClock, store: TrialStore) -> str:
    """What a study is going to do, how long that may take, and what changes it."""
    tune, rows = plan.config.tune, plan.rows
    validation, training = len(rows.validation), len(rows.search) - len(rows.validation)
    spent = (
        f"; {clock.used / 60:.1f} minutes and {count_of(len(store.ended), 'trial')} of these are spent"
        if store.all
        else ""
    )
    limits = f"{plan.minutes:g} minutes at most ({minutes_key(plan)}=...), {tune.trials} trials at most (trials=...)"
    return (
        f"study in {plan.folder}: {limits}{spent}. Ctrl-C ends it before, and loses nothing.\n"
        f"  {training:,} rows to train on, {validation:,} to choose trials by, "
        f"{len(rows.compared):,} to compare the best with {DEFAULTS} on\n"
        f"  varied: {', '.join(f'{dimension.key} {dimension.describe()}' for dimension in plan.dimensions)}"
    )


def minutes_key(plan: StudyPlan) -> str:
    """The key that says how long a study may take."""
    return "minutes_per_attempt" if plan.config.tune.attempts else "minutes"


def study_record(plan: StudyPlan) -> RunRecord:
    """The record of a study that begins."""
    row_count = len(plan.rows.search) + len(plan.rows.compared)
    return RunRecord(
        command="tune",
        **recorded_configuration(plan.resolved),
        manifest=plan.manifest,
        inputs=[run_file("rows", plan.rows.source, rows=row_count)],
        rows=row_count,
    )


def resumes(plan: StudyPlan) -> bool:
    """Whether to go on with the study that is in the folder. Raises ResumeError where there is another one, or one that
    is not to be resumed."""
    is_begun = any((plan.folder / name).exists() for name in (TRIALS_NAME, TRIALS, ATTEMPT.format(1)))
    return is_begun and goes_on(
        plan.folder,
        "tune",
        plan.manifest,
        resume=plan.config.training.resume,
        resume_words="training.resume=true (and more minutes=, where they are used)",
        otherwise="name another run_dir",
    )


def _more_command(call: StudyCall, plan: StudyPlan, ending: Ending) -> str:
    """What goes on with a study that ended: the same command, with twice of what is used up."""
    more_of: dict[Ending, tuple[str, float]] = {
        "minutes": (minutes_key(plan), 2 * plan.minutes),
        "trials": ("trials", 2 * plan.config.tune.trials),
    }
    if not call.words or ending not in more_of:
        return call.resume_command
    key, amount = more_of[ending]
    other_words = [word for word in call.words if not word.startswith((f"{key}=", f"tune.{key}="))]
    return going_on("tune", [*other_words, f"{key}={amount:g}"], "training.resume=true")


def _result(study: Study, ending: Ending, more_command: str) -> TuneResult:
    plan, best = study.plan, study.best
    trials = study.store.all
    comparison = study.comparison()
    return TuneResult(
        folder=plan.folder,
        metric=plan.metric.name,
        higher_is_better=plan.metric.higher_is_better,
        trials=trials,
        best=best,
        adapter=study.adapter_folder(best.number) if best is not None else study.state_folder(),
        dimensions=plan.dimensions,
        importance=importances(plan.dimensions, trials),
        comparison=comparison,
        validation_rows=len(plan.rows.validation),
        compared_rows=len(plan.rows.compared),
        ended_by=ending,
        seconds=study.clock.used,
        minutes=plan.minutes,
        commands={
            "best": plan.train_command(best.settings if best is not None and best.number else {}),
            "defaults": plan.train_command({}),
            "more": more_command,
        },
    )


def _write(run_log: RunFolder, result: TuneResult, html: Path | None) -> None:
    with atomic_file(run_log.path / RESULT_NAME) as result_file:
        result_file.write(record_json(tune_dict(result)))
    reports = write_pages(lambda: (tune_page(result), None), html, run_log)
    metrics = {
        f"{name}: {result.metric}": RunMetric(
            value=trial.value, low=trial.low, high=trial.high, n=result.validation_rows
        )
        for name, trial in (("best", result.best), ("defaults", result.trials[0] if result.trials else None))
        if trial is not None and trial.value is not None
    }
    run_log.write_metrics(metrics, main=next(iter(metrics), ""))
    run_log.update(outputs=reports, summary={"trials": len(result.trials), "verdict": result.verdict})
