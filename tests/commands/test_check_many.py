"""Many adapters at once: names stay apart on the terminal, and the page is a table that leads to each of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lorica.commands import check
from tests.vetting.numbers_fixtures import healthy, write

LONG = "an-organisation-with-a-long-name-and-a-model-that-was-trained-for-long"


def test_names_stay_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{LONG}-seed{seed}-{LONG}" for seed in range(6)] + ["a b", "a  b", "a\x01b", "a\x02b"]
    for seed, name in enumerate(names):
        write(tmp_path / "all" / name, healthy(seed, layers=1))
    page = tmp_path / "page.html"
    check.run([str(tmp_path / "all"), "--html", str(page), "--jobs", "1"])
    text = capsys.readouterr().out.split("levels:")[0]
    shown = [
        re.split(r"  +(?:trusted|warnings|rejected)", line)[0].split(None, 1)[1] for line in text.split("\n")[2:-1]
    ]
    assert len(set(shown)) == len(names)
    assert all(any(re.search(rf"seed{seed}\b", row) for row in shown) for seed in range(6))
    html = page.read_text("utf-8")
    linked = re.findall(r'<td[^>]*><a href="#s(\d+)">([^<]*)</a>', html)
    assert len({name for _, name in linked}) == len(names)
    for number, name in linked:
        assert f'<h2 id="s{number}">{name}: ' in html
    assert "<nav" not in html
    assert html.count('<details class="section">') == len(names)


def test_a_few_are_shown_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        write(tmp_path / "all" / f"a{seed}", healthy(seed, layers=1))
    check.run([str(tmp_path / "all"), "--html", str(tmp_path / "page.html"), "--jobs", "1"])
    html = (tmp_path / "page.html").read_text("utf-8")
    assert '<details class="section">' not in html
    assert html.count("<section ") == 3
