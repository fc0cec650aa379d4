"""Reading a config's regular expression without running it: the states it can be in are followed side by side, so the
time grows with the text and never explodes, whatever the expression (Thompson, CACM 11(6), 1968)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# Beyond these nobody writes a choice of modules, and they must not cost a check its time.
_MOST_CHARACTERS, _MOST_STATES, _MOST_TIMES, _DEEPEST, _MOST_KEPT = 1024, 400, 64, 32, 20_000

Test = Callable[[str], bool]
States = frozenset[int]
_COUNT = re.compile(r"\{(\d{1,4})(?:(,)(\d{1,4})?)?\}")
_CLASSES: dict[str, Test] = {
    "d": str.isdecimal,
    "D": lambda c: not c.isdecimal(),
    "w": lambda c: c.isalnum() or c == "_",
    "W": lambda c: not (c.isalnum() or c == "_"),
    "s": str.isspace,
    "S": lambda c: not c.isspace(),
}


class UnreadError(Exception):
    """An expression that uses more than is read here: looking around, references, flags, possessive repeats."""


class Expression:
    """What an expression says of the paths of modules, by its states. Raises UnreadError for one that is not read."""

    def __init__(self, text: str) -> None:
        if len(text) > _MOST_CHARACTERS or not text.isprintable():
            raise UnreadError(text[:80])
        self._steps: list[tuple[Test, int] | None] = []
        self._free: list[list[int]] = []
        self._known: dict[tuple[States, str], States] = {}
        self._text, self._at, self._deep = text, 0, 0
        first = self._alternatives()
        if self._at < len(text):
            raise UnreadError(text)
        start, self._end = self._state(), self._state()
        first(start, self._end)
        self._start = self._closed([start])
        self._anywhere = self._closed(range(len(self._steps)))

    def means(self, path: str, tail: str) -> bool | None:
        """Whether the whole of a path is meant; None where that depends on what stands before `tail`, its last part.

        False says that no path whatever that ends in `tail` is meant.
        """
        if self._end in self._follow(self._start, path):
            return True
        return None if self._end in self._follow(self._anywhere, tail) else False

    def _follow(self, states: States, text: str) -> States:
        for character in text:
            key = (states, character)
            if key not in self._known:
                if len(self._known) > _MOST_KEPT:
                    self._known.clear()
                steps = (self._steps[state] for state in states)
                self._known[key] = self._closed([step[1] for step in steps if step is not None and step[0](character)])
            states = self._known[key]
            if not states:
                break
        return states

    def _closed(self, states: Iterable[int]) -> States:
        found, waiting = set[int](), list(states)
        while waiting:
            state = waiting.pop()
            if state not in found:
                found.add(state)
                waiting += self._free[state]
        return frozenset(found)

    def _state(self) -> int:
        if len(self._steps) >= _MOST_STATES:
            raise UnreadError(self._text)
        self._steps.append(None)
        self._free.append([])
        return len(self._steps) - 1

    # What reads a piece gives a function that puts its states between two others, as often as it is wanted.

    def _alternatives(self) -> Callable[[int, int], None]:
        self._deep += 1
        if self._deep > _DEEPEST:
            raise UnreadError(self._text)
        ways = [self._sequence()]
        while self._text.startswith("|", self._at):
            self._at += 1
            ways.append(self._sequence())
        self._deep -= 1

        def put(begin: int, end: int) -> None:
            for way in ways:
                way(begin, end)

        return put

    def _sequence(self) -> Callable[[int, int], None]:
        parts: list[Callable[[int, int], None]] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            at = self._at
            if (self._text[at] == "^" and at == 0) or (self._text[at] == "$" and at == len(self._text) - 1):
                self._at += 1  # the whole path is compared anyway
                continue
            parts.append(self._repeated(self._atom()))

        def put(begin: int, end: int) -> None:
            for part in parts:
                after = self._state()
                part(begin, after)
                begin = after
            self._free[begin].append(end)

        return put

    def _repeated(self, part: Callable[[int, int], None]) -> Callable[[int, int], None]:
        least, most = self._times()

        def put(begin: int, end: int) -> None:
            for _ in range(least):
                after = self._state()
                part(begin, after)
                begin = after
            if most is None:
                inside, after = self._state(), self._state()
                part(inside, after)
                self._free[begin].append(inside)
                self._free[after].append(inside)
                self._free[inside].append(end)
                return
            for _ in range(most - least):
                self._free[begin].append(end)
                after = self._state()
                part(begin, after)
                begin = after
            self._free[begin].append(end)

        return put

    def _times(self) -> tuple[int, int | None]:
        sign = self._text[self._at : self._at + 1]
        if sign and sign in "*+?":
            self._at += 1
            found: tuple[int, int | None] = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        elif hit := _COUNT.match(self._text, self._at):
            self._at = hit.end()
            least = int(hit[1])
            found = (least, least if not hit[2] else int(hit[3]) if hit[3] else None)
        else:
            return 1, 1
        if self._text.startswith("?", self._at):
            self._at += 1  # the shortest first: the same paths
        if self._text[self._at : self._at + 1] in ("*", "+", "?", "{"):
            raise UnreadError(self._text)
        if found[0] > _MOST_TIMES or (found[1] is not None and not found[0] <= found[1] <= _MOST_TIMES):
            raise UnreadError(self._text)
        return found

    def _atom(self) -> Callable[[int, int], None]:
        character = self._text[self._at]
        self._at += 1
        if character == "(":
            if self._text.startswith("?", self._at):
                if not self._text.startswith("?:", self._at):
                    raise UnreadError(self._text)
                self._at += 2
            inner = self._alternatives()
            if not self._text.startswith(")", self._at):
                raise UnreadError(self._text)
            self._at += 1
            return inner
        if character in "*+?{}]^$":
            raise UnreadError(self._text)
        if character == "[":
            return self._stepping(self._class())
        if character == ".":
            return self._stepping(lambda c: c != "\n")
        return self._stepping(self._escaped() if character == "\\" else character.__eq__)

    def _stepping(self, test: Test) -> Callable[[int, int], None]:
        def put(begin: int, end: int) -> None:
            before = self._state()
            self._steps[before] = (test, end)
            self._free[begin].append(before)

        return put

    def _escaped(self) -> Test:
        character = self._text[self._at : self._at + 1]
        self._at += 1
        if character in _CLASSES:
            return _CLASSES[character]
        if not character or (character.isascii() and character.isalnum()):
            raise UnreadError(self._text)
        return character.__eq__

    def _class(self) -> Test:
        inside = self._text.find("]", self._at + 1)
        body = self._text[self._at : inside]
        # Escapes of a bracket, sets within sets and the signs that a later Python may read otherwise are left alone.
        if inside < 0 or "[" in body or body.endswith("\\") or any(twice in body for twice in ("--", "&&", "~~", "||")):
            raise UnreadError(self._text)
        self._at = inside + 1
        negated = body.startswith("^")
        pieces = re.findall(r"\\.|.", body.removeprefix("^"))
        if not pieces:
            raise UnreadError(self._text)
        tests: list[Test] = []
        while pieces:
            piece = pieces.pop(0)
            if len(pieces) >= 2 and pieces[0] == "-":
                last = pieces[1]
                if "\\" in piece + last or piece > last:
                    raise UnreadError(self._text)
                tests.append(lambda c, low=piece, high=last: low <= c <= high)  # type: ignore[misc]
                del pieces[:2]
            elif piece.startswith("\\"):
                if piece[1] not in _CLASSES and piece[1].isascii() and piece[1].isalnum():
                    raise UnreadError(self._text)
                tests.append(_CLASSES.get(piece[1], piece[1].__eq__))
            else:
                tests.append(piece.__eq__)
        return lambda c: any(test(c) for test in tests) != negated
