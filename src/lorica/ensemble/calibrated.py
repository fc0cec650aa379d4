"""A blend of calibrated probabilities: unlike ranks, which need the whole table, it serves a single row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lorica.calibration.calibration_maps import PlattScaling
from lorica.calibration.fitting import fit_platt
from lorica.data.write import atomic_file
from lorica.ensemble.members import Scores
from lorica.ensemble.stacking import LogisticModel, check_probabilities
from lorica.errors import DataError

_AGAIN = "name what --save wrote"
_ROUNDING = 1e-6  # of the sum of weights


class CalibratedBlend(msgspec.Struct, frozen=True):
    """The weighted mean of probabilities, each by Platt's scaling of the member of that name. weights sum to 1."""

    names: tuple[str, ...]
    calibrations: tuple[PlattScaling, ...]
    weights: tuple[float, ...]

    def predict(self, member_scores: Sequence[Scores]) -> Scores:
        """Probabilities [n] of columns of scores [n], one for each member, in order. Raises TrainingError for scores
        that are no probabilities."""
        columns = [
            platt.predict(check_probabilities(scores))
            for platt, scores in zip(self.calibrations, member_scores, strict=True)
        ]
        return np.asarray(np.asarray(self.weights) @ np.stack(columns))


class SavedBlend(msgspec.Struct, frozen=True, omit_defaults=True):
    """The file of `lorica ensemble --save`: one of the two."""

    calibrated: CalibratedBlend | None = None
    stack: LogisticModel | None = None


def fit_calibrated(
    names: Sequence[str], member_scores: Sequence[Scores], weights: Sequence[float], gold_labels: Sequence[int]
) -> CalibratedBlend:
    """Fit each member's calibration on all rows. Raises TrainingError unless both classes are there, and all scores are
    probabilities."""
    labels = np.asarray(gold_labels)
    calibrations = [fit_platt(check_probabilities(scores), labels) for scores in member_scores]
    return CalibratedBlend(tuple(names), tuple(calibrations), tuple(weights))


def save_blend(path: Path, blend: CalibratedBlend | LogisticModel) -> None:
    """Write what `load_blend` reads, whole or not at all. Raises DataError where it cannot be written."""
    saved = SavedBlend(stack=blend) if isinstance(blend, LogisticModel) else SavedBlend(calibrated=blend)
    with atomic_file(path) as blend_file:
        blend_file.write(msgspec.json.format(msgspec.json.encode(saved)) + b"\n")


def load_blend(path: Path) -> CalibratedBlend | LogisticModel:
    """What `lorica ensemble --save` wrote. Raises DataError for anything else."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path, fix=_AGAIN) from error
    try:
        saved = msgspec.json.decode(content, type=SavedBlend)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"this is no blend of `lorica ensemble`: {error}", path=path, fix=_AGAIN) from error
    blend = saved.calibrated or saved.stack
    if blend is None or (saved.calibrated and saved.stack):
        raise DataError("this is no blend of `lorica ensemble`", path=path, fix=_AGAIN)
    fitted = (blend.coefficients,) if isinstance(blend, LogisticModel) else (blend.calibrations, blend.weights)
    if any(len(values) != len(blend.names) for values in fitted):
        raise DataError("its members and weights differ in number", path=path, fix=_AGAIN)
    if isinstance(blend, CalibratedBlend) and not (
        min(blend.weights) >= 0 and abs(sum(blend.weights) - 1) <= _ROUNDING
    ):
        raise DataError(
            f"its weights are {', '.join(map(str, blend.weights))}; allowed: from 0 on, with the sum 1",
            path=path,
            fix="fit it again with --save, and say with --weights what each member's shall be",
        )
    return blend
