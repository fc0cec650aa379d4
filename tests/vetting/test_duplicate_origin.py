"""Of copies, the one whose papers prove it is not accused of being one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from lorica.adapters.config import AdapterConfig
from lorica.vetting.batch import examine_all
from lorica.vetting.files.sources import find_sources
from lorica.vetting.findings import Finding, finding
from lorica.vetting.numbers.duplicate_origin import Origin, downgrade_originals

from .numbers_fixtures import healthy, write


def _say(code: str, *others: str) -> Finding:
    return finding(code, "seen", facts={"others": list(others)})


def _severities(findings: dict[str, Sequence[Finding]], known: dict[str, Origin]) -> dict[str, dict[str, str]]:
    cleared = downgrade_originals(findings, known)
    return {name: {each.code: each.severity for each in found} for name, found in cleared.items()}


@pytest.mark.parametrize(("a", "b", "says"), [
    ("proven", "unknown", ("note", "warn")),
    ("proven", "altered", ("note", "warn")),
    ("unknown", "altered", ("note", "warn")),
    ("unknown", "proven", ("warn", "note")),
    ("unknown", "unknown", ("warn", "warn")),
    ("proven", "proven", ("warn", "warn")),
])  # fmt: skip
@pytest.mark.parametrize("code", ["L252", "L253"])
def test_papers_decide_between_two(a: Origin, b: Origin, says: tuple[str, str], code: str) -> None:
    found = _severities({"a": [_say(code, "b")], "b": [_say(code, "a")]}, {"a": a, "b": b})
    assert (found["a"][code], found["b"][code]) == says


def test_of_equal_files_the_first_is_kept_unless_papers_say_otherwise() -> None:
    alike: dict[str, Sequence[Finding]] = {name: [_say("L250", *({"a", "b", "c"} - {name}))] for name in "abc"}
    found = _severities(alike, dict.fromkeys("abc", "unknown"))
    assert [found[name]["L250"] for name in "abc"] == ["note", "warn", "warn"]
    found = _severities(alike, {"a": "unknown", "b": "unknown", "c": "proven"})
    assert [found[name]["L250"] for name in "abc"] == ["warn", "warn", "note"]


def test_what_equals_the_original_is_not_the_altered_one() -> None:
    alike: dict[str, Sequence[Finding]] = {
        "bare": [_say("L250", "full"), _say("L252", "louder")],
        "full": [_say("L250", "bare"), _say("L252", "louder")],
        "louder": [_say("L252", "bare", "full")],
    }
    found = _severities(alike, {"bare": "unknown", "full": "proven", "louder": "unknown"})
    assert found == {
        "bare": {"L250": "warn", "L252": "note"},
        "full": {"L250": "note", "L252": "note"},
        "louder": {"L252": "warn"},
    }


def test_other_findings_are_left_alone() -> None:
    found = _severities({"a": [_say("L251", "b"), _say("L255", "b")]}, {"a": "proven", "b": "unknown"})
    assert found == {"a": {"L251": "note", "L255": "note"}}


def test_a_healthy_original_is_not_warned_of_beside_its_copy(tmp_path: Path) -> None:
    for name, seed in (("original", 0), ("same", 0), ("third", 1)):
        config = AdapterConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        write(tmp_path / name, healthy(seed=seed), config=config)
    with ExitStack() as stack:
        found = examine_all(find_sources([tmp_path]), stack, jobs=1)
    said = {each.source.name: {one.severity for one in each.findings if one.code == "L250"} for each in found}
    assert said == {"original": {"note"}, "same": {"warn"}, "third": set()}
