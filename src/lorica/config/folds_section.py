"""The keys of `folds`; `config.schema` says how keys are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorica.config.value_types import NotNegative


@dataclass(frozen=True)
class FoldsConfig:
    """Cross-validation: `lorica train` with one adapter for each fold, which answers the rows it was not trained on.
    `folds=5` is short for `folds.count=5`."""

    count: NotNegative = 0
    """Folds that the training rows are divided into, by label and rule (or subject); 0 trains one adapter on all rows.
    Near-duplicate texts, and rows of one group, stay together. Unit: folds."""

    group_column: str = ""
    """A column of the training file whose rows stay together: a user, a community, a functionality; empty for the
    column `group` where there is one."""

    near_duplicates: bool = True
    """Whether near-duplicate texts stay together, whatever their group. If that joins too many groups, switch it off to
    keep only groups together; near-duplicates that then cross folds are leaks, which need `folds.allow_leaks`."""

    column: str = ""
    """A column of the training file that says in which fold each row is held out, instead of `folds.count`; leaks
    across these folds are found before training."""

    allow_leaks: bool = False
    """Whether to train where near-duplicates or rows of one group stand on both sides of a fold, as `folds.column` or
    `folds.near_duplicates=false` may put them. The result and the run's record say so."""

    calibrate: Literal["off", "platt", "temperature", "isotonic"] = "off"
    """How the scores of each fold's adapter are calibrated before they are pooled, as `lorica calibrate --method` does:
    fitted on the rows that its training held out to choose the best checkpoint by (`training.val_ratio`), kept beside
    it, and applied to its out-of-fold scores. May be set or changed after training, with `training.resume=true`. `off`
    pools uncalibrated scores."""

    @property
    def wanted(self) -> bool:
        """Whether folds are trained."""
        return bool(self.count or self.column)
