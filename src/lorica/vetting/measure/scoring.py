"""Rows in, log-probabilities of their choices and of common words out: one prefill a row, nothing generated.

An engine that writes nothing (`engine_table.EngineEntry.writes`) is asked for the choices alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.engines.base import Engine
from lorica.errors import PromptError
from lorica.metrics.base import Metric
from lorica.metrics.metric_table import METRICS
from lorica.records import Output, Row, ScoreChoices
from lorica.tasks import load_task
from lorica.tasks.base import Task
from lorica.vetting.measure.model_session import ModelSession
from lorica.vetting.measure.probe_rows import common_words

Floats = NDArray[np.float64]
OnDone = Callable[[int], None]

# So many wrong answers stand beside the right one of a question with a written answer.
_DISTRACTORS = 3
_TINY = 1e-12


@dataclass(frozen=True)
class ScoreRequest:
    """A row as the engine scores it. lengths: tokens of each of the row's choices, which come before the common words.
    gold: the index of the right choice, None where it is not known. per_token: choices are compared by their mean
    log-probability per token. metric: what judges the choices, by the first one's probability or by the best."""

    row: Row
    request: ScoreChoices
    lengths: tuple[int, ...]
    gold: int | None
    per_token: bool
    metric: Metric


@dataclass(frozen=True)
class ScoredRows:
    """The scores of n rows, in their order; rows that failed are left out.

    logprobs: of each row's own choices. probabilities: the same (per token where lengths differ), normalised to 1.
    words: [n, W] log-probabilities of common words; W is 0 where the engine scores choices alone. mass: [n] probability
    of any choice, nan where it must be a choice. gold: [n], -1 unknown. metric: see `ScoreRequest`. failed: row id ->
    why.
    """

    rows: tuple[Row, ...]
    logprobs: tuple[Floats, ...]
    probabilities: tuple[Floats, ...]
    words: Floats
    mass: Floats
    gold: NDArray[np.int64]
    metric: Metric
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def has_words(self) -> bool:
        """Whether words beside the choices were asked for."""
        return self.words.size > 0

    @property
    def is_ranking(self) -> bool:
        """Whether the first choice's probability is what is judged."""
        return self.metric.takes_scores

    @property
    def best(self) -> NDArray[np.int64]:
        """[n]: the most probable choice; -1 where a row has none."""
        return np.array([int(row.argmax()) if len(row) else -1 for row in self.probabilities], dtype=np.int64)

    @property
    def confidence(self) -> Floats:
        """[n]: the probability of the best choice, nan without choices."""
        return np.array([row.max() if len(row) > 1 else np.nan for row in self.probabilities])

    @property
    def first(self) -> Floats:
        """[n]: the probability of the first choice, nan without choices."""
        return np.array([row[0] if len(row) > 1 else np.nan for row in self.probabilities])

    @property
    def losses(self) -> Floats:
        """[n]: negative log-probability of the gold choice, nan where it is unknown."""
        rows = zip(self.probabilities, self.gold.tolist(), strict=True)
        return np.array([-np.log(max(row[gold], _TINY)) if gold >= 0 else np.nan for row, gold in rows])

    @property
    def labelled(self) -> ScoredRows:
        """The rows with a known gold choice."""
        return self._at(np.flatnonzero(self.gold >= 0).tolist())

    def keep(self, row_ids: set[str]) -> ScoredRows:
        """These rows only."""
        return self._at([row_index for row_index, row in enumerate(self.rows) if row.id in row_ids])

    def _at(self, row_indices: Sequence[int]) -> ScoredRows:
        return ScoredRows(
            tuple(self.rows[row_index] for row_index in row_indices),
            tuple(self.logprobs[row_index] for row_index in row_indices),
            tuple(self.probabilities[row_index] for row_index in row_indices),
            self.words[row_indices],
            self.mass[row_indices],
            self.gold[row_indices],
            self.metric,
            self.failed,
        )


def make_requests(
    session: ModelSession, task: Task, rows: Sequence[Row], template: str = ""
) -> tuple[list[ScoreRequest], dict[str, str]]:
    """Rows as requests, and why others cannot be asked (row id -> reason)."""
    encoder = session.encoder(template)
    common_tokens: list[tuple[int, ...]] = []
    if session.settings.writes:
        # The words that answers begin with, as far as they are one token, and what ends an answer.
        words = [tokens for tokens in map(encoder.encode_choice, common_words()) if len(tokens) == 1]
        common_tokens = list(dict.fromkeys([*words, *((stop_token,) for stop_token in encoder.stop_tokens)]))
    per_token = task.settings.method == "likelihood" or task.answer_type == "text"
    metric = choice_metric(task)
    requests, refusal_reasons = [], {}
    for row_index, row in enumerate(rows):
        choice_texts, gold = _choices(task, rows, row_index)
        try:
            prompt = session.encode(task.render(row), template).tokens
            choice_tokens = tuple(map(encoder.encode_choice, choice_texts))
        except PromptError as error:
            refusal_reasons[row.id] = error.message
            continue
        score_request = ScoreChoices(row.id, prompt, (*choice_tokens, *common_tokens))
        choice_lengths = tuple(map(len, choice_tokens))
        requests.append(ScoreRequest(row, score_request, choice_lengths, gold, per_token, metric))
    return requests, refusal_reasons


def score_rows(
    session: ModelSession,
    engine: Engine,
    requests: Sequence[ScoreRequest],
    adapter: str = "",
    on_done: OnDone | None = None,
) -> ScoredRows:
    """Score rows with an adapter of the engine, or with the base alone ("")."""
    outputs = session.run(engine, [request.request for request in requests], adapter)
    if on_done is not None and adapter:
        on_done(len(requests))
    failure_reasons = {output.id: output.error for output in outputs if output.error}
    scored = [(request, output) for request, output in zip(requests, outputs, strict=True) if not output.error]
    return _read(scored, failure_reasons, requests[0].metric if requests else METRICS["accuracy"])


def align(first_scores: ScoredRows, second_scores: ScoredRows) -> tuple[ScoredRows, ScoredRows]:
    """The two on the rows that both have."""
    shared_ids = {row.id for row in first_scores.rows} & {row.id for row in second_scores.rows}
    return first_scores.keep(shared_ids), second_scores.keep(shared_ids)


def concatenate(batches: Sequence[ScoredRows]) -> ScoredRows:
    """All rows of several; the metric is that of the first."""
    filled = [batch for batch in batches if batch.rows] or list(batches[:1])
    return ScoredRows(
        tuple(row for batch in filled for row in batch.rows),
        tuple(values for batch in filled for values in batch.logprobs),
        tuple(values for batch in filled for values in batch.probabilities),
        np.concatenate([batch.words for batch in filled]),
        np.concatenate([batch.mass for batch in filled]),
        np.concatenate([batch.gold for batch in filled]),
        batches[0].metric,
    )


def with_settings(task: Task, *, style: str = "", method: str = "") -> Task:
    """The same task in another style or by another method."""
    settings = task.settings
    changed = msgspec.structs.replace(settings, style=style or settings.style, method=method or settings.method)
    return load_task(task.name, changed)


def choice_metric(task: Task) -> Metric:
    """What judges the choices of a task: its main metric, or accuracy where it judges written answers by that."""
    return METRICS["accuracy" if task.answer_type == "text" else task.metric_names[0]]


def _read(scored: Sequence[tuple[ScoreRequest, Output]], failure_reasons: dict[str, str], metric: Metric) -> ScoredRows:
    logprobs, probabilities, word_logprobs, choice_mass = [], [], [], []
    for request, output in scored:
        output_logprobs = np.array(output.logprobs, dtype=np.float64)
        choice_logprobs = output_logprobs[: len(request.lengths)]
        word_logprobs.append(output_logprobs[len(request.lengths) :])
        has_mass = len(choice_logprobs) > 0 and len(choice_logprobs) < len(output_logprobs)
        choice_mass.append(min(float(np.exp(choice_logprobs).sum()), 1.0) if has_mass else np.nan)
        logprobs.append(choice_logprobs)
        weights = choice_logprobs
        if len(choice_logprobs):
            comparable = choice_logprobs / np.array(request.lengths) if request.per_token else choice_logprobs
            weights = np.exp(comparable - comparable.max())
            weights = weights / weights.sum()
        probabilities.append(weights)
    return ScoredRows(
        tuple(request.row for request, _ in scored),
        tuple(logprobs),
        tuple(probabilities),
        np.array(word_logprobs) if word_logprobs else np.zeros((0, 0)),
        np.array(choice_mass),
        np.array([-1 if request.gold is None else request.gold for request, _ in scored], dtype=np.int64),
        metric,
        failure_reasons,
    )


def _choices(task: Task, rows: Sequence[Row], row_index: int) -> tuple[tuple[str, ...], int | None]:
    """The texts that could answer a row, and which is right."""
    row = rows[row_index]
    if choice_texts := task.choices(row) or task.generated_choices:
        return choice_texts, task.gold_choice(row)
    if not isinstance(row.gold, tuple):
        return (), None
    accepted_answers = set(row.gold)
    following = (row.gold for row in (*rows[row_index + 1 :], *rows[:row_index]))
    following_answers = (gold[0] for gold in following if isinstance(gold, tuple))
    distractors = dict.fromkeys(answer for answer in following_answers if answer not in accepted_answers)
    return (row.gold[0], *list(distractors)[:_DISTRACTORS]), 0
