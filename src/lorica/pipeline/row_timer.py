"""The engine's seconds of each row: of every batch that computed something for it, its share by computed tokens."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock

from lorica.data.journal import OutputLog
from lorica.data.near_duplicates import text_digest
from lorica.engines.base import Engine, TimedEngine
from lorica.engines.batch_timer import BatchTimer
from lorica.records import Output, Request, Route, Row, RowTiming


class TokenCounts:
    """Tokens of prompts and of generated texts by row id, over all attempts."""

    def __init__(self) -> None:
        self.prompt: Counter[str] = Counter()
        self.generated: Counter[str] = Counter()

    def add(self, requests: Sequence[Request | None], outputs: Sequence[Output]) -> None:
        """Count what was asked and answered; None is a row that was not asked."""
        for request, output in zip(requests, outputs, strict=True):
            if request is not None:
                self.prompt[request.id] += len(request.prompt)
                self.generated[request.id] += len(output.tokens)


class RowTimer:
    """Sums the seconds of rows; all are 0 for an engine that measures nothing. Thread-safe."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.perf_counter) -> None:
        self._lock = Lock()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        if isinstance(engine, TimedEngine):
            engine.set_timer(BatchTimer(self._add, clock))

    def _add(self, tokens: Mapping[str, float], seconds: float) -> None:
        total = sum(tokens.values())
        with self._lock:
            for row_id, row_tokens in tokens.items():
                self._seconds[row_id] += seconds * (row_tokens / total if total else 1 / len(tokens))

    def clear(self) -> None:
        """Forget what other runs of the engine took: probes, canaries, a warm-up."""
        with self._lock:
            self._seconds.clear()

    def timing(self, row: Row, text: str, route: Route, tokens: TokenCounts, output_log: OutputLog | None) -> RowTiming:
        """What a row, of this own text, took: since its seconds were last taken, and before as far as `output_log` has
        it."""
        seconds, part = self.take(row.id), 1
        if output_log is not None:
            seconds += output_log.seconds_by_id.get(row.id, 0.0)
            part = output_log.part_by_id.get(row.id, output_log.part)
        return RowTiming(
            row.id,
            row.subject,
            route.adapter or "base",
            seconds,
            tokens.prompt[row.id],
            tokens.generated[row.id],
            part=part,
            text=text_digest(text),
        )

    def take(self, row_id: str) -> float:
        """The seconds of a row since they were last taken."""
        with self._lock:
            return self._seconds.pop(row_id, 0.0)
