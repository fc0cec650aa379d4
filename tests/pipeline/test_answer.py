"""The stages in a line, on an engine without a model: routing, flags, retries, order."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import AdapterFolder
from lorica.data.read import rows_from_memory
from lorica.engines.fake import FakeEngine
from lorica.errors import AdapterError, ConfigError, PromptError
from lorica.models.base_folder import BaseFolder
from lorica.models.locate import locate_model
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.pipeline.train import encode_rows
from lorica.prompts.encoder import Encoder
from lorica.records import Answer, Generate, Output, Request, Row, Sampling
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings
from lorica.training.types import Example


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
        engine.add_adapter(name, AdapterFolder(Path(name), AdapterConfig(), {}, digest=name))
    return Pipeline(load_task(task), encoder, engine, adapters, settings)


def _questions(count: int, subject: str = "") -> list[Row]:
    task = load_task("saq")
    return rows_from_memory(
        [{"id": f"q{i}", "question": f"What is number {i}?", "subject": subject} for i in range(count)], task.schemas
    )


def _posts(count: int) -> list[Row]:
    task = load_task("rules")
    return rows_from_memory([{"body": f"post number {i}", "rule": "No numbers."} for i in range(count)], task.schemas)


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
    task = load_task("rules")
    rows = rows_from_memory([{"body": "word " * 300, "rule": "No numbers."}], task.schemas)
    (answer,) = _pipeline(encoder, "rules", settings).answer(rows)
    assert answer.flags == ("truncated",)
    assert answer.dropped_tokens > 200


def test_a_row_that_does_not_fit_fails_alone(encoder: Encoder) -> None:
    settings = AnswerSettings(max_input_tokens=60, truncate="error")
    task = load_task("rules")
    bodies = ["short", "word " * 300, "short too"]
    rows = rows_from_memory([{"body": body, "rule": "No numbers."} for body in bodies], task.schemas)
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
    from lorica.commands import build
    from lorica.config.compose import compose

    config = compose([r"inference.stop=['\n', 'Q:']"], environ={}).config
    base = BaseFolder(locate_model("embedded:lorica_tiny", environ={}))
    assert build.answer_settings(config, base).stop_texts == ("\n", "Q:")


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


def _template(path: Path, tail: str) -> Path:
    path.write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n" + tail + "' }}{% endif %}"
    )
    return path


def _thinking(tmp_path: Path, tail: str, *, thinking: bool = True) -> Encoder:
    folder = locate_model("embedded:lorica_tiny", environ={})
    return Encoder.load(folder, chat_template=str(_template(tmp_path / "t.jinja", tail)), thinking=thinking)


@pytest.mark.parametrize("tail", ["<think>\n", "<thought>\n", ""])
def test_the_answer_is_what_comes_behind_the_thought(tmp_path: Path, tail: str) -> None:
    tag = tail.strip() or "<think>"
    said = f"{'' if tail else tag}Egypt had one.\n{tag.replace('<', '</')}\n\nCleopatra"
    pipeline = _pipeline(_thinking(tmp_path, tail), "saq", AnswerSettings(), says=[said])
    (answer,) = pipeline.answer(_questions(1))
    assert (answer.answer, answer.stage, answer.flags) == ("Cleopatra", "text", ())
    assert answer.raw == said


@pytest.mark.parametrize("tail", ["<think>\n", "[THINK]"])
@pytest.mark.parametrize("task", ["saq", "rules"])
def test_a_thought_that_is_not_closed_is_no_answer(tmp_path: Path, tail: str, task: str) -> None:
    """Also where the prompt opened it, and though it holds words and numbers."""
    settings = AnswerSettings(max_retries=1, sampling=Sampling(max_new_tokens=8))
    encoder = _thinking(tmp_path, tail)
    pipeline = _pipeline(encoder, task, settings, says=["I would say 0.7, for " * 9])
    pipeline.task = load_task(task, TaskSettings(method="generate"))
    (answer,) = pipeline.answer(_questions(1) if task == "saq" else _posts(1))
    assert (answer.answer, answer.score, answer.stage, answer.retries) == (None, None, "invalid", 1)
    assert answer.flags == ("cut_off", "invalid", "open_thought", "retried")
    assert answer.problem == (
        "it holds a thought that was not closed: raise inference.max_new_tokens (now 8), or set task.thinking=false"
    )


def test_a_thought_that_the_model_opens_itself_is_no_answer_either(encoder: Encoder) -> None:
    pipeline = _pipeline(
        encoder, "saq", AnswerSettings(max_retries=1), says=["<think>Well,", "<think>Well</think>Lima"]
    )
    (answer,) = pipeline.answer(_questions(1))
    assert (answer.answer, answer.retries, answer.flags) == ("Lima", 1, ("retried",))
    pipeline = _pipeline(encoder, "saq", AnswerSettings(max_retries=0), says=["<think>Well,"])
    (answer,) = pipeline.answer(_questions(1))
    assert "open_thought" in answer.flags
    assert "thinking" not in (answer.problem or "")


@pytest.mark.parametrize(
    ("thinking", "stops", "told"),
    [
        (True, (), "closed: set task.thinking=false"),
        (True, ("\n",), "closed: take inference.stop back, or set task.thinking=false"),
        (False, (), "closed, and the model wrote no more"),
    ],
)
def test_what_to_do_about_an_open_thought_is_what_helps(
    tmp_path: Path, thinking: bool, stops: tuple[str, ...], told: str
) -> None:
    settings = AnswerSettings(max_retries=0, stop_texts=stops)
    encoder = _thinking(tmp_path, "<think>\n", thinking=thinking)
    said = "I think.\n</think>\n\nLima" if stops else "<think>I think."
    (answer,) = _pipeline(encoder, "saq", settings, says=[said]).answer(_questions(1))
    assert (answer.problem or "").endswith(told)
    if stops:
        settings = dataclasses.replace(settings, stop_texts=())
        assert _pipeline(encoder, "saq", settings, says=[said]).answer(_questions(1))[0].answer == "Lima"


def test_a_long_thought_hides_no_answer(tmp_path: Path) -> None:
    settings = AnswerSettings(sampling=Sampling(max_new_tokens=20_000))
    said = "and then it rained again " * 2_000 + "</think>\n\nLima"
    (answer,) = _pipeline(_thinking(tmp_path, "<think>\n"), "saq", settings, says=[said]).answer(_questions(1))
    assert answer.answer == "Lima"


@pytest.mark.parametrize("thinking", [False, True])
def test_scored_answers_stand_behind_the_thought(tmp_path: Path, thinking: bool) -> None:
    seen: list[str] = []
    encoder = _thinking(tmp_path, "<think>\n", thinking=thinking)

    class Noting(FakeEngine):
        def run(self, requests: Sequence[Request], *rest: Any) -> list[Output]:
            seen.extend(encoder.decode(request.prompt) for request in requests)
            return super().run(requests, *rest)

    pipeline = _pipeline(encoder, "rules", AnswerSettings())
    pipeline.engine = Noting()
    pipeline.answer(_posts(1))
    assert seen[0].endswith("assistant\n<think>\n\n</think>\n\n")


def test_choices_carry_their_mass(encoder: Encoder) -> None:
    (answer,) = _pipeline(encoder, "rules", AnswerSettings()).answer(_posts(1))
    assert answer.choice_mass == pytest.approx(0.9)  # as the fake engine shares it out
    (written,) = _pipeline(encoder, "saq", AnswerSettings(), says=["blue"]).answer(_questions(1))
    assert written.choice_mass is None
    for method, mass in (("choice", pytest.approx(0.9)), ("likelihood", None)):
        task = load_task("mcq", TaskSettings(method=method))
        rows = rows_from_memory([{"question": "Which?", "options": ["red", "green"]}], task.schemas)
        pipeline = Pipeline(task, encoder, FakeEngine(), (), AnswerSettings())
        assert pipeline.answer(rows)[0].choice_mass == mass


def test_choices_of_the_same_tokens_are_refused(tmp_path: Path) -> None:
    """A tokenizer of whole words knows neither letter: every option would score alike."""
    words = {word: number for number, word in enumerate(["<unk>", "</s>", "Answer", "the", "question"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    encoder, task = Encoder.load(tmp_path), load_task("mcq")
    rows = rows_from_memory([{"question": "Which?", "options": ["red", "green"]}], task.schemas)
    (answer,) = Pipeline(task, encoder, FakeEngine(), (), AnswerSettings()).answer(rows)
    assert answer.flags == ("error", "invalid")
    assert "'A', 'B' as the same tokens" in (answer.problem or "")


def _room(encoder: Encoder, task: str, settings: AnswerSettings) -> Answer:
    chosen = load_task(task)
    record = {"body": "word " * 60, "rule": "No numbers."} if task == "rules" else {"question": "Which word? " * 20}
    return Pipeline(chosen, encoder, FakeEngine(), (), settings).answer(rows_from_memory([record], chosen.schemas))[0]


@pytest.mark.parametrize("task", ["saq", "rules"])
@pytest.mark.parametrize(("most", "new", "positions"), [(40, 8, 400), (400, 380, 400), (40, 380, 400), (40, 8, None)])
def test_advice_on_a_prompt_that_does_not_fit_leads_on(
    encoder: Encoder, task: str, most: int, new: int, positions: int | None
) -> None:
    settings = AnswerSettings(most, positions, "error", Sampling(max_new_tokens=new), max_retries=0)
    problem = _room(encoder, task, settings).problem or ""
    if task == "rules" and most == 400:
        assert problem == ""  # a scored answer writes no token, so max_new_tokens takes no room
        return
    keys = dict(re.findall(r"inference\.(max_\w+) to at (?:least|most) (\d+)", problem))
    assert set(keys) == {
        *(["max_input_tokens"] if most == 40 else []),
        *(["max_new_tokens"] if task == "saq" and new == 380 else []),
    }
    followed = dataclasses.replace(
        settings,
        max_input_tokens=int(keys.get("max_input_tokens", most)),
        sampling=Sampling(max_new_tokens=int(keys.get("max_new_tokens", new))),
    )
    assert "error" not in _room(encoder, task, followed).flags


def test_a_prompt_that_no_setting_makes_fit(encoder: Encoder) -> None:
    for task in ("saq", "rules"):
        problem = _room(encoder, task, AnswerSettings(400, 30, "error", Sampling(max_new_tokens=8))).problem or ""
        assert "inference." not in problem
        assert "30 tokens at once" in problem
    settings = AnswerSettings(400, 70, "middle", Sampling(max_new_tokens=8))
    assert _room(encoder, "rules", settings).flags == ("truncated",)


def test_an_answer_that_takes_all_positions_is_refused_at_once(encoder: Encoder) -> None:
    task = load_task("saq")
    for new in (400, 401):
        settings = AnswerSettings(max_positions=400, sampling=Sampling(max_new_tokens=new))
        with pytest.raises(ConfigError, match=f"(?s)inference.max_new_tokens={new} .*such as 200"):
            Pipeline(task, encoder, FakeEngine(), (), settings)
        Pipeline(load_task("rules"), encoder, FakeEngine(), (), settings)


def test_options_longer_than_the_room_behind_a_prompt_shorten_the_prompt(encoder: Encoder) -> None:
    task = load_task("mcq", TaskSettings(method="likelihood"))
    record = {"question": "Which?", "passage": "word " * 200, "options": ["one " * 30, "two " * 30]}
    rows = rows_from_memory([record], task.schemas)
    pipeline = Pipeline(task, encoder, FakeEngine(max_positions=120), (), AnswerSettings(max_positions=120))
    (answer,) = pipeline.answer(rows)
    assert answer.flags == ("truncated",)


@pytest.mark.parametrize("most", [30, 60])
def test_advice_on_a_training_row_that_does_not_fit_leads_on(encoder: Encoder, most: int) -> None:
    task = load_task("saq")
    rows = rows_from_memory([{"question": "Which word? " * 20, "answer": "this"}], task.schemas)

    def encode(limit: int, positions: int | None) -> Example:
        (example,) = encode_rows(task, encoder, rows, "rows.jsonl", limit, "error", positions)
        return example

    with pytest.raises(PromptError, match=r"raise training.max_seq_length to at least (\d+)") as caught:
        encode(most, 400)
    found = re.search(r"at least (\d+)", caught.value.fix)
    assert found is not None
    assert len(encode(int(found.group(1)), 400).encoded.tokens) == int(found.group(1))
    with pytest.raises(PromptError, match="30 tokens at once") as caught:
        encode(30, 30)
    assert "max_seq_length" not in caught.value.fix


def test_training_learns_to_close_a_thought_where_a_written_answer_may_think(tmp_path: Path) -> None:
    encoder = _thinking(tmp_path, "<think>\n")
    for name, learned in (("saq", "\n</think>\n\nthis"), ("rules", "Yes")):
        task = load_task(name)
        record = {"question": "Which?", "answer": "this"} if name == "saq" else {"body": "x", "rule": "y"}
        rows = rows_from_memory([{**record, "rule_violation": 1} if name == "rules" else record], task.schemas)
        (example,) = encode_rows(task, encoder, rows, "rows.jsonl", 400, "error")
        assert encoder.decode(example.encoded.tokens[example.encoded.answer_start :]) == learned
        pipeline = Pipeline(task, encoder, FakeEngine(), (), AnswerSettings())
        request = pipeline._prepare_row(rows[0]).request
        assert request is not None
        assert request.prompt == example.encoded.tokens[: example.encoded.answer_start]
