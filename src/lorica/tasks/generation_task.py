"""`saq` (a short answer in a few words) and `qa` (an answer in a sentence, per subject): generated, then cleaned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from lorica.records import Message, Row, RowSchema
from lorica.tasks.base import AnswerType, ParsedAnswer, ProbeSet, TaskSettings, choose_defaults, invalid
from lorica.tasks.chats import ChatCase, chat_messages, with_chat_of
from lorica.tasks.message_builder import MessageBuilder
from lorica.tasks.probe_texts import labelled_records, question_canaries
from lorica.tasks.questions import (
    ANNOTATED,
    QUESTION_SCHEMAS,
    QuestionCase,
    final_answer,
    gold_text,
    parse_answer,
    question_case,
)


class GenerationTask:
    """A task that generates. Gold is the tuple of accepted answers, the preferred one first."""

    methods = ("generate",)
    styles = ("",)
    row_examples = None
    variants: Mapping[str, Callable[[Row], Row | None]] = {}
    answer_type: AnswerType = "text"
    generated_choices = ()
    probes = ProbeSet(
        "questions", partial(labelled_records, "questions"), partial(question_canaries, with_options=False)
    )

    def __init__(
        self,
        task_name: str,
        settings: TaskSettings,
        *,
        prompt: Callable[[Row], tuple[Message, ...]],
        schemas: tuple[RowSchema, ...],
        metric_names: tuple[str, ...],
    ) -> None:
        """Raises ConfigError for an unknown method or style."""
        self.name = task_name
        self.schemas = schemas
        self.metric_names = metric_names
        self.settings = choose_defaults(settings, self.methods, self.styles, task_name=task_name)
        self._prompt = prompt

    def render(self, row: Row) -> tuple[Message, ...]:
        """The task's own prompt, or the turns of a chat as they are."""
        return chat_messages(row.case) if isinstance(row.case, ChatCase) else self._prompt(row)

    def choices(self, row: Row) -> tuple[str, ...] | None:
        """None: the answer is generated."""
        return None

    def options(self, row: Row) -> dict[str, str]:
        """None: any text may be the answer."""
        return {}

    def gold_choice(self, row: Row) -> int | None:
        """None: there are no choices."""
        return None

    def target(self, row: Row) -> str:
        """The preferred answer. Raises ValueError for a row without one."""
        return gold_text(row)

    def parse_logprobs(self, row: Row, logprobs: Sequence[float], lengths: Sequence[int]) -> ParsedAnswer:
        """The task generates; log-probabilities are not read."""
        return invalid(f"the task {self.name} answers in words and got log-probabilities")

    def parse_text(self, row: Row, generated_text: str, *, cut_off: bool = True) -> ParsedAnswer:
        """The cleaned answer; what is no answer has its problem named."""
        return parse_answer(row, generated_text, cut_off=cut_off)

    def answer_parser(self, answers: Sequence[tuple[Row, str]]) -> Callable[[Row, str], int | str]:
        """To the text itself; where gold marks its final answer, to what the answer marks so."""

        def read(row: Row, answer: str) -> str:
            marked = isinstance(row.gold, tuple) and any(map(final_answer, row.gold))
            return (final_answer(answer) if marked else "") or answer

        return read

    def text(self, row: Row) -> str:
        """The question, or all of a chat."""
        return row.case.text if isinstance(row.case, ChatCase) else question_case(row).question

    def stratum(self, row: Row) -> str:
        """The subject."""
        return row.subject

    def retrieval_query(self, row: Row) -> str:
        """The question; of a chat what the user said last."""
        return row.case.question if isinstance(row.case, ChatCase) else question_case(row).question

    def baseline_text(self, row: Row) -> str:
        """As `text`."""
        return self.text(row)

    def with_text_of(self, row: Row, donor_row: Row) -> Row:
        """Another question and passage; another chat."""
        if isinstance(row.case, QuestionCase) and isinstance(donor_row.case, QuestionCase):
            donor_case = donor_row.case
            new_case = msgspec.structs.replace(row.case, question=donor_case.question, passage=donor_case.passage)
            return msgspec.structs.replace(row, case=new_case)
        return with_chat_of(row, donor_row)


def saq_task(settings: TaskSettings) -> GenerationTask:
    """The task `saq`. Raises ConfigError for an unknown method or style."""
    schemas = (ANNOTATED, *QUESTION_SCHEMAS)
    return GenerationTask(
        "saq", settings, prompt=_short_prompt, schemas=schemas, metric_names=("exact_match", "token_f1")
    )


def qa_task(settings: TaskSettings) -> GenerationTask:
    """The task `qa`. Raises ConfigError for an unknown method or style."""
    return GenerationTask(
        "qa", settings, prompt=_sentence_prompt, schemas=QUESTION_SCHEMAS, metric_names=("token_f1", "exact_match")
    )


def _short_prompt(row: Row) -> tuple[Message, ...]:
    """One user message: the instruction, the passage if there is one, and the question."""
    qa_case = question_case(row)
    builder = MessageBuilder().add("Answer in a few words.\n").mark_context()
    if qa_case.passage:
        builder.add("Passage: ").add_truncatable(qa_case.passage).add("\n")
    return (builder.add("Question: ").add_protected(qa_case.question).build("user"),)


def _sentence_prompt(row: Row) -> tuple[Message, ...]:
    """A system message with the subject, and the question as the user's message, behind its passage if it has one."""
    topic_words = f"questions about {row.subject}" if row.subject else "questions"
    system = Message("system", f"You answer {topic_words}. Reply in one sentence.")
    qa_case, builder = question_case(row), MessageBuilder()
    if qa_case.passage:
        builder.add("Passage: ").add_truncatable(qa_case.passage).add("\nQuestion: ")
    return (system, builder.add_protected(qa_case.question).build("user"))
