"""The stages in a line, on an engine without a model: routing, flags, retries, order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from lorica.data.read import rows_from_memory
from lorica.engines.fake import FakeEngine
from lorica.errors import AdapterError
from lorica.models.locate import locate_model
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.prompts.encoder import Encoder
from lorica.records import Generate, Row, Sampling
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(locate_model("embedded:lorica_tiny", environ={}))


def _pipeline(
    encoder: Encoder, task: str, settings: AnswerSettings, *, adapters: Sequence[str] = (), says: Sequence[str] = ()
) -> Pipeline:
    """An engine that says the next text of `says` at each attempt at a row."""
    attempts: dict[str, int] = {}

    def reply(request: Generate) -> Sequence[int]:
        attempt = attempts.get(request.id, 0)
        attempts[request.id] = attempt + 1
        text = says[min(attempt, len(says) - 1)]
        return (*(encoder.encode_choice(text) if text else ()), encoder.end_of_turn)

    engine = FakeEngine(reply=reply)
    for name in adapters:
        engine.add_adapter(name, Path(name))
    return Pipeline(load_task(task, TaskSettings()), encoder, engine, adapters, settings)


def _questions(count: int, subject: str = "") -> list[Row]:
    task = load_task("saq", TaskSettings())
    return rows_from_memory(
        [{"id": f"q{i}", "question": f"What is number {i}?", "subject": subject} for i in range(count)], task.shapes
    )


def _posts(count: int) -> list[Row]:
    task = load_task("rules", TaskSettings())
    return rows_from_memory([{"body": f"post number {i}", "rule": "No numbers."} for i in range(count)], task.shapes)


def test_scores_do_not_depend_on_the_order_of_rows(encoder: Encoder) -> None:
    pipeline = _pipeline(encoder, "rules", AnswerSettings())
    rows = _posts(30)
    straight = {answer.id: answer for answer in pipeline.answer(rows)}
    shuffled = random.Random(1).sample(rows, len(rows))
    answers = pipeline.answer(shuffled)
    assert [answer.id for answer in answers] == [row.id for row in shuffled]
    assert {answer.id: answer for answer in answers} == straight
    assert len({answer.score for answer in answers}) == 30


@pytest.mark.parametrize(
    ("adapters", "subject", "used", "why", "flags"),
    [
        (("saq", "history", "general"), "history", "saq", "task", ()),
        (("history", "general"), "history", "history", "subject", ()),
        (("algebra", "general"), "history", "general", "general", ("adapter_fallback",)),
        (("algebra",), "history", "base", "base", ("adapter_fallback",)),
        ((), "history", "base", "base", ()),
    ],
)
def test_each_row_goes_to_its_adapter(
    encoder: Encoder, adapters: tuple[str, ...], subject: str, used: str, why: str, flags: tuple[str, ...]
) -> None:
    pipeline = _pipeline(encoder, "saq", AnswerSettings(), adapters=adapters, says=["blue"])
    (answer,) = pipeline.answer(_questions(1, subject))
    assert (answer.adapter, answer.route, answer.flags, answer.answer) == (used, why, flags, "blue")


def test_a_missing_adapter_can_be_an_error(encoder: Encoder) -> None:
    pipeline = _pipeline(encoder, "saq", AnswerSettings(fallback="error"), adapters=["history"], says=["blue"])
    with pytest.raises(AdapterError, match="algebr"):
        pipeline.answer(_questions(1, "algebr"))


def test_an_invalid_answer_is_asked_for_again(encoder: Encoder) -> None:
    pipeline = _pipeline(encoder, "saq", AnswerSettings(max_retries=2), says=["", "...", "green"])
    (answer,) = pipeline.answer(_questions(1))
    assert (answer.answer, answer.retries, answer.flags) == ("green", 2, ("retried",))


def test_what_stays_invalid_is_marked_and_never_invented(encoder: Encoder) -> None:
    pipeline = _pipeline(encoder, "saq", AnswerSettings(max_retries=1), says=[""])
    (answer,) = pipeline.answer(_questions(1))
    assert answer.answer is None
    assert answer.stage == "invalid"
    assert answer.flags == ("invalid", "retried")
    assert answer.problem


def test_without_validation_nothing_is_retried(encoder: Encoder) -> None:
    pipeline = _pipeline(encoder, "saq", AnswerSettings(validate=False), says=["", "green"])
    (answer,) = pipeline.answer(_questions(1))
    assert (answer.answer, answer.retries, answer.flags) == (None, 0, ())


def test_a_retry_samples_with_a_seed_of_its_own(encoder: Encoder) -> None:
    seen: list[Sampling] = []
    pipeline = _pipeline(encoder, "saq", AnswerSettings(max_retries=2), says=[""])

    def reply(request: Generate) -> Sequence[int]:
        seen.append(request.sampling)
        return ()

    pipeline.engine = FakeEngine(reply=reply)
    pipeline.answer(_questions(1))
    assert [sampling.do_sample for sampling in seen] == [False, True, True]
    assert seen[1].temperature < seen[2].temperature
    assert len({sampling.seed for sampling in seen}) == 3


def test_a_cut_prompt_is_counted_and_flagged(encoder: Encoder) -> None:
    settings = AnswerSettings(max_input_tokens=60)
    task = load_task("rules", TaskSettings())
    rows = rows_from_memory([{"body": "word " * 300, "rule": "No numbers."}], task.shapes)
    (answer,) = _pipeline(encoder, "rules", settings).answer(rows)
    assert answer.flags == ("truncated",)
    assert answer.dropped_tokens > 200


def test_a_row_that_does_not_fit_fails_alone(encoder: Encoder) -> None:
    settings = AnswerSettings(max_input_tokens=60, truncate="error")
    task = load_task("rules", TaskSettings())
    bodies = ["short", "word " * 300, "short too"]
    rows = rows_from_memory([{"body": body, "rule": "No numbers."} for body in bodies], task.shapes)
    told: list[int] = []
    first, second, third = _pipeline(encoder, "rules", settings).answer(rows, told.append)
    assert (first.flags, third.flags) == ((), ())
    assert first.score is not None
    assert second.flags == ("error", "invalid")
    assert second.score is None
    assert "60" in (second.problem or "")
    assert sum(told) == 3


def test_progress_counts_every_row_once(encoder: Encoder) -> None:
    told: list[int] = []
    _pipeline(encoder, "saq", AnswerSettings(), says=["", "blue"]).answer(_questions(7), told.append)
    assert sum(told) == 7


def test_a_line_break_can_be_written_on_a_command_line() -> None:
    from lorica.config.compose import compose
    from lorica.verbs import build

    config = compose([r"inference.stop=['\n', 'Q:']"], environ={}).config
    folder = locate_model("embedded:lorica_tiny", environ={})
    assert build.answer_settings(config, folder).stop_texts == ("\n", "Q:")


@pytest.mark.parametrize("stops", [("\n",), ("Second", "\n")])
def test_an_answer_ends_before_the_first_stop_text_in_any_engine(encoder: Encoder, stops: tuple[str, ...]) -> None:
    settings = AnswerSettings(stop_texts=stops, sampling=Sampling(max_new_tokens=64))
    pipeline = _pipeline(encoder, "saq", settings, says=["First line\nSecond line\nThird"])
    (answer,) = pipeline.answer(_questions(1))
    assert answer.raw == "First line"
    assert answer.answer == "First line"
    # The limit came after it.
    short = AnswerSettings(stop_texts=stops, sampling=Sampling(max_new_tokens=12))
    (cut,) = _pipeline(encoder, "saq", short, says=["First line\n" * 9]).answer(_questions(1))
    assert "cut_off" not in cut.flags
    assert cut.raw == "First line"
