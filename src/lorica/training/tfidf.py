"""The baseline without a language model: TF-IDF features and logistic regression, or the nearest question.

Words (one and two in a row) and character pieces (3 to 5, within words) are weighted by how rare they are.
Everything is deterministic; scikit-learn is imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorica.errors import MissingExtraError, TrainingError

# Inverse strength of the L2 penalty. Above sklearn's 1 because TF-IDF rows have length 1 and thousands of
# features.
DEFAULT_C = 10.0


def fit_score(
    train_texts: Sequence[str],
    train_labels: Sequence[int],
    texts: Sequence[str],
    *,
    inverse_regularisation: float = DEFAULT_C,
) -> NDArray[np.float64]:
    """P(label 1) of each of `texts`, [n] in 0..1, learned from texts with labels 0 and 1.

    Raises TrainingError when there is only one label to learn from or no text, MissingExtraError without
    scikit-learn.
    """
    labels = np.asarray(train_labels, dtype=np.int64)
    _require_same(len(train_texts), len(labels))
    _require_both(labels)
    vectorizer = _vectorizer(train_texts)
    if not texts:
        return np.zeros(0)
    return _probabilities(
        vectorizer.transform(train_texts), labels, vectorizer.transform(texts), inverse_regularisation
    )


def fit_choose(
    train_questions: Sequence[str],
    train_options: Sequence[Sequence[str]],
    train_answers: Sequence[int],
    questions: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    inverse_regularisation: float = DEFAULT_C,
) -> list[NDArray[np.float64]]:
    """For each question, the probabilities of its options (they sum to 1), learned pairwise: is this option
    right?

    An option is described by its own words, by its likeness to the question and to the other options, and by
    its length among them; so questions with other options, or another number of them, can be answered.
    train_answers: index of the right option. Raises TrainingError for an index outside the options.
    """
    _require_same(len(train_questions), len(train_options), len(train_answers))
    _require_same(len(questions), len(options))
    labels = []
    for number, (own_options, answer) in enumerate(zip(train_options, train_answers, strict=True), 1):
        if not 0 <= answer < len(own_options):
            raise TrainingError(f"question {number} of the baseline: answer {answer} of {len(own_options)} options")
        labels += [int(index == answer) for index in range(len(own_options))]
    flat_labels = np.asarray(labels, dtype=np.int64)
    _require_both(flat_labels)
    vectorizer = _vectorizer(
        [*train_questions, *(option_text for own_options in train_options for option_text in own_options)]
    )
    if not questions:
        return []
    features = _pair_features(vectorizer)
    scores = _probabilities(
        features(train_questions, train_options), flat_labels, features(questions, options), inverse_regularisation
    )
    probabilities, span_start = [], 0
    for own_options in options:
        option_scores = scores[span_start : span_start + len(own_options)]
        probabilities.append(option_scores / option_scores.sum())
        span_start += len(own_options)
    return probabilities


def nearest_answers(
    train_questions: Sequence[str], train_answers: Sequence[str], questions: Sequence[str]
) -> list[tuple[str, float]]:
    """For each question, the answer of the most similar training question, and that cosine similarity (0..1).

    Of equally similar ones the first wins. Raises TrainingError when there is nothing to learn from.
    """
    _require_same(len(train_questions), len(train_answers))
    vectorizer = _vectorizer(train_questions)
    train_vectors = vectorizer.transform(train_questions)
    nearest_pairs = []
    for batch_start in range(0, len(questions), 512):
        likeness = np.asarray(
            (vectorizer.transform(questions[batch_start : batch_start + 512]) @ train_vectors.T).todense()
        )
        nearest = likeness.argmax(axis=1)
        # Each row is two vectors of length 1 side by side, so the product of two rows is at most 2.
        nearest_pairs += [
            (train_answers[index], float(row[index]) / 2) for row, index in zip(likeness, nearest, strict=True)
        ]
    return nearest_pairs


def _vectorizer(texts: Sequence[str]) -> Any:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import FeatureUnion
    except ImportError as error:
        raise MissingExtraError("scikit-learn", extra="baseline", needed_for="the TF-IDF baseline") from error
    feature_union = FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")),
            ("pieces", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)),
        ]
    )
    try:
        return feature_union.fit(list(texts))
    except ValueError as error:
        raise TrainingError(
            f"the TF-IDF baseline has no words to learn from in {len(texts)} texts: {error}",
            fix="see whether the right column was mapped to the text",
        ) from error


def _probabilities(
    train_features: Any, labels: NDArray[np.int64], features: Any, inverse_regularisation: float
) -> NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(C=inverse_regularisation, max_iter=2000).fit(train_features, labels)
    return np.asarray(classifier.predict_proba(features)[:, 1], dtype=np.float64)


def _pair_features(vectorizer: Any) -> Callable[[Sequence[str], Sequence[Sequence[str]]], Any]:
    """A function from questions and options to a sparse matrix with a row per option."""
    from scipy.sparse import csr_matrix, hstack

    def features(questions: Sequence[str], options: Sequence[Sequence[str]]) -> Any:
        word_features = vectorizer.transform([option_text for own_options in options for option_text in own_options])
        question_vectors = vectorizer.transform(questions)
        dense_features = np.zeros((word_features.shape[0], 3))
        span_start = 0
        for row, own_options in enumerate(options):
            option_span = slice(span_start, span_start + len(own_options))
            span_start += len(own_options)
            own_words = word_features[option_span]
            word_totals = np.asarray(own_words.sum(axis=0))
            dense_features[option_span, 0] = np.asarray((own_words @ question_vectors[row].T).todense()).ravel() / 2
            # Likeness to the others: distractors are often made from the right answer.
            itself = np.asarray(own_words.multiply(own_words).sum(axis=1)).ravel()
            dense_features[option_span, 1] = (np.asarray(own_words @ word_totals.T).ravel() - itself) / (
                2 * max(1, len(own_options) - 1)
            )
            option_lengths = np.log1p([len(option_text) for option_text in own_options])
            dense_features[option_span, 2] = option_lengths - option_lengths.mean()
        return hstack([word_features, csr_matrix(dense_features)], format="csr")

    return features


def _require_same(*counts: int) -> None:
    if len(set(counts)) > 1:
        raise ValueError(f"sequences of one length are needed, got {counts}")


def _require_both(labels: NDArray[np.int64]) -> None:
    distinct_labels = np.unique(labels)
    if distinct_labels.tolist() != [0, 1]:
        seen_labels = ", ".join(map(str, distinct_labels)) or "none"
        raise TrainingError(
            f"the TF-IDF baseline needs rows of label 0 and of label 1; the {len(labels)} rows have: {seen_labels}",
            fix="give rows of both kinds",
        )
