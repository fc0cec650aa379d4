"""A blend of calibrated probabilities: unlike ranks, which need the whole table, it serves a single row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lorica.ensemble.members import Scores
from lorica.ensemble.stacking import LogisticModel, fit_logistic
from lorica.errors import DataError

_AGAIN = "name what --save wrote"


class CalibratedBlend(msgspec.Struct, frozen=True):
    """The weighted mean of probabilities, each by Platt's scaling of one member. weights sum to 1."""

    members: tuple[LogisticModel, ...]
    weights: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The members, in order."""
        return tuple(model.names[0] for model in self.members)

    def predict(self, member_scores: Sequence[Scores]) -> Scores:
        """Probabilities [n] of columns of scores [n], one for each member, in order."""
        columns = [model.predict([scores]) for model, scores in zip(self.members, member_scores, strict=True)]
        return np.asarray(np.asarray(self.weights) @ np.stack(columns))


class SavedBlend(msgspec.Struct, frozen=True, omit_defaults=True):
    """The file of `lorica ensemble --save`: one of the two."""

    calibrated: CalibratedBlend | None = None
    stack: LogisticModel | None = None

    @property
    def models(self) -> tuple[LogisticModel, ...]:
        """All logistic models in it."""
        return (*(self.calibrated.members if self.calibrated else ()), *((self.stack,) if self.stack else ()))


def fit_calibrated(
    names: Sequence[str], member_scores: Sequence[Scores], weights: Sequence[float], gold_labels: Sequence[int]
) -> CalibratedBlend:
    """Fit each member's calibration on all rows. Raises TrainingError unless both classes are there."""
    models = [fit_logistic([name], [scores], gold_labels) for name, scores in zip(names, member_scores, strict=True)]
    return CalibratedBlend(tuple(models), tuple(weights))


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
    if blend is None or any(len(model.names) != len(model.coefficients) for model in saved.models):
        raise DataError("this is no blend of `lorica ensemble`", path=path, fix=_AGAIN)
    if saved.calibrated is not None and len(saved.calibrated.weights) != len(saved.calibrated.members):
        raise DataError("its members and weights differ in number", path=path, fix=_AGAIN)
    return blend
