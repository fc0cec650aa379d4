"""What an answer states: the final answer of a worked solution, a number with its unit, or that it does not know."""

from __future__ import annotations

import functools
import re
from fractions import Fraction

import msgspec

from lorica.metrics.atoms import Atom, split_atoms
from lorica.metrics.number_words import with_numerals
from lorica.thoughts import without_thoughts

TOLERANCE = Fraction(1, 10**6)
"""Relative: numbers are equal that differ by no more than this share of the larger one."""

_MARKER = re.compile(
    r"(?:^|\n)[ \t]*####[ \t]*|\\(?:boxed|fbox)\s*(?=[{\d])"
    r"|\banswer\b[*_]*(?:\s+(?:to|for|of)\b[^.:\n]{0,80}?)?\s*(?:[:：=]|(?:is|are|was)\b(?!\s*(?:not|n['’]t)\b)\s*[:：]?)"
    r"|(?:答案|答)\s*(?:[:：=]|(?:应该|應該)?(?:是|为|為|等于|等於)(?!不)\s*[:：]?)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？；\n]")
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
_UNIT_SYMBOLS = "$¢£¤¥€₹₽₩฿₺°′″"
_UNIT_SPELLINGS = {"dollar": "$", "dollars": "$", "euro": "€", "euros": "€"}

_I = r"(?:i|we)(?:['’]m| am| are)?"
_ABSTENTION = re.compile(
    rf"(?:(?:sorry|well|hmm|unfortunately)\s+)*(?:(?:i['’]?m|i am)\s+(?:sorry|afraid)\s+(?:but\s+)?)?(?:"
    rf"{_I}\s+(?:really |honestly |just |simply )?(?:do not|don['’]?t|dont)\s+(?:really )?know"
    r"(?:\s+(?:the|this|that|it)\b.*)?"
    rf"|{_I}\s+(?:not (?:sure|certain)|unsure)(?:\s+(?:about|of)\b.*)?|{_I} have no idea"
    r"|not sure|unsure|idk|dunno|no idea|dont know|unknown"
    r"|(?:the )?(?:question )?(?:is )?(?:unanswerable|not answerable)"
    r"|no answer(?: (?:is )?(?:given|possible|available))?"
    r"|(?:it|this|the question|the answer|that)?\s*(?:can ?not|can['’]?t|could not)\s+be\s+"
    r"(?:answered|determined|known|said)(?:\s+(?:from|based on|with|given)\b.*)?"
    r"|(?:there is\s+)?(?:not enough|insufficient) (?:information|context|data)(?:\s+(?:to|in|is)\b.*)?|n/a"
    r"|(?:我们?|俺)?(?:也)?(?:不知道|不清楚|不确定|不確定)(?:答案)?|(?:该问题|这个问题|此题|此問題)?(?:无法|無法)(?:回答|确定|確定|判断|得知).*"
    r"|(?:没有|沒有|无|無)答案|信息不足|未知|不详)",
    re.IGNORECASE,
)


class Quantity(msgspec.Struct, frozen=True):
    """A number and the unit behind it, "" where there is none; a percentage is its hundredth part and has no unit."""

    value: Fraction
    unit: str = ""

    def equals(self, accepted: Quantity) -> bool:
        """Whether this answer says what `accepted` does. Units are compared as written, and what `accepted` does not
        ask for may stand in the answer."""
        asked_unit = f"{accepted.unit} " if accepted.unit else ""
        largest = max(abs(self.value), abs(accepted.value))
        return f"{self.unit} ".startswith(asked_unit) and abs(self.value - accepted.value) <= TOLERANCE * largest


def abstains(answer: str) -> bool:
    """Whether an answer says that it does not know, or that there is nothing to know, and nothing else."""
    sentence = " ".join(re.sub(r"[,，.!。！*\"“”]+", " ", without_thoughts(answer)).split())
    return _ABSTENTION.fullmatch(sentence) is not None and not re.search(
        r"\b(?:but|maybe|perhaps|probably|guess)\b|但|可能", sentence.removeprefix("sorry but"), re.IGNORECASE
    )


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
        if "\\" in marker[0]:
            return (_braced(stated),)
        sentence_end = _SENTENCE_END.search(stated)
        readings = (stated[: sentence_end.start()] if sentence_end else stated, stated.partition("\n")[0])
    else:
        lines = [line for line in text.splitlines() if _EQUALS.search(line)]
        if not lines or _is_equation(lines[-1]):
            return ()
        right_side = _EQUALS.split(lines[-1])[-1]
        sentence_end = _SENTENCE_END.search(right_side)
        readings = (right_side[: sentence_end.start()] if sentence_end else right_side, right_side)
    return tuple(dict.fromkeys(filter(None, (reading.strip(" \t*_$.。\"'") for reading in readings))))


def _is_equation(line: str) -> bool:
    """Whether what stands before the last "=" is more than a name or a calculation: 2x = 3 states no answer."""
    before = _EQUALS.split(line)[-2].rstrip(" *_$")
    last_token = re.search(r"[^\s(),;:，。]*$", before)
    return bool(last_token and re.search(r"\d[A-Za-z]|[A-Za-z]\^|[+\-*/]\s*[A-Za-z]\w*$", last_token[0])) or bool(
        re.search(r"[+\-*/]\s*[A-Za-z]\w*$", before)
    )


def _braced(text: str) -> str:
    """The content of the group that a text begins with, braces inside it balanced; its first word without a group."""
    if not text.startswith("{"):
        return text.split()[0] if text.split() else ""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[1:position].strip()
    return text[1:].strip()


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
    text = with_numerals(without_thoughts(answer))
    quantity = _leading_quantity(text, whole=True)
    if quantity is not None:
        return quantity
    stated = stated_answers(answer)
    if stated:
        reading = with_numerals(stated[0])
        reading = _EQUALS.split(reading)[-1]
        return _leading_quantity(reading) or _only_quantity(reading)
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    return _only_quantity(sentences[-1]) if sentences and not _EQUALS.search(text) else None


def _only_quantity(sentence: str) -> Quantity | None:
    atoms = split_atoms(sentence)
    starts = [index for index, atom in enumerate(atoms) if atom.kind == "number"]
    if not starts or _NEGATION.search(sentence) or (len(starts) > 1 and not _CONCLUSION.match(sentence)):
        return None
    return _read(atoms[starts[-1] :], whole=False)


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
