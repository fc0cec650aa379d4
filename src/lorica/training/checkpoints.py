"""Checkpoints of a run under way: a kill at any moment loses at most the updates since the last one. What is published
at its end is in publish.py.

last/                     the adapter or classifier after the last update
checkpoints/step-N/       the same after update N, with optimizer.safetensors and state.json
checkpoints/best-N/       the one that did best on the held-out rows so far
log.jsonl, training.json  the log; what was trained from what, and the result
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec
from torch import Tensor

from lorica.adapters.passport_facts import file_sha256
from lorica.errors import LoricaError, MissingExtraError, NotFiniteError, ResumeError, TrainingError
from lorica.training.log import LOG
from lorica.training.state import State, to_json
from lorica.training.step import Learner
from lorica.training.trainable import BatchT, Trainable
from lorica.training.types import TrainResult

RECORD = "training.json"


class TrainingRecord(msgspec.Struct, frozen=True):
    """What `training.json` says of a run. published: as `record_bytes` takes it; earlier versions wrote none. diverged:
    the loss or gradient that was not finite and ended it."""

    format: Literal[1]
    status: Literal["running", "finished"]
    manifest: dict[str, str]
    result: TrainResult | None
    published: dict[str, str] = {}
    diverged: str = ""


def read_record(folder: Path) -> TrainingRecord | None:
    """`training.json` of a run's folder, or None when there is none. Raises ResumeError when it is unreadable, or says
    what no run writes.
    """
    record_path = folder / RECORD
    try:
        record = json.loads(record_path.read_bytes())
        if record["result"] is not None:
            record["result"]["folder"] = folder
        training_record = msgspec.convert(record, TrainingRecord)
        if (training_record.result is None) == (training_record.status == "finished"):
            raise ValueError(f"status {training_record.status!r} and result {training_record.result!r}")
        return training_record
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResumeError(f"{record_path}: unreadable: {error}", fix="delete the folder or name another") from error


def record_bytes(
    manifest: Mapping[str, str],
    recorded_facts: Mapping[str, Any],
    result: TrainResult | None = None,
    published: Mapping[str, str] | None = None,
) -> bytes:
    """`training.json`; a run is finished from the moment its result stands there.

    published: file -> sha256, and "content": `content_digest` of the weights.
    """
    record = {
        "format": 1,
        "status": "running" if result is None else "finished",
        "manifest": dict(manifest),
        "result": None if result is None else {key: value for key, value in asdict(result).items() if key != "folder"},
        **recorded_facts,
    }
    return to_json(record | ({"published": dict(published)} if published else {}))


def save_checkpoint(folder: Path, learner: Learner[BatchT], run_state: State, *, max_checkpoints: int) -> Path:
    """Write `checkpoints/step-N`, whole or not at all; keep the `max_checkpoints` newest and the best."""
    from safetensors.torch import save

    scaler = learner.trainable.precision.scaler
    run_state.scaler = dict(scaler.state_dict()) if scaler is not None else {}
    run_state.skipped = learner.skipped
    moments = {}
    for tensor_name, parameter in learner.trainable.tensors().items():
        for moment_name, moment in learner.optimizer.state.get(parameter, {}).items():
            moments[f"{moment_name}.{tensor_name}"] = moment.detach().cpu().contiguous()
    checkpoint = folder / "checkpoints" / f"step-{run_state.step}"
    extra_files = {"optimizer.safetensors": save(moments), "state.json": run_state.to_json()}
    learner.trainable.save(checkpoint, extra_files)
    for old_checkpoint in _numbered(folder, "step")[:-max_checkpoints]:
        shutil.rmtree(old_checkpoint)
    keep_best(folder, run_state.best_step)
    return checkpoint


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a resumed run continues from."""
    return max(_numbered(folder, "step"), key=_number, default=None)


def load_checkpoint(folder: Path, learner: Learner[BatchT], run_digest: str) -> State | None:
    """Put the newest checkpoint's weights, moments and scale back; None when the run has none yet.

    run_digest: digest of the run's manifest. Raises ResumeError when the checkpoint, or the best adapter it refers to,
    cannot be used or belongs to another run.
    """
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        keep_best(folder)
        return None
    try:
        state_path = checkpoint / "state.json"
        run_state = State.from_json(state_path.read_bytes(), location_text=str(state_path))
        if run_state.run not in ("", run_digest):  # "": written before there was this digest
            raise ResumeError("it is the checkpoint of another run")
        learner.trainable.load(checkpoint)
        _load_moments(checkpoint, learner)
    except (LoricaError, OSError, ValueError, KeyError) as error:
        raise ResumeError(
            f"{checkpoint}: cannot be resumed from: {error}",
            fix="delete this checkpoint, or train into another run_dir",
        ) from error
    scaler = learner.trainable.precision.scaler
    if scaler is not None and run_state.scaler:
        scaler.load_state_dict(run_state.scaler)
    learner.skipped = run_state.skipped
    if run_state.best_step and not best_folder(folder, run_state.best_step).is_dir():
        raise ResumeError(
            f"{best_folder(folder, run_state.best_step)}: is missing, and {checkpoint.name} refers to it",
            fix="train into another run_dir",
        )
    # What was best after this checkpoint will be found again.
    keep_best(folder, run_state.best_step)
    return run_state


def save_best(folder: Path, run_state: State, trainable: Trainable[BatchT]) -> None:
    """Keep the present weights as the best so far."""
    best_path = best_folder(folder, run_state.best_step)
    trainable.save(best_path)
    run_state.best_digest = file_sha256(best_path / trainable.files.weights)


def load_best(folder: Path, run_state: State, trainable: Trainable[BatchT]) -> None:
    """Load the best weights. Raises ResumeError when they are not those that were evaluated."""
    best_path = best_folder(folder, run_state.best_step)
    weights_name = trainable.files.weights
    if run_state.best_digest and file_sha256(best_path / weights_name) != run_state.best_digest:
        raise ResumeError(
            f"{best_path}: {weights_name} is not what this run wrote there", fix="train into another run_dir"
        )
    trainable.load(best_path)


def best_folder(folder: Path, update_step: int) -> Path:
    """Where the best adapter so far is kept while the run goes on."""
    return folder / "checkpoints" / f"best-{update_step}"


def keep_best(folder: Path, *best_steps: int) -> None:
    """Remove the copies of the best adapter but those of these updates."""
    for checkpoint_path in _numbered(folder, "best"):
        if _number(checkpoint_path) not in best_steps:
            shutil.rmtree(checkpoint_path)


def remove_checkpoints(folder: Path, last_step: int, *, save_steps: int) -> None:
    """Remove the checkpoints that were kept only until the adapter is published. last_step: the last update."""
    keep_best(folder)
    if last_step % save_steps:
        shutil.rmtree(folder / "checkpoints" / f"step-{last_step}", ignore_errors=True)


def _load_moments(checkpoint: Path, learner: Learner[BatchT]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        moments: dict[str, Tensor] = load((checkpoint / "optimizer.safetensors").read_bytes())
    except SafetensorError as error:
        raise ValueError(f"optimizer.safetensors: {error}") from error
    for tensor_name, parameter in learner.trainable.tensors().items():
        learner.optimizer.state[parameter] = {
            moment_name: moments[f"{moment_name}.{tensor_name}"].clone().to(parameter.device)
            for moment_name in ("step", "exp_avg", "exp_avg_sq")
        }


def _numbered(folder: Path, prefix: str) -> list[Path]:
    paths = (folder / "checkpoints").glob(f"{prefix}-*")
    return sorted((path for path in paths if path.name.removeprefix(f"{prefix}-").isdecimal()), key=_number)


def _number(checkpoint_path: Path) -> int:
    return int(checkpoint_path.name.rpartition("-")[2])


def discard_run(folder: Path) -> None:
    """Remove what a run wrote before its first update: another one may begin there."""
    for file_name in (RECORD, LOG):
        (folder / file_name).unlink(missing_ok=True)


@contextlib.contextmanager
def leaving_no_run(folder: Path) -> Iterator[None]:
    """A block before the first update; where rows or packages allow no training, a corrected call may begin there. A
    training that diverged stays on record."""
    try:
        yield
    except NotFiniteError:
        raise
    except (TrainingError, MissingExtraError):
        discard_run(folder)
        raise


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left half written; the caller holds the lock, so nobody is writing it."""
    for directory in (folder, folder / "checkpoints"):
        for checkpoint_path in list(directory.glob(".*.tmp")):
            shutil.rmtree(checkpoint_path) if checkpoint_path.is_dir() else checkpoint_path.unlink()
