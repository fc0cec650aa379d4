"""Does an answer say that it does not know, or that there is nothing to know?"""

from __future__ import annotations

import re

from lorica.thoughts import without_thoughts

_PREFIX = (
    r"(?:(?:sorry|well|hmm|unfortunately|as an ai(?: language model| assistant)?)\s*,?\s+)*(?:but\s+)?"
    r"(?:(?:i['’]?m|i am)\s+(?:sorry|afraid)\s*,?\s+(?:but\s+)?)?"
)
_I = r"(?:i|we)(?:['’]m| am| are)?"
_DO_NOT = r"(?:do not|don['’]?t)"
_CANNOT = r"(?:can ?not|can['’]?t|could not|couldn['’]?t)"
# What is not known may be named, and why; "I don't know that, it is Paris" and "I do not know it is Paris" answer.
_TOPIC = r"(?:(?!\b(?:is|are|was|were)\b)[^,])*"
_REASON = r"(?:\s*,?\s*(?:because|since|as)\b.*)?"
_SOURCE = r"(?:the |this )?(?:given |provided )?(?:passage|context|text|document|article|information)"
_ABSTENTION = re.compile(
    _PREFIX + "(?:"
    rf"{_I}\s+(?:really |honestly |just |simply )?{_DO_NOT}\s+(?:really )?know(?:\s+(?:the|this|that|it)\b{_TOPIC})?"
    rf"|{_I}\s+(?:not (?:sure|certain)|unsure)(?:\s+(?:about|of)\b{_TOPIC})?|{_I} have no idea"
    rf"|{_I}\s+(?:{_CANNOT}|am (?:not able|unable) to)\s+(?:answer|say|tell|determine)(?:\s+{_TOPIC})?"
    r"|not sure|unsure|idk|dunno|no idea|dont know|unknown"
    r"|(?:the )?(?:(?:question|answer) )?(?:is )?(?:unanswerable|not answerable)"
    r"|no answer(?: (?:is )?(?:given|possible|available))?"
    rf"|(?:it|this|the question|the answer|that)?\s*{_CANNOT}\s+be\s+"
    rf"(?:answered|determined|known|said)(?:\s+(?:from|based on|with|given)\b{_TOPIC})?"
    rf"|(?:there is\s+)?(?:not enough|insufficient) (?:information|context|data)(?:\s+(?:to|in|is)\b[^,]*)?|n/a"
    rf"|{_SOURCE}\s+(?:does not|doesn['’]t)\s+(?:say|mention|state|specify|tell)(?:\s+{_TOPIC})?"
    rf"){_REASON}"
    r"|(?:我们?|俺)?(?:也)?(?:不知道|不清楚|不确定|不確定)(?:答案)?"
    r"|(?:该问题|这个问题|此题|此問題)?(?:无法|無法)(?:回答|确定|確定|判断|得知)[^,]*(?:\s*,\s*因[为為].*)?"
    r"|(?:没有|沒有|无|無)答案|信息不足|未知|不详",
    re.IGNORECASE,
)
_GUESS = re.compile(r"\b(?:but|maybe|perhaps|probably|guess)\b|但|可能", re.IGNORECASE)


def abstains(answer: str) -> bool:
    """Whether an answer says that it does not know, or that there is nothing to know, and nothing else."""
    text = re.sub(r"[*\"“”]+", " ", without_thoughts(answer)).strip(" \t\n,，.!。！?？")
    # What stands behind a comma, a point or a colon may be an answer.
    sentence = " ".join(re.sub(r"[,，.!。！;；:：\n]+", " , ", text).split())
    return _ABSTENTION.fullmatch(sentence) is not None and not _GUESS.search(
        re.sub(r"^(?:sorry|(?:i['’]?m|i am) (?:sorry|afraid)) , but\b", "", sentence, flags=re.IGNORECASE)
    )
