"""A judge that is a model in an engine of this machine: it answers by the probabilities of the labels' letters, so that
there is nothing to parse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorica.engines.base import Engine
from lorica.errors import PromptError
from lorica.judging.calls import CallError, CallRecord, JudgeCall, OnRecord, Scoring, from_logprobs
from lorica.judging.rubrics import Rubric, render
from lorica.prompts.encoder import Encoder
from lorica.records import Output, ScoreChoices

_REPLY_FORMAT = "Reply with the letter alone."
_TOGETHER = 256  # calls handed to the engine at once: what a kill may cost where it hands nothing over on the way


class LocalJudge:
    """A base model, or an adapter on it. max_tokens: of a prompt with its letter; a longer one fails, uncut."""

    scoring: Scoring = "probability"

    def __init__(
        self,
        engine: Engine,
        encoder: Encoder,
        *,
        adapter: str | None = None,
        max_tokens: int,
        identity: Mapping[str, str],
    ) -> None:
        self._engine, self._encoder, self._adapter = engine, encoder, adapter
        self._max_tokens = max_tokens
        self.identity = {"judge": "local", **identity, "max_tokens": str(max_tokens), "scoring": self.scoring}

    def ask(self, rubric: Rubric, calls: Sequence[JudgeCall], on_record: OnRecord) -> None:
        """Score all calls, in batches."""
        for start in range(0, len(calls), _TOGETHER):
            self._ask_batch(rubric, calls[start : start + _TOGETHER], on_record)

    def _ask_batch(self, rubric: Rubric, calls: Sequence[JudgeCall], on_record: OnRecord) -> None:
        requests, asked_calls = [], []
        for index, call in enumerate(calls):
            try:
                requests.append(self._request(str(index), rubric, call))
                asked_calls.append(call)
            except PromptError as error:
                on_record(call, CallError("prompt", str(error)).record())
        recorded: set[int] = set()

        def record_outputs(outputs: Sequence[tuple[int, Output]]) -> None:
            for index, output in outputs:
                recorded.add(index)
                on_record(asked_calls[index], _record(rubric, asked_calls[index], output))

        outputs = self._engine.run(requests, on_outputs=record_outputs)
        record_outputs([(index, output) for index, output in enumerate(outputs) if index not in recorded])

    def _request(self, request_id: str, rubric: Rubric, call: JudgeCall) -> ScoreChoices:
        messages = render(rubric, call.item, swapped=call.swapped, reply_format=_REPLY_FORMAT)
        choices = tuple(map(self._encoder.encode_choice, rubric.by_letter(swapped=call.swapped)))
        longest_choice = max(map(len, choices))
        # The last token of a choice is predicted, never read.
        encoded = self._encoder.encode(messages, max_tokens=self._max_tokens - longest_choice + 1, truncate="error")
        return ScoreChoices(request_id, encoded.tokens, choices, self._adapter)


def _record(rubric: Rubric, call: JudgeCall, output: Output) -> CallRecord:
    if output.error:
        return CallError("engine", output.error).record()
    names = rubric.by_letter(swapped=call.swapped)
    try:
        probabilities, mass = from_logprobs(dict(zip(names, output.logprobs, strict=True)), names)
    except ValueError as error:
        return CallError("engine", str(error)).record()
    return CallRecord(probabilities=probabilities, label_mass=mass)
