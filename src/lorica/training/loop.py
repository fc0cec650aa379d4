"""The training loop of LoRA fine-tuning. What computes is in step.py, what is written in checkpoints.py and publish.py.

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

from lorica.adapters.config import AdapterConfig
from lorica.adapters.registry import TRAINING
from lorica.config.schema import TrainingConfig
from lorica.errors import BaseNotFiniteError, LoricaError, NotFiniteError, TrainingError
from lorica.locks import FolderLock, lock_folder
from lorica.models.decoder import Decoder
from lorica.signals import Deferred, say
from lorica.training import checkpoints, publish
from lorica.training.batches import check_examples, make_batch, plan_epoch
from lorica.training.log import TrainingLog
from lorica.training.outcome import Losses, advice, judge_outcome, rerun_command
from lorica.training.prepare import Run, complete_config, make_learner, prepare, run_facts
from lorica.training.publish import Issue
from lorica.training.schedule import rate_factor, warmup_steps
from lorica.training.state import State, make_manifest, run_digest
from lorica.training.step import evaluate, step_seed, update
from lorica.training.types import Example, Listener, StepReport, TrainResult, check_settings

__all__ = ["Example", "Listener", "StepReport", "TrainResult", "train"]


def train(
    decoder: Decoder,
    adapter_config: AdapterConfig,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainingConfig,
    folder: Path,
    *,
    name: str,
    listener: Listener,
    digests: Mapping[str, str] | None = None,
    facts: Mapping[str, object] | None = None,
    issue: Issue | None = None,
    lock: FolderLock | None = None,
) -> TrainResult:
    """Train one adapter on a base model, which is frozen, and save it in `folder` in PEFT's format.

    validation may be empty: then the last state is published, else the one with the lowest held-out loss.
    digests: what else identifies the run (base, tokenizer, template, files), compared when it is resumed. facts: what
    else its record says. issue: makes the passport that is published with the adapter. lock: on `folder`, where the
    caller holds it already.

    Ctrl-C, SIGTERM and SIGHUP finish the update, write a checkpoint and raise KeyboardInterrupt. Raises ConfigError for
    impossible settings, TrainingError when there is nothing to learn, a loss is not finite or the folder cannot be
    written, ResumeError when `folder` holds another run or another process trains there.
    """
    folder = Path(folder)
    check_settings(settings, device=decoder.device.type, validation=bool(validation))
    if not examples:
        raise TrainingError(f"adapter {name!r}: no rows to train on", fix="give rows with answers")
    for rows, role in ((examples, "training"), (validation, "held-out")):
        check_examples(rows, vocab_size=decoder.config.vocab_size, role=role)
    config = complete_config(adapter_config, decoder.config)
    manifest = make_manifest(
        name=name,
        settings=settings,
        config=config,
        examples=examples,
        validation=validation,
        base={"shape": repr(decoder.config), "dtype": str(decoder.dtype)},
        digests=digests or {},
    )
    record_facts = {**run_facts(name, decoder, examples, validation), **(facts or {})}
    with ExitStack() as stack:
        run_lock = lock or stack.enter_context(lock_run(folder))
        finished = publish.open_run(folder, manifest, resume=settings.resume)
        if finished is not None:
            for change in publish.issue_missing_passport(folder, finished, issue) if issue is not None else ():
                listener.note(f"{name}: {change}; look at it with `lorica check {folder}`")
            checkpoints.remove_checkpoints(folder, finished.steps, save_steps=settings.save_steps)
            listener.note(f"{name}: finished before, nothing to do")
            return finished
        stage, result = _run_training(
            decoder, config, examples, validation, settings, run_lock, name=name, listener=listener, manifest=manifest,
            facts=record_facts,
        )  # fmt: skip
        _publish(run_lock, stage, manifest, record_facts, result, issue)
        checkpoints.remove_checkpoints(folder, result.steps, save_steps=settings.save_steps)
    listener.finished(result)
    return result


def lock_run(folder: Path) -> FolderLock:
    """The lock on a run's folder. Raises ResumeError naming the process that trains there."""
    fix = "wait until it ends; or train into another run_dir"
    return lock_folder(folder, doing=TRAINING, fix=fix)


def _run_training(
    decoder: Decoder,
    config: AdapterConfig,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainingConfig,
    lock: FolderLock,
    *,
    name: str,
    listener: Listener,
    manifest: Mapping[str, str],
    facts: Mapping[str, object],
) -> tuple[Path, TrainResult]:
    """Make the updates; where the adapter that is to be published is, and the result."""
    folder = lock.folder
    decoder.requires_grad_(False)
    devices = [decoder.device] if decoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        learner = make_learner(decoder, name, config, settings)
        with publish.naming_disk_errors(lock):
            publish.record_start(folder, manifest, facts)  # only now: what cannot start leaves no trace
            state = checkpoints.load_checkpoint(folder, learner, run_digest(manifest))
            try:
                with TrainingLog(folder, keep_until=None if state is None else state.step) as log:
                    state = state or State(run=run_digest(manifest))
                    run = prepare(learner, config, examples, validation, settings, lock, listener, log, state)
                    listener.started(name, run.state.step, run.total)
                    try:
                        return _train_to_end(run)
                    except BaseNotFiniteError as error:
                        if not run.state.step:
                            checkpoints.discard_run(folder)
                        else:
                            error.fix += f"; then train into another run_dir, or after deleting {folder}"
                        raise
                    except NotFiniteError as error:
                        publish.record_start(folder, manifest, {**facts, "diverged": error.message})
                        raise _diverged_error(run, error) from error
            finally:
                listener.closed()


def _publish(
    lock: FolderLock,
    stage: Path,
    manifest: Mapping[str, str],
    facts: Mapping[str, object],
    result: TrainResult,
    issue: Issue | None,
) -> None:
    """Publish the staged adapter with its passport; without one when none can be made, and then say so."""
    passport, problem = None, None
    try:
        passport = issue(stage, result) if issue is not None else None
    except LoricaError as error:
        problem = error
    with publish.naming_disk_errors(lock):
        publish.publish(lock, stage, manifest, facts, result, passport)
    if problem is not None:
        problem.message = f"{lock.folder} is saved, without a passport: {problem.message}"
        raise problem


def _train_to_end(run: Run) -> tuple[Path, TrainResult]:
    """Make the updates that are left, and stage the adapter that is to be published."""
    state, settings = run.state, run.settings
    begun, before = time.perf_counter(), state.seconds

    def clock() -> float:
        return before + time.perf_counter() - begun

    if state.base_loss is None:
        state.base_loss = evaluate(run.learner, run.probe, step=0)
        run.log.write({"step": 0, "base_loss": state.base_loss, "seconds": round(clock(), 3)})
        run.listener.evaluated(0, state.base_loss, False)
    if state.seen_base is None:
        # A checkpoint of an earlier version does not hold it, and the base alone is not at hand any more.
        measured = run.validation and state.step == 0
        state.seen_base = evaluate(run.learner, run.training_probe, step=0) if measured else state.base_loss
    plan: list[list[list[int]]] = []
    with Deferred() as signals:
        while state.step < run.total and not state.stopped_early:
            epoch, index = divmod(state.step, run.per_epoch)
            if index == 0:
                state.epoch_loss, state.epoch_tokens = 0.0, 0
            if index == 0 or not plan:
                plan = _plan_epoch(run, epoch)
            _train_step(run, plan[index])
            ends = state.step % run.per_epoch == 0
            if run.validation and (ends or state.step % settings.eval_steps == 0):
                _evaluate(run, clock)
            state.seconds = clock()
            # The last update is kept until the adapter is published: making its passport takes time, too.
            last = state.step == run.total or state.stopped_early
            if signals.received or last or state.step % settings.save_steps == 0:
                _save_checkpoint(run, extra=last and state.step % settings.save_steps != 0)
            if signals.received:
                stop = signals.stop()
                say(
                    stop,
                    f"the state after update {state.step} of {run.total} is kept; "
                    "the same command with training.resume=true goes on from there",
                )
                raise stop
    return _stage_best(run, clock)


def _save_checkpoint(run: Run, *, extra: bool) -> None:
    """Write a checkpoint; an extra one is none of `save_total_limit`."""
    publish.require_folder(run.lock)
    limit = run.settings.save_total_limit + extra
    checkpoints.save_checkpoint(run.folder, run.config, run.learner, run.state, limit=limit)
    run.saved_best = run.state.best_step


def _diverged_error(run: Run, error: NotFiniteError) -> NotFiniteError:
    """The same error, saying what is kept and how to train anew."""
    state, message = run.state, error.message
    message += f" (gradient norm up to {state.norm:.3g} in update {state.norm_step})" if state.norm else ""
    if state.best_loss is not None and state.base_loss is not None and state.best_loss < state.base_loss:
        message += (
            f"; update {state.best_step} did best on the held-out rows ({state.best_loss:.4f} against "
            f"{state.base_loss:.4f} of the base model): {checkpoints.best_folder(run.folder, state.best_step)}"
        )
    else:
        message += "; nothing worth using is kept"
    return NotFiniteError(message, fix=f"{error.fix}: {rerun_command(run.folder, run.settings.learning_rate)}")


def _plan_epoch(run: Run, epoch: int) -> list[list[list[int]]]:
    return plan_epoch(
        [len(example.encoded.tokens) for example in run.examples],
        batch_size=run.settings.batch_size,
        accumulation=run.settings.gradient_accumulation_steps,
        seed=run.settings.seed,
        epoch=epoch,
    )


def _train_step(run: Run, micro_batches: Sequence[Sequence[int]]) -> None:
    """Make one update and report it."""
    begun = time.perf_counter()
    state, settings = run.state, run.settings
    device = run.learner.decoder.device
    batches = [make_batch([run.examples[index] for index in indices], device) for indices in micro_batches]
    warmup = warmup_steps(run.total, settings.warmup_ratio)
    factor = rate_factor(state.step, run.total, warmup=warmup, scheduler=settings.scheduler)
    rate = settings.learning_rate * factor
    report = update(run.learner, batches, step=state.step + 1, rate=rate, seed=step_seed(settings.seed, state.step))
    state.step += 1
    if state.norm < report.grad_norm < math.inf:
        state.norm, state.norm_step = report.grad_norm, state.step
    state.tokens += report.tokens
    state.epoch_loss += report.loss * report.answer_tokens
    state.epoch_tokens += report.answer_tokens
    state.window_loss += report.loss * report.answer_tokens
    state.window_tokens += report.answer_tokens
    run.window_seconds += time.perf_counter() - begun
    run.window_all_tokens += report.tokens
    speed = run.window_all_tokens / max(run.window_seconds, 1e-9)
    run.listener.stepped(StepReport(state.step, run.total, report.loss, rate, report.grad_norm, speed))
    if state.step % settings.logging_steps == 0 or state.step == run.total:
        publish.require_folder(run.lock)
        run.log.write(
            {
                "step": state.step,
                "epoch": round(state.step / run.per_epoch, 4),
                "loss": state.window_loss / state.window_tokens,
                "learning_rate": rate,
                "grad_norm": report.grad_norm,
                "tokens_per_second": round(speed, 1),
            }
        )
        state.window_loss, state.window_tokens = 0.0, 0
        run.window_seconds, run.window_all_tokens = 0.0, 0


def _evaluate(run: Run, clock: Callable[[], float]) -> None:
    """Evaluate on the held-out rows; keep the adapter when it is the best, or count towards stopping."""
    state = run.state
    loss = evaluate(run.learner, run.probe, step=state.step)
    best = state.best_loss is None or loss < state.best_loss
    if best:
        best_path = checkpoints.best_folder(run.folder, state.step)
        state.best_digest = checkpoints.save_weights(best_path, run.config, run.learner.lora)
        state.best_step, state.best_loss, state.waiting = state.step, loss, 0
        # A resume begins at the newest checkpoint and needs the best one of that moment.
        checkpoints.keep_best(run.folder, run.saved_best, state.best_step)
    else:
        state.waiting += 1
        state.stopped_early = 0 < run.settings.early_stopping <= state.waiting
    run.log.write({"step": state.step, "eval_loss": loss, "best": best, "seconds": round(clock(), 3)})
    run.listener.evaluated(state.step, loss, best)


def _stage_best(run: Run, clock: Callable[[], float]) -> tuple[Path, TrainResult]:
    """Write `last/`, stage the adapter itself, and say what was reached."""
    state, lora = run.state, run.learner.lora
    assert state.base_loss is not None
    assert state.seen_base is not None
    checkpoints.save_weights(run.folder / "last", run.config, lora)
    seen_last = evaluate(run.learner, run.training_probe, step=state.step)
    if state.best_loss is not None:
        trained = state.best_loss
        checkpoints.load_best(run.folder, state, lora, run.learner.decoder.config)
    else:
        trained = seen_last
    stage = publish.stage_adapter(run.folder, run.config, lora)
    run.log.write({"step": state.step, "trained_loss": trained, "base_loss": state.base_loss})
    if state.stopped_early:
        run.listener.note(f"stopped early: no better than update {state.best_step} in {state.waiting} evaluations")
    best_step = state.best_step or state.step
    losses = Losses(base=state.base_loss, published=trained, seen_base=state.seen_base, seen_last=seen_last)
    outcome = judge_outcome(losses)
    text = advice(
        outcome,
        losses,
        rate=run.settings.learning_rate,
        norm=state.norm,
        norm_step=state.norm_step,
        best_step=best_step,
        folder=run.folder,
    )
    if text:
        run.listener.note(text)
    result = TrainResult(
        best_step=best_step,
        steps=state.step,
        train_loss=state.epoch_loss / max(1, state.epoch_tokens),
        eval_loss=state.best_loss,
        tokens=state.tokens,
        seconds=clock(),
        folder=run.folder,
        base_loss=state.base_loss,
        trained_loss=trained,
        stopped_early=state.stopped_early,
        outcome=outcome,
        seen_base=state.seen_base,
        seen_last=seen_last,
        max_grad_norm=state.norm,
        advice=text,
    )
    return stage, result
