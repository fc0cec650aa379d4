"""Cleaning, splitting and de-duplication keep what they should."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lorica.retrieval.clean_text import clean_text, join_hyphenated
from lorica.retrieval.deduplicate import deduplicate
from lorica.retrieval.lexical_tokens import lexical_tokens
from lorica.retrieval.passages import Chunk, SourceFile
from lorica.retrieval.split_text import split_text
from lorica.retrieval.split_tokenizer import DEFAULT_TOKENIZER, SplitTokenizer, open_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> SplitTokenizer:
    """The default one."""
    return open_tokenizer(DEFAULT_TOKENIZER)


def test_cleaning_leaves_one_form_of_a_text() -> None:
    assert (
        clean_text("cafe\u0301 so\u00adft\u200b \u00a0 a\t b \r\n\r\n\r\n\r\n c\x07\u2028d ") == "café soft a b\n\nc\nd"
    )
    assert clean_text(clean_text("a\r\r\rb")) == clean_text("a\r\r\rb")
    assert join_hyphenated("exam-\nple, A-\nB") == "example, A-\nB"


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab .。!\n水é\t", max_size=600), st.integers(8, 40))
@example(" 。a水é. \t。.\t\né\n。水。。水a", 8)  # the last word before the limit began before the passage
def test_without_overlap_the_passages_are_the_text(tokenizer: SplitTokenizer, text: str, length: int) -> None:
    chunks = split_text(text, tokenizer, length=length, overlap=0)
    assert "".join("".join(chunks).split()) == "".join(text.split())
    # A cut inside a word may make a token more of it.
    assert all(len(tokenizer.spans(chunk)) <= length + 2 for chunk in chunks)


def test_passages_overlap_and_end_with_sentences(tokenizer: SplitTokenizer) -> None:
    random.seed(0)
    sentences = [f"Sentence {number} is about {random.choice(['water', 'iron'])} and more." for number in range(60)]
    chunks = split_text(" ".join(sentences), tokenizer, length=80, overlap=30)
    assert len(chunks) > 5
    for before, after in pairwise(chunks):
        assert before.endswith(".")
        assert after.startswith("Sentence")
        first = after.split(".")[0]
        assert first in before  # a whole sentence is in both
    assert {sentence for sentence in sentences if any(sentence in chunk for chunk in chunks)} == set(sentences)
    chinese = "这是一个句子。" * 60
    assert all(chunk.endswith("。") for chunk in split_text(chinese, tokenizer, length=50, overlap=0))


@pytest.mark.parametrize("text", ["x" * 200_000, "水" * 100_000, "a\n" * 100_000, "\n" * 100_000, "🙂" * 50_000])
def test_texts_without_sentences_are_split_in_time_that_grows_with_them(tokenizer: SplitTokenizer, text: str) -> None:
    chunks = split_text(text, tokenizer, length=200, overlap=40)
    assert (len(chunks) > 10) == bool(text.strip())
    assert max(map(len, chunks), default=0) <= 200 * 32


def test_terms_are_words_and_pairs() -> None:
    assert lexical_tokens("The CAFÉ's Ｗidth, C++ 3.14!") == ["the", "café", "s", "width", "c", "3", "14"]
    assert lexical_tokens("水果abc") == ["水", "果", "水果", "abc"]
    assert lexical_tokens('?! "' + "\0") == []
    assert lexical_tokens("x" * 100) == ["x" * 64]


def _file(name: str, *texts: str, tags: tuple[str, ...] = ()) -> SourceFile:
    return SourceFile(name, "text", "sha256:" + name, tags, tuple(Chunk(text) for text in texts))


def test_equal_and_nearly_equal_passages_are_one_with_the_tags_of_all() -> None:
    long = "The Danube rises in the Black Forest and flows through ten countries into the Black Sea, where it ends"
    files = [
        _file(
            "a", f"{long}.", "Solve the equation x + 3 = 5 for x, and write down each step that you take.", tags=("1",)
        ),
        _file("b", f"{long}.", f"{long}!!", tags=("2",)),
        _file("c", "Solve the equation x + 4 = 6 for x, and write down each step you take."),
    ]
    distinct = deduplicate(files, keep_near=False)
    assert (len(distinct.passages), distinct.equal_chunks, distinct.near_duplicates) == (3, 1, 1)
    danube = next(passage for passage in distinct.passages if "Danube" in passage.text)
    assert (danube.source, danube.text, danube.tags) == ("b", f"{long}!!", ("1", "2"))
    assert len(deduplicate(files, keep_near=True).passages) == 4
    assert [passage.id for passage in distinct.passages] == sorted(passage.id for passage in distinct.passages)
