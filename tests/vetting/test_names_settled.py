"""A base under another name than the adapter gives: what the alignment knows counts for more than a folder's name."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.vetting.test_fit import LLAMA, judged, save_base

from lorica.vetting.base.fit_identity import names_settled
from lorica.vetting.findings import finding


@pytest.mark.parametrize(("score", "severity"), [(42.9, "note"), (None, "warn")])
def test_a_base_under_another_name_is_no_warning_where_the_alignment_knows_it(
    score: float | None, severity: str, tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", {**LLAMA, "_name_or_path": "lmsys/vicuna-7b-v1.5"})
    found = judged(base, config={"base_model_name_or_path": "meta-llama/Llama-2-7b-hf"})
    if score is not None:
        found.append(finding("L320", "alignment", facts={"score": score}))
    (hit,) = [each for each in names_settled(found) if each.code == "L306"]
    assert hit.severity == severity
    assert ("42.9" in hit.seen) == (score is not None)


def test_another_revision_stays_a_warning_whatever_the_alignment(tmp_path: Path) -> None:
    base = save_base(tmp_path / "models--meta-llama--Llama-2-7b-hf" / "snapshots" / ("b" * 40))
    named = {"base_model_name_or_path": "meta-llama/Llama-2-7b-hf", "revision": "a" * 40}
    found = [*judged(base, config=named), finding("L320", "alignment", facts={"score": 42.9})]
    assert [each.severity for each in names_settled(found) if each.code == "L306"] == ["warn"]
