"""The metrics by name; those of texts under the default normalisation."""

from __future__ import annotations

from typing import Literal

import msgspec

from lorica.metrics import label_metrics, score_metrics, text_metrics
from lorica.metrics.base import Metric, RowValues, mean_over_rows
from lorica.metrics.normalise import LORICA, NORMALISATIONS, Normalisation

_BOTH = "rows of both classes"


def _of_texts(normalisation: Normalisation) -> tuple[Metric, ...]:
    row_values = {
        "exact_match": text_metrics.exact_match(normalisation),
        "token_f1": text_metrics.token_f1(normalisation),
        "answer_match": text_metrics.answer_match(normalisation),
    }
    return tuple(_mean_metric(name, "text", values, normalisation.name) for name, values in row_values.items())


def _mean_metric(name: str, takes: Literal["label", "text"], row_values: RowValues, normalisation: str = "") -> Metric:
    """The mean of these values."""
    return Metric(name, takes, mean_over_rows(row_values), normalisation=normalisation, row_values=row_values)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", "score", score_metrics.prepare_roc_auc, needs=_BOTH),
        Metric("average_precision", "score", score_metrics.prepare_average_precision, needs="a row of class 1"),
        Metric("log_loss", "probability", score_metrics.prepare_log_loss, higher_is_better=False),
        Metric("brier", "probability", score_metrics.prepare_brier, higher_is_better=False),
        Metric("ece", "probability", score_metrics.prepare_ece, higher_is_better=False),
        _mean_metric("accuracy", "label", label_metrics.correct_rows),
        Metric("balanced_accuracy", "label", label_metrics.prepare_balanced_accuracy),
        Metric("f1", "label", label_metrics.prepare_f1, needs="a row of class 1, in gold or prediction"),
        Metric("mcc", "label", label_metrics.prepare_mcc),
        *_of_texts(LORICA),
        msgspec.structs.replace(
            _mean_metric("numeric_equality", "text", text_metrics.numeric_equality),
            needs="a row whose gold answer is a number",
            applies=text_metrics.has_number,
        ),
    )
}


SCORE_METRICS = tuple(metric.name for metric in METRICS.values() if metric.takes != "text")
"""All that is measured where rows are answered by a score for class 1."""

TEXT_METRICS = tuple(metric.name for metric in METRICS.values() if metric.takes == "text")
"""All that is measured where rows are answered in words."""


def find_metric(metric_name: str, normalisation: str = LORICA.name) -> Metric:
    """The metric called `metric_name`; one of texts compares under `normalisation`. Raises KeyError for unknown
    names."""
    text_metrics_by_name = {metric.name: metric for metric in _of_texts(NORMALISATIONS[normalisation])}
    return text_metrics_by_name.get(metric_name) or METRICS[metric_name]
