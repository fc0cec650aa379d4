"""The training loop, of LoRA and of full fine-tuning. What computes is in step.py, what is written in checkpoints.py
and publish.py.

The whole run is a function of its inputs and the number of updates made so far: rows are ordered by (seed,
epoch), dropout by (seed, update), the learning rate by the update. So a run that was killed goes on exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from lorica.adapters.registry import TRAINING
from lorica.config.schema import TrainingConfig
from lorica.errors import BaseNotFiniteError, CollapsedError, LoricaError, NotFiniteError, TrainingError
from lorica.locks import FolderLock, lock_folder
from lorica.signals import Deferred, say
from lorica.training import checkpoints, publish
from lorica.training.batches import plan_epoch
from lorica.training.log import TrainingLog
from lorica.training.outcome import Losses, advice, judge_outcome, rerun_command
from lorica.training.prepare import Run, make_learner, run_facts
from lorica.training.publish import Issue
from lorica.training.schedule import rate_factor
from lorica.training.state import State, make_manifest, run_digest
from lorica.training.step import evaluate, step_seed, update
from lorica.training.trainable import BatchT, Trainable
from lorica.training.types import Example, Listener, StepReport, TrainingStopped, TrainResult, check_settings

# Looks at what a run has staged before it is published; raises TrainingError where it is not what was trained.
Verify = Callable[[Path], None]


def train(
    trainable: Trainable[BatchT],
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainingConfig,
    folder: Path,
    *,
    adapter_name: str,
    listener: Listener,
    digests: Mapping[str, str] | None = None,
    extra_facts: Mapping[str, object] | None = None,
    verify: Verify | None = None,
    issue_passport: Issue | None = None,
    folder_lock: FolderLock | None = None,
) -> TrainResult:
    """Train one adapter or classifier and save it in `folder`.

    validation may be empty: then the last state is published, else the one with the lowest held-out loss.
    digests: what else identifies the run (base, tokenizer, template, files), compared when it is resumed. extra_facts:
    of its record. verify: looks at what is to be published; where it raises, that is kept in `folder`/rejected.
    issue_passport: makes the passport. folder_lock: on `folder`, if the caller holds it.

    Ctrl-C, SIGTERM and SIGHUP finish the update, write a checkpoint and raise KeyboardInterrupt; where the listener
    wants an end, TrainingStopped is raised so. Raises ConfigError for impossible settings, TrainingError when there is
    nothing to learn, a loss is not finite, scores collapse or the folder cannot be written, ResumeError when `folder`
    holds another run or another process trains there.
    """
    folder = Path(folder)
    check_settings(settings, device=trainable.device.type, validation=bool(validation))
    if not examples:
        raise TrainingError(f"adapter {adapter_name!r}: no rows to train on", fix="give rows with answers")
    for rows, set_name in ((examples, "training"), (validation, "held-out")):
        trainable.check(rows, set_name=set_name)
    manifest = make_manifest(
        adapter_name=adapter_name,
        settings=settings,
        trained=trainable.manifest(),
        examples=examples,
        validation=validation,
        digests=digests or {},
    )
    record_facts = {**run_facts(adapter_name, trainable.device, examples, validation), **(extra_facts or {})}
    with ExitStack() as exit_stack:
        run_lock = folder_lock or exit_stack.enter_context(lock_run(folder))
        finished = publish.open_run(folder, manifest, resume=settings.resume, config_name=trainable.files.config)
        if finished is not None:
            _complete(folder, finished, settings, adapter_name, listener, issue_passport)
            return finished
        staged_folder, result = _run_training(
            trainable, examples, validation, settings, run_lock, adapter_name=adapter_name, listener=listener,
            manifest=manifest, record_facts=record_facts,
        )  # fmt: skip
        if verify is not None:
            publish.verify_staged(staged_folder, verify)
        _publish(run_lock, staged_folder, trainable, manifest, record_facts, result, issue_passport)
        checkpoints.remove_checkpoints(folder, result.steps, save_steps=settings.save_steps)
    listener.finished(result)
    return result


def _complete(
    folder: Path,
    finished: TrainResult,
    settings: TrainingConfig,
    adapter_name: str,
    listener: Listener,
    issue_passport: Issue | None,
) -> None:
    """Do what a kill after the end of a run left undone, and say that nothing else is to do."""
    changes = publish.issue_missing_passport(folder, finished, issue_passport) if issue_passport else []
    for change in changes:
        listener.note(f"{adapter_name}: {change}; look at it with `lorica check {folder}`")
    checkpoints.remove_checkpoints(folder, finished.steps, save_steps=settings.save_steps)
    listener.note(f"{adapter_name}: finished before, nothing to do")


def lock_run(folder: Path) -> FolderLock:
    """The lock on a run's folder. Raises ResumeError naming the process that trains there."""
    fix = "wait until it ends; or train into another run_dir"
    return lock_folder(folder, doing=TRAINING, fix=fix)


def _run_training(
    trainable: Trainable[BatchT],
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainingConfig,
    lock: FolderLock,
    *,
    adapter_name: str,
    listener: Listener,
    manifest: Mapping[str, str],
    record_facts: Mapping[str, object],
) -> tuple[Path, TrainResult]:
    """Make the updates; where what is to be published is, and the result."""
    folder = lock.folder
    devices = [trainable.device] if trainable.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        learner = make_learner(trainable, settings)
        with publish.naming_disk_errors(lock):
            publish.record_start(folder, manifest, record_facts)  # only now: what cannot start leaves no trace
            run_state = checkpoints.load_checkpoint(folder, learner, run_digest(manifest))
            try:
                with TrainingLog(folder, keep_until=None if run_state is None else run_state.step) as training_log:
                    run_state = run_state or State(run=run_digest(manifest))
                    run = Run(learner, examples, validation, settings, lock, listener, training_log, run_state)
                    listener.started(adapter_name, run.state.step, run.total)
                    try:
                        return _train_to_end(run)
                    except BaseNotFiniteError as error:
                        if not run.state.step:
                            checkpoints.discard_run(folder)
                        else:
                            error.fix += f"; then train into another run_dir, or after deleting {folder}"
                        raise
                    except (NotFiniteError, CollapsedError) as error:
                        publish.record_start(folder, manifest, {**record_facts, "diverged": error.message})
                        raise _diverged_error(run, error) from error
            finally:
                listener.closed()


def _publish(
    folder_lock: FolderLock,
    staged_folder: Path,
    trainable: Trainable[BatchT],
    manifest: Mapping[str, str],
    record_facts: Mapping[str, object],
    result: TrainResult,
    issue_passport: Issue | None,
) -> None:
    """Publish what is staged with its passport; without one when none can be made, and then say so."""
    passport, problem = None, None
    try:
        passport = issue_passport(staged_folder, result) if issue_passport is not None else None
    except LoricaError as error:
        problem = error
    with publish.naming_disk_errors(folder_lock):
        publish.publish(folder_lock, staged_folder, trainable.files, manifest, record_facts, result, passport)
    if problem is not None:
        problem.message = f"{folder_lock.folder} is saved, without a passport: {problem.message}"
        raise problem


def _train_to_end(run: Run[BatchT]) -> tuple[Path, TrainResult]:
    """Make the updates that are left, and stage the adapter that is to be published."""
    state, settings = run.state, run.settings
    start_time, earlier_seconds = time.perf_counter(), state.seconds

    def clock() -> float:
        return earlier_seconds + time.perf_counter() - start_time

    if state.base_loss is None:
        first_loss = evaluate(run.learner, run.probe, step=0, warming_up=True)
        state.base_loss = min(first_loss, run.learner.trainable.constant_loss(run.probe))
        if not run.validation:
            state.seen_base = first_loss
        run.log.write({"step": 0, "base_loss": state.base_loss, "seconds": round(clock(), 3)})
        run.listener.evaluated(0, state.base_loss, False)
    if state.seen_base is None:
        # A checkpoint of an earlier version does not hold it, and the base alone is not at hand any more.
        state.seen_base = (
            state.base_loss if state.step else evaluate(run.learner, run.training_probe, step=0, warming_up=True)
        )
    epoch_plan: list[list[list[int]]] = []
    with Deferred() as signals:
        while state.step < run.total and not state.stopped_early:
            epoch_index, batch_index = divmod(state.step, run.per_epoch)
            if batch_index == 0:
                state.epoch_loss, state.epoch_tokens = 0.0, 0
            if batch_index == 0 or not epoch_plan:
                epoch_plan = _plan_epoch(run, epoch_index)
            _train_step(run, epoch_plan[batch_index])
            ends_epoch = state.step % run.per_epoch == 0
            if run.validation and (ends_epoch or state.step % settings.eval_steps == 0):
                _evaluate(run, clock)
            state.seconds = clock()
            # The last update is kept until the adapter is published: making its passport takes time, too.
            is_last = state.step == run.total or state.stopped_early
            stop_reason = "" if is_last else run.listener.stop_reason()
            if signals.received or stop_reason or is_last or state.step % settings.save_steps == 0:
                _save_checkpoint(run, extra_checkpoint=is_last and state.step % settings.save_steps != 0)
            if signals.received:
                interruption = signals.stop()
                say(
                    interruption,
                    f"the state after update {state.step} of {run.total} is kept; "
                    "the same command with training.resume=true goes on from there",
                )
                raise interruption
            if stop_reason:
                raise TrainingStopped(stop_reason)
    return _stage_best(run, clock)


def _save_checkpoint(run: Run[BatchT], *, extra_checkpoint: bool) -> None:
    """Write a checkpoint; an extra one is none of `save_total_limit`."""
    publish.require_folder(run.lock)
    max_checkpoints = run.settings.save_total_limit + extra_checkpoint
    checkpoints.save_checkpoint(run.folder, run.learner, run.state, max_checkpoints=max_checkpoints)
    run.saved_best = run.state.best_step


def _diverged_error(run: Run[BatchT], error: TrainingError) -> TrainingError:
    """The same error, saying what is kept and how to train anew."""
    run_state, message = run.state, error.message
    reference = run.learner.trainable.wording.reference
    message += f" (gradient norm up to {run_state.norm:.3g} in update {run_state.norm_step})" if run_state.norm else ""
    best_loss, base_loss = run_state.best_loss, run_state.base_loss
    if best_loss is not None and base_loss is not None and best_loss < base_loss:
        message += (
            f"; update {run_state.best_step} did best on the held-out rows ({best_loss:.4f} against "
            f"{base_loss:.4f} of {reference}): "
            f"{checkpoints.best_folder(run.folder, run_state.best_step)}"
        )
    else:
        message += "; nothing worth using is kept"
    return type(error)(message, fix=f"{error.fix}: {rerun_command(run.folder, run.settings.learning_rate)}")


def _plan_epoch(run: Run[BatchT], epoch_index: int) -> list[list[list[int]]]:
    return plan_epoch(
        [len(example.encoded.tokens) for example in run.examples],
        batch_size=run.settings.batch_size,
        accumulation=run.settings.gradient_accumulation_steps,
        seed=run.settings.seed,
        epoch=epoch_index,
    )


def _train_step(run: Run[BatchT], micro_batches: Sequence[Sequence[int]]) -> None:
    """Make one update and report it."""
    start_time = time.perf_counter()
    run_state, settings = run.state, run.settings
    batches = run.learner.trainable.update_batches(run.examples, micro_batches)
    factor = rate_factor(run_state.step, run.total, warmup=run.warmup, scheduler=settings.scheduler)
    learning_rate = settings.learning_rate * factor
    report = update(
        run.learner,
        batches,
        step=run_state.step + 1,
        learning_rate=learning_rate,
        seed=step_seed(settings.seed, run_state.step),
    )
    run_state.step += 1
    if run_state.norm < report.grad_norm < math.inf:
        run_state.norm, run_state.norm_step = report.grad_norm, run_state.step
    run_state.tokens += report.tokens
    run_state.epoch_loss += report.loss * report.targets
    run_state.epoch_tokens += report.targets
    run_state.window_loss += report.loss * report.targets
    run_state.window_tokens += report.targets
    run.window_seconds += time.perf_counter() - start_time
    run.window_all_tokens += report.tokens
    tokens_per_second = run.window_all_tokens / max(run.window_seconds, 1e-9)
    run.listener.stepped(
        StepReport(run_state.step, run.total, report.loss, learning_rate, report.grad_norm, tokens_per_second)
    )
    if run_state.step % settings.logging_steps == 0 or run_state.step == run.total:
        publish.require_folder(run.lock)
        run.log.write(
            {
                "step": run_state.step,
                "epoch": round(run_state.step / run.per_epoch, 4),
                "loss": run_state.window_loss / run_state.window_tokens,
                "learning_rate": learning_rate,
                "grad_norm": report.grad_norm,
                "tokens_per_second": round(tokens_per_second, 1),
            }
        )
        run_state.window_loss, run_state.window_tokens = 0.0, 0
        run.window_seconds, run.window_all_tokens = 0.0, 0


def _evaluate(run: Run[BatchT], clock: Callable[[], float]) -> None:
    """Evaluate on the held-out rows; keep the adapter when it is the best, or count towards stopping."""
    run_state = run.state
    validation_loss = evaluate(
        run.learner,
        run.probe,
        step=run_state.step,
        warming_up=run_state.step <= run.warmup,
    )
    is_best = run_state.best_loss is None or validation_loss < run_state.best_loss
    if is_best:
        run_state.best_step, run_state.best_loss, run_state.waiting = run_state.step, validation_loss, 0
        checkpoints.save_best(run.folder, run_state, run.learner.trainable)
        # A resume begins at the newest checkpoint and needs the best one of that moment.
        checkpoints.keep_best(run.folder, run.saved_best, run_state.best_step)
    else:
        run_state.waiting += 1
        run_state.stopped_early = 0 < run.settings.early_stopping <= run_state.waiting
    run.log.write({"step": run_state.step, "eval_loss": validation_loss, "best": is_best, "seconds": round(clock(), 3)})
    run.listener.evaluated(run_state.step, validation_loss, is_best)


def _stage_best(run: Run[BatchT], run_clock: Callable[[], float]) -> tuple[Path, TrainResult]:
    """Write `last/`, stage what is to be published, and say what was reached."""
    state, trainable = run.state, run.learner.trainable
    assert state.base_loss is not None
    assert state.seen_base is not None
    trainable.save(run.folder / "last")
    seen_last = evaluate(run.learner, run.training_probe, step=state.step)
    if state.best_loss is not None:
        trained = state.best_loss
        checkpoints.load_best(run.folder, state, trainable)
    else:
        trained = seen_last
    staged_folder = publish.stage(run.folder, trainable)
    run.log.write({"step": state.step, "trained_loss": trained, "base_loss": state.base_loss})
    if state.stopped_early:
        run.listener.note(f"stopped early: no better than update {state.best_step} in {state.waiting} evaluations")
    best_step = state.best_step or state.step
    losses = Losses(base=state.base_loss, published=trained, seen_base=state.seen_base, seen_last=seen_last)
    outcome = judge_outcome(losses)
    advice_text = advice(
        outcome,
        losses,
        learning_rate=run.settings.learning_rate,
        gradient_norm=state.norm,
        norm_step=state.norm_step,
        best_step=best_step,
        folder=run.folder,
        wording=trainable.wording,
    )
    if advice_text:
        run.listener.note(advice_text)
    result = TrainResult(
        best_step=best_step,
        steps=state.step,
        train_loss=state.epoch_loss / max(1, state.epoch_tokens),
        eval_loss=state.best_loss,
        tokens=state.tokens,
        seconds=run_clock(),
        folder=run.folder,
        base_loss=state.base_loss,
        trained_loss=trained,
        stopped_early=state.stopped_early,
        outcome=outcome,
        seen_base=state.seen_base,
        seen_last=seen_last,
        max_grad_norm=state.norm,
        advice=advice_text,
        weights=trainable.files.weights,
    )
    return staged_folder, result
