"""Tables that a reader sorts and filters: plain without the script, and no script runs but our own."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess

import pytest
from tests.reports.test_reports import EVIL, parsed

from lorica.reports.html import to_html
from lorica.reports.interactive import SCRIPT
from lorica.reports.page import Cell, Report, ReportTable, Section


def report(name: str, count: int = 30) -> Report:
    rows: tuple[tuple[Cell, ...], ...] = tuple((i, f"{name} {i}", ("good", "bad")[i % 2], i / 3) for i in range(count))
    table = ReportTable(
        ("place", "adapter", "verdict", "score"),
        rows,
        interactive=True,
        sections=tuple(range(2, count + 2)),
        choose=("verdict",),
        narrow=("place", "adapter"),
    )
    folded = tuple(Section(f"{name} {i}", name, folded=True) for i in range(count))
    return Report("Many", "", (Section("Side by side", tables=(table,)), *folded))


def test_a_page_of_many_opens_with_its_table() -> None:
    page = to_html(report("adapter"))
    tags = parsed(page).seen
    assert "nav" not in [tag for tag, _ in tags]
    assert sum(tag == "details" for tag, _ in tags) == 30
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [f"#s{number}" for number in range(2, 32)]
    ids = {attributes.get("id") for _, attributes in tags}
    assert {link[1:] for link in links if link} <= ids


def test_only_our_script_may_run() -> None:
    page = to_html(report(EVIL))
    tags = parsed(page).seen
    assert sum(tag == "script" for tag, _ in tags) == 1
    policy = next(attributes["content"] or "" for tag, attributes in tags if "http-equiv" in attributes)
    inside = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert inside is not None
    digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert not any(word in SCRIPT for word in ("innerHTML", "eval(", "document.write", "insertAdjacentHTML"))
    assert not any(attributes.keys() & {"src", "onload", "onclick", "style"} for _, attributes in tags)
    assert not re.search(r"url\(|@import|https?://", page)


def test_equal_reports_are_equal_bytes_and_plain_ones_have_no_script() -> None:
    assert to_html(report("x")) == to_html(report("x"))
    plain = Report("Few", "", (Section("Side by side", tables=(ReportTable(("a",), (("b",),)),)),))
    assert "<script" not in to_html(plain)
    assert "script-src" not in to_html(plain)


def test_without_the_script_it_is_a_plain_table_whose_heads_say_what_the_script_needs() -> None:
    tags = parsed(to_html(report("adapter"))).seen
    cells = [attributes for tag, attributes in tags if tag == "td"]
    assert len(cells) == 4 * 30
    heads = [attributes for tag, attributes in tags if tag == "th"]
    assert [attributes.get("class") for attributes in heads] == ["number", None, "extra", "number extra"]
    assert ["data-choose" in attributes for attributes in heads] == [False, False, True, False]
    assert [attributes["scope"] for attributes in heads] == ["col"] * 4
    assert [attributes.get("data-value") for attributes in cells[3:12:4]] == [None, "0.3333333333333333", repr(2 / 3)]
    assert {"button", "input", "select"}.isdisjoint(tag for tag, _ in tags)  # the script makes them


def test_marks_details_and_totals_stand_in_the_table() -> None:
    rows: tuple[tuple[Cell, ...], ...] = (("a", "long\r\ntext", "x"), ("b", "", "y"))
    table = ReportTable(
        ("id", "row", "raw"),
        rows,
        "Rows",
        True,
        opens=True,
        detail=("raw",),
        marks=(("wrong",), ("slow", "wrong")),
        total=9000,
    )
    page = to_html(Report("R", "", (Section("S", tables=(table,)),)))
    tags = parsed(page).seen
    assert ("table", {"class": "interactive", "data-opens": None, "data-marks": "wrong|slow"}) in tags
    assert [attributes.get("class") for tag, attributes in tags if tag == "tr"] == [None, "m0", "m1 m0"]
    assert [attributes.get("class") for tag, attributes in tags if tag == "th"] == [None, None, "detail"]
    assert "Rows (2 of 9,000 rows listed: the first)" in page
    assert "long\ntext" in page


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to parse the script")
def test_the_script_is_one(tmp_path: object) -> None:
    subprocess.run(["node", "--check", "-"], input=SCRIPT.encode(), check=True, timeout=60)
