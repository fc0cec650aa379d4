"""Checkpoints of a run under way: a kill at any moment loses at most the updates since the last one. What is published
at its end is in publish.py.

last/                     the adapter after the last update
checkpoints/step-N/       adapter, optimizer.safetensors, state.json
checkpoints/best-N/       the adapter that did best on the held-out rows so far
log.jsonl, training.json  the log; what was trained from what, and the result
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import WEIGHTS_NAME, open_adapter, save_adapter
from lorica.adapters.passport_facts import file_sha256
from lorica.errors import LoricaError, ResumeError
from lorica.models.adapter_weights import load_lora
from lorica.models.families import DecoderConfig
from lorica.models.lora import LoraWeights
from lorica.training.log import LOG
from lorica.training.state import State, to_json
from lorica.training.step import Learner
from lorica.training.types import TrainResult

RECORD = "training.json"


class RunRecord(msgspec.Struct, frozen=True):
    """What `training.json` says of a run. published: as `record_bytes` takes it; earlier versions wrote none. diverged:
    the loss or gradient that was not finite and ended it."""

    format: Literal[1]
    status: Literal["running", "finished"]
    manifest: dict[str, str]
    result: TrainResult | None
    published: dict[str, str] = {}
    diverged: str = ""


def read_record(folder: Path) -> RunRecord | None:
    """`training.json` of a run's folder, or None when there is none. Raises ResumeError when it is unreadable, or says
    what no run writes.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
        if record["result"] is not None:
            record["result"]["folder"] = folder
        read = msgspec.convert(record, RunRecord)
        if (read.result is None) == (read.status == "finished"):
            raise ValueError(f"status {read.status!r} and result {read.result!r}")
        return read
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResumeError(f"{path}: unreadable: {error}", fix="delete the folder or name another") from error


def record_bytes(
    manifest: Mapping[str, str],
    facts: Mapping[str, Any],
    result: TrainResult | None = None,
    published: Mapping[str, str] | None = None,
) -> bytes:
    """`training.json`; a run is finished from the moment its result stands there.

    published: file -> sha256, and "content": `content_digest` of the weights.
    """
    values = None
    if result is not None:
        values = asdict(result)
        del values["folder"]
    record = {
        "format": 1,
        "status": "running" if result is None else "finished",
        "manifest": dict(manifest),
        "result": values,
        **facts,
    }
    return to_json({**record, "published": dict(published)} if published else record)


def save_weights(
    folder: Path, config: AdapterConfig, lora: LoraWeights, extra: Mapping[str, bytes] | None = None
) -> str:
    """Write an adapter in PEFT's format, float32. Returns the digest of its weights' file."""
    tensors = {}
    for name, tensor in lora.to_tensors().items():
        plain = tensor.detach().to("cpu", torch.float32).contiguous()
        tensors[name] = ("F32", tuple(plain.shape), plain.numpy().tobytes())
    save_adapter(folder, config, tensors, extra_files=extra)
    return file_sha256(folder / WEIGHTS_NAME)


def load_weights(folder: Path, lora: LoraWeights, shape: DecoderConfig) -> None:
    """Copy the weights of a saved adapter into `lora`, in place: fresh memory has the alignment of an
    unbroken run.
    """
    stored = load_lora(lora.name, open_adapter(folder), shape)
    with torch.no_grad():
        for path, pair in lora.pairs.items():
            pair.a.copy_(stored.pairs[path].a)
            pair.b.copy_(stored.pairs[path].b)


def save_checkpoint(folder: Path, config: AdapterConfig, learner: Learner, state: State, *, limit: int) -> Path:
    """Write `checkpoints/step-N`, whole or not at all; keep the `limit` newest and the best."""
    from safetensors.torch import save

    scaler = learner.precision.scaler
    state.scaler = dict(scaler.state_dict()) if scaler is not None else {}
    state.skipped = learner.skipped
    moments = {}
    for name, parameter in learner.lora.to_tensors().items():
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            moments[f"{key}.{name}"] = value.detach().cpu().contiguous()
    checkpoint = folder / "checkpoints" / f"step-{state.step}"
    extra = {"optimizer.safetensors": save(moments), "state.json": state.to_json()}
    save_weights(checkpoint, config, learner.lora, extra)
    for old in _numbered(folder, "step")[:-limit]:
        shutil.rmtree(old)
    keep_best(folder, state.best_step)
    return checkpoint


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a resumed run continues from."""
    return max(_numbered(folder, "step"), key=_number, default=None)


def load_checkpoint(folder: Path, learner: Learner, run: str) -> State | None:
    """Put the newest checkpoint's weights, moments and scale back; None when the run has none yet.

    run: digest of the run's manifest. Raises ResumeError when the checkpoint, or the best adapter it refers to, cannot
    be used or belongs to another run.
    """
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        keep_best(folder)
        return None
    try:
        state = State.from_json((checkpoint / "state.json").read_bytes(), where=str(checkpoint / "state.json"))
        if state.run not in ("", run):  # "": written before there was this digest
            raise ResumeError("it is the checkpoint of another run")
        load_weights(checkpoint, learner.lora, learner.decoder.config)
        _load_moments(checkpoint, learner)
    except (LoricaError, OSError, ValueError, KeyError) as error:
        raise ResumeError(
            f"{checkpoint}: cannot be resumed from: {error}",
            fix="delete this checkpoint, or train into another run_dir",
        ) from error
    if learner.precision.scaler is not None and state.scaler:
        learner.precision.scaler.load_state_dict(state.scaler)
    learner.skipped = state.skipped
    if state.best_step and not best_folder(folder, state.best_step).is_dir():
        raise ResumeError(
            f"{best_folder(folder, state.best_step)}: is missing, and {checkpoint.name} refers to it",
            fix="train into another run_dir",
        )
    # What was best after this checkpoint will be found again.
    keep_best(folder, state.best_step)
    return state


def load_best(folder: Path, state: State, lora: LoraWeights, shape: DecoderConfig) -> None:
    """Load the best weights. Raises ResumeError when they are not those that were evaluated."""
    best = best_folder(folder, state.best_step)
    if state.best_digest and file_sha256(best / WEIGHTS_NAME) != state.best_digest:
        raise ResumeError(f"{best}: {WEIGHTS_NAME} is not what this run wrote there", fix="train into another run_dir")
    load_weights(best, lora, shape)


def best_folder(folder: Path, step: int) -> Path:
    """Where the best adapter so far is kept while the run goes on."""
    return folder / "checkpoints" / f"best-{step}"


def keep_best(folder: Path, *steps: int) -> None:
    """Remove the copies of the best adapter but those of these updates."""
    for path in _numbered(folder, "best"):
        if _number(path) not in steps:
            shutil.rmtree(path)


def remove_checkpoints(folder: Path, last: int, *, save_steps: int) -> None:
    """Remove the checkpoints that were kept only until the adapter is published. last: the last update."""
    keep_best(folder)
    if last % save_steps:
        shutil.rmtree(folder / "checkpoints" / f"step-{last}", ignore_errors=True)


def _load_moments(checkpoint: Path, learner: Learner) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        moments: dict[str, Tensor] = load((checkpoint / "optimizer.safetensors").read_bytes())
    except SafetensorError as error:
        raise ValueError(f"optimizer.safetensors: {error}") from error
    for name, parameter in learner.lora.to_tensors().items():
        learner.optimizer.state[parameter] = {
            key: moments[f"{key}.{name}"].clone().to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
        }


def _numbered(folder: Path, prefix: str) -> list[Path]:
    paths = (folder / "checkpoints").glob(f"{prefix}-*")
    return sorted((path for path in paths if path.name[len(prefix) + 1 :].isdecimal()), key=_number)


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def discard_run(folder: Path) -> None:
    """Remove what a run wrote before its first update: another one may begin there."""
    for name in (RECORD, LOG):
        (folder / name).unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left half written; the caller holds the lock, so nobody is writing it."""
    for directory in (folder, folder / "checkpoints"):
        for path in list(directory.glob(".*.tmp")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
