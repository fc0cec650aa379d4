"""The documentation leads where it says: links between pages, headings in them, and pages that code names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "src/**/*.md", "bench/**/*.md", "tools/**/*.md")
    for path in ROOT.glob(pattern)
)
SHELVES = {"docs": "use", "design": "how it works inside", "research": "what was measured"}

_LINK = re.compile(r"\]\(([^()\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_MENTION = re.compile(r"\bdocs/[\w/]+\.md\b")


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _links(page: Path) -> Iterator[str]:
    for target in _LINK.findall(_CODE.sub("", page.read_text("utf-8"))):
        if "://" not in target and not target.startswith("mailto:"):
            yield target


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them: small letters, no punctuation, dashes for blanks."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target in _links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{_id(page)}: {target}"
        if anchor:
            assert anchor in _anchors(file), f"{_id(page)}: {target} is no heading of {_id(file)}"


def test_every_page_stands_on_a_shelf_and_is_reached_from_the_first_one() -> None:
    docs = ROOT / "docs"
    assert {page.parent.name for page in docs.rglob("*.md")} == set(SHELVES)
    linked = {(docs / target.partition("#")[0]).resolve() for target in _links(docs / "index.md")}
    assert sorted(_id(page) for page in docs.rglob("*.md") if page not in linked | {docs / "index.md"}) == []


@pytest.mark.parametrize("folder", ["src", "tests", "bench", "tools"])
def test_pages_that_code_names_are_there(folder: str) -> None:
    for file in sorted((ROOT / folder).rglob("*.py")):
        for page in _MENTION.findall(file.read_text("utf-8")):
            assert (ROOT / page).is_file(), f"{_id(file)} names {page}"


def test_readme_and_contributing_name_pages_that_are_there() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for mention in _MENTION.findall(page.read_text("utf-8")):
            assert (ROOT / mention).is_file(), f"{_id(page)} names {mention}"


def _squeezed(text: str) -> str:
    """A text without blanks, marks and capitals, so that `prefix cache` stands in `PrefixCache` and `prefix_cache`."""
    return re.sub(r"[\W_]", "", text).lower()


def test_the_glossary_names_files_that_hold_its_words() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| (`[^|]+`) \|$", (ROOT / "docs/glossary.md").read_text("utf-8"), re.M)
    assert len(rows) > 60
    words = [entry.split(", ")[0] for entry, _ in rows]
    assert sorted(words) == sorted(set(words))
    for word, (_, where) in zip(words, rows, strict=True):
        files = [ROOT / "src/lorica" / path for path in re.findall("`([^`]+)`", where)]
        missing = [_id(file) for file in files if not file.exists()]
        assert not missing, f"{word}: {missing}"
        texts = [_squeezed(file.name + file.read_text("utf-8")) for file in files if file.suffix == ".py"]
        singular = _squeezed(word).removesuffix("s")
        assert not texts or any(singular in text for text in texts), f"{word}: not in {where}"
