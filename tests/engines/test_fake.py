"""The fake keeps the promises of a real engine, so that what is tested on it holds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import AdapterFolder
from lorica.engines.fake import FakeEngine
from lorica.errors import EngineError
from lorica.records import Generate, Output, Sampling, ScoreChoices


def adapter(name: str) -> AdapterFolder:
    return AdapterFolder(Path(name), AdapterConfig(), {}, digest=name)


def test_scores_are_probabilities_that_depend_on_prompt_choice_and_adapter() -> None:
    engine = FakeEngine()
    engine.add_adapter("a", adapter("a"))
    requests = [
        ScoreChoices("1", (1, 2), ((1,), (2, 3))),
        ScoreChoices("2", (1, 2), ((1,), (2, 4))),
        ScoreChoices("3", (1, 3), ((1,), (2, 3))),
        ScoreChoices("4", (1, 2), ((1,), (2, 3)), "a"),
    ]
    outputs = engine.run(requests)
    assert [output.id for output in outputs] == ["1", "2", "3", "4"]
    assert all(sum(map(math.exp, output.logprobs)) == pytest.approx(0.9) for output in outputs)
    assert len({output.logprobs for output in outputs}) == 4
    assert FakeEngine().run(requests[:3]) == outputs[:3]


def test_text_is_cut_at_stop_tokens_and_length() -> None:
    engine = FakeEngine(reply=lambda request: (5, 6, 7, 8, 9))
    requests = [
        Generate("stop", (1,), Sampling(), (7,)),
        Generate("min", (1,), Sampling(min_new_tokens=3), (7,)),
        Generate("length", (1,), Sampling(max_new_tokens=2), (7,)),
    ]
    assert engine.run(requests) == [
        Output("stop", tokens=(5, 6), finish="stop"),
        Output("min", tokens=(5, 6, 7, 8, 9), finish="length"),
        Output("length", tokens=(5, 6), finish="length"),
    ]


def test_without_a_reply_the_prompt_comes_back() -> None:
    requests = [Generate("r", (1, 2, 3), Sampling(max_new_tokens=2)), Generate("s", (1,), Sampling(max_new_tokens=0))]
    assert [output.tokens for output in FakeEngine().run(requests)] == [(2, 3), ()]


def test_errors_are_those_of_a_real_engine() -> None:
    engine = FakeEngine(max_positions=4)
    long, short = engine.run([ScoreChoices("long", (1,) * 5, ((1,),)), ScoreChoices("short", (1,) * 4, ((1,),))])
    assert (long.finish, long.error) == ("error", "needs 5 positions, the model has 4")
    assert short.error == ""
    with pytest.raises(EngineError, match="asks for the adapter 'b'"):
        engine.run([ScoreChoices("r", (1,), ((1,),), "b")])
    engine.add_adapter("b", adapter("x"))
    with pytest.raises(EngineError, match="is taken by x"):
        engine.add_adapter("b", adapter("y"))


def test_progress_is_reported() -> None:
    steps: list[int] = []
    FakeEngine().run([ScoreChoices("r", (1,), ((1,),))] * 3, steps.append)
    assert sum(steps) == 3
