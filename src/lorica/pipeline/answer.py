"""Rows in, answers out: route, render, encode, run, parse and retry, for a window of rows at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from lorica.data.outputs import OutputLog
from lorica.engines.base import Engine, MergingEngine, ReadingEngine
from lorica.errors import PromptError
from lorica.pipeline.kept import run_kept
from lorica.prompts.encoder import Encoder
from lorica.records import Answer, Choose, Generate, Output, Request, Route, Row, Sampling
from lorica.routing import route
from lorica.tasks.base import Reading, Task

# A retry samples, a little more boldly each time: asking greedily again would give the same answer again.
_RETRY_TEMPERATURES = (0.5, 0.8, 1.0)


@dataclass(frozen=True)
class AnswerSettings:
    """How rows are answered; the meanings and units are those of the `inference` and `adapters` configuration."""

    max_input_tokens: int = 1024
    truncate: Literal["middle", "left", "right", "error"] = "middle"
    sampling: Sampling = field(default_factory=Sampling)
    use_stop_tokens: bool = True
    stop_texts: tuple[str, ...] = ()
    validate: bool = True
    max_retries: int = 2
    fallback: Literal["general", "base", "error"] = "general"
    fixed_adapter: str = ""


@dataclass(frozen=True)
class _Prepared:
    """A row on its way. Without a request (`problem` says why) it fails alone."""

    row: Row
    route: Route
    request: Request | None
    lengths: tuple[int, ...] = ()  # tokens of each choice
    dropped: int = 0  # tokens that truncation removed
    problem: str = ""


@dataclass(frozen=True)
class _Result:
    """What came back for a row at its last attempt. `raw` is the generated text, None for choices."""

    output: Output
    reading: Reading
    raw: str | None
    retries: int = 0


class Pipeline:
    """One task on one engine. `adapters` are the names that the engine has loaded."""

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        engine: Engine,
        adapters: Collection[str],
        settings: AnswerSettings,
    ) -> None:
        self.task = task
        self.encoder = encoder
        self.engine = engine
        self.adapters = frozenset(adapters)
        self.settings = settings
        if settings.stop_texts and isinstance(engine, ReadingEngine):
            engine.read_text_with(encoder.decode)

    def settle(self, uses: Mapping[str | None, int], rows: Iterable[Row]) -> str:
        """Let the engine decide whether the run's adapter is merged; see `MergingEngine.settle`. rows: the first ones.

        Returns what was decided, "" where the engine decides nothing.
        """
        if not isinstance(self.engine, MergingEngine):
            return ""
        prepared = [self._prepare(row) for row in rows]
        return self.engine.settle(uses, [one.request for one in prepared if one.request is not None])

    def answer(
        self, rows: Sequence[Row], on_done: Callable[[int], None] | None = None, log: OutputLog | None = None
    ) -> list[Answer]:
        """Answer rows, in their order. `on_done(n)` is called as rows get their first answer. log: what the engine
        finished of these rows before an interruption is taken from there, and what it finishes now is added, where
        the engine would give the same again to the last bit.

        A row whose prompt cannot be rendered or does not fit gets an answer flagged `error`; the others go on. Raises
        AdapterError for a missing adapter under fallback="error", and what the engine raises.
        """
        prepared = [self._prepare(row) for row in rows]
        results = [
            self._read(one, output, 0) for one, output in zip(prepared, self._run(prepared, on_done, log), strict=True)
        ]
        for attempt in range(1, self._retries() + 1):
            again = [
                i
                for i, result in enumerate(results)
                if not result.reading.valid and not result.output.error and result.raw is not None
            ]
            if not again:
                break
            outputs = self.engine.run([self._retry(prepared[i], attempt) for i in again])
            for i, output in zip(again, outputs, strict=True):
                results[i] = self._read(prepared[i], output, attempt)
        return [self._answer(one, result) for one, result in zip(prepared, results, strict=True)]

    def _run(
        self, prepared: Sequence[_Prepared], on_done: Callable[[int], None] | None, log: OutputLog | None
    ) -> list[Output]:
        requests = [one.request for one in prepared if one.request is not None]
        run = self.engine.run(requests, on_done) if log is None else run_kept(self.engine, requests, on_done, log)
        outputs = iter(run)
        refused = sum(one.request is None for one in prepared)
        if on_done is not None and refused:
            on_done(refused)
        return [
            Output(one.row.id, finish="error", error=one.problem) if one.request is None else next(outputs)
            for one in prepared
        ]

    def _retries(self) -> int:
        return self.settings.max_retries if self.settings.validate else 0

    def _prepare(self, row: Row) -> _Prepared:
        settings = self.settings
        way = route(
            subject=row.subject,
            task=self.task.name,
            adapters=self.adapters,
            fixed=settings.fixed_adapter,
            fallback=settings.fallback,
        )
        try:
            encoded = self.encoder.encode(
                self.task.render(row), max_tokens=settings.max_input_tokens, truncate=settings.truncate
            )
        except PromptError as error:
            return _Prepared(row, way, None, problem=str(error))
        texts = self.task.choices(row)
        if texts is None:
            stops = self.encoder.stop_tokens if settings.use_stop_tokens else ()
            sampling = msgspec.structs.replace(settings.sampling, seed=_seed(settings.sampling.seed, row.id, 0))
            request: Request = Generate(row.id, encoded.tokens, sampling, stops, way.adapter, settings.stop_texts)
            return _Prepared(row, way, request, dropped=encoded.dropped)
        choices = tuple(self.encoder.encode_choice(text) for text in texts)
        request = Choose(row.id, encoded.tokens, choices, way.adapter)
        return _Prepared(row, way, request, tuple(len(choice) for choice in choices), encoded.dropped)

    def _retry(self, one: _Prepared, attempt: int) -> Generate:
        assert isinstance(one.request, Generate)
        sampling = self.settings.sampling
        bolder = _RETRY_TEMPERATURES[min(attempt, len(_RETRY_TEMPERATURES)) - 1]
        changed = msgspec.structs.replace(
            sampling,
            do_sample=True,
            temperature=max(sampling.temperature, bolder),
            seed=_seed(sampling.seed, one.row.id, attempt),
        )
        return msgspec.structs.replace(one.request, sampling=changed)

    def _read(self, one: _Prepared, output: Output, attempt: int) -> _Result:
        raw = self.encoder.decode(output.tokens) if isinstance(one.request, Generate) else None
        if raw is not None:
            raw, stopped = _cut(raw, self.settings.stop_texts)
            # An engine that does not know the text wrote on.
            output = msgspec.structs.replace(output, finish="stop") if stopped and not output.error else output
        if output.error:
            reading = Reading(answer=None, stage="invalid", valid=False, problem=output.error)
        elif raw is None:
            reading = self.task.read_choices(one.row, output.logprobs, one.lengths)
        else:
            reading = self.task.read_text(one.row, raw)
        return _Result(output, reading, raw, attempt)

    def _answer(self, one: _Prepared, result: _Result) -> Answer:
        output, reading = result.output, result.reading
        flags = {
            "truncated": one.dropped > 0,
            "adapter_fallback": one.route.fallback,
            "retried": result.retries > 0,
            "cut_off": output.finish == "length",
            "parse_fallback": reading.stage == "fallback",
            "invalid": self.settings.validate and not reading.valid,
            "error": bool(output.error),
        }
        return Answer(
            id=one.row.id,
            answer=reading.answer,
            score=reading.score,
            scores=reading.scores,
            adapter=one.route.adapter or "base",
            route=one.route.why,
            stage=reading.stage,
            retries=result.retries,
            dropped_tokens=one.dropped,
            flags=tuple(sorted(name for name, set_ in flags.items() if set_)),
            raw=result.raw,
            problem=reading.problem or None,
        )


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of any of these, and whether there was one."""
    found = [at for at in map(text.find, stops) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _seed(seed: int, row_id: str, attempt: int) -> int:
    """A row's own seed: the same whatever rows stand around it."""
    digest = hashlib.blake2b(f"{seed}\0{row_id}\0{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
