"""The metrics by name."""

from __future__ import annotations

from lorica.metrics import labels, scores, text
from lorica.metrics.base import Metric

_BOTH = "rows of both classes"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", "score", scores.prepare_roc_auc, needs=_BOTH),
        Metric("average_precision", "score", scores.prepare_average_precision, needs="a row of class 1"),
        Metric("log_loss", "score", scores.prepare_log_loss, higher_is_better=False),
        Metric("brier", "score", scores.prepare_brier, higher_is_better=False),
        Metric("accuracy", "label", labels.prepare_accuracy),
        Metric("balanced_accuracy", "label", labels.prepare_balanced_accuracy),
        Metric("f1", "label", labels.prepare_f1, needs="a row of class 1, in gold or prediction"),
        Metric("exact_match", "text", text.prepare_exact_match),
        Metric("token_f1", "text", text.prepare_token_f1),
    )
}
