"""Files of questions below the paragraphs of articles, as SQuAD and its kin have them, as one record a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flatten_squad(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions of an article {"paragraphs": [{"context", "qas": [{...}]}]}, each with what stands above it; any
    other record as it is."""
    paragraphs = record.get("paragraphs")
    if not isinstance(paragraphs, list) or not all(map(_has_questions, paragraphs)):
        yield record
        return
    article = {member_name: member_value for member_name, member_value in record.items() if member_name != "paragraphs"}
    for paragraph in paragraphs:
        paragraph_members = {name: value for name, value in paragraph.items() if name != "qas"}
        for question in paragraph["qas"]:
            yield {**article, **paragraph_members, **question}


def _has_questions(paragraph: object) -> bool:
    questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
    return isinstance(questions, list) and all(isinstance(question, Mapping) for question in questions)
