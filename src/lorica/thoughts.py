"""How models mark what they think before they answer: the tags, and a text without what stands between them."""

from __future__ import annotations

import re

_NAME = r"(?:[a-z]+[:_-])?(?:think|thinking|thoughts?|reasoning|reflection)"
_TAG = re.compile(
    rf"<(?P<angle>/?){_NAME}>"
    rf"|\[(?P<square>/?)(?:THINK|THINKING|THOUGHT|REASONING)\]"
    rf"|◁(?P<wedge>/?){_NAME}▷"
    rf"|<\|(?P<edge>begin|start|end)_(?:of_)?{_NAME}\|>"
    rf"|<\|{_NAME}_(?P<side>begin|start|end)\|>"
    rf"|<\|(?P<slash>/?){_NAME}\|>",
    re.IGNORECASE,
)
_ENDS = {"/": True, "end": True}


def is_tag(text: str) -> bool:
    """Whether a text is one tag that opens or closes a thought, and nothing else."""
    return _TAG.fullmatch(text) is not None


def first_tag(text: str) -> int:
    """Where the first tag begins, the length of the text where there is none."""
    tag = _TAG.search(text)
    return len(text) if tag is None else tag.start()


def unclosed(text: str) -> str:
    """What follows the last thought's opening tag, that tag included, where nothing closes it; "" elsewhere."""
    opened = -1
    for tag in _TAG.finditer(text):
        opened = -1 if _closes(tag) else tag.start() if opened < 0 else opened
    return text[opened:] if opened >= 0 else ""


def without_thoughts(text: str) -> str:
    """A text without its thoughts. An unclosed one hides all that follows; a lone end hides all before it."""
    pieces: list[str] = []
    start, thinking = 0, False
    for tag in _TAG.finditer(text):
        if _closes(tag):
            pieces = pieces if thinking else []
            start, thinking = tag.end(), False
        elif not thinking:
            pieces.append(text[start : tag.start()])
            thinking = True
    return "".join(pieces) if thinking else "".join((*pieces, text[start:]))


def closing_tags(opened: str) -> list[str]:
    """How the thought that `opened` begins may be closed, the likeliest first; [] for a text that begins with none."""
    tag = _TAG.match(opened)
    if tag is None or _closes(tag):
        return []
    text = tag.group()
    if tag.group("edge") or tag.group("side"):
        word = tag.group("edge") or tag.group("side")
        return [text.replace(word, "END" if word.isupper() else "end", 1)]
    inside = 2 if text.startswith("<|") else 1
    slashed = f"{text[:inside]}/{text[inside:]}"
    return [slashed, f"<|end_of_{text[2:]}", f"<|end_{text[2:]}"] if inside == 2 else [slashed]


def _closes(tag: re.Match[str]) -> bool:
    return any(_ENDS.get((value or "").lower(), False) for value in tag.groups())
