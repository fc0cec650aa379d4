"""The table of codes: complete, consistent, documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lorica.vetting.causes import CAUSES
from lorica.vetting.codes import CODES
from lorica.vetting.codes.alignment import ALIGNMENT
from lorica.vetting.codes.behaviour import BEHAVIOUR
from lorica.vetting.codes.claims import CLAIMS
from lorica.vetting.codes.document import document
from lorica.vetting.codes.files import FILES
from lorica.vetting.codes.fit import FIT
from lorica.vetting.codes.numbers import NUMBERS
from lorica.vetting.codes.passport import PASSPORT
from lorica.vetting.codes.structure import STRUCTURE

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    "files": (FILES, 1, 99),
    "structure": (STRUCTURE, 100, 149),
    "claims": (CLAIMS, 150, 199),
    "numbers": (NUMBERS, 200, 299),
    "fit": (FIT, 300, 319),
    "alignment": (ALIGNMENT, 320, 339),
    "passport": (PASSPORT, 340, 379),
    "behaviour": (BEHAVIOUR, 400, 479),
}

# Codes that were published once. L151, L152, L162: words and sizes in folder names and in the text of cards.
RETIRED = {"L151", "L152", "L162"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_code_lies_in_its_room(room: str) -> None:
    codes, low, high = ROOMS[room]
    assert codes
    for code in codes:
        assert re.fullmatch(r"L\d{3}", code)
        assert low <= int(code[1:]) <= high, f"{code} is outside L{low:03}-L{high:03}"


def test_no_code_is_in_two_rooms() -> None:
    assert sum(len(codes) for codes, _, _ in ROOMS.values()) == len(CODES)


def test_retired_numbers_stay_unused() -> None:
    assert not CODES.keys() & RETIRED


@pytest.mark.parametrize("code", CODES)
def test_every_code_says_what_it_means_and_what_to_do(code: str) -> None:
    known = CODES[code]
    assert known.title
    assert not known.title.endswith(".")
    assert set(known.causes) <= set(CAUSES)
    if known.severity == "reject":
        assert known.fix, f"{code} rejects and does not say what to do"


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_made_somewhere(code: str) -> None:
    source = ROOT / "src" / "lorica"
    rooms = {source / "vetting" / "codes"}
    texts = [path.read_text("utf-8") for path in source.rglob("*.py") if path.parent not in rooms]
    assert any(f'"{code}"' in text for text in texts), f"{code} is listed and never found"


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "findings.md").read_text("utf-8")
    assert page == document(), "run: python -m lorica.vetting.codes.document > docs/findings.md"
