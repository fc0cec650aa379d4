"""Many names in little room: what they have in common is cut, what tells them apart stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

CUT = "…"
# A window on what tells names apart begins with the word that it lies in, if that is not longer.
_WORD = 12

Width = Callable[[str], int]


def short_names(names: Iterable[str], most: int, width: Width = len) -> dict[str, str]:
    """Name -> how it is shown, in at most `most` columns (16 or more); different names are shown differently.

    Long names are cut in the middle. Where that hides what tells one from the others, a window on it stays as well, and
    where names differ in more places than there is room for, a number tells them apart. width: columns of a text.
    """
    distinct = list(dict.fromkeys(names))
    own = _own_parts(distinct)
    shown = {name: name for name in distinct if width(name) <= most}
    for share in (0.0, 0.35, 0.7):
        tried = {name: _cut(name, own[name], share, most, width) for name in distinct if name not in shown}
        counts = Counter([*shown.values(), *tried.values()])
        shown |= {name: text for name, text in tried.items() if counts[text] == 1}
    used = set(shown.values())
    for name in (name for name in distinct if name not in shown):
        numbered = (f"{CUT}#{number}" for number in range(1, len(distinct) + 2))
        texts = (_cut(name, 0, 0.0, most - width(mark), width) + mark for mark in numbered)
        shown[name] = next(text for text in texts if text not in used)
        used.add(shown[name])
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
    rest = room - width(middle)
    tail = _fitting(name[::-1], rest // 2, width)[::-1]
    head = _fitting(name, rest - width(tail), width)
    return f"{head}{CUT}{middle}{CUT}{tail}" if share else f"{head}{CUT}{tail}"


def _fitting(text: str, room: int, width: Width) -> str:
    """As much of a text's beginning as there is room for."""
    used = 0
    for number, character in enumerate(text):
        used += width(character)
        if used > room:
            return text[:number]
    return text
