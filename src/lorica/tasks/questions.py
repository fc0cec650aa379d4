"""Questions with a generated answer: the rows that `saq` and `qa` share, and how their answers are parsed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from lorica.errors import CellError
from lorica.records import Row, RowSchema
from lorica.tasks.base import ParsedAnswer, invalid, is_missing, needed_text, text_value
from lorica.tasks.chats import ChatCase, chat_schemas, pair_schema
from lorica.tasks.literals import literal_cell
from lorica.tasks.postprocess import clean_answer, find_problem

# A whole cell that says there are no annotations, as pandas and others write it.
_MISSING = ("nan", "NaN", "None", "null")
NOT_ANSWERABLE = "unanswerable"
"""The gold answer of a question that SQuAD 2.0 gives none; an answer that abstains matches it."""

_OPTIONAL = ("answer", "passage", "input", "subject", "country", "group")
_ALIASES = {"answer": ("answers",), "passage": ("context",), "output": ("response", "answer")}
_WITH_INPUT = "the column 'input' is read as part of the question"

# What a table of instructions may hold besides, and a question does not.
_NOT_ASKED = ("system", "history", "images", "tools")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# A text that holds answers as CSV has them: SQuAD's {"text": [...]}, TriviaQA's {"aliases": [...]}, a list of texts.
_AS_TEXT = re.compile(
    r"\s*\{\s*['\"](?:text|answer_start|aliases|value)['\"]\s*:.*\}\s*"
    rf"|\s*\[\s*{_QUOTED}(?:\s*,\s*(?:{_QUOTED}|[\w.+-]+)|\s*{_QUOTED})*\s*,?\s*\]\s*",
    re.DOTALL,
)
_FINAL = re.compile(r"(?:^|\n)####[ \t]*(\S[^\n]*)\s*$")
_MARKED = "its answer ends with '#### ...', and what stands there is accepted as well, of a model's answers too"
_LISTED = 'its answers are a list written as text, and each of them is accepted; a text with brackets is ["[...]"]'

_UNANSWERED = f"its list of answers is empty, as SQuAD 2.0 says that there is none, and reads {NOT_ANSWERABLE!r}"


class QuestionCase(msgspec.Struct, frozen=True):
    """A question; country: where it was asked, if known. passage: what it is asked about; unset where there is none, so
    that digests of such rows stay what passports say."""

    question: str
    country: str = ""
    passage: str | UnsetType = UNSET


def parse_answer(row: Row, generated_text: str, *, cut_off: bool = True) -> ParsedAnswer:
    """Clean a generated text and judge it; an invalid one has no answer and its problem named."""
    question = row.case.question if isinstance(row.case, ChatCase) else question_case(row).question
    answer = clean_answer(generated_text, question=question)
    problem = find_problem(answer, raw_text=generated_text, question=question, cut_off=cut_off)
    return invalid(problem) if problem else ParsedAnswer(answer=answer, stage="text", valid=True)


def gold_text(row: Row) -> str:
    """The first accepted answer, to train on. Raises ValueError for a row without one."""
    if not isinstance(row.gold, tuple) or not row.gold:
        raise ValueError(f"row {row.id!r} has no answer, so there is nothing to train on")
    return row.gold[0]


def final_answer(answer_text: str) -> str:
    """What stands behind `####` on the last line, as GSM8K marks the answer behind its reasoning; else ""."""
    final_match = _FINAL.search(answer_text)
    return final_match[1].strip() if final_match else ""


def question_case(row: Row) -> QuestionCase:
    """The row's payload. Raises TypeError for a row of another task."""
    if not isinstance(row.case, QuestionCase):
        raise TypeError(f"row {row.id!r} is not a question: {type(row.case).__name__}")
    return row.case


def _build_question(cell_values: Mapping[str, Any], row_id: str, line_number: int) -> Row:
    question, context = needed_text(cell_values, "question"), text_value(cell_values, "input")
    if context == question:  # one column, which is the question by a mapping
        context = ""
    answers, gold_notes = _answers(cell_values.get("answer"))
    return Row(
        id=row_id,
        case=QuestionCase(
            "\n\n".join(filter(None, (question, context))),
            text_value(cell_values, "country"),
            text_value(cell_values, "passage") or UNSET,
        ),
        subject=text_value(cell_values, "subject"),
        gold=answers,
        group=text_value(cell_values, "group"),
        line=line_number,
        notes=(*((_WITH_INPUT,) if context else ()), *gold_notes),
    )


def _build_instruction(cell_values: Mapping[str, Any], row_id: str, line_number: int) -> Row:
    for column_name in _NOT_ASKED:
        if column_name in cell_values and cell_values[column_name] != []:
            raise CellError(
                f"the instruction comes with {column_name!r}, and would be asked without it",
                fix="write such rows as chats, in a column 'messages'",
            )
    renamed_values = {**cell_values, "question": cell_values["instruction"], "answer": cell_values.get("output")}
    row = _build_question(renamed_values, row_id, line_number)
    return msgspec.structs.replace(row, notes=tuple(row_note for row_note in row.notes if row_note != _WITH_INPUT))


def _build_annotated(cell_values: Mapping[str, Any], row_id: str, line_number: int) -> Row:
    row = _build_question(cell_values, row_id, line_number)
    if is_missing(cell_values.get("annotations")) or str(cell_values["annotations"]).strip() in _MISSING:
        return row
    return msgspec.structs.replace(row, gold=_annotated(literal_cell(cell_values["annotations"], "annotations")))


def _answers(cell_value: object) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Accepted answers, the preferred one first, and notes: of a text, in JSON a list of texts; or SQuAD's
    {"text": [...]}, TriviaQA's {"value": ..., "aliases": [...]} and the like, or such a one written as text.
    True and false are the words."""
    gold_notes: list[str] = []
    if isinstance(cell_value, str) and _AS_TEXT.fullmatch(cell_value):
        parsed_cell = literal_cell(cell_value, "answer")
        if isinstance(parsed_cell, list) or "text" in parsed_cell or isinstance(parsed_cell.get("aliases"), list):
            cell_value = parsed_cell
        gold_notes += [_LISTED] if isinstance(parsed_cell, list) else []
    if isinstance(cell_value, Mapping) and "text" in cell_value:
        if cell_value["text"] == []:  # as SQuAD 2.0 has questions that its passage does not answer
            return (NOT_ANSWERABLE,), (_UNANSWERED,)
        cell_value = cell_value["text"]
    if isinstance(cell_value, Mapping) and isinstance(cell_value.get("aliases"), list):
        cell_value = [cell_value.get("value"), *cell_value["aliases"]]
    answer_texts = cell_value if isinstance(cell_value, list) else [cell_value]
    answer_texts = [text["text"] if isinstance(text, Mapping) and "text" in text else text for text in answer_texts]
    answer_texts = [str(text).lower() if isinstance(text, bool) else text for text in answer_texts]
    answers, marked = _with_finals(
        filter(None, (text_value({"answer": answer_text}, "answer") for answer_text in answer_texts))
    )
    return answers or None, (*gold_notes, *marked)


def _with_finals(answers: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Accepted answers, those that they mark as final behind them, and notes."""
    answers = tuple(dict.fromkeys(answers))
    finals = tuple(filter(None, map(final_answer, answers)))
    return tuple(dict.fromkeys((*answers, *finals))), (_MARKED,) if finals else ()


def _annotated(annotations: Any) -> tuple[str, ...] | None:
    """All accepted answers, the most often given first, each in its own language before English.

    annotations: a list of {"answers": [...], "en_answers": [...], "count": n}, where what is None or NaN is
    missing. Raises ValueError otherwise.
    """
    if not isinstance(annotations, list) or not all(isinstance(annotation, dict) for annotation in annotations):
        raise ValueError("'annotations' must be a list of objects with answers, en_answers and count")
    accepted: list[str] = []
    for annotation in sorted(annotations, key=_count, reverse=True):
        for answer_key in ("answers", "en_answers"):
            answer_texts = annotation.get(answer_key)
            if is_missing(answer_texts):
                continue
            if not isinstance(answer_texts, list):
                raise ValueError(f"{answer_key!r} of an annotation must be a list, not {answer_texts!r:.40}")
            accepted += [text_value({answer_key: answer_text}, answer_key) for answer_text in answer_texts]
    return tuple(dict.fromkeys(filter(None, accepted))) or None


def _count(annotation: Mapping[str, Any]) -> float:
    annotator_count = annotation.get("count")
    if is_missing(annotator_count):
        return 0.0
    if isinstance(annotator_count, bool) or not isinstance(annotator_count, (int, float)):
        raise ValueError(f"the count {annotator_count!r} of an annotation is not a number")
    return float(annotator_count)


ANNOTATED = RowSchema(
    "short answers with annotations",
    ("ID", "question"),
    ("en_question", "annotations", "idks", *_OPTIONAL),
    "ID",
    _build_annotated,
    aliases=_ALIASES,
    gold="annotations",
)
BY_SUBJECT = RowSchema(
    "subject questions",
    ("questionID", "question"),
    _OPTIONAL,
    "questionID",
    _build_question,
    aliases=_ALIASES,
    gold="answer",
)
QUESTIONS = RowSchema(
    "questions and answers",
    ("question",),
    ("id", *_OPTIONAL),
    "id",
    _build_question,
    aliases=_ALIASES,
    gold="answer",
)
_ELSEWHERE = (
    *chat_schemas(lambda answer: _with_finals((answer,))),
    RowSchema(
        "instructions",
        ("instruction",),
        ("id", "input", "output", "passage", "subject", "group", *_NOT_ASKED),
        "id",
        _build_instruction,
        aliases=_ALIASES,
        gold="output",
    ),
    pair_schema(lambda answer: _with_finals((answer,))),
)
QUESTION_SCHEMAS = (BY_SUBJECT, QUESTIONS, *_ELSEWHERE)
"""The tables of every task with written answers, the most specific first."""
