"""An OpenAI-compatible server on this machine that counts what it is asked and replies as a test wants."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Respond = Callable[["StubHandler", dict[str, Any]], None]


class StubHandler(BaseHTTPRequestHandler):
    """Hands each request to the server's `respond`."""

    server: StubServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(content)
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append(dict(self.headers))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.server.respond(self, body)

    def send(
        self, content: bytes, *, status: int = 200, content_type: str = "application/json", **headers: str
    ) -> None:
        """A whole response."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


class StubServer(ThreadingHTTPServer):
    """requests, headers: of all requests, in the order of their arrival."""

    daemon_threads = True

    def __init__(self, respond: Respond) -> None:
        super().__init__(("127.0.0.1", 0), StubHandler)
        self.respond = respond
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error here."""


@contextlib.contextmanager
def serving(respond: Respond) -> Iterator[StubServer]:
    """A server that runs while the block does."""
    server = StubServer(respond)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def prompt(body: dict[str, Any]) -> str:
    """The user's message of a request."""
    text: str = body["messages"][-1]["content"]
    return text


def letter_of(body: dict[str, Any], label_text: str = "The answer is correct.") -> str:
    """The letter that stands for a label in a request."""
    return next(line[0] for line in prompt(body).splitlines() if line[1:] == f") {label_text}")


def truthful_letter(body: dict[str, Any]) -> str:
    """The letter of a judge that compares answer and reference to the character."""
    blocks = prompt(body).split("<<<")
    texts = {block.splitlines()[0].rsplit(" ", 1)[0]: block.splitlines()[1] for block in blocks[1:]}
    is_right = texts["REFERENCE ANSWER"] == texts["ANSWER"]
    return letter_of(body, "The answer is correct." if is_right else "The answer is not correct.")


def completion(letter: str, **changes: Any) -> dict[str, Any]:
    """A chat completion with a verdict. changes: of `choice`, `message` and the reply itself, by these names."""
    message = {"role": "assistant", "content": json.dumps({"verdict": letter}), **changes.get("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **changes.get("choice", {})}
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "stub", "choices": [choice]}
    return {**reply, "usage": usage, **changes.get("reply", {})}


def logprobs(letter: str, alternatives: dict[str, float]) -> dict[str, Any]:
    """The `logprobs` of a reply whose verdict is `letter`, with the alternatives' log-probabilities there."""
    tokens = ['{"', "verdict", '":', ' "', letter, '"}']
    entries: list[dict[str, Any]] = [
        {"token": token, "logprob": 0.0, "bytes": None, "top_logprobs": []} for token in tokens
    ]
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in alternatives.items()]
    entries[4] |= {"logprob": alternatives[letter], "top_logprobs": top}
    return {"content": entries}


def truthful(handler: StubHandler, body: dict[str, Any]) -> None:
    """Replies as an honest judge does, by labels alone."""
    handler.send(json.dumps(completion(truthful_letter(body))).encode())
