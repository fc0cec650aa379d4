"""`lorica train`: one adapter for a task, or one per subject and `general` over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import torch

from lorica.adapters.passport import PASSPORT_NAME, BaseFacts, write_passport
from lorica.adapters.registry import BEST, TRAINING_RECORD
from lorica.config.schema import Config
from lorica.data.read_log import ReadLog
from lorica.engines.native.engine import NativeEngine
from lorica.errors import ConfigError, DataError, LoricaError
from lorica.models.decoder import Decoder
from lorica.models.weights import DTYPES, load_decoder
from lorica.pipeline.fit import Fit, Parts, divide, fit_adapter
from lorica.pipeline.passport import data_facts, make_passport, measure, prompt_facts, shipped_canaries, training_facts
from lorica.pipeline.provenance import base_facts, trained_as, versions
from lorica.prompts.encoder import Encoder
from lorica.records import Row
from lorica.tasks.base import Task
from lorica.training.progress import make_listener
from lorica.training.types import Listener, TrainResult
from lorica.verbs import build
from lorica.verbs.arguments import emit, going_on, parser, resolve
from lorica.verbs.rows import list_skipped, open_rows, reading_log, tell

_NOTHING: Mapping[str, str] = MappingProxyType({})
SKIPPED = "skipped.jsonl"
GENERAL = "general"


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
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    decoder = load_decoder(
        folder,
        dtype=DTYPES[build.training_dtype(config, folder)],
        device=build.device(config),
        load_in_4bit=config.model.load_in_4bit,
    )
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


def plan_fits(config: Config, task: Task, log: ReadLog) -> list[Fit]:
    """Which adapters to train from which rows; `log` takes what is not read.

    Raises ConfigError when no training file is named, two ways are, or a name cannot be a folder's.
    """
    root = Path(config.run_dir or f"runs/{task.name}")
    if root.exists() and not root.is_dir():
        raise ConfigError(f"run_dir={root} is a file", fix="name a folder")
    if config.engine.name != "native":
        raise ConfigError(
            f"engine={config.engine.name} cannot train", fix="leave engine=native; the adapters run on every engine"
        )
    if bool(config.input) == bool(config.data):
        got = "both input and data.* are set" if config.input else "no training file is set"
        raise ConfigError(got, fix="give input=FILE for one adapter, or data.SUBJECT=FILE for one per subject")
    if config.input:
        rows = _read(config, task, config.input, log)
        if config.training.per_subject:
            return by_subject(rows, config.input, root)
        return [Fit(task.name, rows, config.input, root / task.name)]
    fits = []
    everything: list[Row] = []
    for subject, file in sorted(config.data.items()):
        rows = [_of_subject(row, subject, file) for row in _read(config, task, file, log)]
        fits.append(Fit(subject, rows, file, _place(root, subject, f"data.{subject}")))
        everything += rows
    if len(fits) > 1 and GENERAL not in config.data:
        fits.append(Fit(GENERAL, everything, ", ".join(config.data.values()), root / GENERAL))
    return fits


def by_subject(rows: Sequence[Row], source: str, root: Path) -> list[Fit]:
    """One adapter for each subject of the rows, and `general` over all. Raises ConfigError without subjects."""
    subjects = sorted({row.subject for row in rows})
    if subjects == [""]:
        raise ConfigError(
            f"training.per_subject is set, and {source} has no subjects",
            fix="add a `subject` column, or map one with task.columns.subject=NAME",
        )
    fits = [
        Fit(subject, [row for row in rows if row.subject == subject], source, _place(root, subject, source))
        for subject in subjects
        if subject
    ]
    if GENERAL in subjects:
        raise ConfigError(
            f"{source} has a subject {GENERAL!r}, which is the name of the adapter on all rows",
            fix="rename the subject",
        )
    return [*fits, Fit(GENERAL, rows, source, root / GENERAL)]


def _place(root: Path, name: str, origin: str) -> Path:
    """The folder of an adapter. A name from a file or a command line must not lead anywhere else."""
    if name != name.strip() or name.startswith(".") or any(mark in name for mark in "/\\\0") or name == BEST:
        raise ConfigError(
            f"{origin}: the subject {name!r} cannot be the name of an adapter's folder",
            fix=f"rename it: no slash, no dot or space at its beginning, and not {BEST!r}",
        )
    return root / name


def _of_subject(row: Row, subject: str, file: str) -> Row:
    """The row with its subject set: prompts may name it, and must be the same as in inference."""
    if subject == GENERAL or row.subject == subject:
        return row
    if row.subject:
        raise DataError(
            f"its subject is {row.subject!r}, and the file is given as data.{subject}",
            path=file,
            line=row.line or None,
            row_id=row.id,
            fix="give the file as input=FILE with training.per_subject=true",
        )
    return msgspec.structs.replace(row, subject=subject)


def _read(config: Config, task: Task, file: str, log: ReadLog) -> list[Row]:
    return list(open_rows(config, task, Path(file), log=log, check=task.target))


def _plain(result: TrainResult) -> dict[str, Any]:
    return {**asdict(result), "folder": str(result.folder)}


def _line(name: str, result: TrainResult) -> str:
    validation = "" if result.eval_loss is None else f", validation loss {result.eval_loss:.4f}"
    return (
        f"{name}: {result.steps} updates in {result.seconds:.1f} s, loss {result.train_loss:.4f}{validation}, "
        f"best at update {result.best_step}\n  {result.folder}"
    )
