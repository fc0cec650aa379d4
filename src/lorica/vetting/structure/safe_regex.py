"""A regular expression engine without backtracking, for the expressions that a config holds: an NFA whose states are
followed side by side, so that no expression takes exponential time (Thompson, CACM 11(6), 1968)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# Beyond these nobody writes a choice of modules, and they must not cost a check its time.
_MAX_CHARACTERS, _MAX_STATES, _MAX_REPEATS, _MAX_DEPTH, _MAX_CACHED = 1024, 400, 64, 32, 20_000

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


class UnsupportedRegexError(Exception):
    """An expression that uses more than is supported: lookaround, back-references, flags, possessive repeats."""


class SafeRegex:
    """A compiled expression for the paths of modules, matched without backtracking. Raises UnsupportedRegexError."""

    def __init__(self, expression: str) -> None:
        if len(expression) > _MAX_CHARACTERS or not expression.isprintable():
            raise UnsupportedRegexError(expression[:80])
        self._steps: list[tuple[Test, int] | None] = []
        self._epsilon: list[list[int]] = []
        self._transitions: dict[tuple[States, str], States] = {}
        self._text, self._position, self._depth = expression, 0, 0
        put_alternatives = self._alternatives()
        if self._position < len(expression):
            raise UnsupportedRegexError(expression)
        start_state, self._end = self._state(), self._state()
        put_alternatives(start_state, self._end)
        self._start = self._closed([start_state])
        self._anywhere = self._closed(range(len(self._steps)))

    def match(self, module_path: str) -> bool | None:
        """Whether the whole of a path is meant; None where it depends on how the path begins, which loaders and
        wrappers change."""
        layer_match = re.search(r"(?:^|\.)(\d{1,5}\..*)$", module_path)
        return self.matches(module_path, layer_match[1] if layer_match else module_path.rpartition(".")[2])

    def matches(self, module_path: str, path_tail: str) -> bool | None:
        """Whether the whole of a path is meant; None where that depends on what stands before `path_tail`.

        `path_tail` is its last part. False says that no path whatever that ends in it is meant.
        """
        if self._end in self._follow(self._start, module_path):
            return True
        return None if self._end in self._follow(self._anywhere, path_tail) else False

    def _follow(self, states: States, path_text: str) -> States:
        for character in path_text:
            transition_key = (states, character)
            if transition_key not in self._transitions:
                if len(self._transitions) > _MAX_CACHED:
                    self._transitions.clear()
                steps = (self._steps[state] for state in states)
                self._transitions[transition_key] = self._closed(
                    [step[1] for step in steps if step is not None and step[0](character)]
                )
            states = self._transitions[transition_key]
            if not states:
                break
        return states

    def _closed(self, states: Iterable[int]) -> States:
        closure, pending = set[int](), list(states)
        while pending:
            state = pending.pop()
            if state not in closure:
                closure.add(state)
                pending += self._epsilon[state]
        return frozenset(closure)

    def _state(self) -> int:
        if len(self._steps) >= _MAX_STATES:
            raise UnsupportedRegexError(self._text)
        self._steps.append(None)
        self._epsilon.append([])
        return len(self._steps) - 1

    # What reads a piece gives a function that puts its states between two others, as often as it is wanted.

    def _alternatives(self) -> Callable[[int, int], None]:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnsupportedRegexError(self._text)
        branches = [self._sequence()]
        while self._text.startswith("|", self._position):
            self._position += 1
            branches.append(self._sequence())
        self._depth -= 1

        def put(begin: int, end: int) -> None:
            for branch in branches:
                branch(begin, end)

        return put

    def _sequence(self) -> Callable[[int, int], None]:
        atoms: list[Callable[[int, int], None]] = []
        while self._position < len(self._text) and self._text[self._position] not in "|)":
            start = self._position
            if (self._text[start] == "^" and start == 0) or (self._text[start] == "$" and start == len(self._text) - 1):
                self._position += 1  # the whole path is compared anyway
                continue
            atoms.append(self._repeated(self._atom()))

        def put(begin: int, end: int) -> None:
            for atom in atoms:
                after = self._state()
                atom(begin, after)
                begin = after
            self._epsilon[begin].append(end)

        return put

    def _repeated(self, atom: Callable[[int, int], None]) -> Callable[[int, int], None]:
        minimum, maximum = self._repeat_bounds()

        def put(begin: int, end: int) -> None:
            for _ in range(minimum):
                after = self._state()
                atom(begin, after)
                begin = after
            if maximum is None:
                inside, after = self._state(), self._state()
                atom(inside, after)
                self._epsilon[begin].append(inside)
                self._epsilon[after].append(inside)
                self._epsilon[inside].append(end)
                return
            for _ in range(maximum - minimum):
                self._epsilon[begin].append(end)
                after = self._state()
                atom(begin, after)
                begin = after
            self._epsilon[begin].append(end)

        return put

    def _repeat_bounds(self) -> tuple[int, int | None]:
        quantifier = self._text[self._position : self._position + 1]
        if quantifier and quantifier in "*+?":
            self._position += 1
            bounds: tuple[int, int | None] = {"*": (0, None), "+": (1, None), "?": (0, 1)}[quantifier]
        elif count_match := _COUNT.match(self._text, self._position):
            self._position = count_match.end()
            minimum = int(count_match[1])
            bounds = (minimum, minimum if not count_match[2] else int(count_match[3]) if count_match[3] else None)
        else:
            return 1, 1
        if self._text.startswith("?", self._position):
            self._position += 1  # the shortest first: the same paths
        if self._text[self._position : self._position + 1] in ("*", "+", "?", "{"):
            raise UnsupportedRegexError(self._text)
        if bounds[0] > _MAX_REPEATS or (bounds[1] is not None and not bounds[0] <= bounds[1] <= _MAX_REPEATS):
            raise UnsupportedRegexError(self._text)
        return bounds

    def _atom(self) -> Callable[[int, int], None]:
        character = self._text[self._position]
        self._position += 1
        if character == "(":
            if self._text.startswith("?", self._position):
                if not self._text.startswith("?:", self._position):
                    raise UnsupportedRegexError(self._text)
                self._position += 2
            put_group = self._alternatives()
            if not self._text.startswith(")", self._position):
                raise UnsupportedRegexError(self._text)
            self._position += 1
            return put_group
        if character in "*+?{}]^$":
            raise UnsupportedRegexError(self._text)
        if character == "[":
            return self._stepping(self._class())
        if character == ".":
            return self._stepping(lambda character_read: character_read != "\n")
        if character == "\\":
            self._position += 1
            return self._stepping(self._escaped(self._text[self._position - 1 : self._position]))
        return self._stepping(character.__eq__)

    def _stepping(self, test: Test) -> Callable[[int, int], None]:
        def put(begin: int, end: int) -> None:
            before = self._state()
            self._steps[before] = (test, end)
            self._epsilon[begin].append(before)

        return put

    def _escaped(self, character: str) -> Test:
        """What stands behind a backslash; "" at the end of the expression."""
        if character in _CLASSES:
            return _CLASSES[character]
        if not character or (character.isascii() and character.isalnum()):
            raise UnsupportedRegexError(self._text)
        return character.__eq__

    def _class(self) -> Test:
        end = self._text.find("]", self._position + 1)
        body = self._text[self._position : end]
        # Escapes of a bracket, sets within sets and the signs that a later Python may read otherwise are left alone.
        if end < 0 or "[" in body or body.endswith("\\") or any(sign in body for sign in ("--", "&&", "~~", "||")):
            raise UnsupportedRegexError(self._text)
        self._position = end + 1
        negated = body.startswith("^")
        tokens = re.findall(r"\\.|.", body.removeprefix("^"))
        if not tokens:
            raise UnsupportedRegexError(self._text)
        tests: list[Test] = []
        while tokens:
            token = tokens.pop(0)
            if len(tokens) >= 2 and tokens[0] == "-":
                range_end = tokens[1]
                if "\\" in token + range_end or token > range_end:
                    raise UnsupportedRegexError(self._text)
                tests.append(
                    lambda character, low=token, high=range_end: low <= character <= high  # type: ignore[misc]
                )
                del tokens[:2]
            elif token.startswith("\\"):
                tests.append(self._escaped(token[1]))
            else:
                tests.append(token.__eq__)
        return lambda character: any(test(character) for test in tests) != negated
