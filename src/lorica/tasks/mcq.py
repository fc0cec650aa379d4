"""`mcq`: which option is right? Scored by the letters, or by the options' length-normalised likelihood.

An answer in a file is a letter ("B", "(b)"), an index counted from 0, or the option's own text; a value that
could be read in two ways is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lorica.records import Message, Row, RowShape
from lorica.tasks.base import (
    Reading,
    TaskSettings,
    check_lengths,
    invalid,
    is_missing,
    needed_text,
    pick,
    softmax,
    text_value,
)
from lorica.tasks.drafts import Draft
from lorica.tasks.literals import literal_cell
from lorica.tasks.options import LETTERS, read_option

METHODS = ("choice", "likelihood")


class McqCase(msgspec.Struct, frozen=True):
    """A question and its options. listed: the question's own text lists the options already."""

    question: str
    options: tuple[str, ...]
    passage: str = ""
    country: str = ""
    option_countries: tuple[str, ...] = ()
    listed: bool = False


class McqTask:
    """The task `mcq`. Gold is the index of the right option."""

    name = "mcq"
    metric_names = ("accuracy",)

    def __init__(self, settings: TaskSettings) -> None:
        """Raises ConfigError for an unknown method or style."""
        self.settings = msgspec.structs.replace(
            settings,
            method=pick("method", settings.method, METHODS, task=self.name),
            style=pick("style", settings.style, ("",), task=self.name),
        )
        self.shapes: tuple[RowShape, ...] = (
            RowShape(
                "multiple choice with MCQID",
                ("MCQID", "prompt", "choices"),
                ("ID", "country", "choice_countries", "answer_idx", "subject", "group"),
                "MCQID",
                _build_table,
            ),
            RowShape(
                "question and options",
                ("question", "options"),
                ("id", "answer", "passage", "subject", "country", "group"),
                "id",
                _build_question,
            ),
        )

    def render(self, row: Row) -> tuple[Message, ...]:
        """One user message: instruction, passage if any, question, options as lines "A. text"."""
        case = _case(row)
        letters = self.settings.method == "choice"
        draft = Draft().add("Answer with the letter of the right option.\n" if letters else "Answer the question.\n")
        if case.passage:
            draft.add("Passage: ").add_long(case.passage).add("\n")
        end = _end_of_question(case)
        draft.add("Question: ").add_whole(case.question[:end]).add(case.question[end:])
        if letters and not case.listed:
            for letter, option in zip(LETTERS, case.options, strict=False):
                draft.add(f"\n{letter}. ").add_whole(option)
        return (draft.message("user"),)

    def choices(self, row: Row) -> tuple[str, ...] | None:
        """The letters, or for method=likelihood the options' texts."""
        case = _case(row)
        return tuple(LETTERS[: len(case.options)]) if self.settings.method == "choice" else case.options

    def target(self, row: Row) -> str:
        """The right letter (method=likelihood: the right text). Raises ValueError for an unlabelled row."""
        choices = self.choices(row)
        if not isinstance(row.gold, int) or choices is None:
            raise ValueError(f"row {row.id!r} has no right answer, so there is nothing to train on")
        return choices[row.gold]

    def read_choices(self, row: Row, logprobs: Sequence[float], lengths: Sequence[int]) -> Reading:
        """The most probable letter. scores: softmax over the letters' log-probabilities, or over the options'
        log-probabilities per token (method=likelihood). Ties go to the first."""
        options = _case(row).options
        check_lengths(options, logprobs, lengths)
        values = list(logprobs)
        if self.settings.method == "likelihood":
            values = [value / max(length, 1) for value, length in zip(logprobs, lengths, strict=True)]
        probabilities = softmax(values)
        if probabilities is None:
            return invalid("the log-probabilities of the options are not numbers")
        best = max(range(len(options)), key=probabilities.__getitem__)
        return Reading(
            answer=LETTERS[best],
            stage="choice",
            valid=True,
            scores=dict(zip(LETTERS, probabilities, strict=False)),
        )

    def read_text(self, row: Row, text: str) -> Reading:
        """Both methods score choices; a generated text is not read."""
        return invalid(f"the task mcq answers by scoring its options, and got the text {text[:40]!r}")

    def text(self, row: Row) -> str:
        """The question and its options."""
        case = _case(row)
        return case.question if case.listed else "\n".join((case.question, *case.options))


def _build_table(values: Mapping[str, Any], row_id: str, line: int) -> Row:
    keys, options = _options(values["choices"], "choices")
    prompt = needed_text(values, "prompt")
    case = McqCase(
        question=prompt,
        options=options,
        country=text_value(values, "country"),
        option_countries=_countries(values.get("choice_countries"), keys),
        listed=_lists_options(prompt, options),
    )
    return Row(
        id=row_id,
        case=case,
        subject=text_value(values, "subject"),
        gold=read_option(values.get("answer_idx"), options, keys),
        group=text_value(values, "group") or text_value(values, "ID"),
        line=line,
    )


def _build_question(values: Mapping[str, Any], row_id: str, line: int) -> Row:
    keys, options = _options(values["options"], "options")
    case = McqCase(
        question=needed_text(values, "question"),
        options=options,
        passage=text_value(values, "passage"),
        country=text_value(values, "country"),
    )
    return Row(
        id=row_id,
        case=case,
        subject=text_value(values, "subject"),
        gold=read_option(values.get("answer"), options, keys),
        group=text_value(values, "group"),
        line=line,
    )


def _options(value: object, name: str) -> tuple[list[str], tuple[str, ...]]:
    """The keys of an object of options (empty for a list) and the options' texts, in the file's order."""
    cell = literal_cell(value, name)
    keys = [str(key).strip() for key in cell] if isinstance(cell, dict) else []
    texts = list(cell.values()) if isinstance(cell, dict) else cell
    options = [text_value({name: text}, name) for text in texts]
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{name!r} has {len(options)} options; 2 to {len(LETTERS)} are allowed")
    options = _without_labels(options)
    if not all(options):
        raise ValueError(f"option {LETTERS[options.index('')]} of {name!r} is empty")
    return keys, tuple(options)


def _without_labels(options: list[str]) -> list[str]:
    """Options that all carry their own letter ("(A) red", "B. blue") without it."""
    patterns = [rf"\s*(?:\({letter}\)|{letter}[.):：、．])\s*" for letter in LETTERS[: len(options)]]
    found = [re.match(pattern, option) for pattern, option in zip(patterns, options, strict=True)]
    return [
        option[match.end() :] if match and all(found) else option for match, option in zip(found, options, strict=True)
    ]


def _countries(value: object, keys: Sequence[str]) -> tuple[str, ...]:
    if is_missing(value):
        return ()
    cell = literal_cell(value, "choice_countries")
    if isinstance(cell, dict):
        return tuple(str(cell.get(key, "")) for key in keys) if keys else tuple(map(str, cell.values()))
    return tuple(map(str, cell))


def _lists_options(prompt: str, options: Sequence[str]) -> bool:
    lines = {line.strip() for line in prompt.splitlines()}
    return all(not lines.isdisjoint(_spellings(letter, text)) for letter, text in zip(LETTERS, options, strict=False))


def _spellings(letter: str, option: str) -> list[str]:
    return [f"{letter}{mark}{option}" for mark in (". ", ".", ") ", ")", ": ")]


def _end_of_question(case: McqCase) -> int:
    """Where the options begin in a question that lists them: from there on nothing may be cut."""
    at = 0
    options = {line for pair in zip(LETTERS, case.options, strict=False) for line in _spellings(*pair)}
    for line in case.question.splitlines(keepends=True) if case.listed else ():
        if line.strip() in options:
            return at
        at += len(line)
    return len(case.question)


def _case(row: Row) -> McqCase:
    if not isinstance(row.case, McqCase):
        raise TypeError(f"row {row.id!r} is not a row of the task mcq: {type(row.case).__name__}")
    return row.case
