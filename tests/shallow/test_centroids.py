"""Centroids against their definition computed by hand, and the rows that they cannot answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.retrieval.conftest import CountingEncoder

from lorica.adapters.shallow_folder import ShallowConfig, open_shallow_folder, shallow_files
from lorica.calibration.calibration_maps import PlattScaling
from lorica.errors import AdapterError, TrainingError
from lorica.shallow.centroids import ShallowCentroids, load_centroids, unit
from lorica.shallow.embed_texts import RememberingEncoder
from lorica.shallow.fit_centroids import LabelledPost, RuleCentroids, all_texts, fit_centroids, labelled_posts
from lorica.shallow.row_texts import LabelledRow, RowTexts

SPAM = ("win cash now", "cash prize now", "free cash call now")
HAM = ("see you at lunch", "lunch was good", "are you at home")
ROWS = [LabelledRow(RowTexts(text, "No spam"), 1) for text in SPAM]
ROWS += [LabelledRow(RowTexts(text, "no  SPAM"), 0) for text in HAM]


def _fit(rows: list[LabelledRow], encoder: CountingEncoder) -> ShallowCentroids:
    texts = all_texts(rows)
    return fit_centroids(rows, rows, encoder, dict(zip(texts, _embed(encoder, *texts), strict=True)))


def _embed(encoder: CountingEncoder, *texts: str) -> np.ndarray:
    return encoder.encode(texts).astype(np.float64)


def _log_odds(member: ShallowCentroids, row: RowTexts) -> float:
    (answer,) = member.answer([row])
    assert not isinstance(answer, str)
    breaks, keeps = answer
    return float(np.log(breaks) - np.log(keeps))


def test_a_score_is_the_scaled_difference_of_cosines() -> None:
    encoder = CountingEncoder()
    member = _fit(ROWS, encoder)
    breaking, allowed = (unit(_embed(encoder, *texts).mean(axis=0)) for texts in (SPAM, HAM))
    (post,) = _embed(encoder, "cash at home")
    scaling = member.facts()["scalings"]["rule"]  # type: ignore[index]
    expected = scaling["slope"] * (post @ breaking - post @ allowed) + scaling["intercept"]
    assert _log_odds(member, RowTexts("cash at home", "No spam")) == pytest.approx(expected)
    assert member.answer([RowTexts("win a prize now", "NO SPAM")])[0][0] > 0.5  # type: ignore[operator]


def test_the_scale_is_fitted_with_the_own_post_left_out() -> None:
    encoder = CountingEncoder()
    embeddings = dict(zip((*SPAM, *HAM), _embed(encoder, *SPAM, *HAM), strict=True))
    centroids = RuleCentroids(labelled_posts(ROWS), embeddings)
    own = LabelledPost("no spam", SPAM[0], 1)
    expected = unit((embeddings[SPAM[1]] + embeddings[SPAM[2]]) / 2)
    without = centroids.centroid("no spam", 1, without=own)
    assert without is not None
    assert without == pytest.approx(expected)
    whole = centroids.centroid("no spam", 0, without=own)
    assert whole == pytest.approx(unit(np.mean([embeddings[text] for text in HAM], axis=0)))
    alone = RuleCentroids([own], embeddings)
    assert alone.centroid("no spam", 1, without=own) is None


def test_a_rows_own_examples_come_first_and_stand_for_unknown_rules() -> None:
    encoder = CountingEncoder()
    member = _fit(ROWS, encoder)
    row = RowTexts("lunch prize", "No food", breaking=("lunch was good",), allowed=("win cash now",))
    (post,), (breaking,), (allowed,) = (_embed(encoder, text) for text in ("lunch prize", HAM[1], SPAM[0]))
    scaling = member.facts()["scalings"]["row"]  # type: ignore[index]
    expected = scaling["slope"] * (post @ breaking - post @ allowed) + scaling["intercept"]
    assert _log_odds(member, row) == pytest.approx(expected)
    problem, one_sided = member.answer([RowTexts("x", "No food"), RowTexts("x", "No food", breaking=("y",))])
    assert "no breaking example" in str(problem)
    assert "'No food'" in str(problem)
    assert "no allowed example" in str(one_sided)


def test_one_side_of_examples_is_completed_by_the_rule() -> None:
    member = _fit(ROWS, CountingEncoder())
    assert not isinstance(member.answer([RowTexts("x", "No spam", breaking=("y",))])[0], str)


def test_rows_that_can_be_compared_with_nothing_are_refused() -> None:
    one_each = [ROWS[0], LabelledRow(RowTexts(HAM[0], "Be kind"), 0)]
    with pytest.raises(TrainingError, match="both labels"):
        _fit(one_each, CountingEncoder())


def test_a_member_comes_back_from_its_folder_to_the_last_bit(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    member = _fit(ROWS, encoder)
    config = ShallowConfig(
        format=1, kind="centroids", made_by="lorica", task="rules", answer_type="score", files={},
        encoder=encoder.digest, facts=member.facts(),
    )  # fmt: skip
    folder = tmp_path / "rules"
    folder.mkdir()
    for name, content in shallow_files(config, member.arrays()).items():
        (folder / name).write_bytes(content)
    opened = open_shallow_folder(folder)
    questions = [RowTexts("cash?", "No spam"), RowTexts("a", "b", ("c d",), ("e",))]
    assert load_centroids(opened, encoder).answer(questions) == member.answer(questions)
    with pytest.raises(AdapterError, match="was trained on embeddings of the encoder"):
        load_centroids(opened, CountingEncoder(salt="another"))


def test_embeddings_survive_an_interruption(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(600)]
    first = CountingEncoder()
    done = []

    class KilledError(Exception):
        pass

    def kill(count: int) -> None:
        done.append(count)
        if len(done) == 300:
            raise KilledError

    with pytest.raises(KilledError):
        RememberingEncoder(first).compute(texts, tmp_path, kill)
    second = CountingEncoder()
    remembering = RememberingEncoder(second)
    remembering.compute(texts, tmp_path, lambda count: None)
    assert len(second.texts) == 600 - 256
    assert not remembering.missing(texts)
    assert np.array_equal(remembering.encode(texts), CountingEncoder().encode(texts))
    assert len(second.texts) == 600 - 256


def test_a_source_without_both_labels_has_the_scale_of_the_other() -> None:
    member = _fit(ROWS, CountingEncoder())
    scalings = member.facts()["scalings"]
    assert isinstance(scalings, dict)
    assert scalings["row"] == scalings["rule"]
    assert PlattScaling(scalings["row"]["slope"], scalings["row"]["intercept"]).slope > 0
