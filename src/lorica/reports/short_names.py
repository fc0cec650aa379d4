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

_PATH_WIDTH = 40

Width = Callable[[str], int]


def short_paths(paths: Iterable[str]) -> dict[str, str]:
    """Path -> its file's name where no two files have the same, else the path; as `short_names` shows it."""
    path_list = list(paths)
    file_names = [path.rsplit("/", 1)[-1] for path in path_list]
    titles = file_names if len(set(file_names)) == len(set(path_list)) else path_list
    shown = short_names(titles, _PATH_WIDTH)
    return {path: shown[title] for path, title in zip(path_list, titles, strict=True)}


def short_names(names: Iterable[str], max_width: int, text_width: Width = len) -> dict[str, str]:
    """Name -> how it is shown, in at most `max_width` columns (16 or more); different names are shown differently.

    Long names are cut in the middle. Where that hides what tells one from the others, the words stay that names of the
    same build do not share, or a window on the first difference; where names differ in more places than there is room
    for, a number tells them apart. text_width: columns of a text.
    """
    distinct_names = list(dict.fromkeys(names))
    own_starts = _own_parts(distinct_names)
    shown_names = {name: name for name in distinct_names if text_width(name) <= max_width}
    strategies: tuple[Callable[[list[str]], dict[str, str]], ...] = (
        lambda remaining: {name: _cut(name, 0, 0.0, max_width, text_width) for name in remaining},
        lambda remaining: _own_words(remaining, max_width, text_width),
        lambda remaining: {name: _cut(name, own_starts[name], 0.35, max_width, text_width) for name in remaining},
        lambda remaining: {name: _cut(name, own_starts[name], 0.7, max_width, text_width) for name in remaining},
    )
    for strategy in strategies:
        candidates = strategy([name for name in distinct_names if name not in shown_names])
        counts = Counter([*shown_names.values(), *candidates.values()])
        shown_names |= {name: short_name for name, short_name in candidates.items() if counts[short_name] == 1}
    used_names = set(shown_names.values())
    number_marks = (f"{CUT}#{number}" for number in count(1))
    for name in (name for name in distinct_names if name not in shown_names):
        marked_names = (
            _cut(name, 0, 0.0, max_width - text_width(number_mark), text_width) + number_mark
            for number_mark in number_marks
        )
        shown_names[name] = next(short_name for short_name in marked_names if short_name not in used_names)
        used_names.add(shown_names[name])
    return shown_names


def _own_words(names: Sequence[str], max_width: int, text_width: Width) -> dict[str, str]:
    """Names of equally many words that begin alike -> the words in which they differ, behind their beginning."""
    words_by_beginning: dict[tuple[int, str], list[list[str]]] = {}
    for name in names:
        words = _WORDS.findall(name)
        words_by_beginning.setdefault((len(words), words[0] if words else ""), []).append(words)
    shown_names = {}
    for word_lists in words_by_beginning.values():
        common = [len(set(column)) == 1 for column in zip(*word_lists, strict=True)]
        for words in word_lists:
            shared_runs = groupby(zip(common, words, strict=True), key=lambda pair: pair[0])
            pieces = [(shared, "".join(word for _, word in run_words)) for shared, run_words in shared_runs]
            own_text = "".join(CUT if shared else piece for shared, piece in pieces)
            free_width = max_width - text_width(own_text)
            if free_width >= 0 and pieces:
                shown_names["".join(words)] = _fitting(pieces[0][1], free_width, text_width) * pieces[0][0] + own_text
    return shown_names


def _own_parts(names: Sequence[str]) -> dict[str, int]:
    """Name -> where the word begins in which it first differs from every other name."""
    sorted_names = sorted(names)
    shared_lengths = [0, *(_shared(first_name, second_name) for first_name, second_name in pairwise(sorted_names)), 0]
    starts = {}
    for name_index, name in enumerate(sorted_names):
        position = max(shared_lengths[name_index], shared_lengths[name_index + 1])
        word_start = position
        while word_start > 0 and position - word_start < _WORD and name[word_start - 1].isalnum():
            word_start -= 1
        starts[name] = word_start if position - word_start < _WORD else position
    return starts


def _shared(first_name: str, second_name: str) -> int:
    """How many characters two texts begin with alike."""
    return next(
        (position for position, (a, b) in enumerate(zip(first_name, second_name, strict=False)) if a != b),
        min(len(first_name), len(second_name)),
    )


def _cut(name: str, position: int, middle_share: float, max_width: int, text_width: Width) -> str:
    """A name's beginning and end with, in between, what stands at `position`: it has this share of the room."""
    free_width = max_width - 2 * text_width(CUT) if middle_share else max_width - text_width(CUT)
    middle = _fitting(name[position:], int(free_width * middle_share), text_width)
    remaining = free_width - text_width(middle)
    name_end = _fitting(name[::-1], remaining // 2, text_width)[::-1]
    name_start = _fitting(name, remaining - text_width(name_end), text_width)
    return f"{name_start}{CUT}{middle}{CUT}{name_end}" if middle_share else f"{name_start}{CUT}{name_end}"


def _fitting(text: str, max_width: int, text_width: Width) -> str:
    """As much of a text's beginning as there is room for."""
    used_width = 0
    for length, character in enumerate(text):
        used_width += text_width(character)
        if used_width > max_width:
            return text[:length]
    return text
