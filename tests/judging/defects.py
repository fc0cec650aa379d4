"""Thirty kinds of servers that are broken in one way each, and what becomes of a judgement there."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from typing import Any

from tests.judging.stub_server import StubHandler, completion

Defect = Callable[[StubHandler, dict[str, Any]], None]


def content(text: str | None, **message: Any) -> Defect:
    reply = completion("A", message={"content": text, **message})
    return lambda handler, body: handler.send(json.dumps(reply).encode())


def reply(**changes: Any) -> Defect:
    return lambda handler, body: handler.send(json.dumps(completion("A", **changes)).encode())


def raw(content: bytes, **how: Any) -> Defect:
    return lambda handler, body: handler.send(content, **how)


def status(status: int, **headers: str) -> Defect:
    return lambda handler, body: handler.send(b'{"error": {"message": "as it is"}}', status=status, **headers)


def cut_body(handler: StubHandler, body: dict[str, Any]) -> None:
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"id"')
    handler.close_connection = True


def reset(handler: StubHandler, body: dict[str, Any]) -> None:
    handler.close_connection = True


def garbage_chunks(handler: StubHandler, body: dict[str, Any]) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")
    handler.close_connection = True


def no_http(handler: StubHandler, body: dict[str, Any]) -> None:
    handler.wfile.write(b"220 mail.example.com ESMTP\r\n")
    handler.close_connection = True


def hang(handler: StubHandler, body: dict[str, Any]) -> None:
    time.sleep(0.6)
    handler.close_connection = True


def drip(handler: StubHandler, body: dict[str, Any]) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(12):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)
    handler.close_connection = True


BOMB = gzip.compress(b" " * 50_000_000)
FINE = json.dumps(completion("A")).encode()

COUNTED: dict[str, tuple[str, Defect]] = {
    "no JSON": ("no_completion", raw(b"<html>busy</html>", content_type="text/html")),
    "empty body": ("no_completion", raw(b"")),
    "truncated JSON": ("no_completion", raw(FINE[:-20])),
    "text before JSON": ("no_completion", raw(b"data: " + FINE)),
    "text behind JSON": ("no_completion", raw(FINE + b" done")),
    "a JSON list": ("no_completion", raw(b"[]")),
    "no choices": ("no_completion", reply(reply={"choices": []})),
    "two choices": ("no_completion", reply(reply={"choices": completion("A")["choices"] * 2})),
    "choices of another type": ("no_completion", reply(reply={"choices": "A"})),
    "an error with status 200": ("no_completion", raw(b'{"error": {"message": "overloaded"}}')),
    "invalid UTF-8": ("no_completion", raw(FINE.replace(b"verdict", b"\xffverdict"))),
    "nesting": ("no_completion", raw(b"[" * 100_000)),
    "a stream of events": ("no_completion", raw(b"data: {}\n\n", content_type="text/event-stream")),
    "a gzip bomb": ("no_completion", raw(BOMB, Content_Encoding="gzip")),
    "a huge body": ("too_large", raw(b" " * 2_000_000)),
    "NaN for JSON": ("no_completion", raw(FINE.replace(b'"created": 1', b'"choices": NaN, "created": 1'))),
    "null content": ("no_verdict", content(None)),
    "empty content": ("no_verdict", content("")),
    "prose": ("no_verdict", content("The answer is correct.")),
    "prose around JSON": ("no_verdict", content('Sure! {"verdict": "A"}')),
    "a code fence": ("no_verdict", content('```json\n{"verdict": "A"}\n```')),
    "a label of no rubric": ("no_verdict", content('{"verdict": "C"}')),
    "a small letter": ("no_verdict", content('{"verdict": "a"}')),
    "a label's name": ("no_verdict", content('{"verdict": "correct"}')),
    "another key": ("no_verdict", content('{"answer": "A"}')),
    "a further key": ("no_verdict", content('{"verdict": "A", "why": "it says so"}')),
    "two verdicts": ("no_verdict", content('{"verdict": "A", "verdict": "B"}')),
    "a number": ("no_verdict", content('{"verdict": 1}')),
    "a list of verdicts": ("no_verdict", content('{"verdict": ["A"]}')),
    "cut off JSON": ("no_verdict", content('{"verdict": "')),
    "a tool call": ("no_verdict", content(None, tool_calls=[{"id": "1", "type": "function", "function": {}}])),
    "a refusal": ("refusal", content(None, refusal="I cannot help with that.")),
    "a filter": ("refusal", reply(choice={"finish_reason": "content_filter"})),
    "an error beside a verdict": ("no_completion", reply(reply={"error": {"message": "overloaded"}})),
    "ended by an error": ("no_completion", reply(choice={"finish_reason": "error"})),
    "another length limit": ("cut_off", reply(choice={"finish_reason": "max_tokens"})),
    "the length limit": ("cut_off", reply(choice={"finish_reason": "length"})),
    "another model": ("other_model", reply(reply={"model": "stub-mini"})),
    "status 400 for a row": ("refused_request", status(400)),
    "status 413": ("refused_request", status(413)),
    "status 422": ("refused_request", status(422)),
    "status 429": ("server_error", status(429)),
    "status 429 with Retry-After": ("server_error", status(429, Retry_After="0")),
    "status 429 with a date": ("server_error", status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")),
    "status 429 with rubbish": ("server_error", status(429, Retry_After="soon")),
    "status 500": ("server_error", status(500)),
    "status 502": ("server_error", status(502)),
    "status 503": ("server_error", status(503)),
    "closed mid-body": ("no_reply", cut_body),
    "closed without a word": ("no_reply", reset),
    "garbage for chunks": ("no_reply", garbage_chunks),
    "another protocol": ("no_reply", no_http),
}  # fmt: skip

FATAL: dict[str, tuple[str, Defect]] = {
    "status 401": ("--api-key-env", status(401)),
    "status 402": ("402", status(402)),
    "status 403": ("--api-key-env", status(403)),
    "status 404": ("--judge-model", status(404)),
    "status 405": ("--endpoint", status(405)),
    "a redirect": ("elsewhere.example", status(307, Location="http://elsewhere.example/v1")),
    "a redirect to https": ("https://", status(301, Location="https://127.0.0.1/v1")),
    "status 400 from the start": ("--structured-output", status(400)),
}
