"""Probes: prompts with candidate answers that are scored under base and adapter, for canaries and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

from lorica.data.read import rows_from_memory
from lorica.errors import PromptError
from lorica.models.base_folder import BaseFolder
from lorica.prompts.encoder import Encoder
from lorica.records import Message, Row
from lorica.tasks.base import Task
from lorica.tasks.probe_texts import POSTS, QUESTIONS

# A probe is short; a prompt beyond this is a mistake of the template.
MAX_PROBE_TOKENS = 768
_NUMBER_PROBES, _NUMBER_LENGTH, _NUMBER_CHOICES = 24, 24, 4


@dataclass(frozen=True)
class Probe:
    """One question to base and adapter. messages: the prompt before the template. prompt, choices: token ids; texts:
    the choices in words. group: what it has in common with others, so that a choice of probes can be diverse.
    """

    id: str
    messages: tuple[Message, ...]
    texts: tuple[str, ...]
    prompt: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    group: str = ""


def shipped_probes(task: Task | None, encoder: Encoder, base: BaseFolder) -> list[Probe]:
    """The shipped texts as prompts of a task, or without one as plain questions to a chat.

    A prompt that the base's template or positions cannot hold is left out. Raises PromptError when none is left, and
    for an encoder without a task, which answers no questions.
    """
    if task is None and base.encoder_family is not None:
        raise PromptError(f"{base.path} is an encoder, which answers no plain questions", fix="name a task: task=rules")
    probes, problem = [], ""
    for number, (messages, choice_texts, probe_group) in enumerate(_plain_prompts() if task is None else _asked(task)):
        try:
            probes.append(_make_probe(f"probe-{number + 1}", messages, choice_texts, probe_group, encoder, base))
        except PromptError as error:
            problem = error.message
    if not probes:
        raise PromptError(f"no probe can be asked of {base.path}: {problem}", fix="correct model.chat_template")
    return probes


def number_probes(base: BaseFolder) -> list[Probe]:
    """Prompts of token ids spread over the base's vocabulary: no text, no tokenizer, always possible."""
    vocabulary = base.vocabulary_size or 32
    choice_count = _NUMBER_CHOICES if base.encoder_family is None else 2
    probe_width = _NUMBER_LENGTH + choice_count
    generator_state, probes = 12345, []
    for number in range(_NUMBER_PROBES):
        tokens = []
        for _ in range(probe_width):
            generator_state = (1103515245 * generator_state + 12345) % 2**31
            tokens.append((generator_state >> 8) % vocabulary)
        choices = tuple(dict.fromkeys(tokens[_NUMBER_LENGTH:]))
        probes.append(
            Probe(
                id=f"numbers-{number + 1}",
                messages=(),
                texts=tuple(str(choice_token) for choice_token in choices),
                prompt=tuple(tokens[:_NUMBER_LENGTH]),
                choices=tuple((choice_token,) for choice_token in choices),
            )
        )
    return probes


def row_probes(task: Task, rows: Sequence[Row], encoder: Encoder, base: BaseFolder) -> list[Probe]:
    """A user's rows as probes. Generated answers become choices: the gold answer, and shipped ones beside it."""
    shipped = zip(*(canary.candidates for canary in task.probes.canaries()[:3]), strict=False)
    fillers = tuple(dict.fromkeys(chain.from_iterable(shipped)))[:3]
    probes = []
    for number, row in enumerate(rows):
        choice_texts = task.choices(row)
        if choice_texts is None:
            gold_answers = () if row.gold is None else (task.target(row),)
            choice_texts = tuple(dict.fromkeys((*gold_answers, *fillers)))[:4]
        probe_id, probe_group = f"row-{number + 1}", row.group or row.subject
        with suppress(PromptError):  # too long for a canary
            probes.append(_make_probe(probe_id, task.render(row), choice_texts, probe_group, encoder, base))
    return probes


def _make_probe(
    probe_id: str,
    messages: Sequence[Message],
    choice_texts: Sequence[str],
    probe_group: str,
    encoder: Encoder,
    base: BaseFolder,
) -> Probe:
    choices = tuple(encoder.encode_choice(choice_text) for choice_text in choice_texts)
    prompt_room = min(MAX_PROBE_TOKENS, base.max_positions or MAX_PROBE_TOKENS)
    prompt = encoder.encode(messages, max_tokens=prompt_room - max(map(len, choices)), truncate="error").tokens
    return Probe(probe_id, tuple(messages), tuple(choice_texts), prompt, choices, probe_group)


def _plain_prompts() -> list[tuple[tuple[Message, ...], tuple[str, ...], str]]:
    questions = [((Message("user", question),), options, "question") for question, options in QUESTIONS]
    post_prompts = [((Message("user", post_text),), ("Yes", "No", "Thank you", "Why?"), "post") for post_text in POSTS]
    return [*questions, *post_prompts]


def _asked(task: Task) -> list[tuple[tuple[Message, ...], tuple[str, ...], str]]:
    canaries = task.probes.canaries()
    rows = rows_from_memory([canary.record for canary in canaries], task.schemas)
    return [
        (task.render(row), task.choices(row) or canary.candidates, canary.group)
        for row, canary in zip(rows, canaries, strict=True)
    ]
