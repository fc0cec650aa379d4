"""Post-processing of generated answers: it only ever cuts, and only what a model adds to its answer.

Thoughts, template markers, echoes of the prompt and repeated lines go; nothing that may be the answer does.
"""

from __future__ import annotations

import re
import unicodedata

from lorica.thoughts import without_thoughts

# Generated text is short; a cap keeps every step linear in practice whatever a model or a caller hands in.
_MAX_CHARS = 20_000
_MARKER = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|\A\s*<s>|</s>(?=\s*(?:\Z|<s>))|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS)\]"
)
# Markers of Llama 2 that are tags of HTML and words of documentation, too.
_SAYABLE = re.compile(r"</?s>|\[/?INST\]|<(?:bos|eos|pad|unk)>")
_END = re.compile(r"(?<=\S)</s>\s*\Z")  # directly behind a text it ends it; "it is </s>" names it
_ROLE_LINE = re.compile(r"\s*(?:(?:assistant|bot)\s*(?::|\n)|model\s*\n)\s*", re.IGNORECASE)
_ROLES = ("assistant", "model", "bot")
_NEW_TURN = re.compile(r"\n[ \t]*(?:user|human|question|q)\s*:", re.IGNORECASE)
_NEW_EXCHANGE = re.compile(r"\n\s*\n[ \t]*(?:question|q)\s*:.*\n\s*(?:answer|a)\s*:", re.IGNORECASE | re.DOTALL)
# A first line that bears a label itself begins a list of such lines, as of the roles of a chat.
_LABELLED = re.compile(r"[ \t]*[\w ]{1,20}:")
_LABEL = re.compile(
    r"[\s*_#>-]*(?:(?:the\s+)?(?:final\s+|short\s+|correct\s+|best\s+)?(?:answer|response)(?:\s+is)?"
    r"|(?:最终)?(?:答案|回答|答え?)(?:是|为)?|정답|답|antwort|réponse|respuesta|risposta|resposta|ответ"
    # A:T is a pair of bases, and a:b a ratio.
    r"|(?-i:A)(?=\s*\**\s*(?:：|:\s|:\*)))"
    r"\s*\**\s*[:：]\s*\**\s*",
    re.IGNORECASE,
)
# What it says it is, and that it will not answer: "an AI winter" is no refusal.
_REFUSAL = re.compile(
    r"\s*(?:[\w'’]+[,.!]?\s+){0,4}as an? (?:(?:ai|artificial intelligence|(?:large )?language)[\s-]*)+"
    r"(?:model|assistant|system|chatbot|program)?\s*[,;:.]?\s+(?:so\s+)?(?:i|we)\b['’]?(?:\s*\w+['’]?\w*){0,3}?\s*"
    r"(?:cannot|can['’]?t|can not|unable|not able|do not|don['’]?t|will not|won['’]?t|must not|decline|have no|am not"
    r"|['’]m not|should not|shouldn['’]?t|lack)\b",
    re.IGNORECASE,
)
# Questions whose answer may be a mark of any kind.
_ASKS_FOR_A_SIGN = re.compile(
    r"\b(?:signs?|symbols?|marks?|characters?|punctuation|operators?|emojis?|emoticons?|smileys?|tags?|tokens?|markers?"
    r"|markup|html|xml|keys?|delimiters?|separators?|brackets?|parenthes[ie]s|prefix(?:es)?|suffix(?:es)?|notation|glyphs?|wildcards?"
    r"|accents?|dash(?:es)?|hyphens?|quotes?|slash(?:es)?|literals?|strokes?|signos?|s[ií]mbolos?|signes?|symboles?"
    r"|caract[eè]res?|zeichen|symbole?)\b|符号|标点|記号|记号|字符|表情|标签|знак|символ",
    re.IGNORECASE,
)
# Questions whose answer may be marks alone: what is written, typed or filled in.
_ASKS_WHAT_IS_WRITTEN = re.compile(
    r"_{2,}|\b(?:blanks?|fill|morse|unix|linux|posix|shell|bash|terminal|python|java(?:script)?|typescript|sql|php|perl"
    r"|ruby|rust|haskell|pascal|fortran|lisp|regex\w*|regular expressions?|csv|tsv|json|yaml|toml|markdown|latex|excel"
    r"|code|coding|program\w*|syntax|statements?|comment(?:s|ed)?|separat\w+|delimit\w+|typed|denote[sd]?|charge|rh"
    r"|empty (?:list|tuple|dict\w*|set|string|array|statement)|how\b.{0,60}\bwrit\w*|(?:home|root|current|parent) \w+"
    r"|comma|colon|semicolon|period|full stop|ellips[ei]s|apostrophe|ampersand|tilde|asterisk|underscore|pipe|caret"
    r"|cedilla|umlaut|diaere?sis|diacritics?|backtick)\b|\bC(?:\+\+|#)?(?![\w'’])"
    r"|号|怎么写|怎样写|如何写|表示|编程|代码|填空|書き方|schreib\w+|escrib\w+|écri\w+|пиш\w+",
    re.IGNORECASE,
)
# Marks that are written alone for a reason; others alone are what is left of a text that never came.
_SAYING_MARKS = frozenset("#%&@§¶†‡?!‰№")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}

# A phrase said this often in a row up to the very end never stopped. A model that did stop may have meant it.
_ENDLESS, _ENDLESS_WORD, _ENDLESS_THOUGH_STOPPED = 8, 10, 24
_LONGEST_PHRASE = 12  # words
_LONGEST_UNIT = 24  # characters
_LONGEST_WORD = 32  # characters: "abababababababab" may be asked for


def strip_markup(text: str) -> str:
    """Without thinking and template markers; a text that starts a second turn ends there."""
    return _strip_markers(without_thoughts(text[:_MAX_CHARS])).strip()


def clean_answer(text: str, *, question: str) -> str:
    """A generated text reduced to its answer; "" when nothing is left.

    Cut are thinking, template markers, an echo of the question, a leading "Answer:", a second turn, repeated
    lines and quotes around the whole.
    """
    cleaned = _strip_markers(without_thoughts(text[:_MAX_CHARS]), question).strip()
    cleaned = _strip_echo(_strip_label(cleaned), question)
    cleaned = _strip_label(cleaned)
    cut_match = (_NEW_EXCHANGE if _LABELLED.match(cleaned) else _NEW_TURN).search(cleaned)
    if cut_match:
        cleaned = cleaned[: cut_match.start()]
    return _unquote(_once_per_line(cleaned).strip())


def find_problem(answer: str, *, raw_text: str, question: str, cut_off: bool = True) -> str:
    """Why a cleaned answer is not one, "" when it is.

    raw_text: the text before cleaning, which shows loops. cut_off: whether the length limit may have ended it; a model
    that stopped by itself is in no loop, unless it is a very long one.
    """
    if not answer:
        return "empty"
    if not any(map(_is_word, answer)) and not _is_sign(answer, question):
        return "only punctuation"
    if _fold(answer) == _fold(question) != "":
        return "an echo of the question"
    if _is_endless(strip_markup(raw_text), cut_off) or _is_endless(answer, cut_off):
        return "endless repetition"
    if _REFUSAL.match(answer):
        return "a refusal"
    return ""


def _strip_markers(text: str, question: str = "") -> str:
    """The first stretch between markers that says anything but a role's name; the marker itself where nothing does and
    it may be what was asked for."""
    text_pieces = _MARKER.split(text)
    sign_wanted = bool(_ASKS_FOR_A_SIGN.search(question))
    if sign_wanted and _SAYABLE.search(text):
        return text if "<s>" in text else _END.sub("", text)
    for text_piece in text_pieces:
        opening = _ROLE_LINE.match(text_piece)
        content = text_piece[opening.end() :] if opening else text_piece
        if content.strip() and (len(text_pieces) == 1 or content.strip().casefold() not in _ROLES):
            return content
    return text if sign_wanted or len(text_pieces) == 1 else ""


def _strip_label(text: str) -> str:
    label_match = _LABEL.match(text)
    # "A: (5,1) B: (-2,4)" names points; its A is no label.
    if not label_match or (label_match.group().strip(" *_#:：").casefold() == "a" and re.search(r"B\s*[:：]", text)):
        return text
    return text[label_match.end() :]


def _strip_echo(text: str, question: str) -> str:
    """Without the question at its start, when something follows it."""
    unlabelled_text = re.sub(r"^\s*(?:question|q)\s*[:：]\s*", "", text, flags=re.IGNORECASE)
    question = question.strip()
    remainder = unlabelled_text[len(question) :]
    if not question or unlabelled_text[: len(question)].casefold() != question.casefold() or not remainder.strip():
        return text
    # A restatement that goes on, as in "f(x)=2", is an answer.
    ends_there = question[-1] in "?.!:？。！：" or remainder.lstrip(" ?.!:")[:1] == "\n"
    return remainder.lstrip(" ?.!:").strip() if ends_there else text


def _once_per_line(text: str) -> str:
    """Each line once: a line that came before is not said again. One without a letter may be a table's or program's."""
    folded_lines: set[str] = set()
    unique_lines = []
    for text_line in text.splitlines():
        folded_line = _fold(text_line)
        if folded_line in folded_lines and any(map(str.isalpha, folded_line)):
            continue
        folded_lines.add(folded_line)
        unique_lines.append(text_line.rstrip())
    return "\n".join(unique_lines)


def _unquote(text: str) -> str:
    if len(text) > 2 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def _is_endless(text: str, cut_off: bool) -> bool:
    """Whether the text runs out in one word, phrase or string of characters said over and over."""
    answer_words = [answer_word.strip(".,;:!?") or answer_word for answer_word in text.casefold().split()]
    least_repeats = _ENDLESS if cut_off else _ENDLESS_THOUGH_STOPPED
    return bool(answer_words) and (
        _is_endless_word(answer_words[-1], least_repeats) or _is_endless_phrase(answer_words, least_repeats)
    )


def _is_endless_word(answer_word: str, least_repeats: int) -> bool:
    if len(answer_word) <= _LONGEST_WORD and answer_word.isascii():
        return False
    for period in range(1, min(_LONGEST_UNIT, len(answer_word) // least_repeats) + 1):
        repeated_length = _tail_period(answer_word, period)
        if repeated_length >= least_repeats * period and (period > 1 or repeated_length >= 2 * least_repeats):
            repeated_unit = answer_word[-period:]
            if any(map(_is_word, repeated_unit)) and not repeated_unit.isdigit():
                return True
    return False


def _is_endless_phrase(words: list[str], least_repeats: int) -> bool:
    return any(
        _tail_period(words, period) >= (max(least_repeats, _ENDLESS_WORD) if period == 1 else least_repeats) * period
        for period in range(1, min(_LONGEST_PHRASE, len(words) // least_repeats) + 1)
    )


def _tail_period(sequence_items: str | list[str], period: int) -> int:
    """The length of the longest tail of `sequence_items` in which every item equals the one `period` before it."""
    item_index = len(sequence_items) - 1
    while item_index >= period and sequence_items[item_index] == sequence_items[item_index - period]:
        item_index -= 1
    length = len(sequence_items) - 1 - item_index
    return length + period if length else 0


def _is_word(character: str) -> bool:
    """Letters, digits and symbols that can be an answer of their own, such as ∞, ¥ or an emoji."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category in ("Sc", "So") or (category == "Sm" and character not in "|~")


def _is_sign(answer: str, question: str) -> bool:
    """Whether marks alone are an answer to this question: it asks for such, or offers them ("+ or -?")."""
    asks_for_sign = _ASKS_FOR_A_SIGN.search(question) or _ASKS_WHAT_IS_WRITTEN.search(question)
    offered = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", question.strip().rstrip(".?!。？！"))
    return set(answer) <= _SAYING_MARKS or bool(asks_for_sign or offered)


def _fold(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .?!:;,\"'")
