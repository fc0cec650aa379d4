"""TF-IDF features with logistic regression, and the nearest question: what needs no language model.

Words (by default one and two in a row) and character pieces (3 to 5, within words) are weighted by how rare they are.
Everything is deterministic; scikit-learn is imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorica.calibration.calibration_maps import sigmoid
from lorica.config.shallow_section import TfidfConfig
from lorica.errors import MissingExtraError, TrainingError
from lorica.names import count_of

_DEFAULTS = TfidfConfig()

OPTION_FEATURES = 3
"""Of an option beside its words: likeness to the question, likeness to the other options, length among them."""


@dataclass(frozen=True)
class TfidfFeatures:
    """Fitted vectorizers of scikit-learn, by the names of `feature_sets`."""

    vectorizers: dict[str, Any]

    @classmethod
    def fit(cls, texts: Sequence[str], settings: TfidfConfig = _DEFAULTS) -> TfidfFeatures:
        """Learn n-grams and how rare they are. Raises TrainingError where the texts hold no word."""
        vectorizers = _vectorizers(settings, {})
        try:
            for vectorizer in vectorizers.values():
                vectorizer.fit(list(texts))
        except ValueError as error:
            raise TrainingError(
                f"TF-IDF has no words to learn from in {len(texts)} texts: {error}",
                fix="see whether the right column was mapped to the text",
            ) from error
        return cls(vectorizers)

    @classmethod
    def restore(
        cls,
        vocabularies: dict[str, list[str]],
        inverse_frequencies: dict[str, NDArray[np.float64]],
        settings: TfidfConfig = _DEFAULTS,
    ) -> TfidfFeatures:
        """The features of these n-grams, in the order of their columns, and their inverse document frequencies. Raises
        ValueError where the two differ in number, or an n-gram stands twice."""
        vectorizers = _vectorizers(settings, vocabularies)
        for name, vectorizer in vectorizers.items():
            vectorizer.idf_ = inverse_frequencies[name]
        return cls(vectorizers)

    @property
    def vocabularies(self) -> dict[str, list[str]]:
        """Feature set -> its n-grams, in the order of their columns."""
        return {
            name: [str(term) for term in vectorizer.get_feature_names_out()]
            for name, vectorizer in self.vectorizers.items()
        }

    @property
    def inverse_frequencies(self) -> dict[str, NDArray[np.float64]]:
        """Feature set -> inverse document frequency of each n-gram."""
        return {name: np.asarray(vectorizer.idf_, dtype=np.float64) for name, vectorizer in self.vectorizers.items()}

    def transform(self, texts: Sequence[str]) -> Any:
        """Sparse [texts, n-grams]: a row is one vector of length 1 for each feature set, side by side."""
        from scipy.sparse import hstack

        return hstack([vectorizer.transform(texts) for vectorizer in self.vectorizers.values()], format="csr")

    def transform_options(self, questions: Sequence[str], options: Sequence[Sequence[str]]) -> Any:
        """Sparse [options of all questions, n-grams + 3]: an option's own words, its likeness to the question and to
        the other options, and its length among them."""
        from scipy.sparse import csr_matrix, hstack

        word_features = self.transform([option_text for own_options in options for option_text in own_options])
        question_vectors = self.transform(questions)
        dense_features = np.zeros((word_features.shape[0], OPTION_FEATURES))
        span_start = 0
        for row, own_options in enumerate(options):
            option_span = slice(span_start, span_start + len(own_options))
            span_start += len(own_options)
            own_words = word_features[option_span]
            word_totals = np.asarray(own_words.sum(axis=0))
            likeness = np.asarray((own_words @ question_vectors[row].T).todense()).ravel()
            dense_features[option_span, 0] = likeness / len(self.vectorizers)
            # Likeness to the others: distractors are often made from the right answer.
            itself = np.asarray(own_words.multiply(own_words).sum(axis=1)).ravel()
            dense_features[option_span, 1] = (np.asarray(own_words @ word_totals.T).ravel() - itself) / (
                len(self.vectorizers) * max(1, len(own_options) - 1)
            )
            option_lengths = np.log1p([len(option_text) for option_text in own_options])
            dense_features[option_span, 2] = option_lengths - option_lengths.mean()
        return hstack([word_features, csr_matrix(dense_features)], format="csr")


@dataclass(frozen=True)
class TfidfModel:
    """P(label 1) = sigmoid(features . coefficients + intercept). coefficients: [features]."""

    features: TfidfFeatures
    coefficients: NDArray[np.float64]
    intercept: float

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """P(label 1) of texts, [texts] in 0..1."""
        return self._probabilities(self.features.transform(texts)) if texts else np.zeros(0)

    def choose(self, questions: Sequence[str], options: Sequence[Sequence[str]]) -> list[NDArray[np.float64]]:
        """For each question, the probabilities of its options; they sum to 1."""
        _require_same(len(questions), len(options))
        if not questions:
            return []
        scores = self._probabilities(self.features.transform_options(questions, options))
        probabilities, span_start = [], 0
        for own_options in options:
            option_scores = scores[span_start : span_start + len(own_options)]
            probabilities.append(option_scores / option_scores.sum())
            span_start += len(own_options)
        return probabilities

    def _probabilities(self, feature_matrix: Any) -> NDArray[np.float64]:
        return sigmoid(np.asarray(feature_matrix @ self.coefficients) + self.intercept)


def fit_classifier(
    texts: Sequence[str],
    labels: Sequence[int],
    settings: TfidfConfig = _DEFAULTS,
) -> TfidfModel:
    """A model that scores texts, learned from texts with labels 0 and 1.

    Raises TrainingError when there is only one label to learn from or no text, MissingExtraError without scikit-learn.
    """
    label_array = np.asarray(labels, dtype=np.int64)
    _require_same(len(texts), len(label_array))
    _require_both(label_array)
    features = TfidfFeatures.fit(texts, settings)
    return _fit(features, features.transform(texts), label_array, settings)


def fit_chooser(
    questions: Sequence[str],
    options: Sequence[Sequence[str]],
    answers: Sequence[int],
    settings: TfidfConfig = _DEFAULTS,
) -> TfidfModel:
    """A model that chooses among options, learned pairwise: is this option right?

    Questions with other options, or another number of them, can be answered, since an option is described by its words
    and by how it stands to the others. answers: index of the right option. Raises TrainingError for an index outside
    the options, and as `fit_classifier` does.
    """
    _require_same(len(questions), len(options), len(answers))
    labels = []
    for number, (own_options, answer) in enumerate(zip(options, answers, strict=True), 1):
        if not 0 <= answer < len(own_options):
            raise TrainingError(f"question {number} of TF-IDF: answer {answer} of {len(own_options)} options")
        labels += [int(index == answer) for index in range(len(own_options))]
    label_array = np.asarray(labels, dtype=np.int64)
    _require_both(label_array)
    option_texts = [option_text for own_options in options for option_text in own_options]
    features = TfidfFeatures.fit([*questions, *option_texts], settings)
    return _fit(features, features.transform_options(questions, options), label_array, settings)


def nearest_answers(
    train_questions: Sequence[str], train_answers: Sequence[str], questions: Sequence[str]
) -> list[tuple[str, float]]:
    """For each question, the answer of the most similar training question, and that cosine similarity (0..1).

    Of equally similar ones the first wins. Raises TrainingError when there is nothing to learn from.
    """
    _require_same(len(train_questions), len(train_answers))
    features = TfidfFeatures.fit(train_questions)
    train_vectors = features.transform(train_questions)
    nearest_pairs = []
    for batch_start in range(0, len(questions), 512):
        vectors = features.transform(questions[batch_start : batch_start + 512])
        likeness = np.asarray((vectors @ train_vectors.T).todense())
        # Each row is two vectors of length 1 side by side, so the product of two rows is at most 2.
        nearest = zip(likeness, likeness.argmax(axis=1), strict=True)
        nearest_pairs += [(train_answers[index], float(row[index]) / 2) for row, index in nearest]
    return nearest_pairs


def feature_sets(settings: TfidfConfig) -> tuple[str, ...]:
    """Which of "words" and "pieces" are counted, in the order of their columns."""
    return ("words", "pieces") if settings.analyzer == "words_and_pieces" else (settings.analyzer,)


def _vectorizers(settings: TfidfConfig, vocabularies: dict[str, list[str]]) -> dict[str, Any]:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingExtraError("scikit-learn", extra="baseline", needed_for="TF-IDF") from error
    options: dict[str, dict[str, Any]] = {
        "words": {"ngram_range": (1, settings.word_ngrams), "token_pattern": r"(?u)\b\w+\b"},
        "pieces": {"analyzer": "char_wb", "ngram_range": (3, settings.piece_ngrams)},
    }
    return {
        name: TfidfVectorizer(sublinear_tf=True, vocabulary=vocabularies.get(name), **options[name])
        for name in feature_sets(settings)
    }


def _fit(features: TfidfFeatures, feature_matrix: Any, labels: NDArray[np.int64], settings: TfidfConfig) -> TfidfModel:
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(C=settings.inverse_regularisation, max_iter=2000).fit(feature_matrix, labels)
    return TfidfModel(features, np.asarray(classifier.coef_[0], dtype=np.float64), float(classifier.intercept_[0]))


def _require_same(*counts: int) -> None:
    if len(set(counts)) > 1:
        raise ValueError(f"sequences of one length are needed, got {counts}")


def _require_both(labels: NDArray[np.int64]) -> None:
    distinct_labels = np.unique(labels)
    if distinct_labels.tolist() != [0, 1]:
        seen_labels = ", ".join(map(str, distinct_labels)) or "none"
        raise TrainingError(
            f"TF-IDF needs the labels 0 and 1; those of {count_of(len(labels), 'row')} are: {seen_labels}",
            fix="give rows of both kinds",
        )
