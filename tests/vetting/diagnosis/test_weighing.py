"""What evidence makes of hypotheses: Bayes against a plain computation, groups, floors, words."""

from __future__ import annotations

import math

import pytest

from lorica.vetting.diagnosis import likelihoods
from lorica.vetting.diagnosis.experiments import EXPERIMENTS
from lorica.vetting.diagnosis.finding_likelihoods import (
    CLEAN,
    VARIANTS,
    consistent,
    finding_likelihoods,
    from_clean,
    from_findings,
)
from lorica.vetting.diagnosis.next_steps import runnable
from lorica.vetting.diagnosis.posterior import (
    GROUP_CAP,
    NONE,
    NONE_FLOOR,
    Evidence,
    all_causes,
    certainty,
    direction,
    posteriors,
    rank,
)
from lorica.vetting.findings import causes, finding, finding_codes


def seen(name: str, group: str, **weights: float) -> Evidence:
    return Evidence(id=name, text=name, source="test", group=group, weights=weights)


def shares(*evidence: Evidence) -> dict[str, float]:
    return posteriors(evidence)


def test_without_evidence_the_priors_stand() -> None:
    priors = {name: cause.prior for name, cause in all_causes().items()}
    assert shares() == pytest.approx({name: prior / sum(priors.values()) for name, prior in priors.items()})
    assert sum(shares().values()) == pytest.approx(1)
    assert {each.cause for each in rank([])} == {*causes(), NONE}
    assert {each.certainty for each in rank([])} == {"possible", "unlikely"}


@pytest.mark.parametrize(
    ("posterior", "weights", "word"),
    [
        (0.98, (6.0, 1.0), "settled"),
        (0.98, (6.0, -3.0), "likely"),  # something strong contradicts it
        (0.98, (2.5, 2.0), "likely"),  # nothing that decides it alone speaks for it
        (0.94, (6.0,), "likely"),
        (0.5, (6.0,), "likely"),
        (0.49, (6.0,), "possible"),
        (0.04, (6.0,), "unlikely"),
    ],
)
def test_certainty_in_words(posterior: float, weights: tuple[float, ...], word: str) -> None:
    assert certainty(posterior, weights) == word


def test_it_is_bayes() -> None:
    found = shares(seen("a", "one", healthy=2.0), seen("b", "two", healthy=-1.0, inverted=0.5))
    priors = {name: cause.prior for name, cause in all_causes().items()}
    odds = priors | {"healthy": priors["healthy"] * math.e, "inverted": priors["inverted"] * math.exp(0.5)}
    for cause, value in odds.items():
        assert found[cause] == pytest.approx(value / sum(odds.values()), abs=2e-4)


def test_evidence_of_one_group_counts_once() -> None:
    once = shares(seen("a", "same", wrong_base=2.0))
    assert shares(*(seen(str(n), "same", wrong_base=2.0) for n in range(5))) == once
    assert shares(seen("a", "one", wrong_base=2.0), seen("b", "two", wrong_base=2.0)) != once
    # Within a group the heaviest for and the heaviest against both count.
    both = shares(seen("a", "same", wrong_base=2.0), seen("b", "same", wrong_base=-2.0))
    assert both["wrong_base"] == pytest.approx(shares()["wrong_base"])


def test_no_group_outweighs_all_others() -> None:
    assert shares(seen("a", "one", healthy=1e6)) == shares(seen("a", "one", healthy=GROUP_CAP))


def test_room_is_left_for_a_cause_that_nobody_listed() -> None:
    assert shares(seen("a", "one", healthy=GROUP_CAP))[NONE] == pytest.approx(NONE_FLOOR)
    refuted = shares(seen("a", "one", **dict.fromkeys(causes(), -GROUP_CAP)))
    assert refuted[NONE] > 0.99


@pytest.mark.parametrize(
    ("weight", "word"),
    [
        (3, "strongly for"),
        (1.2, "for"),
        (0.4, "neutral"),
        (-0.9, "neutral"),
        (-1.5, "against"),
        (-7, "strongly against"),
    ],
)
def test_weights_in_words(weight: float, word: str) -> None:
    assert direction(weight) == word


def test_the_tables_speak_of_causes_and_codes_that_exist() -> None:
    known = set(causes()) | {NONE}
    names = {each.name for each in EXPERIMENTS}
    for row in finding_codes().values():
        assert {cause for weights in (row.likelihoods or {}, *row.variants.values()) for cause in weights} <= known
        assert row.weighed_by in {*names, ""}
        assert set(row.explains) <= {*names, *finding_codes()}
    assert {code for code, row in finding_codes().items() if row.variants} == set(VARIANTS)
    assert {cause for weights, _ in CLEAN.values() for cause in weights} <= known
    assert {cause for each in EXPERIMENTS for cause in each.separates} <= known
    assert {cause for row in finding_codes().values() for cause in row.causes} <= known


def test_every_cause_but_two_can_be_spoken_for_by_a_finding_or_an_experiment() -> None:
    for cause in set(causes()) - {"healthy", "hard_task"}:
        assert any(cause in each.separates for each in EXPERIMENTS) or any(
            cause in code.causes for code in finding_codes().values()
        ), cause


@pytest.mark.parametrize("code", sorted(code for code, each in finding_codes().items() if each.severity == "reject"))
def test_every_rejection_refutes_that_all_is_well(code: str) -> None:
    weights = finding_likelihoods(finding(code, "seen"))
    if code in ("L370", "L371", "L372", "L373"):
        return  # the canaries are weighed as an experiment, with their figures
    assert weights["healthy"] <= -4
    assert max(weights.values()) < 10


@pytest.mark.parametrize("code", sorted(code for code, each in finding_codes().items() if each.severity == "note"))
def test_no_note_alone_makes_a_diagnosis(code: str) -> None:
    before, after = shares(), shares(*from_findings([finding(code, "seen")]))
    assert after["healthy"] > before["healthy"] / 3
    assert max(after, key=lambda cause: after[cause] / before[cause]) == "healthy" or max(after.values()) < 0.35


def test_what_was_not_found_speaks_against() -> None:
    (clean,) = [each for each in from_clean([], {2}) if each.id == "clean.numbers"]
    assert clean.weights["no_effect"] < -3
    assert from_clean([], {0})[0].weights.keys() == {"unreadable"}
    spoken = from_clean([finding("L211", "some are zero")], {2})
    assert "no_effect" not in spoken[0].weights
    assert "broken_weights" in spoken[0].weights
    # A level that rejects is not clean at all.
    assert from_clean([finding("L210", "zero")], {2}) == []


def test_what_one_check_finds_another_does_not_refute() -> None:
    clean = Evidence(id="c", text="", source="checks", group="c", weights={"not_applied": -4.0, "unsupported": -5.0})
    (kept, _) = consistent([clean, *from_findings([finding("L304", "elsewhere")])])
    assert kept.weights == {"unsupported": -5.0}


def test_what_follows_from_a_finding_is_not_weighed_again() -> None:
    found = consistent(from_findings([finding("L113", "turned"), finding("L301", "widths")]))
    assert [each.source for each in found] == ["L113"]


def test_rows_that_were_cut_off_speak_of_the_settings_and_invalid_ones_of_the_parser() -> None:
    cut = finding_likelihoods(finding("L464", "cut", facts={"cut_off_share": 0.4}))
    invalid = finding_likelihoods(finding("L464", "invalid", facts={"invalid_share": 0.4}))
    assert max(cut, key=lambda cause: cut[cause]) == "generation_settings"
    assert max(invalid, key=lambda cause: invalid[cause]) == "parser_fallbacks"


def test_that_the_rest_works_is_nothing_against_parts_from_elsewhere() -> None:
    (strange,) = from_findings([finding("L323", "layers 1 and 2 are at chance")])
    works = Evidence(
        id="k", text="", source="skill", group="k", weights=likelihoods.skill_weights(0.95, 0.02, 9.0, 0.5)
    )
    there = Evidence(
        id="a", text="", source="alignment", group="a", weights=likelihoods.alignment_weights("match", 1.0)
    )
    assert rank(consistent([strange, works, there]))[0].cause in ("broken_weights", "wrong_base")
    assert rank(consistent([works, there]))[0].cause == "healthy"


def test_bases_that_are_shipped_are_typed_as_such() -> None:
    assert runnable("lorica/lorica-tiny") == "embedded:lorica_tiny"
    assert runnable("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"


def test_a_record_says_what_was_changed_and_how_far() -> None:
    larger = finding_likelihoods(finding("L160", "alpha", facts={"keys": ["lora_alpha"], "scale_ratio": 8.0}))
    assert max(larger, key=lambda cause: larger[cause]) == "over_scaled"
    assert larger["under_scaled"] < -5
    targets = finding_likelihoods(finding("L160", "targets", facts={"keys": ["target_modules"], "scale_ratio": 1.0}))
    assert targets["not_applied"] == 4
    assert "over_scaled" not in targets
