"""TF-IDF with logistic regression as a model: rules by the rule and post, questions by their options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from lorica.adapters.shallow_folder import Doubles, ShallowFolder, ShallowKind
from lorica.config.shallow_section import TfidfConfig
from lorica.errors import AdapterError
from lorica.shallow.row_texts import LabelledRow, RowTexts
from lorica.shallow.shallow_model import RowAnswer
from lorica.training.tfidf import (
    OPTION_FEATURES,
    TfidfFeatures,
    TfidfModel,
    feature_sets,
    fit_chooser,
    fit_classifier,
)


@dataclass(frozen=True)
class ShallowTfidf:
    """model: scores posts, or chooses among options, as `answer_type` says."""

    model: TfidfModel
    answer_type: Literal["score", "option"]
    kind: ShallowKind = "tfidf"

    def answer(self, rows: Sequence[RowTexts]) -> list[RowAnswer]:
        """See `ShallowModel`."""
        if self.answer_type == "score":
            return [(score, 1 - score) for score in map(float, self.model.score([row.with_rule for row in rows]))]
        chosen = self.model.choose([row.text for row in rows], [row.options for row in rows])
        return [tuple(map(float, probabilities)) for probabilities in chosen]

    def arrays(self) -> dict[str, Doubles]:
        """Coefficients [features], intercept [1], and the inverse document frequencies of each feature set."""
        return {
            "coefficients": self.model.coefficients,
            "intercept": np.asarray([self.model.intercept]),
            **{f"idf.{name}": values for name, values in self.model.features.inverse_frequencies.items()},
        }

    def vocabularies(self) -> dict[str, list[str]]:
        """See `ShallowModel`."""
        return self.model.features.vocabularies

    def facts(self) -> dict[str, object]:
        """Nothing beside its arrays and n-grams."""
        return {}


def fit_tfidf(
    rows: Sequence[LabelledRow], answer_type: Literal["score", "option"], settings: TfidfConfig
) -> ShallowTfidf:
    """Fit on rows with gold. Raises TrainingError where one label is missing, MissingExtraError without
    scikit-learn."""
    labels = [row.label for row in rows]
    if answer_type == "score":
        model = fit_classifier([row.texts.with_rule for row in rows], labels, settings)
    else:
        model = fit_chooser(
            [row.texts.text for row in rows],
            [row.texts.options for row in rows],
            labels,
            settings,
        )
    return ShallowTfidf(model, answer_type)


def load_tfidf(folder: ShallowFolder) -> ShallowTfidf:
    """The model in a folder. Raises AdapterError where its arrays and n-grams do not belong together."""
    arrays, vocabularies = folder.arrays(), folder.vocabularies()
    try:
        settings = msgspec.convert(folder.config.settings, TfidfConfig)
        frequencies = {name: arrays[f"idf.{name}"] for name in feature_sets(settings)}
        features = TfidfFeatures.restore({name: vocabularies[name] for name in frequencies}, frequencies, settings)
        coefficients, intercept = arrays["coefficients"], float(arrays["intercept"].item())
    except (KeyError, ValueError, msgspec.ValidationError) as error:
        raise AdapterError(
            f"{folder.path}: its arrays and n-grams are not those of TF-IDF: {error}", fix="train it again"
        ) from error
    terms = sum(map(len, vocabularies.values()))
    if coefficients.shape != (terms + (OPTION_FEATURES if folder.config.answer_type == "option" else 0),):
        raise AdapterError(
            f"{folder.weights}: {coefficients.shape} coefficients for {terms} n-grams", fix="train it again"
        )
    return ShallowTfidf(TfidfModel(features, coefficients, intercept), folder.config.answer_type)
