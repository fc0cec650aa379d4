"""The table of findings: complete, consistent, documented, and all that a new finding needs besides its check."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.vetting.numbers_fixtures import healthy, write

from lorica.vetting.findings import causes, finding_codes
from lorica.vetting.findings_page import findings_page

# Codes that were published once. L151, L152, L162: words and sizes in folder names and in the text of cards.
RETIRED = {"L151", "L152", "L162"}
ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "lorica"


def test_every_code_is_written_the_same_way_and_stands_in_its_order() -> None:
    codes = list(finding_codes())
    assert all(re.fullmatch(r"L[0-4]\d{2}", code) for code in codes)
    assert codes == sorted(codes)


def test_retired_numbers_stay_unused() -> None:
    assert not finding_codes().keys() & RETIRED


@pytest.mark.parametrize("code", finding_codes())
def test_every_code_says_what_it_means_and_what_to_do(code: str) -> None:
    row = finding_codes()[code]
    assert row.title
    assert not row.title.endswith(".")
    assert set(row.causes) <= set(causes())
    if row.severity == "reject":
        assert row.fix, f"{code} rejects and does not say what to do"


def test_causes_stand_in_the_order_of_their_likelihoods() -> None:
    row = finding_codes()["L113"]
    assert row.likelihoods is not None
    assert row.causes == ("unsupported", "unreadable", "broken_weights")
    assert [row.likelihoods[cause] for cause in row.causes] == [5.5, 4.5, 3.5]
    # `sound` stands for the two causes that say nothing is wrong with the adapter.
    assert row.likelihoods["healthy"] == row.likelihoods["hard_task"] == -6


@pytest.mark.parametrize("code", finding_codes())
def test_every_code_is_made_somewhere(code: str) -> None:
    texts = [path.read_text("utf-8") for path in PACKAGE.rglob("*.py")]
    assert any(f'"{code}"' in text for text in texts), f"{code} is listed and never found"


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "findings.md").read_text("utf-8")
    assert page == findings_page(), "run: python -m lorica.vetting.findings_page > docs/findings.md"


ROW = """
[L149]
severity = "reject"
title = "its factors are made of bread"
fix = "bake it again"
likelihoods = { unsupported = 9, sound = -6 }
"""
CHECK = """

def check_bread(tensor_map: TensorMap) -> list[Finding]:
    return [finding("L149", f"{len(tensor_map.pairs)} loaves")]
"""


def test_a_new_finding_is_its_row_and_its_function(tmp_path: Path) -> None:
    """A copy of the package with one row more in the table and one function more in a check: the verdict, the page of
    findings and the diagnosis know the finding, and nothing else was changed."""
    package = _linked_copy(tmp_path / "lorica", PACKAGE)
    vetting = _linked_copy(package / "vetting", PACKAGE / "vetting")
    structure = _linked_copy(vetting / "structure", PACKAGE / "vetting" / "structure")
    _replace(vetting / "findings.toml", "\n[L150]", f"{ROW}\n[L150]")
    module = structure / "check_structure.py"
    _replace(module, "+ pair_findings", "+ pair_findings + check_bread(tensor_map)")
    _replace(module, "", module.read_text("utf-8") + CHECK)
    adapter = str(write(tmp_path / "adapter", healthy()))

    verdict = json.loads(_run(tmp_path, "lorica", "check", adapter, "--json"))
    (finding,) = [item for item in _findings(verdict) if item["code"] == "L149"]
    assert finding["severity"] == "reject"
    assert finding["title"] == "its factors are made of bread"
    assert finding["fix"] == "bake it again"
    page = _run(tmp_path, "lorica.vetting.findings_page")
    assert "| L149 | reject | its factors are made of bread | bake it again | another kind of adapter |" in page
    diagnosis = json.loads(_run(tmp_path, "lorica", "diagnose", adapter, "--json"))
    assert (diagnosis["cause"], diagnosis["certainty"]) == ("unsupported", "settled")


def _linked_copy(folder: Path, source: Path) -> Path:
    """A folder of links to what lies in another, in the place of a link to that one."""
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir()
    for path in source.iterdir():
        if path.name != "__pycache__":
            (folder / path.name).symlink_to(path)
    return folder


def _replace(path: Path, old: str, new: str) -> None:
    """Change a file that is a link, without its target; "" as `old` stands for all of it."""
    text = path.read_text("utf-8")
    path.unlink()
    path.write_text(text.replace(old, new, 1) if old else new, "utf-8")


def _findings(report: object) -> list[dict[str, str]]:
    """All findings anywhere in a JSON value."""
    if isinstance(report, list):
        return [item for value in report for item in _findings(value)]
    if not isinstance(report, dict):
        return []
    return [report] if "code" in report and "seen" in report else _findings(list(report.values()))


def _run(folder: Path, module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env={"PYTHONPATH": str(folder)}
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout
