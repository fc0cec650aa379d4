"""The folder of a run: what is written when, so that a kill at any moment loses at most the updates since a
checkpoint.

adapter_config.json, adapter_model.safetensors   the published adapter, written when the run ends
last/                                            the adapter after the last update
checkpoints/step-N/                              adapter, optimizer.safetensors, state.json
checkpoints/best-N/                              the adapter that did best on the held-out rows so far
log.jsonl, training.json                         the log; what was trained from what, and the result
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.adapters.folder import open_adapter, save_adapter
from lorica.data.write import atomic_file
from lorica.errors import LoricaError, ResumeError
from lorica.models.adapter_weights import load_lora
from lorica.models.families import DecoderConfig
from lorica.models.lora import LoraWeights
from lorica.training.state import State, refuse_differences, to_json
from lorica.training.step import Learner
from lorica.training.types import TrainResult

RECORD = "training.json"
_FORMAT = 1


def open_run(folder: Path, manifest: Mapping[str, str], *, resume: bool) -> TrainResult | None:
    """Make sure that this run may write here; the result when it is finished already, else None.

    Raises ResumeError when the folder holds a run and `resume` is false, a run with another manifest (naming
    each difference), or an adapter that did not come from here.
    """
    record = read_record(folder)
    if record is None:
        if (folder / CONFIG_NAME).exists():
            raise ResumeError(f"{folder}: holds an adapter already", fix="train into another run_dir")
        return None
    finished = record["status"] == "finished"
    if not resume:
        state = "a finished run" if finished else "a run that did not end"
        way = "training.resume=true takes its result" if finished else "training.resume=true goes on with it"
        raise ResumeError(f"{folder}: holds {state}", fix=f"{way}; to train anew, delete the folder or name another")
    refuse_differences(record["manifest"], manifest, where=str(folder))
    _sweep(folder)
    return TrainResult(**record["result"], folder=folder) if finished else None


def read_record(folder: Path) -> dict[str, Any] | None:
    """`training.json` of a run's folder, or None when there is none. Raises ResumeError when it is
    unreadable.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
        if record["format"] != _FORMAT or not isinstance(record["manifest"], dict) or "result" not in record:
            raise ValueError(f"format {record['format']!r}; this version writes {_FORMAT}")
        return {**record, "status": str(record["status"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ResumeError(f"{path}: unreadable: {error}", fix="delete the folder or name another") from error


def write_record(
    folder: Path, manifest: Mapping[str, str], facts: Mapping[str, Any], result: TrainResult | None
) -> None:
    """Write `training.json`; a run is finished from the moment its result stands there."""
    values = None
    if result is not None:
        values = asdict(result)
        del values["folder"]
    record = {
        "format": _FORMAT,
        "status": "running" if result is None else "finished",
        "manifest": dict(manifest),
        "result": values,
        **facts,
    }
    with atomic_file(folder / RECORD) as file:
        file.write(to_json(record))


def save_weights(
    place: Path, config: AdapterConfig, lora: LoraWeights, extra: Mapping[str, bytes] | None = None
) -> None:
    """Write an adapter in PEFT's format, float32."""
    tensors = {}
    for name, tensor in lora.to_tensors().items():
        plain = tensor.detach().to("cpu", torch.float32).contiguous()
        tensors[name] = ("F32", tuple(plain.shape), plain.numpy().tobytes())
    save_adapter(place, config, tensors, extra_files=extra)


def load_weights(place: Path, lora: LoraWeights, shape: DecoderConfig) -> None:
    """Copy the weights of a saved adapter into `lora`, in place: fresh memory has the alignment of an
    unbroken run.
    """
    stored = load_lora(lora.name, open_adapter(place), shape)
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
    place = folder / "checkpoints" / f"step-{state.step}"
    extra = {"optimizer.safetensors": save(moments), "state.json": state.to_json()}
    save_weights(place, config, learner.lora, extra)
    for old in _numbered(folder, "step")[:-limit]:
        shutil.rmtree(old)
    _keep_best(folder, state.best_step)
    return place


def load_checkpoint(folder: Path, learner: Learner) -> State | None:
    """Put the newest checkpoint's weights, moments and scale back; None when the run has none yet.

    Raises ResumeError when the checkpoint, or the best adapter it refers to, cannot be used.
    """
    places = _numbered(folder, "step")
    if not places:
        _keep_best(folder, 0)
        return None
    place = places[-1]
    try:
        state = State.from_json((place / "state.json").read_bytes(), where=str(place / "state.json"))
        load_weights(place, learner.lora, learner.decoder.config)
        _load_moments(place, learner)
    except (LoricaError, OSError, ValueError, KeyError) as error:
        raise ResumeError(
            f"{place}: cannot be resumed from: {error}",
            fix="delete this checkpoint, or train into another run_dir",
        ) from error
    if learner.precision.scaler is not None and state.scaler:
        learner.precision.scaler.load_state_dict(state.scaler)
    learner.skipped = state.skipped
    if state.best_step and not best_folder(folder, state.best_step).is_dir():
        raise ResumeError(
            f"{best_folder(folder, state.best_step)}: is missing, and {place.name} refers to it",
            fix="train into another run_dir",
        )
    # What was best after this checkpoint will be found again.
    _keep_best(folder, state.best_step)
    return state


def best_folder(folder: Path, step: int) -> Path:
    """Where the best adapter so far is kept while the run goes on."""
    return folder / "checkpoints" / f"best-{step}"


def remove_best(folder: Path) -> None:
    """Remove the copies of the best adapter, once it is published."""
    _keep_best(folder, 0)


def _load_moments(place: Path, learner: Learner) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        moments: dict[str, Tensor] = load((place / "optimizer.safetensors").read_bytes())
    except SafetensorError as error:
        raise ValueError(f"optimizer.safetensors: {error}") from error
    for name, parameter in learner.lora.to_tensors().items():
        learner.optimizer.state[parameter] = {
            key: moments[f"{key}.{name}"].clone().to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
        }


def _numbered(folder: Path, kind: str) -> list[Path]:
    found = [path for path in (folder / "checkpoints").glob(f"{kind}-*") if path.name[len(kind) + 1 :].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[len(kind) + 1 :]))


def _keep_best(folder: Path, step: int) -> None:
    for path in _numbered(folder, "best"):
        if path.name != f"best-{step}":
            shutil.rmtree(path)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for place, prefix in ((folder, "."), (folder / "checkpoints", "."), (folder.parent, f".{folder.name}.")):
        if not place.is_dir():
            continue
        for path in list(place.iterdir()):
            if path.name.startswith(prefix) and path.name.endswith(".tmp"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
