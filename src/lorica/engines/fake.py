"""An engine without a model, for tests of everything above the engines: deterministic and free of dependencies."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

from lorica.adapters.member import Member
from lorica.engines.base import (
    EngineInfo,
    EngineSettings,
    OnDone,
    OnOutputs,
    check_adapters,
    output_without_model,
    unknown_adapter,
)
from lorica.engines.batch_timer import BatchTimer
from lorica.engines.in_order import answer_in_order
from lorica.errors import EngineError
from lorica.models.base_folder import BaseFolder
from lorica.records import Generate, Output, Request, ScoreChoices

Reply = Callable[[Generate], Sequence[int]]

_BATCH_ROWS = 100
_UNLIMITED = 1 << 62  # neither vocabulary nor positions limit this engine


def echo(request: Generate) -> Sequence[int]:
    """The prompt's last tokens, as many as may be generated."""
    token_count = request.sampling.max_new_tokens
    return request.prompt[-token_count:] if token_count else ()


class FakeEngine:
    """Log-probabilities from a hash of adapter, prompt and choice; text from `reply`.

    reply: request -> the tokens the model would say if nothing stopped it; stop tokens and max_new_tokens are
    applied here as in a real engine. max_positions: a longer prompt fails alone.
    """

    def __init__(self, *, reply: Reply = echo, max_positions: int = _UNLIMITED) -> None:
        self._reply = reply
        self._max_positions = max_positions
        self._adapters: dict[str, Member] = {}
        self._timer = BatchTimer()

    @property
    def info(self) -> EngineInfo:
        """An output depends on its request alone."""
        return EngineInfo("fake", batch_invariant=(ScoreChoices, Generate), runs_model=False)

    def add_adapter(self, name: str, adapter: Member) -> None:
        """Remember the name. Raises EngineError when another adapter has it."""
        if self._adapters.setdefault(name, adapter).digest != adapter.digest:
            raise EngineError(f"the adapter name {name!r} is taken by {self._adapters[name].path}")

    def remove_adapter(self, name: str) -> None:
        """Forget the name. Raises EngineError for one that was never added."""
        if self._adapters.pop(name, None) is None:
            raise unknown_adapter(name, self._adapters)

    def set_timer(self, timer: BatchTimer) -> None:
        """See `TimedEngine`."""
        self._timer = timer

    def clear_prefix_cache(self) -> None:
        """There is none."""

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """Answer all requests in their order, batch by batch; see `Engine.run`."""
        check_adapters(requests, self._adapters)
        return answer_in_order(
            requests,
            lambda batch: [self._answer(request) for request in batch],
            batch_rows=_BATCH_ROWS,
            timer=self._timer,
            on_done=on_done,
            on_outputs=on_outputs,
        )

    def _answer(self, request: Request) -> Output:
        output = output_without_model(request, vocab_size=_UNLIMITED, max_positions=self._max_positions)
        if output is not None:
            return output
        if isinstance(request, ScoreChoices):
            return Output(id=request.id, logprobs=_logprobs(request))
        token_ids: list[int] = []
        for token_id in self._reply(request):
            if len(token_ids) == request.sampling.max_new_tokens:
                break
            if token_id in request.stop_tokens and len(token_ids) >= request.sampling.min_new_tokens:
                return Output(id=request.id, tokens=tuple(token_ids), finish="stop")
            token_ids.append(token_id)
        return Output(id=request.id, tokens=tuple(token_ids), finish="length")


def _logprobs(request: ScoreChoices) -> tuple[float, ...]:
    # One tenth of the probability is left to everything that is no choice.
    choice_weights = [_unit(request, choice) for choice in request.choices]
    return tuple(math.log(0.9 * weight / sum(choice_weights)) for weight in choice_weights)


def _unit(request: ScoreChoices, choice: tuple[int, ...]) -> float:
    hashed_text = repr((request.adapter, request.prompt, choice)).encode()
    hash_number = int.from_bytes(hashlib.sha256(hashed_text).digest()[:6], "big")
    return (hash_number + 1) / (2**48 + 1)


def load_fake(base: BaseFolder, settings: EngineSettings) -> FakeEngine:
    """The factory for `load_engine`; nothing of what it is given changes a fake answer."""
    return FakeEngine()
