"""One passage for equal texts, and for texts nearly equal: the longest of them, with the tags of all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from lorica.data.near_duplicates import join_near_duplicates
from lorica.data.union_find import UnionFind
from lorica.errors import RetrievalError
from lorica.retrieval.passages import IndexedPassage, SourceFile, passage_id

_NUMBER = re.compile(r"\d+")


class Deduplicated(msgspec.Struct, frozen=True):
    """passages: sorted by id. equal_chunks, near_duplicates: chunks that were left out for one that is there."""

    passages: list[IndexedPassage]
    equal_chunks: int
    near_duplicates: int


def deduplicate(files: Sequence[SourceFile], *, keep_near: bool) -> Deduplicated:
    """The distinct passages of files, sorted by name; source and title are those of the first file that has the text.

    Texts that are alike (`data.near_duplicates`) and hold the same numbers in the same order are one passage, unless
    keep_near: "x + 3 = 5" and "x + 4 = 6" are two."""
    by_text: dict[str, IndexedPassage] = {}
    chunk_count = 0
    for file in files:
        for chunk in file.chunks:
            chunk_count += 1
            source = f"{file.name}#{chunk.source}" if isinstance(chunk.source, int) else chunk.source or file.name
            tags = {*chunk.tags, *file.tags}
            first = by_text.get(chunk.text)
            if first is None:
                first = IndexedPassage(passage_id(chunk.text), chunk.text, source, chunk.title, ())
            by_text[chunk.text] = msgspec.structs.replace(first, tags=tuple(sorted({*first.tags, *tags})))
    distinct = sorted(by_text.values(), key=lambda passage: passage.id)
    _refuse_equal_ids(distinct)
    passages = distinct if keep_near else _without_near(distinct)
    return Deduplicated(passages, chunk_count - len(distinct), len(distinct) - len(passages))


def _without_near(distinct: Sequence[IndexedPassage]) -> list[IndexedPassage]:
    union_find = UnionFind(len(distinct))
    join_near_duplicates([passage.text for passage in distinct], union_find)
    groups: dict[tuple[int, tuple[str, ...]], list[IndexedPassage]] = {}
    for index, passage in enumerate(distinct):
        numbers = tuple(_NUMBER.findall(passage.text))
        groups.setdefault((union_find.find(index), numbers), []).append(passage)
    return sorted(map(_merge, groups.values()), key=lambda passage: passage.id)


def _merge(group: Sequence[IndexedPassage]) -> IndexedPassage:
    longest = max(group, key=lambda passage: (len(passage.text), passage.id))
    return msgspec.structs.replace(longest, tags=tuple(sorted({tag for passage in group for tag in passage.tags})))


def _refuse_equal_ids(distinct: Iterable[IndexedPassage]) -> None:
    previous = ""
    for passage in distinct:
        if passage.id == previous:
            raise RetrievalError(f"two passages have the id {passage.id}", fix="change a character of one of them")
        previous = passage.id
