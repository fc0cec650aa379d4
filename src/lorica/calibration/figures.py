"""How good probabilities are, before and after a calibration, and which method calibrates best."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from lorica.calibration.calibration_maps import PROBABILITY_FLOOR, CalibrationMap, PlattScaling, Probabilities
from lorica.calibration.fitting import MIN_ROWS, CalibrationRows, allowed_methods, cross_fit, fit_method
from lorica.errors import TrainingError
from lorica.metrics.bootstrap import RESAMPLES, Estimate, MetricResamples, draw_weights, percentile_interval
from lorica.metrics.metric_table import METRICS
from lorica.metrics.score_metrics import LOG_LOSS_EPSILON


class CalibrationFigures(msgspec.Struct, frozen=True):
    """Figures of probabilities; lower is better in all. log_loss: nats per row. brier: mean squared distance from gold,
    over the choices of a row summed where they are options. ece: expected calibration error, of label 1 or of the
    likeliest option."""

    log_loss: float
    brier: float
    ece: float


@dataclass(frozen=True)
class CalibrationFit:
    """A calibration and what it is worth. method: of `calibration_map`, which was fitted on all rows. before, after:
    figures of the probabilities as they were, and calibrated by fits that had not seen their row. change: of log_loss,
    after minus before, with its 95% interval. candidates: method -> its log_loss, or why it could not be fitted."""

    method: str
    calibration_map: CalibrationMap
    before: CalibrationFigures
    after: CalibrationFigures
    change: Estimate
    candidates: dict[str, float | str]


def figures_of(probabilities: Probabilities, rows: CalibrationRows) -> CalibrationFigures:
    """Figures of probabilities [n, k] for these rows."""
    if rows.binary:
        scores = probabilities[:, 1]
        return CalibrationFigures(*(METRICS[name](rows.gold, scores) for name in ("log_loss", "brier", "ece")))
    is_gold = np.arange(probabilities.shape[1])[None, :] == rows.gold[:, None]
    is_right = (np.nanargmax(probabilities, axis=1) == rows.gold).astype(np.int64)
    return CalibrationFigures(
        float(_row_losses(probabilities, rows).mean()),
        float(np.nansum((probabilities - is_gold) ** 2, axis=1).mean()),
        METRICS["ece"](is_right, np.minimum(np.nanmax(probabilities, axis=1), 1.0)),
    )


def fit_calibration(method: str, rows: CalibrationRows, *, seed: int = 0) -> CalibrationFit:
    """Fit `method`, or with `auto` the one of `allowed_methods` whose cross-fitted log-loss is lowest.

    Raises TrainingError for too few rows, scores that are all alike, scores that rank the labels the wrong way round,
    and with `auto` where no method lowers the log-loss.
    """
    _check(rows)
    before = figures_of(rows.probabilities, rows)
    methods = allowed_methods(rows) if method == "auto" else (method,)
    candidates: dict[str, float | str] = {}
    calibrated: dict[str, Probabilities] = {}
    for candidate in methods:
        try:
            calibrated[candidate] = cross_fit(candidate, rows, seed=seed)
            candidates[candidate] = figures_of(calibrated[candidate], rows).log_loss
        except TrainingError as error:
            if candidate == methods[-1] and not calibrated:
                raise
            candidates[candidate] = error.message
    losses = {name: loss for name, loss in candidates.items() if isinstance(loss, float)}
    if method == "auto" and min(losses.values(), default=np.inf) >= before.log_loss:
        listing = ", ".join(f"{name} {value:.4f}" for name, value in losses.items()) or "none can be fitted"
        raise TrainingError(
            f"no method lowers the log-loss of these rows, {before.log_loss:.4f}: {listing}",
            fix="answer with the scores as they are; a --method with --save-anyway saves it all the same",
        )
    best = min(losses, key=lambda name: losses[name])
    calibration_map = fit_method(best, rows)
    if isinstance(calibration_map, PlattScaling) and calibration_map.slope <= 0:
        raise TrainingError(
            f"the higher the score, the rarer label 1 (slope {calibration_map.slope:.3f})",
            fix="see whether labels are the other way round: `lorica eval ANSWERS GOLD`, `lorica check --scores`",
        )
    after = figures_of(calibrated[best], rows)
    change = _loss_change(rows, calibrated[best], seed)
    return CalibrationFit(best, calibration_map, before, after, change, candidates)


def _check(rows: CalibrationRows) -> None:
    if len(rows.gold) < MIN_ROWS:
        raise TrainingError(
            f"{len(rows.gold)} rows to fit on; at least {MIN_ROWS} are needed", fix="give more rows with gold"
        )
    clipped = np.clip(rows.probabilities, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)  # as every method sees them
    filled = np.nan_to_num(clipped, nan=-1.0)
    if bool((filled == filled[0]).all()):
        raise TrainingError(
            f"all {len(rows.gold)} rows have the same scores: there is nothing to calibrate",
            fix="see `lorica check --scores FILE`",
        )


def _row_losses(probabilities: Probabilities, rows: CalibrationRows) -> Probabilities:
    gold_probabilities = probabilities[np.arange(len(rows.gold)), rows.gold]
    return -np.log(np.clip(gold_probabilities, LOG_LOSS_EPSILON, 1 - LOG_LOSS_EPSILON))


def _loss_change(rows: CalibrationRows, calibrated: Probabilities, seed: int) -> Estimate:
    """The mean difference of the rows' losses, with its bootstrap interval; whole groups are drawn."""
    differences = _row_losses(calibrated, rows) - _row_losses(rows.probabilities, rows)
    blocks = draw_weights(len(differences), RESAMPLES, seed, rows.groups)
    resampled = np.concatenate([counts @ differences / counts.sum(axis=1) for counts in blocks])
    drawn = MetricResamples(float(differences.mean()), resampled)
    return percentile_interval(METRICS["log_loss"], drawn, len(differences))
