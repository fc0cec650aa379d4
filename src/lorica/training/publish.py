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

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import write_files
from lorica.adapters.member import open_member
from lorica.adapters.passport import PASSPORT_NAME, Passport, passport_bytes, read_passport, write_passport
from lorica.adapters.passport_facts import content_digest, file_changes, file_sha256
from lorica.adapters.registry import member_config
from lorica.data.journal import check_same_run
from lorica.data.write import DISK_ERRORS, atomic_file, sync_folder
from lorica.errors import AdapterError, LoricaError, ResumeError, TrainingError
from lorica.locks import FolderLock
from lorica.training import checkpoints
from lorica.training.trainable import BatchT, MemberFiles, Trainable
from lorica.training.types import TrainResult

# Makes the passport of the adapter in a folder.
Issue = Callable[[Path, TrainResult], Passport]

_STAGE = ".publish.tmp"
_REJECTED = "rejected"


def open_run(
    folder: Path, manifest: Mapping[str, str], *, resume: bool, config_name: str = CONFIG_NAME
) -> TrainResult | None:
    """Make sure that this run may write here; the result when it is finished already, else None.

    config_name: of the file that makes a folder a member's.

    Raises ResumeError when the folder holds a run and `resume` is false, a run with another manifest (naming
    each difference), files that are not those it published, or an adapter or checkpoints that did not come from here.
    """
    record = checkpoints.read_record(folder)
    if record is None:
        if (folder / config_name).exists():
            raise ResumeError(f"{folder}: holds an adapter already", fix="train into another run_dir")
        if checkpoints.newest_checkpoint(folder) is not None:
            raise ResumeError(
                f"{folder}: holds checkpoints of a run and no {checkpoints.RECORD} that says of which",
                fix="train into another run_dir, or delete the folder",
            )
        return None
    # The record is there before the config: a run that was killed between the two has not ended.
    finished = record.result if (folder / config_name).exists() else None
    if not resume:
        if record.diverged:
            raise ResumeError(
                f"{folder}: holds a run that diverged: {record.diverged}",
                fix="lower training.learning_rate, and train into another run_dir, or after deleting the folder",
            )
        if not finished and member_config(folder) is not None:
            raise ResumeError(f"{folder}: holds a finished run of another kind of model", fix="name another run_dir")
        state_words = "a finished run" if finished else "a run that did not end"
        advice = "training.resume=true takes its result" if finished else "training.resume=true goes on with it"
        raise ResumeError(
            f"{folder}: holds {state_words}", fix=f"{advice}; to train anew, delete the folder or name another"
        )
    check_same_run(folder, record.manifest, manifest, otherwise="train into another run_dir")
    checkpoints.remove_partial_files(folder)
    if finished:
        _require_published(folder / finished.weights, record.published)
    return finished


def record_start(folder: Path, manifest: Mapping[str, str], record_facts: Mapping[str, Any]) -> None:
    """Write the record of a run that has not ended."""
    with atomic_file(folder / checkpoints.RECORD) as open_file:
        open_file.write(checkpoints.record_bytes(manifest, record_facts))


def stage(folder: Path, trainable: Trainable[BatchT]) -> Path:
    """The trained member in a hidden folder within the run's, where its passport is made."""
    staged_folder = folder / _STAGE
    shutil.rmtree(staged_folder, ignore_errors=True)
    trainable.save(staged_folder)
    return staged_folder


def stage_files(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """The same of a member whose files are at hand by name."""
    staged_folder = folder / _STAGE
    shutil.rmtree(staged_folder, ignore_errors=True)
    write_files(staged_folder, {file_name: [content] for file_name, content in contents.items()})
    return staged_folder


def verify_staged(staged_folder: Path, verify: Callable[[Path], None]) -> None:
    """Have what is staged looked at. What `verify` raises comes through, with where the files were put aside."""
    try:
        verify(staged_folder)
    except TrainingError as error:
        rejected_folder = staged_folder.with_name(_REJECTED)
        shutil.rmtree(rejected_folder, ignore_errors=True)
        os.replace(staged_folder, rejected_folder)
        error.message += f"; nothing is published, and the files are kept in {rejected_folder}"
        raise


def publish(
    folder_lock: FolderLock,
    staged_folder: Path,
    files: MemberFiles,
    manifest: Mapping[str, str],
    record_facts: Mapping[str, Any],
    result: TrainResult,
    passport: Passport | None,
) -> None:
    """Move all staged files, the passport and the record into the run's folder, and read them back. files: which of
    them are the member's weights, and its config.

    Raises TrainingError when what is read is not what was written.
    """
    folder = folder_lock.folder
    written = {path.name: file_sha256(path) for path in sorted(staged_folder.iterdir())}
    published = {**written, "content": content_digest(staged_folder / files.weights)}
    if passport is not None:
        if (passport.adapter.weights, passport.adapter.config) != (written[files.weights], written[files.config]):
            raise _changed(folder, f"{files.weights} or {files.config} differs from what the passport was made of")
        written[PASSPORT_NAME] = _write(staged_folder / PASSPORT_NAME, passport_bytes(passport))
    record = checkpoints.record_bytes(manifest, record_facts, result, published)
    written[checkpoints.RECORD] = _write(staged_folder / checkpoints.RECORD, record)
    require_folder(folder_lock)
    for file_name in (files.config, PASSPORT_NAME):
        (folder / file_name).unlink(missing_ok=True)
    sync_folder(folder)
    # The record is there before the config.
    for file_name in sorted(written, key=lambda name: (name == files.config, name == checkpoints.RECORD)):
        os.replace(staged_folder / file_name, folder / file_name)
    sync_folder(folder)
    shutil.rmtree(staged_folder)
    for file_name, digest in written.items():
        if file_sha256(folder / file_name) != digest:
            raise _changed(folder, f"{file_name} is not what was written")


def issue_missing_passport(folder: Path, result: TrainResult, issue_passport: Issue) -> list[str]:
    """Give a finished run its passport when it was left without; else say how its files differ from the one it has.

    One that is there is never made anew: it would bless whatever has happened since. Raises what `issue_passport`
    raises.
    """
    if not (folder / PASSPORT_NAME).exists():
        write_passport(folder, issue_passport(folder, result))
    try:
        passport = read_passport(folder)
        adapter = open_member(folder)
        return [] if passport is None else file_changes(passport.adapter, adapter)
    except AdapterError as error:
        return [error.message]


@contextlib.contextmanager
def naming_disk_errors(folder_lock: FolderLock) -> Iterator[None]:
    """A block that writes into a run's folder. Raises OSError when its disk fails, whichever file was written, and
    TrainingError when the folder is gone or closed to us."""
    try:
        yield
    except (OSError, LoricaError) as error:
        disk_error = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(disk_error, OSError):
            raise
        require_folder(folder_lock)
        if disk_error.errno in DISK_ERRORS:
            # Of a write that fails Python does not say which file it was.
            disk_error.filename = disk_error.filename or str(folder_lock.folder)
            raise disk_error  # noqa: B904  (it is where the error came from)
        raise TrainingError(
            f"{folder_lock.folder}: cannot be written ({disk_error.strerror or disk_error})",
            fix="make the folder writable",
        ) from disk_error


def require_folder(folder_lock: FolderLock) -> None:
    """Raise TrainingError when the run's folder is not its own any more."""
    if reason := folder_lock.lost():
        raise TrainingError(
            f"{folder_lock.folder}: nothing more can be saved there: {reason}", fix="train again, into another run_dir"
        )


def _write(file_path: Path, content: bytes) -> str:
    with file_path.open("wb") as open_file:
        open_file.write(content)
        open_file.flush()
        os.fsync(open_file.fileno())
    return file_sha256(file_path)


def _require_published(weights: Path, published: Mapping[str, str]) -> None:
    """Records of earlier versions do not say what was published."""
    if not weights.is_file():
        raise ResumeError(
            f"{weights.parent}: its run has ended, and {weights.name} is missing", fix=_anew(weights.parent)
        )
    if file_sha256(weights) != published.get(weights.name, file_sha256(weights)):
        raise ResumeError(f"{weights}: is not the file that its run published", fix=_anew(weights.parent))


def _anew(folder: Path) -> str:
    return f"put its own files back; or delete {folder} and train again"


def _changed(folder: Path, change: str) -> TrainingError:
    return TrainingError(
        f"{folder}: {change}: the disk or another program changed it",
        fix=f"delete {folder}, and train again on another disk",
    )
