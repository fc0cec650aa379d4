"""What an answer states: the final answer of a worked solution, or a number with its unit."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from fractions import Fraction

import msgspec

from lorica.metrics.atoms import Atom, split_atoms
from lorica.metrics.number_words import with_numerals
from lorica.thoughts import without_thoughts

TOLERANCE = Fraction(1, 10**6)
"""Relative: numbers are equal that differ by no more than this share of the larger one."""

_MARKER = re.compile(
    r"(?:^|\n)[ \t]*####[ \t]*|\\(?:boxed|fbox)\s*(?=[{\d])"
    r"|\banswer\b[*_]*(?:\s+(?:to|for|of)\b[^.:\n]{0,80}?)?\s*(?:[:：=]|(?:is|are|was)(?:n['’]t)?\b\s*[:：]?)"
    r"|(?:答案|答)\s*(?:[:：=]|(?:应该|應該)?(?:是|为|為|等于|等於)(?!不)\s*[:：]?)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？；\n]")
# "I doubt the answer is 5", "the wrong answer is 5": marks that state nothing, with what a clause begins behind.
_CLAUSE_START = re.compile(
    r"[,;:.!?，；：。！？\n]|\b(?:so|therefore|thus|hence|then|but|and|because)\b", re.IGNORECASE
)
_DENIED_MARK = re.compile(
    r"(?:\b(?:not|never|cannot)|n['’]t)\s+(?:(?:think|believe|say|mean|sure|certain|convinced|agree|true|correct)\s+)?"
    r"(?:(?:that|if|whether)\s+)?(?:the\s*)?$"
    r"|\b(?:doubt|deny|denies|disagree|if|unless|whether|false|untrue|wrong|incorrect)\s+(?:that\s+)?(?:the\s*)?$"
    r"|\b(?:first|initial|original|earlier|previous|former)\s*$|^\s*(?:is|was)\s+(?:the\s*)?$"
    r"|(?:错误|錯誤)的?$|(?:如果|不认为|不認為|不觉得|并非|不是)$",
    re.IGNORECASE,
)
_RETRACTION = re.compile(
    r"\b(?:wait|actually|correction|on second thoughts?)\b"
    r"|\b(?:that|this|it)(?:['’]s| is| was)\s+(?:wrong|incorrect|not (?:right|correct|true))\b|不对|不對|更正",
    re.IGNORECASE,
)
_JOINED_ANSWER = re.compile(r"[\s$.}]*(?:or|and|或|和)\b", re.IGNORECASE)
_FURTHER_ANSWER = re.compile(r"[\s$.}]*(?:or|或)\b", re.IGNORECASE)
_RESTATEMENT = re.compile(r"(\d[\d.,]*) \(\1\)")  # 5 (five)
_CONTRAST = re.compile(
    r"\s*[,(]?\s*(?:and\s+)?(?:not|rather than|instead of)\s+[-−]?[$€£]?\d[\d.,/%]*\s*\)?", re.IGNORECASE
)
_EQUALS = re.compile(r"(?<![=!<>≠≤≥:])=(?!=)")
_CONCLUSION = re.compile(
    r"\s*(?:so|therefore|thus|hence|altogether|in total)\b|\s*(?:因此|所以|故|总共|一共)", re.IGNORECASE
)
_NEGATION = re.compile(r"\b(?:not?|never|cannot|or|either)\b|n['’]t\b|[不没無无或]", re.IGNORECASE)
_APPROXIMATELY = re.compile(
    r"^(?:(?:is|are|about|approximately|approx\.?|around|roughly|exactly|equal to)\s+|[≈~=约約]\s*|大约|大約)+",
    re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:/[1-9]\d*)?")
_RELATIONS = "≈~→⇒⟹"  # of what stands on both sides, or follows from it: before a number they leave it what it is
# Words that take a number as a name: step 3. So do months, where it is no year: May 5.
_LABEL = re.compile(
    "steps?|chapter|ch|section|sec|figure|fig|table|pages?|pp|line|question|problem|exercise|part|room|level|item"
    "|example|option|choice|row|column|equation|eq|version|phase|lesson|appendix|theorem|lemma|paragraph|verse|volume"
    "|clause|article"
)
_MONTH = re.compile("january|february|march|april|may|june|july|august|september|october|november|december")
_BOUND = re.compile(
    "than|least|most|over|under|above|below|beyond|exceed(?:s|ing)|between|minimum|maximum|plus|minus|times"
)
_TIME_BOUNDS = frozenset(("before", "after", "until", "till"))  # of a year, and not of "after 5 days"
_HAN_BOUND = re.compile(
    "(?:超过|超過|至少|最少|起码|至多|最多|大于|大於|小于|小於|多于|多於|少于|少於|高于|高於|低于|低於|不到|不足|第)$"
)
# What makes another number of the one before it: 5x, 5!, 5k, 5 less than x, 3个以上.
_FACTORS = frozenset(("x", "y", "z", "n", "i", "e", "π", "pi", "k", "ꜝ", "plus", "minus", "squared", *"多余餘几幾"))
_FACTORS_BEHIND = re.compile(r"\b(?:more|less|fewer|greater) than [a-z]\b|以 ?[上下]")
_UNIT_SYMBOLS = "$¢£¤¥€₹₽₩฿₺°′″"
_UNIT_SPELLINGS = {"dollar": "$", "dollars": "$", "euro": "€", "euros": "€"}


class Quantity(msgspec.Struct, frozen=True):
    """A number and the unit behind it, "" where there is none; a percentage is its hundredth part and has no unit."""

    value: Fraction
    unit: str = ""

    def equals(self, accepted: Quantity) -> bool:
        """Whether this answer says what `accepted` does. Units are compared as written, and what `accepted` does not
        ask for may stand in the answer."""
        return self._names_unit_of(accepted) and self._has_value_of(accepted)

    def _names_unit_of(self, accepted: Quantity) -> bool:
        if not accepted.unit or self.unit == accepted.unit:
            return True
        before, _, behind = self.unit.partition(f"{accepted.unit} ")
        # km/h is no km, and m^2 no m.
        return not before and bool(behind) and behind.split()[0] not in (*"/^*·%", "per", "squared", "cubed")

    def _has_value_of(self, accepted: Quantity) -> bool:
        if self.value.denominator == accepted.value.denominator == 1:
            return self.value == accepted.value
        return abs(self.value - accepted.value) <= TOLERANCE * max(abs(self.value), abs(accepted.value))


@functools.lru_cache(maxsize=1 << 14)
def stated_answers(answer: str) -> tuple[str, ...]:
    """The readings of the answer that a text marks last: behind `####`, in \\boxed{}, behind "the answer is", "答案是"
    and the like; of a text without marks what stands behind the last "=" of its last line that has one; else ().

    What stands before counts for nothing. The readings are the sentence, and the line.
    """
    text = without_thoughts(answer)
    markers = list(_MARKER.finditer(text))
    if markers:
        marker = markers[-1]
        stated = text[marker.end() :].lstrip()
        if _is_denied(text, marker):
            return ()
        if "\\" in marker[0]:
            group, behind = _braced(stated)
            is_choice = _is_choice(text, markers) or _FURTHER_ANSWER.match(behind) or _RETRACTION.search(behind)
            return () if is_choice else (group,)
        sentence_end = _SENTENCE_END.search(stated)
        if sentence_end and _RETRACTION.search(stated, sentence_end.end()):
            return ()
        readings = (stated[: sentence_end.start()] if sentence_end else stated, stated.partition("\n")[0])
    else:
        lines = [line for line in text.splitlines() if _EQUALS.search(line)]
        if not lines or _is_equation(lines[-1]):
            return ()
        right_side = _EQUALS.split(lines[-1])[-1]
        sentence_end = _SENTENCE_END.search(right_side)
        readings = (right_side[: sentence_end.start()] if sentence_end else right_side, right_side)
    return tuple(dict.fromkeys(filter(None, (reading.strip(" \t*_$.。\"'") for reading in readings))))


def _is_denied(text: str, marker: re.Match[str]) -> bool:
    """Whether the clause that a mark stands in takes back what it marks."""
    clause = _CLAUSE_START.split(text[: marker.start()])[-1]
    own_denial = re.search(r"n['’]t\b|不", marker[0])
    return own_denial is not None or (marker[0][:1] not in "\\#\n" and _DENIED_MARK.search(clause) is not None)


def _is_choice(text: str, markers: Sequence[re.Match[str]]) -> bool:
    """Whether the last two marked groups are joined by "or" and the like."""
    between = text[markers[-2].end() : markers[-1].start()] if len(markers) > 1 else ""
    return _JOINED_ANSWER.match(_braced(between.lstrip())[1]) is not None


def _is_equation(line: str) -> bool:
    """Whether what stands before the last "=" is more than a name or a calculation: 2x = 3 states no answer."""
    before = _EQUALS.split(line)[-2].rstrip(" *_$")
    last_token = re.search(r"[^\s(),;:，。]*$", before)
    return bool(last_token and re.search(r"\d[A-Za-z]|[A-Za-z]\^|[+\-*/]\s*[A-Za-z]\w*$", last_token[0])) or bool(
        re.search(r"[+\-*/]\s*[A-Za-z]\w*$", before)
    )


def _braced(text: str) -> tuple[str, str]:
    """The content of the group that a text begins with, braces inside it balanced, or its first word without a group;
    and what stands behind."""
    if not text.startswith("{"):
        word, _, behind = text.partition(" ")
        return word.strip(), behind
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[1:position].strip(), text[position + 1 :]
    return text[1:].strip(), ""


@functools.lru_cache(maxsize=1 << 14)
def gold_quantity(accepted: str) -> Quantity | None:
    """An accepted answer as a quantity, where it is nothing but a number with a unit; None for other texts. Numbers in
    words count where no unit follows: "One Direction" is none."""
    quantity = _leading_quantity(with_numerals(accepted), whole=True)
    in_words = quantity is not None and quantity.unit and not any(map(str.isdigit, accepted))
    return None if in_words else quantity


@functools.lru_cache(maxsize=1 << 14)
def stated_quantity(answer: str) -> Quantity | None:
    """The number that an answer states: all of it, the one that it marks (see `stated_answers`), or the only number of
    its last sentence, where that neither denies nor offers a choice; behind "so" and the like the last one."""
    text = _digits_meant(without_thoughts(answer))
    quantity = _leading_quantity(text, whole=True)
    if quantity is not None:
        return quantity
    stated = stated_answers(answer)
    if stated:
        reading = _digits_meant(stated[0])
        reading = _EQUALS.split(reading)[-1]
        return _leading_quantity(reading) or _only_quantity(reading)
    if _MARKER.search(text):  # what it marks is nothing, or taken back
        return None
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    return _only_quantity(sentences[-1]) if sentences and not _EQUALS.search(text) else None


def _digits_meant(text: str) -> str:
    """The text with its numbers in digits, each once, without those that it sets what it means apart from."""
    return _CONTRAST.sub("", _RESTATEMENT.sub(r"\1", with_numerals(text)))


def _only_quantity(sentence: str) -> Quantity | None:
    atoms = split_atoms(sentence)
    starts = [index for index, atom in enumerate(atoms) if atom.kind == "number"]
    if not starts or _NEGATION.search(sentence) or (len(starts) > 1 and not _CONCLUSION.match(sentence)):
        return None
    quantity = _read(atoms[starts[-1] :], whole=False)
    return quantity if quantity and _stands_free(atoms[: starts[-1]], quantity) else None


def _stands_free(before: Sequence[Atom], quantity: Quantity) -> bool:
    """Whether what stands before the number leaves it what it is: no bound (more than 5), no name (step 3), no part of
    a calculation (√5, 3 + 5) and no whole that something is a part of (3 of the 5)."""
    if not before:
        return True
    last = before[-1].text
    if before[-1].kind == "number" or (before[-1].kind == "symbol" and last not in _RELATIONS + "*#:"):
        return False
    texts = [atom.text for atom in before[-3:]]
    if (
        last == "of"
        and len(before) > 1
        and (before[-2].kind == "number" or texts[-2] == "out" or _BOUND.fullmatch(texts[-2]))
    ) or (texts[-2:] == ["up", "to"]):
        return False
    is_year = quantity.unit == "" and quantity.value >= 1000
    is_time_bound = last in _TIME_BOUNDS and not quantity.unit
    is_label = _LABEL.fullmatch(last) or (_MONTH.fullmatch(last) and not is_year)
    return not (_BOUND.fullmatch(last) or is_time_bound or is_label or _HAN_BOUND.search("".join(texts)))


def _leading_quantity(text: str, *, whole: bool = False) -> Quantity | None:
    return _read(split_atoms(_APPROXIMATELY.sub("", text.strip(" \t\n*_"))), whole=whole)


def _read(atoms: tuple[Atom, ...], *, whole: bool) -> Quantity | None:
    """A number at the beginning with its unit. whole: nothing else may follow."""
    if not atoms or atoms[0].kind != "number" or not _PLAIN_NUMBER.fullmatch(atoms[0].text):
        return None
    value, rest = Fraction(atoms[0].text), atoms[1:]
    texts = [atom.text for atom in rest[:4]]
    if rest and "/" in rest[0].text and _PLAIN_NUMBER.fullmatch(rest[0].text) and value.denominator == 1:
        value, rest = value + (Fraction(rest[0].text) if value >= 0 else -Fraction(rest[0].text)), rest[1:]
    elif len(texts) == 4 and texts[0] in "×x*·" and texts[1:3] == ["10", "^"] and re.fullmatch(r"-?\d{1,3}", texts[3]):
        value, rest = value * Fraction(10) ** int(texts[3]), rest[4:]
    if rest and rest[0].text in ("%", "‰"):
        value, rest = value / (100 if rest[0].text == "%" else 1000), rest[1:]
    if rest and not rest[0].gap and rest[0].text in ("st", "nd", "rd", "th"):
        return None
    if rest and (rest[0].text in _FACTORS or _FACTORS_BEHIND.search(" ".join(atom.text for atom in rest[:4]))):
        return None
    unit: list[str] = []
    for atom in rest:
        is_unit = atom.kind in ("word", "character") or atom.text in _UNIT_SYMBOLS
        joins = bool(unit) and (atom.text in "/^*·%" or (atom.kind == "number" and unit[-1] == "^"))
        if atom.gap == "," or atom.text in ("or", "and", "to", "或", "和") or not (is_unit or joins):
            ends_there = atom.kind != "number" and (bool(unit) or atom.gap != "" or atom.kind == "word")
            return (
                Quantity(value, " ".join(unit)) if ends_there and not whole and atom.text not in ("or", "或") else None
            )
        unit.append(_UNIT_SPELLINGS.get(atom.text, atom.text))
    return Quantity(value, " ".join(unit)) if len(unit) <= 4 or not whole else None
