"""A judge behind an endpoint: what it is sent, and that each defect of a server is an error or a counted failure."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lorica.errors import EngineError, UsageError
from lorica.judging.endpoint import EndpointJudge, EndpointSettings
from lorica.judging.judge_run import JudgeRun, run_judge
from lorica.judging.rubrics import RUBRICS, JudgeItem
from lorica.judging.verdict_journal import VerdictJournal
from tests.judging.defects import COUNTED, FATAL, Defect, content, drip, hang, raw, reply, reset, status
from tests.judging.stub_server import (
    Respond,
    StubHandler,
    StubServer,
    completion,
    letter_of,
    logprobs,
    serving,
    truthful,
    truthful_letter,
)

BAD = "answer 3"
ITEMS = [JudgeItem(f"question {number}", f"answer {number}", (f"answer {number}",)) for number in range(6)]
CALLS = 2 * len(ITEMS)


def _run(server: StubServer, folder: Path, **settings: Any) -> JudgeRun:
    fast = {"timeout": 5.0, "retries": 2, "backoff": 0.005, "concurrency": 2, **settings}
    judge = EndpointJudge(EndpointSettings(server.url, "stub", **fast))
    with VerdictJournal(folder) as journal:
        return run_judge(judge, RUBRICS["reference"], ITEMS, journal, repeat=0)


def _failures(run: JudgeRun) -> list[str]:
    return sorted({record.failure for record in run.records.values()} - {""})


def _for_one_row(defect: Defect) -> Respond:
    """A truthful server but for one row, in both orders."""

    def respond(handler: StubHandler, body: dict[str, Any]) -> None:
        is_bad = BAD in body["messages"][-1]["content"]
        (defect if is_bad else truthful)(handler, body)

    return respond


def test_each_defect_fails_its_row_alone(tmp_path: Path) -> None:
    """One server, every second row of which meets another defect, in both orders."""
    bad_items = {name: JudgeItem(name, "right", ("right",)) for name in COUNTED}
    items = [item for name, bad in bad_items.items() for item in (JudgeItem(f"before {name}", "r", ("r",)), bad)]

    def respond(handler: StubHandler, body: dict[str, Any]) -> None:
        question = body["messages"][-1]["content"].splitlines()[1]
        (COUNTED[question][1] if question in COUNTED else truthful)(handler, body)

    def judge_all() -> JudgeRun:
        settings = EndpointSettings(server.url, "stub", timeout=5.0, retries=2, backoff=0.002, concurrency=4)
        with VerdictJournal(tmp_path) as journal:
            return run_judge(EndpointJudge(settings), RUBRICS["reference"], items, journal, repeat=0)

    with serving(respond) as server:
        run = judge_all()
        failures = {}
        for name, item in bad_items.items():
            records = [record for record in run.orders(item) if record is not None]
            assert all(record.detail for record in records), name
            failures[name] = {record.failure for record in records}
        assert failures == {name: {failure} for name, (failure, _) in COUNTED.items()}
        assert sum(bool(record.failure) for record in run.records.values()) == 2 * len(COUNTED)
        # What a reply decided is never asked again; what was lost on the way is.
        before = len(server.requests)
        again = judge_all()
        transient = sum(failure in ("no_reply", "server_error") for failure, _ in COUNTED.values())
        assert again.journaled == 2 * len(items) - 2 * transient
        # Nothing else is asked, so that 20 failures in a row stop it: the last calls of the four workers are under way.
        assert 20 * 3 <= len(server.requests) - before <= 23 * 3
        for call, record in again.records.items():
            assert record.failure == run.records[call].failure


@pytest.mark.parametrize("name", FATAL)
def test_what_no_other_row_would_change_ends_the_run(name: str, tmp_path: Path) -> None:
    hint, defect = FATAL[name]
    with serving(defect) as server, pytest.raises(EngineError) as raised:
        _run(server, tmp_path, api_key="sk-secret")
    assert hint in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("defect", [hang, drip], ids=["hang", "drip"])
def test_a_slow_server_costs_its_time_out_and_no_more(defect: Defect, tmp_path: Path) -> None:
    with serving(_for_one_row(defect)) as server:
        run = _run(server, tmp_path, timeout=0.25, retries=0)
    assert _failures(run) == ["no_reply"]
    assert any("0.25 s" in record.detail for record in run.records.values())


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with serving(truthful) as server:
        pass
    with pytest.raises(EngineError, match=r"5 judgements in a row.*ConnectError") as raised:
        _run(server, tmp_path)
    assert "is it running" in str(raised.value)


def test_a_proxy_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    judge = EndpointJudge(EndpointSettings("http://judge.example/v1", "m", backoff=0.005))
    with VerdictJournal(tmp_path) as journal, pytest.raises(EngineError, match="no_reply"):
        run_judge(judge, RUBRICS["reference"], ITEMS, journal, repeat=0)


def test_a_server_that_answers_an_unknown_form_with_500(tmp_path: Path) -> None:
    """As llama-cpp-python's does: what it does not know is an error of its own, which no retry mends."""
    with serving(status(500)) as server, pytest.raises(EngineError, match="as it is") as raised:
        _run(server, tmp_path, retries=4)
    assert "--structured-output json_object" in str(raised.value)
    assert len(server.requests) == 5 * 2


def test_an_endpoint_that_fails_for_all_ends_after_twenty_in_a_row(tmp_path: Path) -> None:
    items = [JudgeItem(f"question {number}", "r", ("a",)) for number in range(50)]
    with serving(content("rubbish")) as server:
        judge = EndpointJudge(EndpointSettings(server.url, "stub", concurrency=1))
        with (
            VerdictJournal(tmp_path) as journal,
            pytest.raises(EngineError, match=r"20 judgements in a row failed.*no_verdict"),
        ):
            run_judge(judge, RUBRICS["reference"], items, journal, repeat=0)
    assert len(server.requests) == 20


def test_an_endpoint_that_goes_down_is_not_asked_for_ever(tmp_path: Path) -> None:
    items = [JudgeItem(f"question {number}", "r", ("r",)) for number in range(50)]

    def respond(handler: StubHandler, body: dict[str, Any]) -> None:
        (truthful if len(server.requests) <= 30 else status(503))(handler, body)

    with serving(respond) as server:
        judge = EndpointJudge(EndpointSettings(server.url, "stub", concurrency=1, retries=0))
        with VerdictJournal(tmp_path) as journal:
            run = run_judge(judge, RUBRICS["reference"], items, journal, repeat=0)
    assert "503" in judge.stopped
    assert (len(run.records), sum(not record.failure for record in run.records.values())) == (50, 30)


def test_after_a_retry_all_is_well(tmp_path: Path) -> None:
    replied = []

    def busy(handler: StubHandler, body: dict[str, Any]) -> None:
        replied.append(body)
        defects = [status(429, Retry_After="0"), status(503), reset]
        (defects[len(replied) - 2] if 2 <= len(replied) <= 4 else truthful)(handler, body)

    with serving(busy) as server:
        run = _run(server, tmp_path)
    assert _failures(run) == []
    assert len(server.requests) == CALLS + 3


def test_the_request_is_what_the_api_documents(tmp_path: Path) -> None:
    with serving(truthful) as server:
        _run(server, tmp_path, api_key="sk-secret", body={"seed": 7, "n": None})
    body = server.requests[0]
    assert set(body) == {
        *(
            "model",
            "messages",
            "temperature",
            "max_tokens",
            "stream",
            "logprobs",
            "top_logprobs",
            "response_format",
            "seed",
        )
    }
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {
            "name": "verdict",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"verdict": {"type": "string", "enum": ["A", "B"]}},
                "required": ["verdict"],
                "additionalProperties": False,
            },
        },
    }
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "logprobs" not in server.requests[-1], "the first reply had none: labels are read, in all of the run"
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"sk-secret" not in content


@pytest.mark.parametrize("structured", ["json_object", "none"])
def test_other_forms_of_output_are_taken_where_they_are_asked_for(structured: str, tmp_path: Path) -> None:
    def respond(handler: StubHandler, body: dict[str, Any]) -> None:
        letter = truthful_letter(body)
        message = {} if structured == "json_object" else {"content": f"{letter}\n"}
        handler.send(json.dumps(completion(letter, message=message)).encode())

    with serving(respond) as server:
        run = _run(server, tmp_path, structured=structured)
    assert _failures(run) == []
    expected = {"type": "json_object"} if structured == "json_object" else None
    assert server.requests[0].get("response_format") == expected


def _sure(probability: float, *, broken: Any = None) -> Respond:
    """A server that gives log-probabilities, but for one row, where `broken` takes the place of `logprobs`."""

    def respond(handler: StubHandler, body: dict[str, Any]) -> None:
        right, wrong = letter_of(body), letter_of(body, "The answer is not correct.")
        given = logprobs(right, {right: math.log(probability), wrong: math.log(1 - probability), " hello": -9.0})
        if broken is not None and BAD in body["messages"][-1]["content"]:
            given = broken
        handler.send(json.dumps(completion(right, choice={"logprobs": given})).encode())

    return respond


def test_probabilities_are_read_where_the_endpoint_gives_them(tmp_path: Path) -> None:
    with serving(_sure(0.8)) as server:
        run = _run(server, tmp_path)
    assert run.scoring == "probability"
    for record in run.records.values():
        assert record.probabilities == pytest.approx({"correct": 0.8, "incorrect": 0.2})
        assert record.label_mass == pytest.approx(1.0)


ENTRY = {"token": "A", "logprob": -0.1, "bytes": None, "top_logprobs": []}


@pytest.mark.parametrize(
    "broken",
    [
        {"content": None},
        {"content": []},
        {"content": [ENTRY]},
        {"content": [{**ENTRY, "token": '{"verdict": "A"}'}]},
        {"content": [{**ENTRY, "token": '{"verdict": "B"}'}, ENTRY]},
        {"content": [{**ENTRY, "token": '{"verdict": "'}, {**ENTRY, "logprob": 3.0}, {**ENTRY, "token": '"}'}]},
    ],
)
def test_log_probabilities_that_are_missing_or_misaligned_are_failures(broken: Any, tmp_path: Path) -> None:
    with serving(_sure(0.8, broken=broken)) as server:
        run = _run(server, tmp_path)
    assert _failures(run) == ["no_probabilities"]
    assert sum(bool(record.failure) for record in run.records.values()) == 2


def test_a_run_that_is_gone_on_with_keeps_its_way_of_scoring(tmp_path: Path) -> None:
    with serving(_for_one_row(status(503))) as server:
        first = _run(server, tmp_path)
        server.respond = _sure(0.8)
        second = _run(server, tmp_path)
    assert (first.scoring, second.scoring) == ("label", "label")
    assert all(set(record.probabilities.values()) == {0.0, 1.0} for record in second.records.values())


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("localhost:8000", "no URL"),
        ("ftp://host/v1", "no URL"),
        ("http://", "no URL"),
        ("http://user:secret@host/v1", "password"),
        ("http://host/v1?key=secret", "query"),
        ("http://host:99999/v1", "no URL"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        EndpointJudge(EndpointSettings(url, "m"))


def test_a_key_in_an_error_is_not_shown(tmp_path: Path) -> None:
    with serving(raw(b'{"error": "wrong key sk-secret"}', status=401)) as server, pytest.raises(EngineError) as raised:
        _run(server, tmp_path, api_key="sk-secret")
    assert "sk-secret" not in str(raised.value)
    assert "***" in str(raised.value)


def test_no_more_is_asked_once_the_money_is_spent(tmp_path: Path) -> None:
    with serving(truthful) as server:  # 100 + 5 tokens a call
        run = _run(server, tmp_path, prices=(10.0, 0.0), max_cost=0.0045, concurrency=1)
        assert len(server.requests) == 5
        assert sum(None in run.orders(item) for item in ITEMS) == 4
        rest = _run(server, tmp_path)
    assert rest.journaled == 5
    assert _failures(rest) == []


def test_a_cost_that_cannot_be_known_is_refused(tmp_path: Path) -> None:
    with serving(reply(reply={"usage": None})) as server, pytest.raises(EngineError, match="max-cost"):
        _run(server, tmp_path, prices=(1.0, 1.0), max_cost=1.0)


def test_a_damaged_verdict_is_asked_for_again(tmp_path: Path) -> None:
    with serving(truthful) as server:
        _run(server, tmp_path)
        with VerdictJournal(tmp_path) as journal:
            journal._database.execute("UPDATE calls SET record = '{}' WHERE rowid = 3")
        assert _run(server, tmp_path).journaled == CALLS - 1
    assert len(server.requests) == CALLS + 1
