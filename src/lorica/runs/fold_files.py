"""What training by folds keeps in its folder: the plan, what identifies the run, and what came of it.

fold_plan.csv    id, fold, the first row that must stay with it, digest of its text; a line for each row
folds.json       settings and digests, the audit; at the end the table of folds and the digests of what was written
out_of_fold.csv  answers of each row by the fold that did not see it
fold-N/          an adapter for each fold, with its calibration.json where there is one
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.registry import is_adapter
from lorica.calibration.saved import SavedCalibration, read_calibration
from lorica.data.digest import file_digest
from lorica.data.fold_plan import FoldPlan
from lorica.data.journal import check_same_run
from lorica.data.write import atomic_file
from lorica.errors import DataError, ResumeError
from lorica.records import Row
from lorica.runs.run_record import record_json

STATE_NAME, PLAN_NAME, OUT_OF_FOLD_NAME = "folds.json", "fold_plan.csv", "out_of_fold.csv"
_COLUMNS = ("id", "fold", "together_with", "text_digest")


class FoldsState(msgspec.Struct, frozen=True):
    """What another command needs of `folds.json`. manifest: what a resumed run must share. adapters: name -> digest,
    and out_of_fold: the digest of the scores that they gave; empty until there are any. answering: the settings that
    decided these; {} where an earlier version gave them, which nobody can hold to any settings. calibrated: the method
    by which they were calibrated, and calibrations: name -> digest, those of the adapters; "off" and empty where they
    were not. best: the name of the fold whose held-out rows were answered best, "" until all is done. pooling: what
    pooling their scores costs, in a sentence."""

    manifest: dict[str, str]
    source: str = ""
    adapters: dict[str, str] = {}
    out_of_fold: str = ""
    answering: dict[str, str] = {}
    calibrated: str = "off"
    calibrations: dict[str, str] = {}
    best: str = ""
    pooling: str = ""

    def scored(self, digests: Mapping[str, str], answering: Mapping[str, str], output: Path) -> bool:
        """Whether `output` holds the scores of these adapters (name -> digest) by these settings."""
        is_same = self.adapters == digests and self.answering == answering
        return is_same and output.is_file() and file_digest(output) == self.out_of_fold

    def read_calibrations(self, root: Path) -> dict[str, SavedCalibration] | None:
        """Those by which the scores were calibrated, {} where they were not; None where they are not there any more."""
        saved = {name: read_calibration(root / name) for name in self.calibrations}
        present = {name: calibration for name, calibration in saved.items() if calibration is not None}
        digests = {name: calibration.digest for name, calibration in present.items()}
        return present if digests == self.calibrations else None


def open_folds(root: Path, manifest: Mapping[str, str], *, resume: bool) -> FoldsState | None:
    """What an interrupted run left here, None where nothing was trained yet. Raises ResumeError for a run that is not
    to be resumed, and for one with another plan or other settings."""
    started = sorted(folder.name for folder in root.glob("fold-*") if is_adapter(folder))
    if not started:
        return None
    if not (root / STATE_NAME).is_file():
        raise ResumeError(
            f"{root}: holds {started[0]} and no {STATE_NAME} that says of which folds", fix="train into another run_dir"
        )
    if not resume:
        fix = "training.resume=true goes on with them; to train anew, delete the folder or name another run_dir"
        raise ResumeError(f"{root}: holds folds that were trained already, or in part", fix=fix)
    state = read_state(root)
    check_same_run(root, state.manifest, manifest, otherwise="train into another run_dir")
    return state


def read_state(root: Path) -> FoldsState:
    """`folds.json`. Raises DataError where there is none, or a damaged one."""
    state_path = root / STATE_NAME
    try:
        return msgspec.json.decode(state_path.read_bytes(), type=FoldsState)
    except FileNotFoundError:
        raise DataError(
            f"holds no {STATE_NAME}: no folds were trained here", path=root, fix="lorica train ... folds=5"
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"cannot be read: {error}", path=state_path, fix="train the folds again") from error


def write_state(root: Path, content: Mapping[str, Any]) -> None:
    """Write `folds.json`, whole or not at all. content: the fields of `FoldsState`, and what else is for people."""
    with atomic_file(root / STATE_NAME) as state_file:
        state_file.write(record_json({"format": 1, **content}))


def write_plan(root: Path, plan: FoldPlan, rows: Sequence[Row]) -> Path:
    """Write `fold_plan.csv`; its path."""
    plan_text = io.StringIO()
    writer = csv.writer(plan_text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(plan.lines(rows))
    plan_path = root / PLAN_NAME
    with atomic_file(plan_path) as plan_file:
        plan_file.write(plan_text.getvalue().encode("utf-8", "surrogatepass"))
    return plan_path


def trained_texts(root: Path) -> dict[str, str]:
    """Digest of the text -> id, of every row that some fold was trained on: all rows of the plan. Raises DataError for
    a missing or damaged plan."""
    plan_path = root / PLAN_NAME
    try:
        with plan_path.open(newline="", encoding="utf-8", errors="surrogatepass") as plan_file:
            reader = csv.DictReader(plan_file)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise DataError("is no plan of folds", path=plan_path, fix="train the folds again")
            return {line["text_digest"]: line["id"] for line in reader if line["text_digest"]}
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=plan_path, fix="train the folds again") from error
