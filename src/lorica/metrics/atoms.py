"""A text as numbers, words and symbols, each in one spelling: what the normalisation `lorica` compares."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal

import msgspec

from lorica.metrics.formulas import is_list, mark_brackets, mark_formula
from lorica.names import fold_case

# Thai, Lao, Myanmar, Khmer, kana, and Han ideographs with their extensions: words are not separated by spaces.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)

# Punctuation by Unicode, and yet C# is not C, 5% not 5, and m/s not ms.
_SYMBOLS = "#%&@*/\\§‰‱′″†‡"
# Ends a word also where no space follows; other punctuation inside a word is left out of it (U.S., don't).
_SEPARATORS = ",;:!?、。،؛؟—―〜"
_CURRENCY = "$¢£¤¥֏؋৲৳૱௹฿៛₠-⃀"
_ARTICLES = ("a", "an", "the")

_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_DEGREE = re.compile(r"[˚º](?=\s?[CF]\b)")
_WIDE = {0xFF01 + at: 0x21 + at for at in range(94)} | {ord("ₙ"): "_n"}
_IGNORED = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\u0640\ufe00-\ufe0f\ufeff©®™℠`]")
_SPELLINGS = str.maketrans(
    dict.fromkeys("‐‑‒–−", "-") | dict.fromkeys("’ʼ", "'") | {"⁄": "/", "∕": "/", "٫": ".", "٬": ",", "٪": "%"}
)
_EMPHASIS = re.compile(r"(?<![a-z0-9*])(\*{1,3})(?=[^\s*])([^*]+)(?<=\S)\1(?![a-z0-9*])")
_LATEX = re.compile(r"\\[()\[\]]|\\(?=[%$#&_{}])")
_LATEX_DOLLARS = re.compile(r"(\${1,2})(?=\S)([^$]+)(?<=\S)\1(?![0-9$])")
_BULLET = re.compile(r"^\s*(?:\*|#{1,6})\s+(?=\S)", re.MULTILINE)
_PERCENT = re.compile(r"\bper ?cent\b")
_AREA = re.compile(r"(?<![^\W\d_])([kcmdhμ]?m)([23])(?![^\W_])")

# Digits, with what may stand between them in one number, list, fraction or date.
_RUN = re.compile(
    rf"([-+]?)(?:([{_CURRENCY}]) ?([-+]?))?"
    r"((?:(?<!\.)\.)?\d+(?:(?:[.,']| ?/ ?| (?=\d{3}(?!\d)))\d+)*)(e[-+]?\d{1,3}(?![^\W_]))?"
)
_GROUPED = re.compile(
    r"([1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3})(\.\d+)?"  # 1,000.5 and 1,00,000.5
    r"|([1-9]\d{0,2}(?:[' ]\d{3})+)([.,]\d+)?"  # 1'000.5 and 1 000,5
    r"|([1-9]\d{0,2}(?:\.\d{3})+)(,\d+)"  # 1.000,5
    r"|([1-9]\d{0,2}(?:\.\d{3}){2,})()"  # 1.000.000
)
_DECIMAL = re.compile(r"(\d*)([.,]\d+)?")

Gap = Literal["", " ", ","]


class Atom(msgspec.Struct, frozen=True):
    """One piece. gap: what stood before it: nothing, white space (and such punctuation as means as little), or
    punctuation that separates."""

    text: str
    kind: Literal["number", "word", "symbol", "character"]
    gap: Gap


@functools.lru_cache(maxsize=1 << 14)  # both metrics, and each group, ask for the same texts
def split_atoms(text: str) -> tuple[Atom, ...]:
    """The atoms of a text, articles left out; none for a text of mere punctuation.

    A number stands in plain digits, with a minus if it has one; a currency sign stands behind its number. Characters of
    scripts without spaces are atoms of their own.
    """
    return tuple(_without_articles(list(_scan(_unified(text)))))


def compact(atoms: Sequence[Atom]) -> str:
    """One line in which equal texts are equal: a space stands between words and numbers only."""
    pieces: list[str] = []
    after_word = False
    for atom in atoms:
        pieces.append(" " if after_word and atom.kind in ("word", "number") else "")
        pieces.append(atom.text)
        after_word = atom.kind in ("word", "number")
    return "".join(pieces)


def tokens(atoms: Sequence[Atom]) -> list[str]:
    """The words: a symbol belongs to the word it touches ("c++"); numbers are words of their own."""
    token_texts: list[str] = []
    open_word = False
    for atom in atoms:
        joins_words = atom.kind in ("word", "symbol")
        if joins_words and open_word and not atom.gap:
            token_texts[-1] += atom.text
        else:
            token_texts.append(atom.text)
        open_word = joins_words
    return token_texts


def _unified(text: str) -> str:
    """One spelling of each character: case, width, digits of all scripts, dashes, fractions, markup."""
    text = _LATEX.sub("", _BULLET.sub("", mark_formula(text.translate(_WIDE))))
    text = _SUPERSCRIPT.sub(lambda superscript: "^" + unicodedata.normalize("NFKC", superscript[0]), text)
    text = _IGNORED.sub("", _DEGREE.sub("°", _VULGAR_FRACTION.sub(" ", text)))
    text = fold_case(text).translate(_SPELLINGS)
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
    text = _LATEX_DOLLARS.sub(r"\2", _EMPHASIS.sub(r"\2", " ".join(text.split())))
    return mark_brackets(_AREA.sub(r"\1^\2", _PERCENT.sub("%", text)))


def _scan(text: str) -> Iterator[Atom]:
    position = 0
    preceding_gap: Gap = ""
    while position < len(text):
        number_run = _RUN.match(text, position)
        if number_run and _may_carry_sign(text, number_run):
            yield from _numbers(text, number_run, preceding_gap)
            position, preceding_gap = number_run.end(), ""
        elif _is_word(text[position]):
            word_text, position = _word(text, position)
            yield Atom(word_text, "word", preceding_gap)
            preceding_gap = ""
        elif _is_symbol(text, position):
            yield Atom(text[position], "character" if UNSPACED.match(text[position]) else "symbol", preceding_gap)
            position, preceding_gap = position + 1, ""
        else:
            preceding_gap = (
                "," if preceding_gap == "," or text[position] in _SEPARATORS or text[position] == "." else " "
            )
            position += 1


def _may_carry_sign(text: str, number_run: re.Match[str]) -> bool:
    """Whether the sign before a number, if there is one, is not an operator or a hyphen behind something."""
    if not number_run[1]:
        return True
    before = text[max(number_run.start() - 2, 0) : number_run.start()]
    # "5 +3" adds; "5 -3" may be a list.
    last_character = (before.rstrip() if number_run[1] == "+" else before)[-1:]
    return not (last_character and (_is_word(last_character) or last_character in ")]}⌡⊐%+-")) and not number_run[3]


def _numbers(text: str, number_run: re.Match[str], preceding_gap: Gap) -> Iterator[Atom]:
    first_number, *followers = _split_run(
        number_run[4], bracketed="," in number_run[4] and is_list(text, number_run.start(), number_run.end())
    )
    if number_run[5] and not followers:
        first_number = _raised(first_number, number_run[5])
    negative = "-" in (number_run[1], number_run[3]) and first_number != "0"
    yield Atom("-" + first_number if negative else first_number, "number", preceding_gap)
    for follower in followers:
        yield Atom(follower, "number", " ")
    if number_run[2]:
        yield Atom(number_run[2], "symbol", " ")


def _split_run(run: str, bracketed: bool = False) -> list[str]:
    """The numbers of a run of digits and marks, in plain digits. bracketed: (1,2) holds two, 1,2 is a decimal."""
    if bracketed and "/" in run:
        return [number for piece in run.split(",") for number in _split_run(piece.strip())]
    if "/" in run:
        return ["/".join(" ".join(_split_run(piece)) for piece in re.split(" ?/ ?", run))]
    grouped = _GROUPED.fullmatch(run)
    if grouped:
        groups = [piece or "" for piece in grouped.groups()]
        integer, fraction = "".join(groups[::2]), "".join(groups[1::2])
        return [_plain_number(re.sub("[^0-9]", "", integer), fraction)]
    decimal = _DECIMAL.fullmatch(run)
    if decimal and not (bracketed and "," in run):
        return [_plain_number(decimal[1], decimal[2] or "")]
    groups = re.split("[,' ]", run)
    # A date, a version or an address stays what it is.
    return [run] if len(groups) == 1 else [number for piece in groups for number in _split_run(piece)]


def _plain_number(integer: str, fraction: str) -> str:
    """In one spelling: 3.50 is 3.5, .5 is 0.5. With a zero in front it is a code or part of a date, and stays."""
    if len(integer) > 1 and integer.startswith("0"):
        return integer + fraction
    digits = fraction[1:].rstrip("0")
    return f"{integer or 0}.{digits}" if digits else integer or "0"


def _raised(number: str, exponent: str) -> str:
    try:
        plain_digits = format(Decimal(number + exponent), "f")
    except InvalidOperation:
        return number + exponent
    integer, _, fraction = plain_digits.partition(".")
    return _plain_number(integer.lstrip("0") or "0", f".{fraction}")


def _word(text: str, position: int) -> tuple[str, int]:
    """A word from `position` on, without the punctuation inside it, and where it ends."""
    word_text, word_start = "", position
    while position < len(text):
        next_character = text[position + 1 : position + 2]
        if _is_word(text[position]):
            word_text += text[position]
        elif _joins(text[position]) and next_character and _is_word(next_character):
            if word_text[-1].isdigit() and next_character.isdigit():
                if text[position] != ".":  # v1.5 is not v15
                    break
                word_text += "."
        else:
            break
        position += 1
    # Blood group O-, Cl-, grade B-: at the end of a short name a hyphen is a sign.
    if text[position : position + 1] == "-" and (len(word_text) <= 2 or word_text[-1].isdigit()):
        return word_text + "-", position + 1
    return text[word_start:position] if word_text == "an" else word_text, position  # a_n is no article


@functools.lru_cache(maxsize=1 << 12)
def _is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM" and not UNSPACED.match(character)


@functools.lru_cache(maxsize=1 << 12)
def _joins(character: str) -> bool:
    return unicodedata.category(character)[0] == "P" and character not in _SYMBOLS and character not in _SEPARATORS


def _is_symbol(text: str, position: int) -> bool:
    """Symbols, characters of scripts without spaces, and a minus: before a symbol or a single letter (-∞, -x)."""
    character, next_character = text[position], text[position + 1 : position + 2]
    if character == "-":
        previous, second_next = text[position - 1 : position] if position else "", text[position + 2 : position + 3]
        touches = bool(next_character) and (
            unicodedata.category(next_character)[0] == "S" or (next_character.isalpha() and not second_next.isalpha())
        )
        return touches and not (previous and (_is_word(previous) or previous in ")]}⌡⊐%-"))
    if character == "!":
        return next_character == "="
    return (
        character in _SYMBOLS
        or unicodedata.category(character)[0] == "S"
        or (unicodedata.category(character)[0] in "LNM")
    )


def _takes_article(article: Atom, next_atom: Atom) -> bool:
    return article.text != "a" or next_atom.kind == "number" or (next_atom.kind == "word" and len(next_atom.text) > 1)


def _without_articles(atoms: Sequence[Atom]) -> list[Atom]:
    """An article stands before a word: the A of "vitamin A", of "A" alone and of "a + b" is none."""
    meaningful_atoms = []
    for atom, next_atom in zip(atoms, [*atoms[1:], None], strict=False):
        if (
            next_atom is None
            or atom.text not in _ARTICLES
            or next_atom.gap != " "
            or not _takes_article(atom, next_atom)
        ):
            meaningful_atoms.append(atom)
    return meaningful_atoms
