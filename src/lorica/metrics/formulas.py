"""Marks of formulas that would be lost as punctuation: minus signs, brackets, primes, factorials, fractions.

Each becomes a symbol of its own, in one spelling; in a text of words they stay the punctuation that they are.
"""

from __future__ import annotations

import re
import unicodedata

MINUS, FACTORIAL = "∸", "ꜝ"  # symbols that no answer holds
_DASH = "[-−–]"
_LETTER = r"[^\W\d_²³¹⁰-₉¼-¾⅐-⅞]"
_FUNCTION = r"(?i:(?:arc)?(?:sin|cos|tan|cot|sec|csc|sqrt|ln|log|exp|lim|det|cis))"
_FUNCTION_BEGINS = rf"{_FUNCTION}(?!{_LETTER}{{2}})"
# A small letter by itself: B-12, 3-D and e-mail are names.
_VARIABLE = rf"[a-zα-ω](?!{_LETTER})"
# Here a dash between short names is a minus, which between words is a hyphen or a range.
_IS_FORMULA = re.compile(
    rf"[=^√∞∫∑∏∂⁰¹²³⁴-⁹]|\\[a-zA-Z]|\w\+\w|\w \+ \w|\b\d*{_FUNCTION}(?:\b|{_LETTER}\b)|(?<!{_LETTER}){_FUNCTION}\("
)

_APART = re.compile(rf"^(\s*)(?:−|{_DASH}(?=\s+\([^()]*\)\s?/))\s+(?=\S)|([=(\[<>≤≥≠≈^]\s*){_DASH}\s+(?=\S)")
# x-3, 3 - x and x-y subtract; 1e-3 is a number, and 3-4 is a range or a score.
_SUBTRACTION = re.compile(
    rf"((?<!{_LETTER})(?!(?<=\d)e){_VARIABLE})\s?{_DASH}\s?(?=\d|{_VARIABLE})|(\d)\s?{_DASH}\s?(?={_VARIABLE})"
)
# (x+4)-2 and 10-(-18) subtract; (R)-alanine and (555)-1234 are names.
_AT_BRACKETS = re.compile(
    rf"(?<=[\d²³°!)\]}}])(\s?){_DASH}\1(?=[(\[{{])"
    rf"|(?<!\([A-Z]\))(?<!\(\d{{3}}\))(?<=[)\]}}])(\s?){_DASH}\2(?=\d|{_VARIABLE})"
)
_BEFORE_FUNCTION = re.compile(rf"([\w)\]}}]){_DASH}(?={_FUNCTION_BEGINS})")
_IN_FORMULA = re.compile(
    rf"((?<!{_LETTER})(?!(?<=\d)[eE]{_DASH}\d){_LETTER}{{1,3}}|{_FUNCTION}{_LETTER}?|[)\]}}|²³⁰-⁹°%]|\d(?=\s?{_DASH}\s?\D)|(?<=[\^a-z])\d)"
    rf"\s?{_DASH}\s?(?={_LETTER}{{1,3}}(?!{_LETTER})|{_FUNCTION_BEGINS}|[\d(\[{{|\\√$])"
)
# Before what is no number: -(x+2), x = -√7, -sqrt(7), -\frac{a}{b}.
_NEGATION = re.compile(
    rf"(^\s*|[=(\[{{<>≤≥≠≈±×·*/^,;:|$]\s*|\s){_DASH}(?=[(\[{{√|\\]|{_FUNCTION_BEGINS}"
    rf"|{_LETTER}{{1,3}}(?:[\^²³⁰-⁹_(]|{_FUNCTION}\b)|{_LETTER}{{1,2}}(?!{_LETTER}))"
)

_FRACTION = re.compile(
    rf"([\d,]?)(?<!{_LETTER})(?<!\))(?:\((\d+)\)\s?/\s?\((\d+)\)|\\[dt]?frac\s?\{{(\d+)\}}\s?\{{(\d+)\}})(?!\s?[\^!])(,?)"
)
_SHORT_FRACTION = re.compile(r"\\([dt]?frac)(\d)\s?(\d)")
_TEXT_GROUP = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s?\{([^{}]*)\}|\\[,;!](?=[\s\w\\])")
_POWER = re.compile(rf"(?:(?<=[\d)])|(?<=(?<![\w*])[a-z]))\*\*(?=[-−]?\d|\(|{_VARIABLE})")
_RELATION = re.compile(r"(?:(?<=[\w)\]] )|(?<=[\w)\]]))(>=|<=|!=)(?=\s?[\w(\[√−-])")
_RELATIONS = {">=": "≥", "<=": "≤", "!=": "≠"}
_TIMES = re.compile(r"(?<=\d)(?<!^0)(?<![^\w.]0)\s?[xX*]\s?(?=\d)")  # 0x10 is a number
# Na⁺, Ca^2+ and SO4^{2-} are written Na+, Ca2+, SO42- as well.
_CHARGE = re.compile(
    r"([A-Z][a-z]?[\d₀-₉]*|(?<!\w)[ep]|[\])\d])(?:\^\{?|(?=[⁰¹²³⁴-⁹]?[⁺⁻]))([\d⁰¹²³⁴-⁹]?[-+−–⁺⁻])\}?(?!\s?[\w(])"
)
_CIRCLED = re.compile("[①-⒛]")
_FACTORIAL = re.compile(rf"(\d|(?<![\w.]){_VARIABLE}|\d\)|[-+−–]\w\))!(?![!=\w])")
# 1'000 is a thousand.
_PRIMED = re.compile(rf"(?:\d(?!['’]\d{{3}}(?!\d))|(?<!\w){_LETTER}(?!['’]+\w))(?:['’]{{1,3}}|[\"”″])(?!{_LETTER})")
_OPENS_QUOTE = re.compile(r"(?<![\w'’])['’‘\"“”]")
_PRIMES = str.maketrans({"'": "′", "’": "′", '"': "″", "”": "″"})

_LONGEST = 400  # characters in a bracket that is looked at, so that deep nesting costs little
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_ENDS = {"[": "⊏", "(": "(", "]": "⊐", ")": ")"}
_SUM = re.compile(rf"[\w)\]²³%°]\s?[+{MINUS}±]\s?[\w(\[√\\]")
_PRODUCT = re.compile(rf"[\w)\]]\s?[*·×/]\s?[\w(\[√\\]|\d\s?{_LETTER}|[{MINUS}-]\s?\w")
_WORKED_ON = re.compile(rf"[\w)\]^/*·×√{MINUS}]$|\d $")
_ITEM = rf"\s*[-+{MINUS}]?[\w.√∞/]+\s*"
_INTERVAL = re.compile(rf"({_ITEM})[,;]{_ITEM}")


def mark_formula(text: str) -> str:
    """A text in which minus signs, charges, primes and factorials are symbols, and powers, relations and fractions have
    one spelling. To be called before case and width are folded: B-12 is a name, b-12 a difference."""
    text = _SHORT_FRACTION.sub(r"\\\1{\2}{\3}", _TEXT_GROUP.sub(r" \1 ", text)) if "\\" in text else text
    text = _CIRCLED.sub(lambda match: f" {unicodedata.numeric(match[0]):.0f} ", text)
    text = _CHARGE.sub(lambda match: match[1] + unicodedata.normalize("NFKC", match[2]), text)
    text = _APART.sub(r"\1\2-", text)
    text = _AT_BRACKETS.sub(MINUS, _POWER.sub("^", text))
    text = _FRACTION.sub(_fraction, text)
    text = _FACTORIAL.sub(rf"\1{FACTORIAL}", _RELATION.sub(lambda match: _RELATIONS[match[1]], text))
    if not _OPENS_QUOTE.search(text):
        text = _PRIMED.sub(lambda match: match[0].translate(_PRIMES), text)
    return _TIMES.sub("×", _mark_minus(text))


def _mark_minus(text: str) -> str:
    text = _BEFORE_FUNCTION.sub(rf"\1{MINUS}", _SUBTRACTION.sub(rf"\1\2{MINUS}", text))
    if _IS_FORMULA.search(text):
        text = _IN_FORMULA.sub(rf"\1{MINUS}", text)
    return _NEGATION.sub(rf"\1{MINUS}", text)


def _fraction(match: re.Match[str]) -> str:
    """Apart from digits and commas beside it: 11(1)/(9) is eleven and a ninth."""
    text_before, text_after = (f"{match[1]} " if match[1] else ""), (f"{match[6]} " if match[6] else "")
    return f"{text_before}{match[2] or match[4]}/{match[3] or match[5]}{text_after}"


def mark_brackets(text: str) -> str:
    """A text in which brackets that decide what is computed, 2(x+3), and those of intervals, [2,3), are symbols."""
    if "(" not in text and "[" not in text:
        return text
    characters, open_positions = list(text), []
    for position, character in enumerate(text):
        if character in _PAIRS:
            open_positions.append(position)
        elif open_positions and character in _PAIRS.values():
            open_position = open_positions.pop()
            inside, bracket_pair = text[open_position + 1 : position], text[open_position] + character
            if len(inside) > _LONGEST:
                continue
            if bracket_pair in ("[)", "(]", "[]") and (interval := _INTERVAL.fullmatch(inside)):
                characters[open_position], characters[position] = _ENDS[text[open_position]], _ENDS[character]
                characters[open_position + 1 + interval.end(1)] = "; "  # no decimal comma
            elif bracket_pair == "()" and _decides(
                text[max(open_position - 2, 0) : open_position], inside, text[position + 1 : position + 2]
            ):
                characters[open_position], characters[position] = "⌠", "⌡"
    return "".join(characters)


def _decides(before: str, inside: str, after: str) -> bool:
    """Whether it matters that something is done with all that stands in a bracket, and not with its end alone."""
    if _SUM.search(inside):
        return bool(_WORKED_ON.search(before) or re.match(rf"[\w(^/*·×{FACTORIAL}]", after))
    return bool(_PRODUCT.search(inside)) and (before.rstrip()[-1:] == "/" or after in ("^", FACTORIAL))


def is_list(text: str, start: int, end: int) -> bool:
    """Whether the digits and commas from start to end stand in brackets that hold numbers and variables only, such as
    a point's coordinates: there a comma separates."""
    bracket_start = re.search(r"[(\[{][^()\[\]{}]*$", text[max(start - _LONGEST, 0) : start])
    bracket_end = re.match(r"[^()\[\]{}]*(?=[)\]}])", text[end : end + _LONGEST])
    inside = text[start:end].join((bracket_start[0], bracket_end[0])) if bracket_start and bracket_end else ";"
    return not re.search(rf";|{_LETTER}{{2}}|[,.]\s|\d\s{_LETTER}", inside)
