"""Rows in, log-probabilities of their choices and of common words out: one prefill a row, nothing generated."""

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
    words: [n, W] log-probabilities of common words. mass: [n] probability of any choice. gold: [n], -1 unknown.
    metric: see `ScoreRequest`. failed: row id -> why.
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
    def is_ranking(self) -> bool:
        """Whether the first choice's probability is what is judged."""
        return self.metric.takes == "score"

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
        pairs = zip(self.probabilities, self.gold.tolist(), strict=True)
        return np.array([-np.log(max(row[gold], _TINY)) if gold >= 0 else np.nan for row, gold in pairs])

    @property
    def labelled(self) -> ScoredRows:
        """The rows with a known gold choice."""
        return self._at(np.flatnonzero(self.gold >= 0).tolist())

    def keep(self, row_ids: set[str]) -> ScoredRows:
        """These rows only."""
        return self._at([index for index, row in enumerate(self.rows) if row.id in row_ids])

    def _at(self, indices: Sequence[int]) -> ScoredRows:
        return ScoredRows(
            tuple(self.rows[index] for index in indices),
            tuple(self.logprobs[index] for index in indices),
            tuple(self.probabilities[index] for index in indices),
            self.words[indices],
            self.mass[indices],
            self.gold[indices],
            self.metric,
            self.failed,
        )


def make_requests(
    session: ModelSession, task: Task, rows: Sequence[Row], template: str = ""
) -> tuple[list[ScoreRequest], dict[str, str]]:
    """Rows as requests, and why others cannot be asked (row id -> reason)."""
    encoder = session.encoder(template)
    words = [tokens for tokens in map(encoder.encode_choice, common_words()) if len(tokens) == 1]
    words += [(token,) for token in encoder.stop_tokens]
    words = list(dict.fromkeys(words))
    per_token = task.settings.method == "likelihood" or task.answer_type == "text"
    metric = choice_metric(task)
    requests, refused = [], {}
    for index, row in enumerate(rows):
        texts, gold = _choices(task, rows, index)
        try:
            prompt = session.encode(task.render(row), template).tokens
            choices = tuple(map(encoder.encode_choice, texts))
        except PromptError as error:
            refused[row.id] = error.message
            continue
        request = ScoreChoices(row.id, prompt, (*choices, *words))
        lengths = tuple(map(len, choices))
        requests.append(ScoreRequest(row, request, lengths, gold, per_token, metric))
    return requests, refused


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
    failed = {output.id: output.error for output in outputs if output.error}
    scored = [(request, output) for request, output in zip(requests, outputs, strict=True) if not output.error]
    return _read(scored, failed, requests[0].metric if requests else METRICS["accuracy"])


def align(first: ScoredRows, second: ScoredRows) -> tuple[ScoredRows, ScoredRows]:
    """The two on the rows that both have."""
    shared = {row.id for row in first.rows} & {row.id for row in second.rows}
    return first.keep(shared), second.keep(shared)


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


def _read(scored: Sequence[tuple[ScoreRequest, Output]], failed: dict[str, str], metric: Metric) -> ScoredRows:
    logprobs, probabilities, words, mass = [], [], [], []
    for request, output in scored:
        values = np.array(output.logprobs, dtype=np.float64)
        own = values[: len(request.lengths)]
        words.append(values[len(request.lengths) :])
        mass.append(min(float(np.exp(own).sum()), 1.0) if len(own) else np.nan)
        compared = own / np.array(request.lengths) if request.per_token and len(own) else own
        logprobs.append(own)
        weights = np.exp(compared - compared.max()) if len(own) else own
        probabilities.append(weights / weights.sum() if len(own) else own)
    return ScoredRows(
        tuple(request.row for request, _ in scored),
        tuple(logprobs),
        tuple(probabilities),
        np.array(words) if words else np.zeros((0, 1)),
        np.array(mass),
        np.array([-1 if request.gold is None else request.gold for request, _ in scored], dtype=np.int64),
        metric,
        failed,
    )


def _choices(task: Task, rows: Sequence[Row], index: int) -> tuple[tuple[str, ...], int | None]:
    """The texts that could answer a row, and which is right."""
    row = rows[index]
    if texts := task.choices(row) or task.generated_choices:
        return texts, task.gold_choice(row)
    if not isinstance(row.gold, tuple):
        return (), None
    accepted = set(row.gold)
    following = (rows[(index + step) % len(rows)].gold for step in range(1, len(rows)))
    wrong = dict.fromkeys(gold[0] for gold in following if isinstance(gold, tuple) and gold[0] not in accepted)
    return (row.gold[0], *list(wrong)[:_DISTRACTORS]), 0
