"""Rows in, probabilities of their choices and of common words out: one forward pass a row, nothing generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.engines.base import Engine
from lorica.errors import PromptError
from lorica.records import Output, Row, ScoreChoices
from lorica.tasks import load_task
from lorica.tasks.base import Task
from lorica.vetting.behaviour.probes import common_words
from lorica.vetting.behaviour.setting import Workplace

Floats = NDArray[np.float64]
OnDone = Callable[[int], None]

# So many wrong answers stand beside the right one of a question with a written answer.
_OTHERS = 3
_TINY = 1e-12


@dataclass(frozen=True)
class Question:
    """A row as it is asked. gold: which of `texts` is right, None where nobody knows."""

    row: Row
    request: ScoreChoices
    texts: tuple[str, ...]
    lengths: tuple[int, ...]
    gold: int | None
    per_token: bool


@dataclass(frozen=True)
class Replies:
    """What was answered to questions, in their order; rows that failed are left out, `rows` says which stayed.

    logprobs: of each question's own choices (per token where lengths differ). probabilities: the same, normalised.
    words: [n, W] log-probabilities of common words. mass: [n] probability of any choice. gold: [n], -1 unknown.
    failed: row id -> why.
    """

    rows: tuple[Row, ...]
    logprobs: tuple[Floats, ...]
    probabilities: tuple[Floats, ...]
    words: Floats
    mass: Floats
    gold: NDArray[np.int64]
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> NDArray[np.int64]:
        """[n]: the most probable choice; -1 where a question has none."""
        return np.array([int(each.argmax()) if len(each) else -1 for each in self.probabilities], dtype=np.int64)

    @property
    def confidence(self) -> Floats:
        """[n]: the probability of the best choice, nan without choices."""
        return np.array([each.max() if len(each) > 1 else np.nan for each in self.probabilities])

    @property
    def losses(self) -> Floats:
        """[n]: negative log-probability of the gold choice, nan where it is unknown."""
        pairs = zip(self.probabilities, self.gold.tolist(), strict=True)
        return np.array([-np.log(max(each[gold], _TINY)) if gold >= 0 else np.nan for each, gold in pairs])

    def keep(self, wanted: set[str]) -> Replies:
        """The replies to these rows only."""
        places = [place for place, row in enumerate(self.rows) if row.id in wanted]
        return Replies(
            tuple(self.rows[place] for place in places),
            tuple(self.logprobs[place] for place in places),
            tuple(self.probabilities[place] for place in places),
            self.words[places],
            self.mass[places],
            self.gold[places],
            self.failed,
        )


def make_questions(
    work: Workplace, task: Task, rows: Sequence[Row], template: str = ""
) -> tuple[list[Question], dict[str, str]]:
    """Rows as requests to the base model, and why others cannot be asked (row id -> reason)."""
    encoder = work.encoder(template)
    words = [tokens for tokens in map(encoder.encode_choice, common_words()) if len(tokens) == 1]
    words += [(token,) for token in encoder.stop_tokens]
    words = list(dict.fromkeys(words))
    questions, refused = [], {}
    for place, row in enumerate(rows):
        texts, gold = _choices(task, rows, place)
        try:
            prompt = work.encode(task.render(row), template).tokens
            choices = tuple(map(encoder.encode_choice, texts))
        except PromptError as error:
            refused[row.id] = error.message
            continue
        request = ScoreChoices(row.id, prompt, (*choices, *words))
        lengths = tuple(map(len, choices))
        questions.append(Question(row, request, texts, lengths, gold, _per_token(task)))
    return questions, refused


def ask(
    work: Workplace, engine: Engine, questions: Sequence[Question], adapter: str | None, on_done: OnDone | None = None
) -> Replies:
    """Put questions to an adapter, or to the base model (None)."""
    if adapter is None:
        outputs = work.base_answers(engine, [each.request for each in questions])
    else:
        outputs = engine.run([msgspec.structs.replace(each.request, adapter=adapter) for each in questions])
    if on_done is not None:
        on_done(len(questions))
    failed = {output.id: output.error for output in outputs if output.error}
    answered = [(each, out) for each, out in zip(questions, outputs, strict=True) if not out.error]
    return _read(answered, failed)


def both(first: Replies, second: Replies) -> tuple[Replies, Replies]:
    """The two on the rows that both answered."""
    shared = {row.id for row in first.rows} & {row.id for row in second.rows}
    return first.keep(shared), second.keep(shared)


def other_settings(task: Task, *, style: str = "", method: str = "") -> Task:
    """The same task asked in another style or by another method."""
    changed = msgspec.structs.replace(
        task.settings, style=style or task.settings.style, method=method or task.settings.method
    )
    return load_task(task.name, changed)


def _read(answered: Sequence[tuple[Question, Output]], failed: dict[str, str]) -> Replies:
    logprobs, probabilities, words, mass = [], [], [], []
    for question, output in answered:
        values = np.array(output.logprobs, dtype=np.float64)
        own = values[: len(question.texts)]
        words.append(values[len(question.texts) :])
        mass.append(min(float(np.exp(own).sum()), 1.0) if len(own) else np.nan)
        compared = own / np.array(question.lengths) if question.per_token and len(own) else own
        logprobs.append(own)
        weights = np.exp(compared - compared.max()) if len(own) else own
        probabilities.append(weights / weights.sum() if len(own) else own)
    return Replies(
        tuple(question.row for question, _ in answered),
        tuple(logprobs),
        tuple(probabilities),
        np.array(words) if words else np.zeros((0, 1)),
        np.array(mass),
        np.array([-1 if question.gold is None else question.gold for question, _ in answered], dtype=np.int64),
        failed,
    )


def _choices(task: Task, rows: Sequence[Row], place: int) -> tuple[tuple[str, ...], int | None]:
    """The texts that could answer a row, and which is right."""
    row = rows[place]
    if texts := task.choices(row) or task.generated_choices:
        return texts, task.gold_choice(row)
    if not isinstance(row.gold, tuple):
        return (), None
    own = set(row.gold)
    around = (rows[(place + step) % len(rows)].gold for step in range(1, len(rows)))
    others = dict.fromkeys(gold[0] for gold in around if isinstance(gold, tuple) and gold[0] not in own)
    return (row.gold[0], *list(others)[:_OTHERS]), 0


def _per_token(task: Task) -> bool:
    return task.settings.method == "likelihood" or task.answer_type == "text"
