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
    spaced = False
    for atom in atoms:
        pieces.append(" " if spaced and atom.kind in ("word", "number") else "")
        pieces.append(atom.text)
        spaced = atom.kind in ("word", "number")
    return "".join(pieces)


def tokens(atoms: Sequence[Atom]) -> list[str]:
    """The words: a symbol belongs to the word it touches ("c++"); numbers are words of their own."""
    words: list[str] = []
    open_word = False
    for atom in atoms:
        joins = atom.kind in ("word", "symbol")
        if joins and open_word and not atom.gap:
            words[-1] += atom.text
        else:
            words.append(atom.text)
        open_word = joins
    return words


def _unified(text: str) -> str:
    """One spelling of each character: case, width, digits of all scripts, dashes, fractions, markup."""
    text = _LATEX.sub("", _BULLET.sub("", mark_formula(text.translate(_WIDE))))
    text = _SUPERSCRIPT.sub(lambda match: "^" + unicodedata.normalize("NFKC", match[0]), text)
    text = _IGNORED.sub("", _DEGREE.sub("°", _VULGAR_FRACTION.sub(" ", text)))
    text = fold_case(text).translate(_SPELLINGS)
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
    text = _LATEX_DOLLARS.sub(r"\2", _EMPHASIS.sub(r"\2", " ".join(text.split())))
    return mark_brackets(_AREA.sub(r"\1^\2", _PERCENT.sub("%", text)))


def _scan(text: str) -> Iterator[Atom]:
    at = 0
    gap: Gap = ""
    while at < len(text):
        run = _RUN.match(text, at)
        if run and _may_carry_sign(text, run):
            yield from _numbers(text, run, gap)
            at, gap = run.end(), ""
        elif _is_word(text[at]):
            word, at = _word(text, at)
            yield Atom(word, "word", gap)
            gap = ""
        elif _is_symbol(text, at):
            yield Atom(text[at], "character" if UNSPACED.match(text[at]) else "symbol", gap)
            at, gap = at + 1, ""
        else:
            gap = "," if gap == "," or text[at] in _SEPARATORS or text[at] == "." else " "
            at += 1


def _may_carry_sign(text: str, run: re.Match[str]) -> bool:
    """Whether the sign before a number, if there is one, is not an operator or a hyphen behind something."""
    if not run[1]:
        return True
    before = text[max(run.start() - 2, 0) : run.start()]
    # "5 +3" adds; "5 -3" may be a list.
    last = (before.rstrip() if run[1] == "+" else before)[-1:]
    return not (last and (_is_word(last) or last in ")]}⌡⊐%+-")) and not run[3]


def _numbers(text: str, run: re.Match[str], gap: Gap) -> Iterator[Atom]:
    first, *followers = _split_run(run[4], bracketed="," in run[4] and is_list(text, run.start(), run.end()))
    if run[5] and not followers:
        first = _raised(first, run[5])
    negative = "-" in (run[1], run[3]) and first != "0"
    yield Atom("-" + first if negative else first, "number", gap)
    for follower in followers:
        yield Atom(follower, "number", " ")
    if run[2]:
        yield Atom(run[2], "symbol", " ")


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
        plain = format(Decimal(number + exponent), "f")
    except InvalidOperation:
        return number + exponent
    integer, _, fraction = plain.partition(".")
    return _plain_number(integer.lstrip("0") or "0", f".{fraction}")


def _word(text: str, at: int) -> tuple[str, int]:
    """A word from `at` on, without the punctuation inside it, and where it ends."""
    word, start = "", at
    while at < len(text):
        after = text[at + 1 : at + 2]
        if _is_word(text[at]):
            word += text[at]
        elif _joins(text[at]) and after and _is_word(after):
            if word[-1].isdigit() and after.isdigit():
                if text[at] != ".":  # v1.5 is not v15
                    break
                word += "."
        else:
            break
        at += 1
    # Blood group O-, Cl-, grade B-: at the end of a short name a hyphen is a sign.
    if text[at : at + 1] == "-" and (len(word) <= 2 or word[-1].isdigit()):
        return word + "-", at + 1
    return text[start:at] if word == "an" else word, at  # a_n is no article


@functools.lru_cache(maxsize=1 << 12)
def _is_word(char: str) -> bool:
    return unicodedata.category(char)[0] in "LNM" and not UNSPACED.match(char)


@functools.lru_cache(maxsize=1 << 12)
def _joins(char: str) -> bool:
    return unicodedata.category(char)[0] == "P" and char not in _SYMBOLS and char not in _SEPARATORS


def _is_symbol(text: str, at: int) -> bool:
    """Symbols, characters of scripts without spaces, and a minus: before a symbol or a single letter (-∞, -x)."""
    char, after = text[at], text[at + 1 : at + 2]
    if char == "-":
        before, behind = text[at - 1 : at] if at else "", text[at + 2 : at + 3]
        touches = bool(after) and (unicodedata.category(after)[0] == "S" or (after.isalpha() and not behind.isalpha()))
        return touches and not (before and (_is_word(before) or before in ")]}⌡⊐%-"))
    if char == "!":
        return after == "="
    return char in _SYMBOLS or unicodedata.category(char)[0] == "S" or (unicodedata.category(char)[0] in "LNM")


def _takes_article(article: Atom, after: Atom) -> bool:
    return article.text != "a" or after.kind == "number" or (after.kind == "word" and len(after.text) > 1)


def _without_articles(atoms: Sequence[Atom]) -> list[Atom]:
    """An article stands before a word: the A of "vitamin A", of "A" alone and of "a + b" is none."""
    words = []
    for atom, after in zip(atoms, [*atoms[1:], None], strict=False):
        if after is None or atom.text not in _ARTICLES or after.gap != " " or not _takes_article(atom, after):
            words.append(atom)
    return words
