from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline, make_union

from lorica.config.shallow_section import TfidfConfig
from lorica.errors import MissingExtraError, TrainingError
from lorica.training.tfidf import TfidfFeatures, TfidfModel, fit_chooser, fit_classifier, nearest_answers

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def test_spam_is_told_from_ham() -> None:
    path = SHARED / "sms_spam"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    rows = [json.loads(line) for file in sorted(path.glob("*.jsonl")) for line in file.read_text("utf-8").splitlines()]
    texts, labels = [row["text"] for row in rows], [int(row["label"] == "spam") for row in rows]
    model = fit_classifier(texts[:1000], labels[:1000])
    scores = model.score(texts[1000:2000])
    assert roc_auc_score(labels[1000:2000], scores) > 0.97
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert np.array_equal(scores, fit_classifier(texts[:1000], labels[:1000]).score(texts[1000:2000]))


def _spam_and_ham() -> tuple[list[str], list[int]]:
    texts = [
        f"win {prize} now, call {number}" for number, prize in enumerate(("cash", "a phone", "gold", "a trip") * 3)
    ]
    texts += [f"see you at {hour} for {meal}" for hour, meal in enumerate(("lunch", "tea", "dinner", "a walk") * 3)]
    return texts, [1] * 12 + [0] * 12


def test_probabilities_are_those_of_scikit_learn() -> None:
    texts, labels = _spam_and_ham()
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    oracle = make_pipeline(make_union(words, pieces), LogisticRegression(C=10.0, max_iter=2000)).fit(texts, labels)
    questions = ["win a trip", "tea at five", "", "gold for lunch"]
    assert fit_classifier(texts, labels).score(questions) == pytest.approx(
        oracle.predict_proba(questions)[:, 1], abs=1e-12
    )


def test_features_are_restored_to_the_last_bit() -> None:
    texts, labels = _spam_and_ham()
    model = fit_classifier(texts, labels)
    features = TfidfFeatures.restore(model.features.vocabularies, model.features.inverse_frequencies)
    restored = TfidfModel(features, model.coefficients, model.intercept)
    assert np.array_equal(restored.score([*texts, "", "gold?"]), model.score([*texts, "", "gold?"]))
    with pytest.raises(ValueError, match="Duplicate"):
        TfidfFeatures.restore({"words": ["a", "a"], "pieces": []}, model.features.inverse_frequencies)


def test_one_kind_of_label_or_no_words_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"those of 2 rows are: 1"):
        fit_classifier(["a b", "c d"], [1, 1])
    with pytest.raises(TrainingError, match="are: none"):
        fit_classifier([], [])
    with pytest.raises(TrainingError, match="no words to learn from in 2 texts"):
        fit_classifier(["", " "], [0, 1])


def test_nothing_to_score_gives_nothing() -> None:
    assert fit_classifier(["a b", "c d"], [0, 1]).score([]).shape == (0,)
    assert fit_chooser(["q a"], [["a", "b"]], [0]).choose([], []) == []
    assert nearest_answers(["q a"], ["a"], []) == []


def test_a_text_without_known_words_gets_the_prior() -> None:
    model = fit_classifier(["buy gold", "buy silver", "good day", "good night"], [1, 1, 0, 0])
    scores = model.score(["buy", "", "good"])
    assert scores[0] > scores[1] > scores[2]


def test_options_are_scored_against_their_question_whatever_their_number() -> None:
    questions = [f"which {colour} thing is {colour}?" for colour in ("red", "blue", "green", "black", "white")] * 4
    options = [
        [f"a {colour} thing", "something else", "nothing at all"][:: 1 if index % 2 else -1]
        for index, colour in enumerate(["red", "blue", "green", "black", "white"] * 4)
    ]
    answers = [0 if index % 2 else 2 for index in range(20)]
    model = fit_chooser(questions, options, answers)
    found = model.choose(["which yellow thing is yellow?"], [["nothing", "a yellow thing"]])
    assert len(found) == 1
    assert found[0].sum() == pytest.approx(1)
    assert found[0].argmax() == 1


def test_an_answer_outside_the_options_is_refused() -> None:
    with pytest.raises(TrainingError, match="question 1 of TF-IDF: answer 2 of 2 options"):
        fit_chooser(["q"], [["a", "b"]], [2])


def test_the_nearest_question_lends_its_answer() -> None:
    found = nearest_answers(
        ["What is the capital of France?", "How many legs has a spider?"],
        ["Paris", "eight"],
        ["How many legs do spiders have?", "what is the capital of france", "How many legs has a spider?"],
    )
    assert [answer for answer, _ in found] == ["eight", "Paris", "eight"]
    assert found[2][1] == pytest.approx(1)
    assert 0 < found[0][1] < 1


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lorica\[baseline\]'"):
        fit_classifier(["a", "b"], [0, 1])


def test_sequences_of_unequal_length_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="one length"):
        nearest_answers(["a", "b"], ["c"], ["a"])


@pytest.mark.parametrize(
    "settings", [TfidfConfig(analyzer="words", word_ngrams=3), TfidfConfig(analyzer="pieces", piece_ngrams=7)]
)
def test_what_is_counted_is_chosen(settings: TfidfConfig) -> None:
    texts, labels = ["buy cheap gold now", "buy silver now", "have a good day", "good night to you"], [1, 1, 0, 0]
    model = fit_classifier(texts, labels, settings)
    assert list(model.features.vocabularies) == [settings.analyzer]
    terms = model.features.vocabularies[settings.analyzer]
    assert ("buy cheap gold" in terms) == (settings.analyzer == "words")
    assert (" silver" in terms) == (settings.analyzer == "pieces")
    restored = TfidfFeatures.restore(model.features.vocabularies, model.features.inverse_frequencies, settings)
    assert (restored.transform(texts) != model.features.transform(texts)).nnz == 0
    questions, options = ["what is gold", "what is the day"], [["a metal", "a day"], ["a metal", "a day"]]
    chooser = fit_chooser(questions, options, [0, 1], settings)
    assert all(probabilities.sum() == pytest.approx(1) for probabilities in chooser.choose(questions, options))
