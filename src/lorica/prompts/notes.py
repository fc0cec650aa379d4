"""What a person should know of a template and its tokenizer: what is added to prompts, which marks are no tokens."""

from __future__ import annotations

import re

from lorica.errors import PromptError
from lorica.prompts.tokenizer_folder import EncoderComponents
from lorica.prompts.vocabulary import Vocabulary

# Embeddings are padded, by a few per cent at most: with less than this share of the rows it is another tokenizer.
_LEAST_SHARE = 0.9

# How templates write control tokens; `[INST]` and `<|user|>` of some models are plain text by their training.
_MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|<(?:start|end)_of_turn>|\[/?[A-Z_]{3,40}\]")


def template_notes(components: EncoderComponents) -> tuple[str, ...]:
    """One sentence each; () for a template that asks where its answers stand, in tokens that the tokenizer has."""
    position, origin = components.template.position, components.template.source.origin
    template_warnings = []
    if position.marker:
        template_warnings.append(
            f"{origin} asks for an answer without {position.marker!r}, which it writes before every answer: "
            "prompts end with it, in training too"
        )
    if position.closing and not components.thinking and (position.thought or not position.marker):
        template_warnings.append(
            f"{origin} lets the model think before it answers: prompts end with {position.closing!r}, so that the "
            "answer follows at once; task.thinking=true lets a written answer think first"
        )
    if components.trailing:
        template_warnings.append(
            f"{origin} ends its generation prompt with {components.trailing!r}, which belongs to the answer's first "
            "token: prompts end before it, in training too"
        )
    return (*template_warnings, *_marks(components))


def vocabulary_notes(vocabulary: Vocabulary, rows: int, *, used_markers: set[int]) -> tuple[str, ...]:
    """What a person should know of a tokenizer on an embedding of so many rows. used_markers: ids that every prompt
    has.

    Raises PromptError for one that gives ids beyond the embedding, or whose files contradict each other.
    """
    if moved_ids := vocabulary.renumbered(used_markers):
        content, number = next(iter(moved_ids.items()))
        raise PromptError(
            f"the tokenizer's files give {content!r} the id {vocabulary.marker_id(content)}, "
            f"and it is read as {number}",
            fix="save the tokenizer again with tokenizer.save_pretrained(...), or download the model's files again",
        )
    entries = vocabulary.entries()
    beyond = {content: number for content, number in entries.items() if number >= rows}
    if not beyond:
        if len(entries) >= _LEAST_SHARE * rows:
            return ()
        return (
            f"the tokenizer has {len(entries)} entries and the base model's embedding {rows} rows: it may be another "
            "model's; compare its files with the model's own",
        )
    shown_ids = ", ".join(
        f"{content!r} ({number})" for content, number in sorted(beyond.items(), key=lambda pair: pair[1])[:3]
    )
    message = (
        f"the base model's embedding has {rows} rows, and {len(beyond)} of the tokenizer's ids lie beyond: {shown_ids}"
    )
    if any(number in used_markers or vocabulary.marker_id(content) is None for content, number in beyond.items()):
        raise PromptError(
            message,
            fix="tokenizer and weights are of different models: use the files of one; or, where tokens were added, "
            "save the model again after model.resize_token_embeddings(len(tokenizer))",
        )
    return (f"{message}; no prompt has them, and no text gives them",)


def _marks(components: EncoderComponents) -> list[str]:
    vocabulary, position = components.vocabulary, components.template.position
    origin = components.template.source.origin
    end_match = _MARK.match(position.after.lstrip())
    if end_match is not None and vocabulary.marker_id(end_match.group()) is None:
        return [
            f"{origin} ends an answer with {end_match.group()!r}, which is no token of the tokenizer: it is written in "
            "plain pieces, and no answer ends there. Set model.chat_template to the model's own template, or to 'plain'"
        ]
    written = components.template.sample()
    foreign = [
        named_token
        for named_token in components.named_tokens
        if named_token in written and vocabulary.marker_id(named_token) is None
    ]
    if foreign:
        return [f"{origin} writes {foreign[0]!r}, which the tokenizer's config names and the tokenizer does not know"]
    markers = list(dict.fromkeys(_MARK.findall(written)))
    lacking = [marker for marker in markers if vocabulary.marker_id(marker) is None]
    mark_forms = {marker[:1] + marker[-2:-1] for marker in markers if marker not in lacking}
    missing_markers = [marker for marker in lacking if marker[:1] + marker[-2:-1] in mark_forms]
    if not missing_markers:
        return []
    return [
        f"{origin} writes {', '.join(map(repr, missing_markers[:5]))}, no token of the tokenizer beside others "
        "that are: written in plain pieces. Compare the tokenizer with the template's model, or set model.chat_template"
    ]
