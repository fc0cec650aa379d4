"""Publishing a finished run: weights, passport, record and config appear in its folder together, and are read back.

The config is put in its place last, and taken away first where there is one: a folder with a config holds one run's
files, whole, whatever was killed when.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lorica.adapters.config import CONFIG_NAME, AdapterConfig
from lorica.adapters.folder import WEIGHTS_NAME, open_adapter
from lorica.adapters.passport import PASSPORT_NAME, Passport, passport_bytes, read_passport, write_passport
from lorica.adapters.passport_facts import content_digest, file_changes, file_sha256
from lorica.data.journal import check_same_run
from lorica.data.write import DISK_ERRORS, atomic_file, sync_folder
from lorica.errors import AdapterError, LoricaError, ResumeError, TrainingError
from lorica.locks import FolderLock
from lorica.models.lora import LoraWeights
from lorica.training import checkpoints
from lorica.training.types import TrainResult

# Makes the passport of the adapter in a folder.
Issue = Callable[[Path, TrainResult], Passport]

_STAGE = ".publish.tmp"


def open_run(folder: Path, manifest: Mapping[str, str], *, resume: bool) -> TrainResult | None:
    """Make sure that this run may write here; the result when it is finished already, else None.

    Raises ResumeError when the folder holds a run and `resume` is false, a run with another manifest (naming
    each difference), files that are not those it published, or an adapter or checkpoints that did not come from here.
    """
    record = checkpoints.read_record(folder)
    if record is None:
        if (folder / CONFIG_NAME).exists():
            raise ResumeError(f"{folder}: holds an adapter already", fix="train into another run_dir")
        if checkpoints.newest_checkpoint(folder) is not None:
            raise ResumeError(
                f"{folder}: holds checkpoints of a run and no {checkpoints.RECORD} that says of which",
                fix="train into another run_dir, or delete the folder",
            )
        return None
    # The record is there before the config: a run that was killed between the two has not ended.
    finished = record.result if (folder / CONFIG_NAME).exists() else None
    if not resume:
        if record.diverged:
            raise ResumeError(
                f"{folder}: holds a run that diverged: {record.diverged}",
                fix="lower training.learning_rate, and train into another run_dir, or after deleting the folder",
            )
        state = "a finished run" if finished else "a run that did not end"
        advice = "training.resume=true takes its result" if finished else "training.resume=true goes on with it"
        raise ResumeError(f"{folder}: holds {state}", fix=f"{advice}; to train anew, delete the folder or name another")
    check_same_run(folder, record.manifest, manifest, otherwise="train into another run_dir")
    checkpoints.remove_partial_files(folder)
    if finished:
        _require_published(folder, record.published)
    return finished


def record_start(folder: Path, manifest: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Write the record of a run that has not ended."""
    with atomic_file(folder / checkpoints.RECORD) as file:
        file.write(checkpoints.record_bytes(manifest, facts))


def stage_adapter(folder: Path, config: AdapterConfig, lora: LoraWeights) -> Path:
    """The adapter in a hidden folder within the run's, where its passport is made."""
    stage = folder / _STAGE
    shutil.rmtree(stage, ignore_errors=True)
    checkpoints.save_weights(stage, config, lora)
    return stage


def publish(
    lock: FolderLock,
    stage: Path,
    manifest: Mapping[str, str],
    facts: Mapping[str, Any],
    result: TrainResult,
    passport: Passport | None,
) -> None:
    """Move the staged adapter, its passport and the record into the run's folder, and read them back.

    Raises TrainingError when what is read is not what was written.
    """
    folder = lock.folder
    written = {name: file_sha256(stage / name) for name in (WEIGHTS_NAME, CONFIG_NAME)}
    published = {**written, "content": content_digest(stage / WEIGHTS_NAME)}
    if passport is not None:
        if (passport.adapter.weights, passport.adapter.config) != tuple(written.values()):
            raise _changed(folder, f"{WEIGHTS_NAME} or {CONFIG_NAME} differs from what the passport was made of")
        written[PASSPORT_NAME] = _write(stage / PASSPORT_NAME, passport_bytes(passport))
    record = checkpoints.record_bytes(manifest, facts, result, published)
    written[checkpoints.RECORD] = _write(stage / checkpoints.RECORD, record)
    require_folder(lock)
    for name in (CONFIG_NAME, PASSPORT_NAME):
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)
    for name in (WEIGHTS_NAME, PASSPORT_NAME, checkpoints.RECORD, CONFIG_NAME):
        if name in written:
            os.replace(stage / name, folder / name)
    sync_folder(folder)
    shutil.rmtree(stage)
    for name, digest in written.items():
        if file_sha256(folder / name) != digest:
            raise _changed(folder, f"{name} is not what was written")


def issue_missing_passport(folder: Path, result: TrainResult, issue: Issue) -> list[str]:
    """Give a finished run its passport when it was left without; else say how its files differ from the one it has.

    One that is there is never made anew: it would bless whatever has happened since. Raises what `issue` raises.
    """
    if not (folder / PASSPORT_NAME).exists():
        write_passport(folder, issue(folder, result))
    try:
        passport = read_passport(folder)
        adapter = open_adapter(folder)
        return [] if passport is None else file_changes(passport.adapter, adapter)
    except AdapterError as error:
        return [error.message]


@contextlib.contextmanager
def naming_disk_errors(lock: FolderLock) -> Iterator[None]:
    """A block that writes into a run's folder. Raises OSError when its disk fails, whichever file was written, and
    TrainingError when the folder is gone or closed to us."""
    try:
        yield
    except (OSError, LoricaError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        require_folder(lock)
        if cause.errno in DISK_ERRORS:
            raise cause  # noqa: B904  (it is where the error came from)
        raise TrainingError(
            f"{lock.folder}: cannot be written ({cause.strerror or cause})", fix="make the folder writable"
        ) from cause


def require_folder(lock: FolderLock) -> None:
    """Raise TrainingError when the run's folder is not its own any more."""
    if reason := lock.lost():
        raise TrainingError(
            f"{lock.folder}: nothing more can be saved there: {reason}", fix="train again, into another run_dir"
        )


def _write(path: Path, content: bytes) -> str:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return file_sha256(path)


def _require_published(folder: Path, published: Mapping[str, str]) -> None:
    """Records of earlier versions do not say what was published."""
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise ResumeError(f"{folder}: its run has ended, and {WEIGHTS_NAME} is missing", fix=_anew(folder))
    if file_sha256(weights) != published.get(WEIGHTS_NAME, file_sha256(weights)):
        raise ResumeError(f"{weights}: is not the file that its run published", fix=_anew(folder))


def _anew(folder: Path) -> str:
    return f"put its own files back; or delete {folder} and train again"


def _changed(folder: Path, change: str) -> TrainingError:
    return TrainingError(
        f"{folder}: {change}: the disk or another program changed it",
        fix=f"delete {folder}, and train again on another disk",
    )
