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


def is_tag(tag_text: str) -> bool:
    """Whether a text is one tag that opens or closes a thought, and nothing else."""
    return _TAG.fullmatch(tag_text) is not None


def first_tag(rendered_text: str) -> int:
    """Where the first tag begins, the length of the text where there is none."""
    tag_match = _TAG.search(rendered_text)
    return len(rendered_text) if tag_match is None else tag_match.start()


def unclosed(rendered_text: str) -> str:
    """What follows the last thought's opening tag, that tag included, where nothing closes it; "" elsewhere."""
    opened = -1
    for tag_match in _TAG.finditer(rendered_text):
        opened = -1 if _closes(tag_match) else tag_match.start() if opened < 0 else opened
    return rendered_text[opened:] if opened >= 0 else ""


def without_thoughts(answer_text: str) -> str:
    """A text without its thoughts. An unclosed one hides all that follows; a lone end hides all before it."""
    pieces: list[str] = []
    answer_start, thinking = 0, False
    for tag_match in _TAG.finditer(answer_text):
        if _closes(tag_match):
            pieces = pieces if thinking else []
            answer_start, thinking = tag_match.end(), False
        elif not thinking:
            pieces.append(answer_text[answer_start : tag_match.start()])
            thinking = True
    return "".join(pieces) if thinking else "".join((*pieces, answer_text[answer_start:]))


def closing_tags(opened: str) -> list[str]:
    """How the thought that `opened` begins may be closed, the likeliest first; [] for a text that begins with none."""
    tag_match = _TAG.match(opened)
    if tag_match is None or _closes(tag_match):
        return []
    tag_text = tag_match.group()
    if tag_match.group("edge") or tag_match.group("side"):
        tag_word = tag_match.group("edge") or tag_match.group("side")
        return [tag_text.replace(tag_word, "END" if tag_word.isupper() else "end", 1)]
    inside = 2 if tag_text.startswith("<|") else 1
    slashed = f"{tag_text[:inside]}/{tag_text[inside:]}"
    return [slashed, f"<|end_of_{tag_text[2:]}", f"<|end_{tag_text[2:]}"] if inside == 2 else [slashed]


def _closes(tag_match: re.Match[str]) -> bool:
    return any(_ENDS.get((tag_part or "").lower(), False) for tag_part in tag_match.groups())
