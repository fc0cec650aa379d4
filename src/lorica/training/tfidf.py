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
    train_texts: Sequence[str], train_labels: Sequence[int], texts: Sequence[str], *, c: float = DEFAULT_C
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
    return _probabilities(vectorizer.transform(train_texts), labels, vectorizer.transform(texts), c)


def fit_choose(
    train_questions: Sequence[str],
    train_options: Sequence[Sequence[str]],
    train_answers: Sequence[int],
    questions: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    c: float = DEFAULT_C,
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
    for number, (mine, answer) in enumerate(zip(train_options, train_answers, strict=True), 1):
        if not 0 <= answer < len(mine):
            raise TrainingError(f"question {number} of the baseline: answer {answer} of {len(mine)} options")
        labels += [int(index == answer) for index in range(len(mine))]
    flat = np.asarray(labels, dtype=np.int64)
    _require_both(flat)
    vectorizer = _vectorizer([*train_questions, *(text for mine in train_options for text in mine)])
    if not questions:
        return []
    features = _pair_features(vectorizer)
    scores = _probabilities(features(train_questions, train_options), flat, features(questions, options), c)
    probabilities, start = [], 0
    for mine in options:
        odds = scores[start : start + len(mine)]
        probabilities.append(odds / odds.sum())
        start += len(mine)
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
    for start in range(0, len(questions), 512):
        likeness = np.asarray((vectorizer.transform(questions[start : start + 512]) @ train_vectors.T).todense())
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
    union = FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")),
            ("pieces", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)),
        ]
    )
    try:
        return union.fit(list(texts))
    except ValueError as error:
        raise TrainingError(
            f"the TF-IDF baseline has no words to learn from in {len(texts)} texts: {error}",
            fix="see whether the right column was mapped to the text",
        ) from error


def _probabilities(train: Any, labels: NDArray[np.int64], features: Any, c: float) -> NDArray[np.float64]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=2000).fit(train, labels)
    return np.asarray(model.predict_proba(features)[:, 1], dtype=np.float64)


def _pair_features(vectorizer: Any) -> Callable[[Sequence[str], Sequence[Sequence[str]]], Any]:
    """A function from questions and options to a sparse matrix with a row per option."""
    from scipy.sparse import csr_matrix, hstack  # type: ignore[import-untyped]

    def features(questions: Sequence[str], options: Sequence[Sequence[str]]) -> Any:
        words = vectorizer.transform([text for mine in options for text in mine])
        question_vectors = vectorizer.transform(questions)
        dense = np.zeros((words.shape[0], 3))
        start = 0
        for row, mine in enumerate(options):
            span = slice(start, start + len(mine))
            start += len(mine)
            own = words[span]
            total = np.asarray(own.sum(axis=0))
            dense[span, 0] = np.asarray((own @ question_vectors[row].T).todense()).ravel() / 2
            # Likeness to the others: distractors are often made from the right answer.
            itself = np.asarray(own.multiply(own).sum(axis=1)).ravel()
            dense[span, 1] = (np.asarray(own @ total.T).ravel() - itself) / (2 * max(1, len(mine) - 1))
            sizes = np.log1p([len(text) for text in mine])
            dense[span, 2] = sizes - sizes.mean()
        return hstack([words, csr_matrix(dense)], format="csr")

    return features


def _require_same(*counts: int) -> None:
    if len(set(counts)) > 1:
        raise ValueError(f"sequences of one length are needed, got {counts}")


def _require_both(labels: NDArray[np.int64]) -> None:
    kinds = np.unique(labels)
    if kinds.tolist() != [0, 1]:
        got = ", ".join(map(str, kinds)) or "none"
        raise TrainingError(
            f"the TF-IDF baseline needs rows of label 0 and of label 1; the {len(labels)} rows have: {got}",
            fix="give rows of both kinds",
        )
