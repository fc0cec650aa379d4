"""`lorica tune`: training settings that are worth more than the defaults, within a time limit, and whether they are.

Attempts are studies one after another, each within its minutes, that end in a written decision. Every attempt divides
the rows into training and validation by another seed, tries first what the attempts before it found best, and compares
on the same rows, which no trial of any attempt saw. What was luck of a division does not last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from lorica.commands.arguments import Overrides, emit, going_on, inform, parser, resolve
from lorica.commands.pages.page_files import add_html_option, write_pages
from lorica.commands.pages.tune_page import attempts_page, attempts_table, tune_page
from lorica.commands.run_log import goes_on, logged_messages, recorded_configuration, run_file
from lorica.commands.tune_plan import ATTEMPT, StudyPlan, next_attempt, plan_study
from lorica.commands.tune_result import RESULT_NAME, AttemptsResult, TuneResult, progress_line, tune_dict, tune_text
from lorica.commands.tune_study import DEFAULTS, Ending, Study
from lorica.commands.tune_trial import TRIALS, Runner, TrialRunner
from lorica.data.write import atomic_file
from lorica.errors import ConfigError
from lorica.metrics.paired_tests import holm
from lorica.names import count_of
from lorica.process_start import command_started
from lorica.reports.markdown import to_markdown
from lorica.reports.text_table import plain_table
from lorica.runs.run_clock import CLOCK_NAME, RunClock
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RunMetric, RunRecord, record_json
from lorica.tuning.dimensions import Settings
from lorica.tuning.optuna_study import importances, load_optuna
from lorica.tuning.trial_store import TRIALS_NAME, Trial, TrialStore

DECISION_NAME, DECISION_TEXT = "decision.json", "decision.md"

_EXAMPLES = """  lorica tune task=rules training=tiny input=examples/rules/posts.csv minutes=10 run_dir=runs/tune
  lorica tune task=rules model=qwen3_0_6b input=train.csv minutes=60 trials=40 --html tune.html
  lorica tune task=rules input=train.csv minutes=30 "tune.space.lora.r=[8,16,32]" tune.space.training.epochs=1..6
  lorica tune task=rules input=train.csv minutes=30 "tune.vary=[task.style,training.learning_rate]"
  lorica tune task=rules input=train.csv minutes=60 run_dir=runs/tune training.resume=true   # after a kill, for more
  lorica tune task=rules input=train.csv attempts=3 minutes_per_attempt=120                 # a written decision"""


@dataclass(frozen=True)
class StudyCall:
    """How `lorica tune` was called. words: of its command line; () from Python. started: of this session, by
    `time.monotonic`. html: where a page is wanted."""

    overrides: Overrides
    words: Sequence[str] = ()
    resume_command: str = ""
    started: float | None = None
    html: Path | None = None


def run(arguments: Sequence[str]) -> int:
    """Search, compare, print the verdict and the next command."""
    started = command_started()
    command = parser(
        "tune",
        "Search for training settings (prompt style, learning rate, rank, scale, dropout, modules, epochs, batch)\n"
        "within `minutes` or `trials`: optuna suggests, validation rows choose, and what does worse than others did\n"
        "at the same point ends early. The first trial is that of the settings as they are; at the end the best ones\n"
        "are compared with them on rows that no trial saw, and the command that trains with the better ones is\n"
        "printed. The best adapter so far lies on disk at every moment. After Ctrl-C or a kill, or for more minutes,\n"
        "training.resume=true goes on; only time that was used counts. A key that you set is not varied.\n"
        "docs/tune.md says more.",
        _EXAMPLES,
    )
    add_html_option(command)
    options = command.parse_args(list(arguments))
    resuming = going_on("tune", arguments, "training.resume=true")
    call = StudyCall(options.overrides, tuple(arguments), resuming, started=started, html=options.html)
    if resolve(options.overrides).config.tune.attempts:
        decision = decide(call)
        emit(_attempts_dict(decision), as_json=options.json, text=_attempts_text(decision))
    else:
        result = find_settings(call)
        emit(tune_dict(result), as_json=options.json, text=tune_text(result))
    return 0


def find_settings(call: StudyCall) -> TuneResult:
    """Run one study, or go on with it.

    Raises MissingExtraError without optuna, ConfigError for settings, DataError for rows that are too few, ResumeError
    where another study is in the folder, or one that is not to be resumed; and what the trial of the defaults raises.
    """
    resolved = resolve(call.overrides)
    if resolved.is_set("tune.minutes_per_attempt"):
        raise ConfigError("minutes_per_attempt is set, and attempts is not", fix="add attempts=3, or set minutes=")
    load_optuna()
    return run_study(plan_study(resolved, call.overrides), call)


def decide(call: StudyCall) -> AttemptsResult:
    """Run the attempts of the configuration, or go on with them. Raises what `find_settings` raises."""
    resolved = resolve(call.overrides)
    if resolved.is_set("minutes"):
        raise ConfigError("minutes and attempts are both set", fix="set minutes_per_attempt= for each of the attempts")
    load_optuna()
    return run_attempts(plan_study(resolved, call.overrides), call)


def run_study(
    plan: StudyPlan, call: StudyCall, *, make_runner: Callable[[StudyPlan], Runner] = TrialRunner
) -> TuneResult:
    """Begin the study, or go on with it, until something is used up; its result is in its folder, too.

    make_runner: makes what trains and answers. Raises ResumeError where another study is there, or one that is not
    to be resumed.
    """
    resume = resumes(plan)
    with (
        RunFolder.create(plan.folder, _study_record(plan), words=call.words, resume=resume) as run_log,
        logged_messages(run_log),
    ):
        if not resume:
            (plan.folder / CLOCK_NAME).unlink(missing_ok=True)
        clock = RunClock(plan.folder, limit=60 * plan.minutes, started=call.started)
        store = TrialStore(plan.folder)
        inform(_opening_text(plan, clock, store))

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
        _write_study(run_log, result, call.html)
        clock.save(force=True)
    inform(f"run: {plan.folder}")
    return result


def _opening_text(plan: StudyPlan, clock: RunClock, store: TrialStore) -> str:
    """What a study is going to do, how long that may take, and what changes it."""
    tune, rows = plan.config.tune, plan.rows
    validation, training = len(rows.validation), len(rows.search) - len(rows.validation)
    ended = count_of(len(store.ended), "trial")
    spent = f"; {clock.used / 60:.1f} minutes and {ended} of these are spent" if store.all else ""
    limits = f"{plan.minutes:g} minutes at most ({_minutes_key(plan)}=...), {tune.trials} trials at most (trials=...)"
    return (
        f"study in {plan.folder}: {limits}{spent}. Ctrl-C ends it before, and loses nothing.\n"
        f"  {training:,} rows to train on, {validation:,} to choose trials by, "
        f"{len(rows.compared):,} to compare the best with {DEFAULTS} on\n"
        f"  varied: {', '.join(f'{dimension.key} {dimension.describe()}' for dimension in plan.dimensions)}"
    )


def _minutes_key(plan: StudyPlan) -> str:
    """The key that says how long a study may take."""
    return "minutes_per_attempt" if plan.config.tune.attempts else "minutes"


def _study_record(plan: StudyPlan) -> RunRecord:
    """The record of a study that begins."""
    row_count = len(plan.rows.search) + len(plan.rows.compared)
    inputs = [run_file("rows", plan.rows.source, rows=row_count)]
    recorded = recorded_configuration(plan.resolved)
    return RunRecord(command="tune", **recorded, manifest=plan.manifest, inputs=inputs, rows=row_count)


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
        "minutes": (_minutes_key(plan), 2 * plan.minutes),
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


def _write_study(run_log: RunFolder, result: TuneResult, html: Path | None) -> None:
    with atomic_file(run_log.path / RESULT_NAME) as result_file:
        result_file.write(record_json(tune_dict(result)))
    reports = write_pages(lambda: (tune_page(result), None), html, run_log)
    metrics = {
        f"{name}: {result.metric}": RunMetric(
            value=trial.value, low=trial.low, high=trial.high, n=result.validation_rows
        )
        for name, trial in (("best", result.best), ("defaults", result.defaults))
        if trial is not None and trial.value is not None
    }
    run_log.write_metrics(metrics, main=next(iter(metrics), ""))
    run_log.update(outputs=reports, summary={"trials": len(result.trials), "verdict": result.verdict})


def run_attempts(
    plan: StudyPlan, call: StudyCall, *, make_runner: Callable[[StudyPlan], Runner] = TrialRunner
) -> AttemptsResult:
    """Run the attempts, or go on with them, and write the decision.

    make_runner: as `run_study` takes it. Raises what `run_study` raises.
    """
    resume, count = resumes(plan), plan.config.tune.attempts
    with (
        RunFolder.create(plan.folder, _study_record(plan), words=call.words, resume=resume) as run_log,
        logged_messages(run_log),
    ):
        results: list[TuneResult] = []
        earlier: list[Settings] = []
        minutes = plan.config.tune.minutes_per_attempt
        inform(
            f"{count} attempts (attempts=...) of {minutes:g} minutes at most (minutes_per_attempt=...): "
            f"{count * minutes:g} minutes in all"
        )
        for number in range(1, count + 1):
            inform(f"attempt {number} of {count}")
            attempt = next_attempt(plan, number, earlier)
            started = call.started if number == 1 else None
            result = run_study(attempt, replace(call, started=started, html=None), make_runner=make_runner)
            results.append(result)
            if result.best is not None and result.best.number and result.best.settings not in earlier:
                earlier.append(result.best.settings)
        compared = {index: result.comparison for index, result in enumerate(results) if result.comparison is not None}
        p_values = holm([comparison.test.p_value for comparison in compared.values()])
        corrected = dict(zip(compared, p_values, strict=True))
        p_corrected = tuple(corrected.get(index, math.nan) for index in range(count))
        decision = AttemptsResult(plan.folder, tuple(results), p_corrected)
        _write_decision(run_log, decision, call.html)
    inform(f"run: {plan.folder}")
    return decision


def _attempts_dict(decision: AttemptsResult) -> dict[str, Any]:
    return {
        "folder": decision.folder,
        "decision": decision.decision,
        "adopted": decision.adopted,
        "verdict": decision.verdict,
        "command": decision.command,
        "attempts": [
            tune_dict(result) | {"p_corrected": p_value}
            for result, p_value in zip(decision.attempts, decision.p_corrected, strict=True)
        ],
    }


def _attempts_text(decision: AttemptsResult) -> str:
    table, path = plain_table(attempts_table(decision), max_cell=60), decision.folder / DECISION_TEXT
    return "\n\n".join([table, decision.verdict, f"The decision: {path}", f"Next:\n{decision.command}"])


def _write_decision(run_log: RunFolder, decision: AttemptsResult, html: Path | None) -> None:
    with atomic_file(run_log.path / DECISION_NAME) as decision_file:
        decision_file.write(record_json(_attempts_dict(decision)))
    page = attempts_page(decision)
    written = msgspec.structs.replace(page, summary=decision.verdict, footer="")
    with atomic_file(run_log.path / DECISION_TEXT) as text_file:
        text_file.write(f"{to_markdown(written)}\nNext:\n\n```sh\n{decision.command}\n```\n".encode())
    run_log.update(
        outputs=write_pages(lambda: (page, None), html, run_log),
        summary={"attempts": len(decision.attempts), "decision": decision.decision, "verdict": decision.verdict},
    )
