"""An engine of one's own: all that `engines.base.Engine` asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from lorica.engines.base import EngineInfo, EngineSettings, OnDone, OnOutputs
from lorica.records import Output, Request, ScoreChoices


class ToyEngine:
    """Scores a choice by the sum of its tokens, and the other way round under an adapter."""

    def __init__(self) -> None:
        self._adapters: set[str] = set()

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("toy")

    def add_adapter(self, name: str, folder: Path) -> None:
        self._adapters.add(name)

    def remove_adapter(self, name: str) -> None:
        self._adapters.remove(name)

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        outputs = [self._answer(request) for request in requests]
        if on_done is not None:
            on_done(len(outputs))
        return outputs

    def _answer(self, request: Request) -> Output:
        assert isinstance(request, ScoreChoices)
        sign = -1 if request.adapter in self._adapters else 1
        weights = [math.exp(sign * sum(choice) / 1000) for choice in request.choices]
        return Output(request.id, tuple(math.log(weight / sum(weights)) for weight in weights))


def load_toy(folder: Path, settings: EngineSettings) -> ToyEngine:
    return ToyEngine()
