"""The three-stage parser of a generated probability: the whole text, its first number, its keywords.

What does not count as a number: one outside 0..1 without a per cent sign; one that names something ("rule 2",
"step 1", "#1", "r2"); a list marker ("1." above "2."); part of a fraction, range, date, version, price or
scale ("1/2", "0-1", "0 to 1", "$0.99"); and, inside a sentence, a bare 0 or 1 unless a colon, an equals sign
or "is" leads to it and the sentence pauses behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import msgspec

from lorica.tasks.postprocess import strip_markup

Stage = Literal["whole", "first_number", "keyword"]

_WRAPPING = " \t\r\n\"'`*_()[]{}<>“”‘’"
_LABEL = re.compile(
    r"\s*(?:the\s+)?(?:final\s+|predicted\s+)?(?:answer|score|probability|rating|confidence|output|result)"
    r"(?:\s+is)?\s*[:=]?\s*(?=\S)",
    re.IGNORECASE,
)
_NUMBER = r"(?:\d{1,6}(?:\.\d{0,12})?|\.\d{1,12})(?:e-?\d{1,2})?"
_WHOLE = re.compile(rf"({_NUMBER})\s*(%|per\s?cent\b)?", re.IGNORECASE)
# Glued to a letter, digit, sign, currency or separator, a number is part of something else.
_LOOSE = re.compile(rf"(?<![\w.,/$£€#+-])(?<!\d:)({_NUMBER})(?![\w/-]|[.,:]\d)\s*(%|per\s?cent\b)?", re.IGNORECASE)
_NAMED = re.compile(
    r"\b(?:rules?|steps?|examples?|sections?|parts?|options?|points?|posts?|comments?|articles?|lines?|no|nos"
    r"|numbers?|paragraphs?|stages?|levels?|items?|cases?|class|labels?)\.?\s*[#(]?\s*$",
    re.IGNORECASE,
)
_SCALE_BEFORE = re.compile(r"\d\s*(?:to|and|or|[-–—])\s*$", re.IGNORECASE)
_SCALE_AFTER = re.compile(r"\s*(?:(?:to|and|or|[-–—])\s*\.?\d|out of\s*(?!1(?:\.0+)?\b)\d)", re.IGNORECASE)
_ENDS_THERE = re.compile(r"\s*(?:$|[\n.,;:!)\]\"'*`–—-])")
_LEADS_TO_IT = re.compile(r"(?:^|\n|[:=]|\b(?:is|be|of|say|as|a|an|around|about|approximately))[\s*\"'`(]*$", re.I)

_IDIOM = re.compile(r"\bno\s+(?:doubt|question|matter)\b", re.IGNORECASE)
_LEADING = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_NEGATED = re.compile(
    r"\b(?:not|no|never|without|cannot|\w+n['’]?t)\b(?:\s+(?!but\b)\w+){0,3}?\s+"
    r"(?:violat\w*|break(?:s|ing)?|broken?|infring\w*|against)\b"
    r"|\bnon-?violat\w*|\b(?:compl(?:y|ies|iant)|complies|permitted|acceptable|allowed|within the rules?)\b",
    re.IGNORECASE,
)
_AFFIRMED = re.compile(
    r"\b(?:violat\w*|break(?:s|ing)?|broken?|infring\w*|against the rules?|prohibited|yes)\b",
    re.IGNORECASE,
)
_FORBIDDEN = re.compile(
    r"\b(?:not|\w+n['’]?t)\s+(?:be\s+)?(?:allowed|permitted|acceptable|compliant|comply|within the rules?)\b"
    r"|\bunacceptable\b|\bnon-?complian\w+",
    re.IGNORECASE,
)
_NO = re.compile(r"\bno\b", re.IGNORECASE)


class ParsedProbability(msgspec.Struct, frozen=True):
    """A probability from 0 to 1 and the stage that read it."""

    value: float
    stage: Stage


def parse_probability(answer_text: str) -> ParsedProbability | None:
    """Read a generated text; None when it holds neither a number nor one clear verdict."""
    cleaned = strip_markup(answer_text)
    stages: dict[Stage, Callable[[str], float | None]] = {
        "whole": _whole,
        "first_number": _first_number,
        "keyword": _keyword,
    }
    for stage, read in stages.items():
        if (probability := read(cleaned)) is not None:
            return ParsedProbability(probability, stage)
    return None


def _whole(answer_text: str) -> float | None:
    bare_text = answer_text.strip(_WRAPPING)
    label_match = _LABEL.match(bare_text)
    bare_text = bare_text[label_match.end() :] if label_match else bare_text
    number_match = _WHOLE.fullmatch(bare_text.strip(_WRAPPING).rstrip(".!").strip(_WRAPPING))
    return _value(*number_match.groups()) if number_match else None


def _first_number(answer_text: str) -> float | None:
    numbered_list = re.search(r"(?m)^[ \t]*2[.)]\s", answer_text) is not None
    for number_match in _LOOSE.finditer(answer_text):
        digits, percent = number_match.groups()
        probability = _value(digits, percent)
        preceding_text, following_text = (
            answer_text[max(number_match.start() - 40, 0) : number_match.start()],
            answer_text[number_match.end(1) : number_match.end(1) + 16],
        )
        if probability is None or _NAMED.search(preceding_text):
            continue
        if _SCALE_AFTER.match(following_text) or _SCALE_BEFORE.search(preceding_text):
            continue
        if percent is None and digits.rstrip(".").isdigit():
            marker = numbered_list and digits.rstrip(".") == "1" and following_text[:1] in (".", ")", " ", "")
            if marker or not (_LEADS_TO_IT.search(preceding_text) and _ENDS_THERE.match(following_text)):
                continue
        return probability
    return None


def _keyword(answer_text: str) -> float | None:
    """1 or 0 when all signals agree; None when there is none or they contradict each other."""
    answer_text = _IDIOM.sub(" ", answer_text)
    leading = _LEADING.match(answer_text)
    signals = {1.0 if leading.group(1).casefold() == "yes" else 0.0} if leading else set()
    forbidden = _FORBIDDEN.search(answer_text) is not None
    remaining = _FORBIDDEN.sub(" ", answer_text)
    negated = _NEGATED.search(remaining) is not None
    remaining = _NEGATED.sub(" ", remaining)
    affirmed = forbidden or _AFFIRMED.search(remaining) is not None
    negated = negated or _NO.search(remaining) is not None
    signals |= {1.0} if affirmed else set()
    signals |= {0.0} if negated else set()
    return signals.pop() if len(signals) == 1 else None


def _value(digits: str, percent: str | None) -> float | None:
    probability = float(digits) / (100 if percent else 1)
    return probability if 0 <= probability <= 1 else None
