"""Asking a base model with and without variants of an adapter: how probable does each make the right answers?

One measure for all tasks: the log-probability of the gold answer, among the row's choices where it has any.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from lorica.adapters.folder import MORE_THAN_PAIRS, open_adapter
from lorica.engines.base import Engine
from lorica.errors import EngineError, LoricaError
from lorica.metrics.score_metrics import roc_auc
from lorica.prompts.encoder import Encoder
from lorica.records import Row, ScoreChoices
from lorica.tasks.base import Task

Floats = NDArray[np.float64]


class Scored(msgspec.Struct, frozen=True):
    """What was answered to n rows.

    gold [n]: log-probability of each row's gold answer; for yes-or-no tasks after the shift of all log-odds that suits
    the rows best, so that a mere preference for one answer, which a threshold mends, hides nothing. first [n]:
    probability of the first choice (for `rules` that is P(Yes)); nan for tasks without choices. right [n]: 1 where the
    gold choice is the most probable, nan without choices. vectors: the log-probabilities of all choices of each row,
    normalised; empty for tasks without choices.
    """

    gold: Floats
    first: Floats
    right: Floats
    vectors: tuple[tuple[float, ...], ...]


class Comparison(msgspec.Struct, frozen=True):
    """mean: of the paired differences, in nats per row. z: mean over its standard error; 0 when nothing differs."""

    mean: float
    z: float


class Trial:
    """One engine, one task and rows with gold. Variants are added to the engine once, by their folder."""

    def __init__(
        self,
        engine: Engine,
        task: Task,
        encoder: Encoder,
        rows: Sequence[Row],
        *,
        max_tokens: int = 1024,
        prefix: str = "",
    ) -> None:
        self.engine = engine
        self.task = task
        self.encoder = encoder
        self.rows = tuple(row for row in rows if row.gold is not None)
        self.gold: list[int] = [row.gold if isinstance(row.gold, int) else -1 for row in self.rows]
        self._max_tokens = max_tokens
        self._prefix = prefix  # in front of the names under which variants are added
        self._added = 0
        self._known: dict[Path, str] = {}
        self._scored: dict[tuple[str, Task, Encoder, int], Scored] = {}

    def score(
        self,
        folder: Path | None,
        *,
        task: Task | None = None,
        encoder: Encoder | None = None,
        shift: int = 0,
    ) -> Scored:
        """The rows answered with the adapter of a folder; None is the base alone.

        task, encoder: another style or template than the trial's own. shift: every row is asked with the prompt of the
        row so many places further on, its gold staying where it is. Raises AdapterError for a folder the engine cannot
        use, EngineError when the model's output is no number, PromptError when a template cannot render the rows.
        """
        name = None if folder is None else self.name_of(folder)
        asked, encoded_by = task or self.task, encoder or self.encoder
        key = (name or "", asked, encoded_by, shift)
        if key not in self._scored:
            self._scored[key] = self._score(name, asked, encoded_by, shift)
        return self._scored[key]

    def auc(self, scored: Scored) -> tuple[float, float]:
        """ROC-AUC of P(first choice) against gold 1, and its standard error; nan where undefined."""
        if self.task.answer_type != "score" or len(set(self.gold)) < 2:
            return float("nan"), float("nan")
        value = roc_auc(self.gold, scored.first)
        positive = sum(self.gold)
        return value, auc_error(value, positive, len(self.gold) - positive)

    def name_of(self, folder: Path) -> str:
        """The name under which the engine knows a variant; it is added when it is new. Raises AdapterError."""
        if folder not in self._known:
            self._added += 1
            name = f"{self._prefix}variant {self._added}"
            self.engine.add_adapter(name, open_adapter(folder, applied=MORE_THAN_PAIRS))
            self._known[folder] = name
        return self._known[folder]

    def forget(self, folder: Path) -> None:
        """Free the memory of a variant; what was scored with it stays known."""
        name = self._known.pop(folder, None)
        if name is not None:
            self.engine.remove_adapter(name)

    def forget_all(self) -> None:
        """Free the memory of all variants."""
        for folder in list(self._known):
            self.forget(folder)

    def part(self, most: int) -> Trial:
        """A trial of at most so many of the rows, evenly chosen."""
        count = min(most, len(self.rows))
        rows = [self.rows[number * len(self.rows) // count] for number in range(count)]
        return Trial(
            self.engine, self.task, self.encoder, rows, max_tokens=self._max_tokens, prefix=f"{self._prefix}part "
        )

    def _score(self, name: str | None, task: Task, encoder: Encoder, shift: int) -> Scored:
        prompts = [
            encoder.encode(task.render(row), max_tokens=self._max_tokens, truncate="middle").tokens for row in self.rows
        ]
        prompts = prompts[shift:] + prompts[:shift]
        requests = []
        for row, prompt in zip(self.rows, prompts, strict=True):
            texts = task.choices(row) or (task.target(row),)
            requests.append(ScoreChoices(row.id, prompt, tuple(encoder.encode_choice(text) for text in texts), name))
        outputs = self.engine.run(requests)
        failed = next((output.error for output in outputs if output.error), "")
        if failed:
            raise EngineError(failed)
        vectors = [_normalised(output.logprobs) for output in outputs]
        places = [
            0 if len(vector) == 1 else task.gold_choice(row) or 0
            for vector, row in zip(vectors, self.rows, strict=True)
        ]
        single = bool(vectors) and len(vectors[0]) == 1
        gold = np.array([vector[place] for vector, place in zip(vectors, places, strict=True)])
        if task.answer_type == "score" and not single and len(set(places)) == 2:
            gold = centred(np.array([v[0] - v[1] for v in vectors]), np.array(places) == 0)
        return Scored(
            gold=gold,
            first=np.array([np.nan if single else float(np.exp(vector[0])) for vector in vectors]),
            right=np.array(
                [np.nan if single else float(np.argmax(v) == p) for v, p in zip(vectors, places, strict=True)]
            ),
            vectors=() if single else tuple(vectors),
        )


def centred(odds: Floats, first: NDArray[np.bool_]) -> Floats:
    """Log-probability of the gold answers [n] from log-odds [n] of the first answer, all shifted by the constant that
    makes the gold answers most probable. first [n]: whether the gold is the first answer."""
    signs = np.where(first, 1.0, -1.0)
    low, high = -float(np.abs(odds).max()) - 10.0, float(np.abs(odds).max()) + 10.0
    for _ in range(60):  # the slope falls with the shift: halve until it is zero
        shift = (low + high) / 2
        slope = float(np.sum(signs / (1 + np.exp(np.clip(signs * (odds + shift), -700, 700)))))
        low, high = (shift, high) if slope > 0 else (low, shift)
    return np.asarray(-np.logaddexp(0.0, -signs * (odds + (low + high) / 2)))


def compare(left: Scored, right: Scored) -> Comparison:
    """How much more probable `left` makes the gold answers than `right`, row by row."""
    difference = left.gold - right.gold
    mean = float(difference.mean()) if len(difference) else 0.0
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    error = spread / np.sqrt(len(difference)) if len(difference) else 0.0
    if error < 1e-12:
        return Comparison(mean, 0.0 if abs(mean) < 1e-9 else float(np.sign(mean)) * 100.0)
    return Comparison(mean, float(mean / error))


def divergence(left: Scored, right: Scored) -> float:
    """Mean Kullback-Leibler divergence, in nats, between the choices' distributions; nan without choices."""
    if not left.vectors or not right.vectors:
        return float("nan")
    found = []
    for p, q in zip(left.vectors, right.vectors, strict=True):
        found.append(sum(float(np.exp(a)) * (a - b) for a, b in zip(p, q, strict=True)))
    return float(np.mean(found))


def auc_error(value: float, positive: int, negative: int) -> float:
    """The standard error of an AUC (Hanley and McNeil 1982), never below that of one misplaced row."""
    if not positive or not negative:
        return float("nan")
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (positive - 1) * (q1 - value**2) + (negative - 1) * (q2 - value**2)
    return max(float(np.sqrt(max(spread, 0.0) / (positive * negative))), 0.5 / max(positive, negative))


def refusal(error: LoricaError) -> str:
    """Why an engine refused, in one line without the path in front."""
    return error.message.split(": ", 1)[-1][:200]


def _normalised(logprobs: Sequence[float]) -> tuple[float, ...]:
    """A single choice keeps its log-probability; several are normalised to sum to 1."""
    if len(logprobs) == 1:
        return tuple(logprobs)
    values = np.asarray(logprobs, dtype=np.float64)
    top = values.max()
    whole = top + np.log(np.exp(values - top).sum())
    return tuple(float(value) for value in values - whole)
