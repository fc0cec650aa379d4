"""The mass of the choices: what a few rows say before a run, and what the summaries say after it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from lorica.data.read import rows_from_memory
from lorica.engines.base import OnDone, OnOutputs
from lorica.engines.fake import FakeEngine
from lorica.metrics.health import LOW_MASS, mass_health, score_health
from lorica.models.locate import locate_model
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.pipeline.choice_mass import explain_low_mass
from lorica.pipeline.evaluate import evaluate
from lorica.pipeline.infer import Summary
from lorica.prompts.encoder import Encoder
from lorica.records import Answer, Generate, Output, Request, Row, ScoreChoices
from lorica.tasks import load_task
from lorica.tasks.base import Task, TaskSettings, choice_mass


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(locate_model("embedded:lorica_tiny", environ={}))


class Preferring(FakeEngine):
    """Gives some texts, all alike, a probability of their own, all others 0.001; writes `says`."""

    def __init__(self, encoder: Encoder, likes: dict[str, float], says: str = "{") -> None:
        super().__init__(reply=lambda request: (*encoder.encode_choice(says), encoder.end_of_turn))
        self._encoder, self._likes = encoder, likes
        self.asked: list[Request] = []

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """As `FakeEngine.run`."""
        self.asked += requests
        outputs = super().run(requests, on_done, on_outputs)
        for place, request in enumerate(requests):
            if isinstance(request, ScoreChoices):
                texts = map(self._encoder.decode, request.choices)
                logprobs = tuple(math.log(self._likes.get(text, 0.001)) for text in texts)
                outputs[place] = Output(request.id, logprobs=logprobs)
        return outputs


def posts(task: Task, count: int = 3) -> list[Row]:
    return rows_from_memory([{"body": f"post {i}", "rule": "Be kind."} for i in range(count)], task.schemas)


def explain(encoder: Encoder, likes: dict[str, float], settings: TaskSettings | None = None) -> str:
    task = load_task("rules", settings or TaskSettings())
    return explain_low_mass(Pipeline(task, encoder, Preferring(encoder, likes), (), AnswerSettings()), posts(task))


def test_choices_that_have_their_share_are_not_doubted(encoder: Encoder) -> None:
    assert explain(encoder, {"Yes": 0.2, "No": 0.1}) == ""
    assert explain(encoder, {"Yes": LOW_MASS, "No": 0.0001}) == ""
    assert explain(encoder, {}, TaskSettings(method="generate")) == ""


@pytest.mark.parametrize(
    ("likes", "shown"),
    [
        ({" Yes": 0.5, " No": 0.2}, "spelt ' Yes', ' No' they have 0.7"),
        ({"YES": 0.3, "NO": 0.3, "yes": 0.1, "no": 0.1}, "spelt 'YES', 'NO' they have 0.6"),
        ({"yes": 0.1, "no": 0.1}, "spelt 'yes', 'no' they have 0.2"),
        ({'{"answer": "Yes': 0.4, '{"answer": "No': 0.4}, "they have 0.8"),
    ],
)
def test_another_spelling_that_has_far_more_is_named(encoder: Encoder, likes: dict[str, float], shown: str) -> None:
    told = explain(encoder, likes)
    assert shown in told
    assert "median 0.002" in told


def test_low_mass_tells_what_the_model_says_instead_and_why(encoder: Encoder) -> None:
    told = explain(encoder, {})
    assert "spelt" not in told
    assert "the model would rather write '{' (3 of 3 rows)" in told
    assert "prompt column" in told
    assert "model.chat_template" in told


def test_healthy_runs_cost_one_look(encoder: Encoder) -> None:
    task = load_task("rules")
    engine = Preferring(encoder, {"Yes": 0.5, "No": 0.4})
    explain_low_mass(Pipeline(task, encoder, engine, (), AnswerSettings()), posts(task))
    assert len(engine.asked) == 3
    engine = Preferring(encoder, {})
    explain_low_mass(Pipeline(task, encoder, engine, (), AnswerSettings()), posts(task))
    assert sum(isinstance(request, Generate) for request in engine.asked) == 3


def test_the_mass_is_the_sum_and_at_most_one() -> None:
    assert choice_mass([math.log(0.25), math.log(0.5)]) == pytest.approx(0.75)
    assert choice_mass([0.0, math.log(1e-9)]) == 1.0
    assert choice_mass([-math.inf, -math.inf]) == 0.0


def test_masses_are_summed_up() -> None:
    assert mass_health([]) is None
    assert mass_health([None, None]) is None
    found = mass_health([None, 0.05, *[0.9] * 9])
    assert found is not None
    assert (found.n, found.median, found.low) == (10, 0.9, False)
    assert found.p10 == pytest.approx(0.815)
    low = mass_health([0.09] * 5)
    assert low is not None
    assert low.low
    assert "prompt column" in low.problem
    boundary = mass_health([LOW_MASS] * 5)
    assert boundary is not None
    assert boundary.problem == ""


def test_summaries_carry_the_mass() -> None:
    summary = Summary()
    for number in range(4):
        summary.count(Answer(id=str(number), choice_mass=0.01 * number if number else None))
    assert list(summary.masses) == [0.01, 0.02, 0.03]
    health = score_health([0.5, 0.6], masses=[0.01, None])
    assert "low_mass" in health.flags
    assert "low_mass" not in score_health([0.5, 0.6], masses=[None, None]).flags
    task = load_task("rules")
    rows = rows_from_memory(
        [{"row_id": str(i), "body": "x", "rule": "y", "rule_violation": i % 2} for i in range(4)], task.schemas
    )
    answers = {str(i): Answer(id=str(i), score=0.1 * i, choice_mass=0.02) for i in range(4)}
    found = evaluate(task, rows, answers).choice_mass
    assert found is not None
    assert (found.n, found.low) == (4, True)
    old = {str(i): Answer(id=str(i), score=0.1 * i) for i in range(4)}
    assert evaluate(task, rows, old).choice_mass is None
