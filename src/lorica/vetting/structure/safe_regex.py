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
                state_steps = (self._steps[state] for state in states)
                self._transitions[transition_key] = self._closed(
                    [state_step[1] for state_step in state_steps if state_step is not None and state_step[0](character)]
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

        def put(begin_state: int, end_state: int) -> None:
            for branch in branches:
                branch(begin_state, end_state)

        return put

    def _sequence(self) -> Callable[[int, int], None]:
        atom_putters: list[Callable[[int, int], None]] = []
        while self._position < len(self._text) and self._text[self._position] not in "|)":
            position = self._position
            if (self._text[position] == "^" and position == 0) or (
                self._text[position] == "$" and position == len(self._text) - 1
            ):
                self._position += 1  # the whole path is compared anyway
                continue
            atom_putters.append(self._repeated(self._atom()))

        def put(begin_state: int, end_state: int) -> None:
            for put_atom in atom_putters:
                after_state = self._state()
                put_atom(begin_state, after_state)
                begin_state = after_state
            self._epsilon[begin_state].append(end_state)

        return put

    def _repeated(self, put_atom: Callable[[int, int], None]) -> Callable[[int, int], None]:
        minimum, maximum = self._repeat_bounds()

        def put(begin_state: int, end_state: int) -> None:
            for _ in range(minimum):
                after_state = self._state()
                put_atom(begin_state, after_state)
                begin_state = after_state
            if maximum is None:
                inside_state, after_state = self._state(), self._state()
                put_atom(inside_state, after_state)
                self._epsilon[begin_state].append(inside_state)
                self._epsilon[after_state].append(inside_state)
                self._epsilon[inside_state].append(end_state)
                return
            for _ in range(maximum - minimum):
                self._epsilon[begin_state].append(end_state)
                after_state = self._state()
                put_atom(begin_state, after_state)
                begin_state = after_state
            self._epsilon[begin_state].append(end_state)

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
        return self._stepping(self._escaped() if character == "\\" else character.__eq__)

    def _stepping(self, character_test: Test) -> Callable[[int, int], None]:
        def put(begin_state: int, end_state: int) -> None:
            before_state = self._state()
            self._steps[before_state] = (character_test, end_state)
            self._epsilon[begin_state].append(before_state)

        return put

    def _escaped(self) -> Test:
        character = self._text[self._position : self._position + 1]
        self._position += 1
        if character in _CLASSES:
            return _CLASSES[character]
        if not character or (character.isascii() and character.isalnum()):
            raise UnsupportedRegexError(self._text)
        return character.__eq__

    def _class(self) -> Test:
        class_end = self._text.find("]", self._position + 1)
        class_body = self._text[self._position : class_end]
        # Escapes of a bracket, sets within sets and the signs that a later Python may read otherwise are left alone.
        if (
            class_end < 0
            or "[" in class_body
            or class_body.endswith("\\")
            or any(doubled_sign in class_body for doubled_sign in ("--", "&&", "~~", "||"))
        ):
            raise UnsupportedRegexError(self._text)
        self._position = class_end + 1
        negated = class_body.startswith("^")
        class_tokens = re.findall(r"\\.|.", class_body.removeprefix("^"))
        if not class_tokens:
            raise UnsupportedRegexError(self._text)
        character_tests: list[Test] = []
        while class_tokens:
            class_token = class_tokens.pop(0)
            if len(class_tokens) >= 2 and class_tokens[0] == "-":
                range_end = class_tokens[1]
                if "\\" in class_token + range_end or class_token > range_end:
                    raise UnsupportedRegexError(self._text)
                character_tests.append(
                    lambda character, low=class_token, high=range_end: low <= character <= high  # type: ignore[misc]
                )
                del class_tokens[:2]
            elif class_token.startswith("\\"):
                if class_token[1] not in _CLASSES and class_token[1].isascii() and class_token[1].isalnum():
                    raise UnsupportedRegexError(self._text)
                character_tests.append(_CLASSES.get(class_token[1], class_token[1].__eq__))
            else:
                character_tests.append(class_token.__eq__)
        return lambda character: any(character_test(character) for character_test in character_tests) != negated
