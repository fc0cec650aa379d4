"""Cleaning and judging generated text: thinking tags, template markers, echoes, loops. It only ever cuts."""

from __future__ import annotations

import re
import unicodedata

from lorica.thoughts import without_thoughts

# Generated text is short; a cap keeps every step linear in practice whatever a model or a caller hands in.
_MAX_CHARS = 20_000
_MARKER = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS)\]"
)
_ROLE_LINE = re.compile(r"\s*(?:assistant|model|bot)\s*(?::|\n)\s*", re.IGNORECASE)
_NEW_TURN = re.compile(r"\n[ \t]*(?:user|human|question|q|system|post|rule)\s*:", re.IGNORECASE)
_LABEL = re.compile(
    r"[\s*_#>-]*(?:the\s+)?(?:final\s+|short\s+|correct\s+|best\s+)?(?:answer|response|a)(?:\s+is)?"
    r"\s*\**\s*[:：]\s*\**\s*",
    re.IGNORECASE,
)
_REFUSAL = re.compile(r"\s*(?:[\w'’]+[,.!]?\s+){0,4}as an? (?:ai|artificial intelligence|language model)\b", re.I)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}

# A phrase that comes this often in a row is a loop; running to the very end that often, it never stopped.
_LOOP = 3
_ENDLESS = 8
_LONGEST_PHRASE = 12  # words
_LONGEST_UNIT = 24  # characters


def strip_markup(text: str) -> str:
    """Without thinking and template markers; a text that starts a second turn ends there."""
    return _strip_markers(without_thoughts(text[:_MAX_CHARS])).strip()


def clean_answer(text: str, *, question: str) -> str:
    """A generated text reduced to its answer; "" when nothing is left.

    Cut are thinking, template markers, an echo of the question, a leading "Answer:", a second turn, repeated
    lines, quotes around the whole, and loops.
    """
    cleaned = strip_markup(text)
    cleaned = _strip_echo(_strip_label(cleaned), question)
    cleaned = _strip_label(cleaned)
    cut = _NEW_TURN.search(cleaned)
    cleaned = cleaned[: cut.start()] if cut else cleaned
    cleaned = _unquote(_once_per_line(cleaned).strip())
    return _collapse_loops(cleaned)


def find_problem(answer: str, *, raw: str, question: str) -> str:
    """Why a cleaned answer is not one, "" when it is. raw: the text before cleaning, which shows loops."""
    if not answer:
        return "empty"
    if not any(_is_word(char) for char in answer):
        return "only punctuation"
    if _fold(answer) == _fold(question):
        return "an echo of the question"
    if _is_endless(strip_markup(raw)) or _is_endless(answer):
        return "endless repetition"
    if _REFUSAL.match(answer):
        return "a refusal"
    return ""


def _strip_markers(text: str) -> str:
    """The first stretch between markers that says anything but a role's name."""
    for piece in _MARKER.split(text):
        opening = _ROLE_LINE.match(piece)
        said = piece[opening.end() :] if opening else piece
        if said.strip() and said.strip().casefold() not in ("assistant", "model"):
            return said
    return ""


def _strip_label(text: str) -> str:
    found = _LABEL.match(text)
    # "A: (5,1) B: (-2,4)" names points; its A is no label.
    if not found or (found.group().strip(" *_#:：").casefold() == "a" and re.search(r"B\s*:", text)):
        return text
    return text[found.end() :]


def _strip_echo(text: str, question: str) -> str:
    """Without the question at its start, when something follows it."""
    bare = re.sub(r"^\s*(?:question|q)\s*[:：]\s*", "", text, flags=re.IGNORECASE)
    asked = question.strip()
    rest = bare[len(asked) :]
    if not asked or bare[: len(asked)].casefold() != asked.casefold() or not rest.strip():
        return text
    # A restatement that goes on, as in "f(x)=2", is an answer.
    ends_there = asked[-1] in "?.!:？。！：" or rest.lstrip(" ?.!:")[:1] == "\n"
    return rest.lstrip(" ?.!:").strip() if ends_there else text


def _once_per_line(text: str) -> str:
    """Each line once: a line that came before is not said again."""
    seen: set[str] = set()
    kept = []
    for line in text.splitlines():
        key = _fold(line)
        if key and key in seen:
            continue
        seen.add(key)
        kept.append(line.rstrip())
    return "\n".join(kept)


def _unquote(text: str) -> str:
    if len(text) > 2 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def _collapse_loops(text: str) -> str:
    """A phrase of up to 12 words (not mere numbers) said three times or more in a row is kept once."""
    lines = []
    for line in text.splitlines():
        words = line.split()
        collapsed = _collapse_words(words)
        lines.append(line if len(collapsed) == len(words) else " ".join(collapsed))
    return "\n".join(lines).strip()


def _collapse_words(words: list[str]) -> list[str]:
    for period in range(1, min(_LONGEST_PHRASE, len(words) // _LOOP) + 1):
        keys = [word.casefold().strip(".,;:!?") for word in words]
        kept: list[str] = []
        index = 0
        while index < len(words):
            matched = 0
            while index + period + matched < len(words) and keys[index + matched] == keys[index + period + matched]:
                matched += 1
            repeats = matched // period + 1
            if repeats >= _LOOP and any(char.isalpha() for word in words[index : index + period] for char in word):
                kept += words[index : index + period]
                index += repeats * period
            else:
                kept.append(words[index])
                index += 1
        words = kept
    return words


def _is_endless(text: str) -> bool:
    """Whether the text runs out in one unit said eight times or more."""
    bare = " ".join(text.casefold().split())
    for period in range(1, min(_LONGEST_UNIT, len(bare) // _ENDLESS) + 1):
        same = _tail_period(bare, period)
        if same >= _ENDLESS * period and (period > 1 or same >= 2 * _ENDLESS):
            unit = bare[-period:]
            if any(_is_word(char) for char in unit) and not unit.strip().isdigit():
                return True
    return _endless_words(bare.split())


def _endless_words(words: list[str]) -> bool:
    return any(
        _tail_period(words, period) >= _ENDLESS * period
        for period in range(1, min(_LONGEST_PHRASE, len(words) // _ENDLESS) + 1)
    )


def _tail_period(items: str | list[str], period: int) -> int:
    """The length of the longest tail of `items` in which every item equals the one `period` before it."""
    index = len(items) - 1
    while index >= period and items[index] == items[index - period]:
        index -= 1
    length = len(items) - 1 - index
    return length + period if length else 0


def _is_word(char: str) -> bool:
    """Letters, digits and signs that can be an answer of their own, such as ∞ or <."""
    category = unicodedata.category(char)
    return category[0] in "LN" or (category == "Sm" and char not in "|~")


def _fold(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .?!:;,\"'")
