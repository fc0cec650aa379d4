"""The metrics by name; those of texts under the default normalisation."""

from __future__ import annotations

from lorica.metrics import label_metrics, score_metrics, text_metrics
from lorica.metrics.base import Metric
from lorica.metrics.normalise import LORICA, NORMALISATIONS, Normalisation

_BOTH = "rows of both classes"


def _of_texts(normalisation: Normalisation) -> tuple[Metric, ...]:
    prepared = {
        "exact_match": text_metrics.prepare_exact_match(normalisation),
        "token_f1": text_metrics.prepare_token_f1(normalisation),
        "answer_match": text_metrics.prepare_answer_match(normalisation),
    }
    return tuple(Metric(name, "text", prepare, normalisation=normalisation.name) for name, prepare in prepared.items())


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", "score", score_metrics.prepare_roc_auc, needs=_BOTH),
        Metric("average_precision", "score", score_metrics.prepare_average_precision, needs="a row of class 1"),
        Metric("log_loss", "probability", score_metrics.prepare_log_loss, higher_is_better=False),
        Metric("brier", "probability", score_metrics.prepare_brier, higher_is_better=False),
        Metric("ece", "probability", score_metrics.prepare_ece, higher_is_better=False),
        Metric("accuracy", "label", label_metrics.prepare_accuracy),
        Metric("balanced_accuracy", "label", label_metrics.prepare_balanced_accuracy),
        Metric("f1", "label", label_metrics.prepare_f1, needs="a row of class 1, in gold or prediction"),
        Metric("mcc", "label", label_metrics.prepare_mcc),
        *_of_texts(LORICA),
        Metric(
            "numeric_equality",
            "text",
            text_metrics.prepare_numeric_equality,
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
