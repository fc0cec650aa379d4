"""LoRA fine-tuning: the order of things. What computes is in step.py, what is written in checkpoints.py.

The whole run is a function of its inputs and the number of updates made so far: rows are ordered by (seed,
epoch), dropout by (seed, update), the learning rate by the update. So a run that was killed goes on exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch

from lorica.adapters.config import AdapterConfig
from lorica.errors import TrainingError
from lorica.models.adapter_weights import create_lora
from lorica.models.decoder import Decoder
from lorica.models.families import DecoderConfig
from lorica.models.lora import LoraWeights
from lorica.training import checkpoints
from lorica.training.batches import (
    Batch,
    answer_tokens,
    check_examples,
    evaluation_plan,
    make_batch,
    plan_epoch,
    updates_per_epoch,
)
from lorica.training.interrupt import Interrupt
from lorica.training.log import Log
from lorica.training.schedule import rate_factor, warmup_steps
from lorica.training.state import State, make_manifest
from lorica.training.step import Learner, choose_precision, evaluate, make_optimizer, step_seed, update
from lorica.training.types import Example, Listener, StepReport, TrainResult, TrainSettings

__all__ = ["Example", "Listener", "StepReport", "TrainResult", "TrainSettings", "train"]

# Padded tokens per batch of an evaluation, which keeps no activations.
EVALUATION_TOKENS = 4096
# Rows on which base and result are compared when none are held out.
PROBE_ROWS = 64


@dataclass
class _Run:
    """One run under way."""

    learner: Learner
    config: AdapterConfig
    examples: Sequence[Example]
    validation: Sequence[Example]
    settings: TrainSettings
    folder: Path
    listener: Listener
    log: Log
    state: State
    per_epoch: int
    total: int
    window_seconds: float = 0.0
    window_all_tokens: int = 0
    probe: list[Batch] = field(default_factory=list)


def train(
    decoder: Decoder,
    adapter_config: AdapterConfig,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainSettings,
    folder: Path,
    *,
    name: str,
    listener: Listener,
    digests: Mapping[str, str] | None = None,
) -> TrainResult:
    """Train one adapter on a base model, which is frozen, and save it in `folder` in PEFT's format.

    validation may be empty: then the last state is published, else the one with the lowest held-out loss.
    digests: what else identifies the run (base, tokenizer, template, files), compared when it is resumed.

    Ctrl-C finishes the update, writes a checkpoint and raises KeyboardInterrupt. Raises ConfigError for
    impossible settings, TrainingError when there is nothing to learn or a loss is not finite, ResumeError
    when `folder` holds another run.
    """
    folder = Path(folder)
    settings.check(device=decoder.device.type, validation=bool(validation))
    if not examples:
        raise TrainingError(f"adapter {name!r}: no rows to train on", fix="give rows with answers")
    for rows, what in ((examples, "training"), (validation, "held-out")):
        check_examples(rows, vocab_size=decoder.config.vocab_size, what=what)
    config = _complete(adapter_config, decoder.config)
    manifest = make_manifest(
        name=name,
        settings=settings,
        config=config,
        examples=examples,
        validation=validation,
        base={"shape": repr(decoder.config), "dtype": str(decoder.dtype)},
        digests=digests or {},
    )
    finished = checkpoints.open_run(folder, manifest, resume=settings.resume)
    if finished is not None:
        listener.note(f"{name}: finished before, nothing to do")
        return finished
    facts = _facts(name, decoder, examples, validation)
    decoder.requires_grad_(False)
    devices = [decoder.device] if decoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        learner = _learner(decoder, name, config, settings)
        checkpoints.write_record(folder, manifest, facts, None)  # only now: what cannot start leaves no trace
        state = checkpoints.load_checkpoint(folder, learner)
        try:
            with Log(folder, keep_until=None if state is None else state.step) as log:
                run = _prepare(learner, config, examples, validation, settings, folder, listener, log, state)
                listener.started(name, run.state.step, run.total)
                result = _go(run)
        finally:
            listener.closed()
    checkpoints.write_record(folder, manifest, facts, result)
    checkpoints.remove_best(folder)
    listener.finished(result)
    return result


def _complete(config: AdapterConfig, shape: DecoderConfig) -> AdapterConfig:
    """Targets as a sorted list of names, and what PEFT expects of a finished adapter."""
    targets = config.target_modules
    if targets == "all-linear":
        targets = list({path.rsplit(".", 1)[1] for path in shape.linear_shapes()})
    if isinstance(targets, list):
        targets = sorted(set(targets))
    return msgspec.structs.replace(config, target_modules=targets, other={**config.other, "inference_mode": True})


def _facts(
    name: str, decoder: Decoder, examples: Sequence[Example], validation: Sequence[Example]
) -> dict[str, object]:
    return {
        "name": name,
        "rows": {"training": len(examples), "held_out": len(validation)},
        "answer_tokens": sum(map(answer_tokens, examples)),
        "dropped_tokens": sum(example.encoded.dropped for example in examples),
        "environment": {
            "torch": torch.__version__,
            "device": decoder.device.type,
            "threads": torch.get_num_threads(),
        },
    }


def _learner(decoder: Decoder, name: str, config: AdapterConfig, settings: TrainSettings) -> Learner:
    lora: LoraWeights = create_lora(name, decoder.config, config, seed=settings.seed)
    for pair in lora.pairs.values():
        pair.a = pair.a.detach().to(decoder.device).requires_grad_()
        pair.b = pair.b.detach().to(decoder.device).requires_grad_()
    return Learner(
        decoder=decoder,
        lora=lora,
        optimizer=make_optimizer(lora, weight_decay=settings.weight_decay),
        precision=choose_precision(decoder, fp16=settings.fp16, bf16=settings.bf16),
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
    )


def _prepare(
    learner: Learner,
    config: AdapterConfig,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: TrainSettings,
    folder: Path,
    listener: Listener,
    log: Log,
    state: State | None,
) -> _Run:
    per_epoch = updates_per_epoch(
        len(examples), batch_size=settings.batch_size, accumulation=settings.gradient_accumulation_steps
    )
    run = _Run(
        learner=learner,
        config=config,
        examples=examples,
        validation=validation,
        settings=settings,
        folder=folder,
        listener=listener,
        log=log,
        state=state or State(),
        per_epoch=per_epoch,
        total=per_epoch * settings.epochs,
    )
    rows = validation or examples[:PROBE_ROWS]
    device = learner.decoder.device
    plan = evaluation_plan([len(row.encoded.tokens) for row in rows], token_budget=EVALUATION_TOKENS)
    run.probe = [make_batch([rows[index] for index in part], device) for part in plan]
    return run


def _go(run: _Run) -> TrainResult:
    """Make the updates that are left, then publish."""
    state, settings = run.state, run.settings
    begun, before = time.perf_counter(), state.seconds

    def clock() -> float:
        return before + time.perf_counter() - begun

    if state.base_loss is None:
        state.base_loss = evaluate(run.learner, run.probe, step=0)
        run.log.write({"step": 0, "base_loss": state.base_loss, "seconds": round(clock(), 3)})
        run.listener.evaluated(0, state.base_loss, False)
    plan: list[list[list[int]]] = []
    with Interrupt() as interrupt:
        while state.step < run.total and not state.stopped_early:
            epoch, index = divmod(state.step, run.per_epoch)
            if index == 0:
                state.epoch_loss, state.epoch_tokens = 0.0, 0
            if index == 0 or not plan:
                plan = _plan(run, epoch)
            _advance(run, plan[index])
            ends = state.step % run.per_epoch == 0
            if run.validation and (ends or state.step % settings.eval_steps == 0):
                _judge(run, clock)
            state.seconds = clock()
            if interrupt.asked or state.step % settings.save_steps == 0:
                checkpoints.save_checkpoint(run.folder, run.config, run.learner, state, limit=settings.save_total_limit)
            if interrupt.asked and state.step < run.total and not state.stopped_early:
                raise KeyboardInterrupt(
                    f"stopped after update {state.step} of {run.total}; "
                    "the same command with training.resume=true goes on from there"
                )
    return _publish(run, clock)


def _plan(run: _Run, epoch: int) -> list[list[list[int]]]:
    return plan_epoch(
        [len(example.encoded.tokens) for example in run.examples],
        batch_size=run.settings.batch_size,
        accumulation=run.settings.gradient_accumulation_steps,
        seed=run.settings.seed,
        epoch=epoch,
    )


def _advance(run: _Run, parts: Sequence[Sequence[int]]) -> None:
    """Make one update and report it."""
    begun = time.perf_counter()
    state, settings = run.state, run.settings
    device = run.learner.decoder.device
    batches = [make_batch([run.examples[index] for index in part], device) for part in parts]
    warmup = warmup_steps(run.total, settings.warmup_ratio)
    factor = rate_factor(state.step, run.total, warmup=warmup, scheduler=settings.scheduler)
    rate = settings.learning_rate * factor
    made = update(run.learner, batches, step=state.step + 1, rate=rate, seed=step_seed(settings.seed, state.step))
    state.step += 1
    state.tokens += made.tokens
    state.epoch_loss += made.loss * made.answer_tokens
    state.epoch_tokens += made.answer_tokens
    state.window_loss += made.loss * made.answer_tokens
    state.window_tokens += made.answer_tokens
    run.window_seconds += time.perf_counter() - begun
    run.window_all_tokens += made.tokens
    speed = run.window_all_tokens / max(run.window_seconds, 1e-9)
    run.listener.stepped(StepReport(state.step, run.total, made.loss, rate, made.grad_norm, speed))
    if state.step % settings.logging_steps == 0 or state.step == run.total:
        run.log.write(
            {
                "step": state.step,
                "epoch": round(state.step / run.per_epoch, 4),
                "loss": state.window_loss / state.window_tokens,
                "learning_rate": rate,
                "grad_norm": made.grad_norm,
                "tokens_per_second": round(speed, 1),
            }
        )
        state.window_loss, state.window_tokens = 0.0, 0
        run.window_seconds, run.window_all_tokens = 0.0, 0


def _judge(run: _Run, clock: Callable[[], float]) -> None:
    """Evaluate on the held-out rows; keep the adapter when it is the best, or count towards stopping."""
    state = run.state
    loss = evaluate(run.learner, run.probe, step=state.step)
    best = state.best_loss is None or loss < state.best_loss
    if best:
        checkpoints.save_weights(checkpoints.best_folder(run.folder, state.step), run.config, run.learner.lora)
        state.best_step, state.best_loss, state.waiting = state.step, loss, 0
    else:
        state.waiting += 1
        state.stopped_early = 0 < run.settings.early_stopping <= state.waiting
    run.log.write({"step": state.step, "eval_loss": loss, "best": best, "seconds": round(clock(), 3)})
    run.listener.evaluated(state.step, loss, best)


def _publish(run: _Run, clock: Callable[[], float]) -> TrainResult:
    """Write `last/` and the adapter itself, and say what was reached."""
    state, lora = run.state, run.learner.lora
    assert state.base_loss is not None
    checkpoints.save_weights(run.folder / "last", run.config, lora)
    if state.best_loss is not None:
        trained = state.best_loss
        checkpoints.load_weights(checkpoints.best_folder(run.folder, state.best_step), lora, run.learner.decoder.config)
    else:
        trained = evaluate(run.learner, run.probe, step=state.step)
    checkpoints.save_weights(run.folder, run.config, lora)
    run.log.write({"step": state.step, "trained_loss": trained, "base_loss": state.base_loss})
    if state.stopped_early:
        run.listener.note(f"stopped early: no better than update {state.best_step} in {state.waiting} evaluations")
    if trained >= state.base_loss:
        run.listener.note(
            f"the adapter is no better than the base model ({trained:.4f} against {state.base_loss:.4f} nats "
            "per answer token): train longer, or raise training.learning_rate"
        )
    return TrainResult(
        best_step=state.best_step or state.step,
        steps=state.step,
        train_loss=state.epoch_loss / max(1, state.epoch_tokens),
        eval_loss=state.best_loss,
        tokens=state.tokens,
        seconds=clock(),
        folder=run.folder,
        base_loss=state.base_loss,
        trained_loss=trained,
        stopped_early=state.stopped_early,
    )
