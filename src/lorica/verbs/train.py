"""`lorica train`: one adapter for a task, or one per subject and `general` over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import torch

from lorica.adapters.passport import PASSPORT_NAME, BaseFacts, write_passport
from lorica.adapters.registry import TRAINING_RECORD
from lorica.config.schema import Config
from lorica.engines.native.engine import NativeEngine
from lorica.errors import LoricaError
from lorica.models.decoder import Decoder
from lorica.models.weights import DTYPES, load_decoder
from lorica.pipeline.answer import check_room
from lorica.pipeline.fit import Fit, Parts, divide, fit_adapter
from lorica.pipeline.passport import data_facts, make_passport, measure, prompt_facts, shipped_canaries, training_facts
from lorica.pipeline.provenance import base_facts, trained_as, versions
from lorica.prompts.encoder import Encoder
from lorica.tasks.base import Task
from lorica.training.progress import make_listener
from lorica.training.types import Listener, TrainResult
from lorica.verbs import build
from lorica.verbs.arguments import emit, going_on, parser, resolve
from lorica.verbs.rows import list_skipped, reading_log, tell
from lorica.verbs.train_plan import plan_fits

_NOTHING: Mapping[str, str] = MappingProxyType({})
SKIPPED = "skipped.jsonl"


def run(arguments: Sequence[str]) -> int:
    """Train, and say where the adapters are."""
    given = parser(
        "train",
        "Train LoRA adapters: one named after the task from input=FILE, or one per subject and `general` from\n"
        "data.SUBJECT=FILE. Each ends in run_dir/NAME in PEFT's folder format.",
        "  lorica train task=rules input=examples/rules/posts.csv run_dir=runs/rules\n"
        "  lorica train task=saq data.algebra=algebra.jsonl data.history=history.jsonl run_dir=runs/saq\n"
        "  lorica train task=mcq input=mcq.jsonl model=qwen3_0_6b training.bf16=true training.resume=true",
    ).parse_args(list(arguments))
    config = resolve(given.overrides).config
    task = build.build_task(config)
    log = reading_log(config)
    fits = plan_fits(config, task, log)
    tell(log)
    with _nothing_lost(fits, going_on("train", arguments, "training.resume=true")):
        reading = list_skipped(log, fits[0].folder.with_name(SKIPPED))
        results = train_fits(config, task, fits, listener(config), reading=log.digests())
    emit(
        {name: _plain(result) | {"reading": reading} for name, result in results.items()},
        as_json=given.json,
        text="\n".join(_line(name, result) for name, result in results.items()),
    )
    return 0


@contextmanager
def _nothing_lost(fits: Sequence[Fit], again: str) -> Iterator[None]:
    """Whatever ends the block but a mistake that must be mended first: say what is kept and how to go on."""
    try:
        yield
    except BaseException as error:
        mistake = isinstance(error, LoricaError) and not isinstance(error.__cause__, OSError)
        kept = [fit for fit in fits if (fit.folder / TRAINING_RECORD).is_file()]
        if kept and not mistake:
            error.add_note(f"kept: {', '.join(str(fit.folder) for fit in kept)}; go on: {again}")
        raise


def listener(config: Config) -> Listener:
    """A progress bar for a person, lines for a log."""
    return make_listener(logging_steps=config.training.logging_steps)


def train_fits(
    config: Config, task: Task, fits: Sequence[Fit], told: Listener, *, reading: Mapping[str, str] = _NOTHING
) -> dict[str, TrainResult]:
    """Train adapters one after the other on one loaded base; name -> result. reading: what of the files was not read,
    for the training record."""
    folder = build.model_folder(config)
    encoder = build.build_encoder(config, folder)
    check_room(task, build.answer_settings(config, folder))  # for the passport's metrics, when all is trained
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    decoder = load_decoder(
        folder,
        dtype=DTYPES[build.training_dtype(config, folder)],
        device=build.device(config),
        load_in_4bit=config.model.load_in_4bit,
    )
    build.tell_base(folder)
    provenance = {
        **trained_as(task, encoder, folder),
        "tokenizer": encoder.tokenizer_digest,
        "model": config.model.name,
        **versions(),
        **reading,
    }
    facts = base_facts(folder, name=config.model.path, revision=config.model.revision)
    results = {}
    for fit in fits:
        settings = build.train_settings(config)
        parts = divide(fit, task, val_ratio=config.training.val_ratio, seed=settings.seed)
        results[fit.name] = fit_adapter(
            fit,
            task=task,
            encoder=encoder,
            decoder=decoder,
            adapter=build.adapter_config(config, folder),
            settings=settings,
            val_ratio=config.training.val_ratio,
            max_seq_length=min(config.training.max_seq_length, decoder.config.max_positions),
            truncate=config.task.truncate,
            provenance=provenance,
            listener=told,
            parts=parts,
        )
        # A run that was killed between its adapter and its passport is finished, and has none yet.
        if not (fit.folder / PASSPORT_NAME).exists():
            _issue(config, task, encoder, decoder, facts, fit, parts, results[fit.name])
    return results


def _issue(
    config: Config,
    task: Task,
    encoder: Encoder,
    decoder: Decoder,
    base: BaseFacts,
    fit: Fit,
    parts: Parts,
    result: TrainResult,
) -> None:
    """Write the passport of a finished adapter, asked through the engine that will answer."""
    folder = build.model_folder(config)
    engine = NativeEngine(
        decoder, batch_tokens=config.inference.batch_tokens, share_prefixes=config.engine.share_prefixes
    )
    engine.add_adapter(fit.name, fit.folder)
    answering = build.answer_settings(config, folder)
    passport = make_passport(
        fit.folder,
        base=base,
        prompt=prompt_facts(encoder, task, build.prompt_settings(config)),
        canaries=shipped_canaries(engine, fit.name, task, encoder, folder),
        metrics=measure(task, encoder, engine, fit.name, parts.validation, answering, on="validation"),
        data=data_facts(fit, parts),
        training=training_facts(build.train_settings(config), result),
    )
    write_passport(fit.folder, passport)


def _plain(result: TrainResult) -> dict[str, Any]:
    return {**asdict(result), "folder": str(result.folder)}


def _line(name: str, result: TrainResult) -> str:
    validation = "" if result.eval_loss is None else f", validation loss {result.eval_loss:.4f}"
    return (
        f"{name}: {result.steps} updates in {result.seconds:.1f} s, loss {result.train_loss:.4f}{validation}, "
        f"best at update {result.best_step}\n  {result.folder}"
    )
