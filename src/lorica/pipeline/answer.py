"""Rows in, answers out: route, render, encode, run the engine, parse and retry, a window of rows at a time."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import msgspec

from lorica.calibration.saved import SavedCalibration
from lorica.config.adapters_section import AdaptersConfig, Fallback
from lorica.config.schema import InferenceConfig, TaskConfig, Truncate, ValidationConfig
from lorica.data.journal import OutputLog
from lorica.engines.base import Engine, MergeDecision, MergingEngine, StopStringEngine, TimedEngine
from lorica.errors import ConfigError, PromptError, TooLongError
from lorica.pipeline.apply_calibration import calibrate_answer
from lorica.pipeline.resumable import run_resumable
from lorica.pipeline.retrieve import NO_LOOK_UP, LookUp, Retriever
from lorica.pipeline.row_timer import RowTimer, TokenCounts
from lorica.prompts.encoder import Encoder
from lorica.prompts.with_passages import PromptWithPassages, encode_with_passages
from lorica.records import (
    Answer,
    Generate,
    Message,
    Output,
    Request,
    Route,
    Row,
    RowTiming,
    Sampling,
    ScoreChoices,
)
from lorica.routing import route
from lorica.tasks.base import ParsedAnswer, Task, invalid
from lorica.thoughts import unclosed, without_thoughts

# A retry samples, a little more boldly each time: asking greedily again would give the same answer again.
_RETRY_TEMPERATURES = (0.5, 0.8, 1.0)


@dataclass(frozen=True)
class AnswerSettings:
    """How rows are answered: keys of the sections `inference`, `task` and `adapters`; `config.schema` says what each
    means. max_positions: tokens that the base model sees at once, prompt and answer together."""

    max_input_tokens: int = InferenceConfig.max_input_tokens
    max_positions: int | None = None
    truncate: Truncate = TaskConfig.truncate
    sampling: Sampling = field(default_factory=Sampling)
    use_stop_tokens: bool = InferenceConfig.use_stop_tokens
    stop_texts: tuple[str, ...] = ()
    validate: bool = ValidationConfig.enabled
    max_retries: int = ValidationConfig.max_retries
    fallback: Fallback = AdaptersConfig.fallback
    fixed_adapter: str = AdaptersConfig.use

    def prompt_tokens(self, answer: int) -> int:
        """How long a prompt may be beside an answer that takes so many positions; at least 1."""
        positions = self.max_positions
        return self.max_input_tokens if positions is None else max(1, min(self.max_input_tokens, positions - answer))


@dataclass(frozen=True)
class _PreparedRow:
    """A row routed and encoded. Without a request (`problem` says why) it fails alone."""

    row: Row
    route: Route
    request: Request | None
    lengths: tuple[int, ...] = ()  # tokens of each choice
    prompt: PromptWithPassages | None = None
    look_up: LookUp = NO_LOOK_UP
    problem: str = ""

    @property
    def dropped(self) -> int:
        """Tokens that truncation removed from the row's own text."""
        return 0 if self.prompt is None else self.prompt.encoded.dropped


@dataclass(frozen=True)
class _Result:
    """The output of a row at its last attempt, parsed. `raw` is the generated text, None for choices."""

    output: Output
    reading: ParsedAnswer
    raw: str | None
    retries: int = 0
    open_thought: bool = False  # all it holds is the beginning of a thought


class Pipeline:
    """One task on one engine. `adapters` are the names that the engine has loaded."""

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        engine: Engine,
        adapters: Collection[str],
        settings: AnswerSettings,
        clock: Callable[[], float] = time.perf_counter,
        retriever: Retriever | None = None,
        calibrations: Mapping[str, SavedCalibration] = MappingProxyType({}),
    ) -> None:
        """clock: seconds, for the timings of rows. retriever: looks up passages for the rows; None asks without.
        calibrations: adapter -> what its answers' probabilities are calibrated by. Raises ConfigError as
        `check_prompt_fits` does."""
        check_prompt_fits(task, settings)
        self._row_timer = RowTimer(engine, clock)
        self.task = task
        self.encoder = encoder
        self.engine = engine
        self.adapters = frozenset(adapters)
        self.settings = settings
        self.retriever = retriever
        self.calibrations = calibrations
        if settings.stop_texts and isinstance(engine, StopStringEngine):
            engine.set_detokenizer(encoder.decode)

    def fixed_to(self, adapter: str) -> Pipeline:
        """This pipeline, on the same engine, with one adapter that answers every row."""
        pipeline = copy.copy(self)
        pipeline.settings = replace(self.settings, fixed_adapter=adapter)
        return pipeline

    def maybe_merge(self, uses: Mapping[str | None, int], rows: Iterable[Row]) -> MergeDecision:
        """Let the engine decide whether the run's adapter is merged; see `MergingEngine`. rows: the first ones."""
        if not isinstance(self.engine, MergingEngine):
            return MergeDecision(False, "")
        return self.engine.maybe_merge(uses, self.requests(rows))

    def requests(self, rows: Iterable[Row]) -> list[Request]:
        """The rows as requests to the engine; rows that cannot be encoded are left out."""
        prepared = map(self._prepare_row, rows)
        return [prepared_row.request for prepared_row in prepared if prepared_row.request is not None]

    def answer(
        self, rows: Sequence[Row], on_done: Callable[[int], None] | None = None, output_log: OutputLog | None = None
    ) -> list[Answer]:
        """Answer rows, in their order. `on_done(n)` is called as rows get their first answer. output_log: what the
        engine finished of these rows before an interruption is taken from there, and what it finishes now is added,
        where the engine would give the same again to the last bit.

        A row whose prompt cannot be rendered or does not fit gets an answer flagged `error`; the others go on. Raises
        AdapterError for a missing adapter under fallback="error", and what the engine raises.
        """
        return self.answer_timed(rows, on_done, output_log)[0]

    def answer_timed(
        self, rows: Sequence[Row], on_done: Callable[[int], None] | None = None, output_log: OutputLog | None = None
    ) -> tuple[list[Answer], list[RowTiming]]:
        """As `answer`, with what the engine computed for each row; seconds of an interrupted run are those in the
        log."""
        self._row_timer.clear()
        tokens = TokenCounts()
        prepared = [self._prepare_row(row) for row in rows]
        first_outputs = self._run_engine(prepared, on_done, output_log)
        tokens.add([prepared_row.request for prepared_row in prepared], first_outputs)
        results = [
            self._parse_output(prepared_row, output, 0)
            for prepared_row, output in zip(prepared, first_outputs, strict=True)
        ]
        for attempt in range(1, self._retries() + 1):
            retry_indices = [
                row_index
                for row_index, result in enumerate(results)
                if not result.reading.valid and not result.output.error and result.raw is not None
            ]
            if not retry_indices:
                break
            retries = [self._retry_request(prepared[row_index], attempt) for row_index in retry_indices]
            outputs = self.engine.run(retries)
            tokens.add(retries, outputs)
            for row_index, output in zip(retry_indices, outputs, strict=True):
                results[row_index] = self._parse_output(prepared[row_index], output, attempt)
        timings = [
            self._row_timer.timing(
                prepared_row.row, self.task.text(prepared_row.row), prepared_row.route, tokens, output_log
            )
            for prepared_row in prepared
        ]
        answers = [
            self._to_answer(prepared_row, result) for prepared_row, result in zip(prepared, results, strict=True)
        ]
        return answers, timings

    def warm_up(self, rows: Iterable[Row], part: int = 1) -> list[RowTiming]:
        """Run the engine on rows whose answers and seconds do not count. Nothing of their prompts stays cached."""
        _, timings = self.answer_timed(list(rows))
        if isinstance(self.engine, TimedEngine):
            self.engine.clear_prefix_cache()
        return [msgspec.structs.replace(timing, warmup=True, part=part) for timing in timings]

    def _run_engine(
        self, prepared: Sequence[_PreparedRow], on_done: Callable[[int], None] | None, output_log: OutputLog | None
    ) -> list[Output]:
        requests = [prepared_row.request for prepared_row in prepared if prepared_row.request is not None]
        run = (
            self.engine.run(requests, on_done)
            if output_log is None
            else run_resumable(self.engine, requests, on_done, output_log, self._row_timer)
        )
        outputs = iter(run)
        refused = sum(prepared_row.request is None for prepared_row in prepared)
        if on_done is not None and refused:
            on_done(refused)
        return [
            Output(prepared_row.row.id, finish="error", error=prepared_row.problem)
            if prepared_row.request is None
            else next(outputs)
            for prepared_row in prepared
        ]

    def _retries(self) -> int:
        return self.settings.max_retries if self.settings.validate else 0

    def _prepare_row(self, row: Row) -> _PreparedRow:
        settings = self.settings
        chosen_route = route(
            subject=row.subject,
            task=self.task.name,
            adapters=self.adapters,
            fixed=settings.fixed_adapter,
            fallback=settings.fallback,
        )
        choice_texts = self.task.choices(row)
        generated = choice_texts is None
        look_up = self._look_up(row)
        try:
            choices = tuple(map(self.encoder.encode_choice, choice_texts or ()))
            if self.task.settings.method == "choice" and len(set(choices)) < len(choices):
                raise PromptError(
                    f"the tokenizer writes two of the choices {', '.join(map(repr, choice_texts or ()))} "
                    "as the same tokens",
                    fix="use the model's own tokenizer: this one does not know them",
                )
            answer = settings.sampling.max_new_tokens if generated else self.encoder.choice_positions(choices)
            prompt = self._encode_prompt(self.task.render(row), answer, generated, look_up.texts)
        except PromptError as error:
            return _PreparedRow(row, chosen_route, None, problem=str(error), look_up=look_up)
        tokens = prompt.encoded.tokens
        if generated:
            stop_tokens = self.encoder.stop_tokens if settings.use_stop_tokens else ()
            sampling = msgspec.structs.replace(settings.sampling, seed=_row_seed(settings.sampling.seed, row.id, 0))
            request: Request = Generate(
                row.id, tokens, sampling, stop_tokens, chosen_route.adapter, settings.stop_texts
            )
            return _PreparedRow(row, chosen_route, request, (), prompt, look_up)
        request = ScoreChoices(row.id, tokens, choices, chosen_route.adapter)
        return _PreparedRow(row, chosen_route, request, tuple(map(len, choices)), prompt, look_up)

    def _look_up(self, row: Row) -> LookUp:
        if self.retriever is None:
            return NO_LOOK_UP
        return self.retriever.look_up(row.subject, self.task.retrieval_query(row))

    def _encode_prompt(
        self, messages: Sequence[Message], answer: int, generated: bool, passages: Sequence[str]
    ) -> PromptWithPassages:
        """A prompt with room for `answer` more positions. Raises PromptError with the settings that make it fit."""
        settings = self.settings
        positions, max_input_tokens = settings.max_positions, settings.max_input_tokens
        token_limit = settings.prompt_tokens(answer)
        try:
            return encode_with_passages(
                self.encoder,
                messages,
                passages,
                max_tokens=token_limit,
                passage_tokens=0 if self.retriever is None else self.retriever.max_tokens,
                truncate=settings.truncate,
                generated=generated,
            )
        except TooLongError as error:
            fix_steps = (
                [f"raise inference.max_input_tokens to at least {error.needed}"]
                if error.needed > max_input_tokens
                else []
            )
            if positions is not None and error.needed + answer > positions:
                remaining = positions - error.needed
                if not generated or remaining < 1:
                    fix = f"{error.otherwise}: the base model sees {positions} tokens at once"
                    raise PromptError(error.message, fix=fix) from error
                fix_steps.append(f"lower inference.max_new_tokens to at most {remaining}")
            raise PromptError(error.message, fix=f"{' and '.join(fix_steps)}, or {error.otherwise}") from error

    def _retry_request(self, prepared_row: _PreparedRow, attempt: int) -> Generate:
        assert isinstance(prepared_row.request, Generate)
        sampling = self.settings.sampling
        bolder = _RETRY_TEMPERATURES[min(attempt, len(_RETRY_TEMPERATURES)) - 1]
        changed = msgspec.structs.replace(
            sampling,
            do_sample=True,
            temperature=max(sampling.temperature, bolder),
            seed=_row_seed(sampling.seed, prepared_row.row.id, attempt),
        )
        return msgspec.structs.replace(prepared_row.request, sampling=changed)

    def _parse_output(self, prepared_row: _PreparedRow, output: Output, attempt: int) -> _Result:
        raw_text = self.encoder.decode(output.tokens) if isinstance(prepared_row.request, Generate) else None
        answer_text = ""
        if raw_text is not None:
            raw_text, stopped = cut_at_stop(raw_text, self.settings.stop_texts)
            # An engine that does not know the text wrote on.
            output = msgspec.structs.replace(output, finish="stop") if stopped and not output.error else output
            answer_text = self.encoder.opened + raw_text  # a thought that the prompt opened
        visible_text = without_thoughts(answer_text)
        open_thought = not visible_text.strip() and bool(unclosed(answer_text))
        if output.error:
            reading = ParsedAnswer(answer=None, stage="invalid", valid=False, problem=output.error)
        elif raw_text is None:
            reading = self.task.parse_logprobs(prepared_row.row, output.logprobs, prepared_row.lengths)
        elif open_thought:
            reading = invalid(self._open_thought(output))
        else:
            reading = self.task.parse_text(prepared_row.row, visible_text, cut_off=output.finish == "length")
        return _Result(output, reading, raw_text, attempt, open_thought and not output.error)

    def _open_thought(self, output: Output) -> str:
        problem = "it holds a thought that was not closed"
        instead = ["set task.thinking=false"] if self.encoder.thinks else []
        if output.finish == "length":
            fix_steps = [f"raise inference.max_new_tokens (now {self.settings.sampling.max_new_tokens})", *instead]
        else:
            fix_steps = [*(["take inference.stop back"] if self.settings.stop_texts else []), *instead]
        return f"{problem}: {', or '.join(fix_steps)}" if fix_steps else f"{problem}, and the model wrote no more"

    def _to_answer(self, prepared_row: _PreparedRow, result: _Result) -> Answer:
        output, reading, look_up = result.output, result.reading, prepared_row.look_up
        passages = None if prepared_row.prompt is None else look_up.used(prepared_row.prompt)
        flags = {
            "truncated": prepared_row.dropped > 0,
            "adapter_fallback": prepared_row.route.fallback,
            "retried": result.retries > 0,
            "open_thought": result.open_thought,
            "cut_off": output.finish == "length",
            "parse_fallback": reading.stage == "fallback",
            "invalid": self.settings.validate and not reading.valid,
            "error": bool(output.error),
            look_up.flag: bool(look_up.flag),
        }
        answer = Answer(
            id=prepared_row.row.id,
            answer=reading.answer,
            score=reading.score,
            scores=reading.scores,
            adapter=prepared_row.route.adapter or "base",
            route=prepared_row.route.why,
            stage=reading.stage,
            retries=result.retries,
            dropped_tokens=prepared_row.dropped,
            flags=tuple(sorted(flag_name for flag_name, is_set in flags.items() if is_set)),
            raw=result.raw,
            problem="; ".join(filter(None, (reading.problem, look_up.problem))) or None,
            choice_mass=reading.choice_mass,
            passages=passages,
            dropped_passages=len(look_up.texts) - len(passages or ()),
        )
        calibration = self.calibrations.get(answer.adapter)
        if calibration is None:
            return answer
        return calibrate_answer(answer, tuple(self.task.options(prepared_row.row)), calibration.calibration)


def check_prompt_fits(task: Task, settings: AnswerSettings) -> None:
    """Raise ConfigError where a generated answer takes all positions of the base model, so that no prompt fits."""
    new_tokens, positions = settings.sampling.max_new_tokens, settings.max_positions
    if task.settings.method == "generate" and positions is not None and new_tokens >= positions:
        raise ConfigError(
            f"inference.max_new_tokens={new_tokens} leaves no room for a prompt: the base model sees {positions} "
            "tokens at once, prompt and answer together",
            fix=f"set inference.max_new_tokens to what an answer needs, such as {min(512, positions // 2)}",
        )


def cut_at_stop(answer_text: str, stop_texts: Sequence[str]) -> tuple[str, bool]:
    """The text before its first stop string, and whether there was one."""
    positions = [position for position in map(answer_text.find, stop_texts) if position >= 0]
    return (answer_text[: min(positions)], True) if positions else (answer_text, False)


def _row_seed(base_seed: int, row_id: str, attempt: int) -> int:
    """The seed of one row's sampler: the same whatever rows are in the file."""
    digest = hashlib.blake2b(f"{base_seed}\0{row_id}\0{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
