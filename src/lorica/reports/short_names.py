"""Many names in little room: what they have in common is cut, what tells them apart stays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count, groupby, pairwise

CUT = "…"
# A window on what tells names apart begins with the word that it lies in, if that is not longer.
_WORD = 12
_WORDS = re.compile(r"[^\W_]+|[\W_]+")

Width = Callable[[str], int]


def short_names(names: Iterable[str], most: int, width: Width = len) -> dict[str, str]:
    """Name -> how it is shown, in at most `most` columns (16 or more); different names are shown differently.

    Long names are cut in the middle. Where that hides what tells one from the others, the words stay that names of the
    same build do not share, or a window on the first difference; where names differ in more places than there is room
    for, a number tells them apart. width: columns of a text.
    """
    distinct = list(dict.fromkeys(names))
    own = _own_parts(distinct)
    shown = {name: name for name in distinct if width(name) <= most}
    ways: tuple[Callable[[list[str]], dict[str, str]], ...] = (
        lambda remaining: {name: _cut(name, 0, 0.0, most, width) for name in remaining},
        lambda remaining: _own_words(remaining, most, width),
        lambda remaining: {name: _cut(name, own[name], 0.35, most, width) for name in remaining},
        lambda remaining: {name: _cut(name, own[name], 0.7, most, width) for name in remaining},
    )
    for strategy in ways:
        tried = strategy([name for name in distinct if name not in shown])
        counts = Counter([*shown.values(), *tried.values()])
        shown |= {name: text for name, text in tried.items() if counts[text] == 1}
    used = set(shown.values())
    marks = (f"{CUT}#{number}" for number in count(1))
    for name in (name for name in distinct if name not in shown):
        texts = (_cut(name, 0, 0.0, most - width(mark), width) + mark for mark in marks)
        shown[name] = next(text for text in texts if text not in used)
        used.add(shown[name])
    return shown


def _own_words(names: Sequence[str], most: int, width: Width) -> dict[str, str]:
    """Names of equally many words that begin alike -> the words in which they differ, behind their beginning."""
    alike: dict[tuple[int, str], list[list[str]]] = {}
    for name in names:
        words = _WORDS.findall(name)
        alike.setdefault((len(words), words[0] if words else ""), []).append(words)
    shown = {}
    for group in alike.values():
        common = [len(set(column)) == 1 for column in zip(*group, strict=True)]
        for words in group:
            runs = groupby(zip(common, words, strict=True), key=lambda pair: pair[0])
            pieces = [(shared, "".join(word for _, word in run)) for shared, run in runs]
            text = "".join(CUT if shared else piece for shared, piece in pieces)
            room = most - width(text)
            if room >= 0 and pieces:
                shown["".join(words)] = _fitting(pieces[0][1], room, width) * pieces[0][0] + text
    return shown


def _own_parts(names: Sequence[str]) -> dict[str, int]:
    """Name -> where the word begins in which it first differs from every other name."""
    ordered = sorted(names)
    common = [0, *(_shared(first, second) for first, second in pairwise(ordered)), 0]
    starts = {}
    for number, name in enumerate(ordered):
        position = max(common[number], common[number + 1])
        start = position
        while start > 0 and position - start < _WORD and name[start - 1].isalnum():
            start -= 1
        starts[name] = start if position - start < _WORD else position
    return starts


def _shared(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _cut(name: str, position: int, share: float, most: int, width: Width) -> str:
    """A name's beginning and end with, in between, what stands at `position`: it has this share of the room."""
    room = most - 2 * width(CUT) if share else most - width(CUT)
    middle = _fitting(name[position:], int(room * share), width)
    remaining = room - width(middle)
    tail = _fitting(name[::-1], remaining // 2, width)[::-1]
    head = _fitting(name, remaining - width(tail), width)
    return f"{head}{CUT}{middle}{CUT}{tail}" if share else f"{head}{CUT}{tail}"


def _fitting(text: str, room: int, width: Width) -> str:
    """As much of a text's beginning as there is room for."""
    used = 0
    for number, character in enumerate(text):
        used += width(character)
        if used > room:
            return text[:number]
    return text
