"""Numbers in words as digits, in English and Chinese: "twenty-one" is 21, "the third" the 3rd, "三百零五" 305.

Ordinals become ordinals, never plain numbers: "second" is "2nd", which equals no 2. What follows no grammar of numbers
stays as it is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence


def _counted(words: str, first: int, step: int = 1) -> dict[str, int]:
    return {word: first + step * index for index, word in enumerate(words.split())}


_ONES = _counted("one two three four five six seven eight nine", 1)
_TEENS = _counted("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen", 10)
_TENS = _counted("twenty thirty forty fifty sixty seventy eighty ninety", 20, 10) | {"fourty": 40}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_POWERS = {"hundred": 100, **_SCALES}
_ORDINALS = {
    **_counted("first second third fourth fifth sixth seventh eighth ninth", 1),
    **{f"{word}th": number for word, number in _TEENS.items() if word != "twelve"},
    "twelfth": 12,
    **{f"{word[:-1]}ieth": number for word, number in _TENS.items()},
    "hundredth": 100,
    "thousandth": 1000,
    "millionth": 10**6,
}
# A half, two thirds, three quarters; "second" is no denominator.
_DENOMINATORS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4} | {
    name: number
    for word, number in _ORDINALS.items()
    if word not in ("first", "second")
    for name in (word, f"{word}s")
    if number < 100 or name != word  # a hundredth may be either
}
_VALUES = {**_ONES, **_TEENS, **_TENS, "zero": 0}
_WORDS = sorted({*_VALUES, *_SCALES, *_ORDINALS, *_DENOMINATORS, "hundred", "dozen"}, key=len, reverse=True)
_WORD = rf"(?:{'|'.join(_WORDS)}|and|a|an|point|oh)"
_RUN = re.compile(
    rf"(?<![\w.-])(?:(?P<sign>minus|negative)\s+)?"
    rf"(?P<run>(?:\d+(?:,\d{{3}})*(?:\.\d+)?\s+|an?\s+)?(?:{'|'.join(_WORDS)})(?:(?:\s+|-){_WORD})*)(?![\w-])",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")

_HAN_DIGITS = {
    character: number
    for number, characters in enumerate(
        ("零〇", "一壹", "二贰貳两兩", "三叁參", "四肆", "五伍", "六陆陸", "七柒", "八捌", "九玖")
    )
    for character in characters
}
_HAN_UNITS = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_HAN_SCALES = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_HAN_POWERS = {**_HAN_UNITS, **_HAN_SCALES}
_HAN = "".join((*_HAN_DIGITS, *_HAN_POWERS))
_HAN_NUMBER = rf"[{_HAN}]+(?:[点點][{''.join(_HAN_DIGITS)}]+)?"
_HAN_RUN = re.compile(
    rf"(?P<sign>[负負])?(?:(?P<percent>百分之)(?P<of_hundred>{_HAN_NUMBER})"
    rf"|(?P<denominator>{_HAN_NUMBER})分之(?P<numerator>{_HAN_NUMBER})|(?P<half>一半)|(?P<number>{_HAN_NUMBER}))"
)
_MIXED_HAN = re.compile(rf"(?<![\d.])(\d+(?:\.\d+)?)\s?([{''.join(_HAN_POWERS)}]{{1,2}})")


@functools.lru_cache(maxsize=1 << 14)  # several metrics, and each group, ask for the same texts
def with_numerals(text: str) -> str:
    """The text with its numbers in words written in digits."""
    text = _RUN.sub(_english, text)
    if text.isascii():
        return text
    return _MIXED_HAN.sub(_mixed_han, _HAN_RUN.sub(_han, text))


def _english(run_match: re.Match[str]) -> str:
    words = re.split(r"[\s-]+", run_match["run"].lower())
    sign = "-" if run_match["sign"] else ""
    # What ends a run may not belong to it: "two and", "one of a kind".
    for length in range(len(words), 0, -1):
        numeral = _numeral(words[:length])
        if numeral:
            rest = words[length:]
            return sign + numeral + (" " + with_numerals(" ".join(rest)) if rest else "")
    return run_match[0]


def _numeral(words: Sequence[str]) -> str:
    """The digits of words that make one number, "" of others."""
    if words[-1] in _DENOMINATORS and (fraction := _fraction(words)):
        return fraction
    if words[-1] in _ORDINALS:
        return _ordinal(words)
    if "point" in words:
        split_at = words.index("point")
        integer, decimals = _cardinal(words[:split_at]), [_decimal_digit(word) for word in words[split_at + 1 :]]
        return f"{integer}.{''.join(decimals)}" if integer and decimals and all(decimals) else ""
    return _cardinal(words) or _year(words)


def _fraction(words: Sequence[str]) -> str:
    """One half, two thirds, a quarter, and two and a half; "" of ordinals such as twenty third."""
    denominator, before = _DENOMINATORS[words[-1]], list(words[:-1])
    if not before:
        return "1/2" if words[-1] == "half" else ""
    for split_at in (index for index, word in enumerate(before) if word == "and"):
        whole, part = _cardinal(before[:split_at]), _fraction([*before[split_at + 1 :], words[-1]])
        if whole and part:
            return f"{whole} {part}"
    numerator = "1" if before in (["a"], ["an"]) else _cardinal(before)
    plural = words[-1].endswith("s")
    if not numerator or (numerator == "1") == plural or "." in numerator:
        return ""
    return f"{numerator}/{denominator}"


def _ordinal(words: Sequence[str]) -> str:
    value = _ORDINALS[words[-1]]
    if len(words) > 1:
        stem = next(word for word, word_value in {**_VALUES, **_POWERS}.items() if word_value == value)
        cardinal = _cardinal([*words[:-1], stem])
        if not cardinal.isdigit():
            return ""
        value = int(cardinal)
    suffix = "th" if value % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return f"{value}{suffix}"


def _cardinal(words: Sequence[str]) -> str:
    """The digits of a cardinal number, "" of what is none. Digits may stand before a scale: 3.5 million."""
    if not words:
        return ""
    if words[-1] == "dozen" and not _DIGITS.fullmatch(words[0]):
        dozens = "1" if words[:-1] in ([], ["a"]) else _cardinal(words[:-1])
        return str(int(dozens) * 12) if dozens.isdigit() and words[:-1] else ""
    if _DIGITS.fullmatch(words[0]):
        return _scaled_digits(words)
    if list(words) == ["zero"]:
        return "0"
    total, group, last, last_scale = 0, 0, "start", 10**15
    for word in words:
        if word in ("a", "an") and last == "start":
            group, last = 1, "article"
        elif word == "and" and last in ("hundred", "scale"):
            last = f"{last} and"
        elif word in _ONES and last in ("start", "tens", "hundred", "hundred and", "scale", "scale and"):
            group, last = group + _ONES[word], "ones"
        elif word in (_TEENS | _TENS) and last in ("start", "hundred", "hundred and", "scale", "scale and"):
            group, last = group + (_TEENS | _TENS)[word], "tens" if word in _TENS else "teens"
        elif word == "hundred" and last in ("ones", "teens", "article") and group < 100:
            group, last = group * 100, "hundred"
        elif word in _SCALES and last not in ("start", "scale", "hundred and", "scale and") and group:
            if _SCALES[word] >= last_scale:
                return ""
            total, group, last, last_scale = total + group * _SCALES[word], 0, "scale", _SCALES[word]
        else:
            return ""
    return "" if last in ("start", "article", "hundred and", "scale and") else str(total + group)


def _scaled_digits(words: Sequence[str]) -> str:
    if len(words) == 2 and words[1] == "dozen" and words[0].isdigit():
        return str(12 * int(words[0]))
    if len(words) != 2 or words[1] not in _POWERS:
        return ""
    return _times(words[0].replace(",", ""), _POWERS[words[1]])


def _times(digits: str, factor: int) -> str:
    """A plain decimal times a power of ten, in plain digits."""
    integer, _, decimals = digits.partition(".")
    places = len(str(factor)) - 1
    moved = integer + decimals.ljust(places, "0")[:places]
    left_over = decimals[places:].rstrip("0")
    return (moved.lstrip("0") or "0") + (f".{left_over}" if left_over else "")


def _year(words: Sequence[str]) -> str:
    """Nineteen eighty-four, nineteen oh five: two numbers from 10 to 99 in a row."""
    if len(words) == 3 and words[1] in ("oh", "zero") and words[2] in _ONES:
        century = _cardinal(words[:1])
        return f"{century}0{_ONES[words[2]]}" if len(century) == 2 else ""
    for split_at in range(1, len(words)):
        pair = _cardinal(words[:split_at]), _cardinal(words[split_at:])
        if all(len(number) == 2 and number.isdigit() for number in pair):
            return "".join(pair)
    return ""


def _decimal_digit(word: str) -> str:
    return "0" if word in ("zero", "oh") else str(_ONES[word]) if word in _ONES else ""


def _han(han_match: re.Match[str]) -> str:
    sign = "-" if han_match["sign"] else ""
    if han_match["half"]:
        return f"{sign}1/2"
    if han_match["percent"]:
        percent = _han_number(han_match["of_hundred"])
        return f"{sign}{percent}%" if percent else han_match[0]
    if han_match["denominator"]:
        numerator, denominator = _han_number(han_match["numerator"]), _han_number(han_match["denominator"])
        return f"{sign}{numerator}/{denominator}" if numerator and denominator else han_match[0]
    number = _han_number(han_match["number"])
    return sign + number if number else han_match[0]


def _han_number(numeral: str) -> str:
    """The digits of a Chinese numeral, "" of a row of characters that is none."""
    integer, *decimals = re.split("[点點]", numeral)
    value = _han_integer(integer)
    return value + "".join("." + "".join(str(_HAN_DIGITS[digit]) for digit in digits) for digits in decimals if value)


def _han_integer(numeral: str) -> str:
    if all(character in _HAN_DIGITS for character in numeral):  # 二〇二四, digit by digit
        return "".join(str(_HAN_DIGITS[character]) for character in numeral)
    total, section, digit, last_unit = 0, 0, None, 10**4
    last_scale = 10**12
    for character in numeral:
        if character in _HAN_DIGITS:
            if digit:  # two digits in a row
                return ""
            digit = _HAN_DIGITS[character]
            continue
        if character in _HAN_UNITS:
            unit = _HAN_UNITS[character]
            if unit >= last_unit or digit == 0 or (digit is None and unit != 10):
                return ""
            section, digit, last_unit = section + (digit or 1) * unit, None, unit
            continue
        scale = _HAN_SCALES[character]
        section += digit or 0
        if scale > last_scale and total < 10**8:  # 五十九万一千亿
            total, section = (total + section) * scale, 0
        elif not section or scale >= last_scale:
            return ""
        else:
            total, section = total + section * scale, 0
        digit, last_unit, last_scale = None, 10**4, scale
    if numeral[-1] in _HAN_DIGITS and numeral[-2] in _HAN_POWERS and last_unit > 10:
        return str(total + section + (digit or 0) * _HAN_POWERS[numeral[-2]] // 10)  # 三百五 is 350, 一万五 15000
    return str(total + section + (digit or 0))


def _mixed_han(mixed_match: re.Match[str]) -> str:
    """3万, 1.5亿, 3百万."""
    digits = mixed_match[1]
    for character in mixed_match[2]:
        digits = _times(digits, _HAN_POWERS[character])
    return digits
