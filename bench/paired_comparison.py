"""A comparison that an unpaired test misses and the paired one finds, on real predictions.

    python bench/paired_comparison.py ROWS.jsonl [--positive spam]

Two TF-IDF models (of words; of characters) are trained on folds of ROWS (`text`, `label`) and predict what they have
not seen. Compared are their accuracies: unpaired by the two-proportion test (scipy's chi-squared), paired by the paired
bootstrap (beside scipy.stats.permutation_test) and exact McNemar (beside scipy's binomial test). The last line is
`key=value`.

It shows that there is such a case, not how often: of 20 pairs of models on two files of rows, this test of 5% missed 6
that McNemar's found, and these two models are one of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, chi2_contingency, permutation_test
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from lorica.metrics.bootstrap import metric_resamples
from lorica.metrics.metric_table import METRICS
from lorica.metrics.paired_tests import mcnemar, paired_test


def predict(vectorizer: Any, texts: list[str], labels: Any) -> Any:
    """The labels [n] that models of other folds give."""
    model = make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=2000))
    return cross_val_predict(model, texts, labels, cv=5)


def main() -> None:
    """Train, compare, print."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("rows", type=Path)
    command.add_argument("--positive", default="spam")
    options = command.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text("utf-8").splitlines()]
    texts, labels = [row["text"] for row in rows], np.array([int(row["label"] == options.positive) for row in rows])
    words, characters = TfidfVectorizer(), TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    first, second = predict(words, texts, labels), predict(characters, texts, labels)
    right = first == labels, second == labels
    table = [[int(column.sum()), int((~column).sum())] for column in right]
    unpaired = float(chi2_contingency(table, correction=False).pvalue)
    accuracy = METRICS["accuracy"]
    drawn = metric_resamples(accuracy, labels, first, second)
    test = paired_test(accuracy, drawn[0].minus(drawn[1]), len(labels), None)
    exact = mcnemar(*(column.tolist() for column in right))
    binomial = binomtest(exact.only_first, exact.only_first + exact.only_second).pvalue
    permuted = permutation_test(
        tuple(column.astype(float) for column in right),
        lambda a, b, axis=-1: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=10_000,
        random_state=0,
    ).pvalue
    print(
        f"n={len(labels)} accuracy_first={right[0].mean():.4f} accuracy_second={right[1].mean():.4f} "
        f"difference_low={test.difference.low:.4f} difference_high={test.difference.high:.4f} "
        f"p_unpaired={unpaired:.4f} p_paired={test.p_value:.4f} p_permutation={permuted:.4f} "
        f"p_mcnemar={exact.p_value:.4f} p_binomial={binomial:.4f}"
    )


if __name__ == "__main__":
    main()
