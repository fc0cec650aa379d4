"""A judge behind an OpenAI-compatible endpoint: strict requests, retries with backoff, hard limits on time and size."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from lorica.errors import EngineError, MissingExtraError, UsageError
from lorica.judging.calls import TRANSIENT, CallError, CallRecord, JudgeCall, OnRecord, Scoring
from lorica.judging.chat_reply import StructuredOutput, decode_reply, has_logprobs, read_verdict
from lorica.judging.rubrics import Rubric, render
from lorica.names import visible

if TYPE_CHECKING:
    import httpx2

_PATH = "/chat/completions"
_MAX_BODY = 1 << 20  # bytes: a verdict with its log-probabilities has a few thousand
_TOP_LOGPROBS = 5  # what all servers give; OpenAI and vLLM allow 20
_LONGEST_WAIT = 60.0  # seconds, whatever Retry-After says
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# Nothing but another key, address or model helps: the run ends.
_FATAL = frozenset({401, 402, 403, 404, 405})
_IN_A_ROW = 20  # failures after which it is the endpoint, and not the row
# Before anything came whole, a person should not wait long to hear that nothing does.
_LOST_AT_FIRST, _RETRIES_AT_FIRST = 5, 1
_FORM_HINT = (
    "if the server does not know response_format: --structured-output json_object or none; logprobs: --scoring label; "
    "another field: --body '{\"FIELD\": null}'"
)
_REPLY_FORMATS = {
    "json_schema": 'Reply with a JSON object with one key, "verdict", whose value is the letter.',
    "json_object": 'Reply with a JSON object with one key, "verdict", whose value is the letter.',
    "none": "Reply with the letter alone.",
}


@dataclass(frozen=True)
class EndpointSettings:
    """url: of the API, such as http://localhost:8000/v1. api_key: sent as a bearer token, never written down. scoring:
    None takes probabilities where the first reply has them. timeout, backoff: seconds; a reply takes at most the
    former, a retry waits from the latter on, twice as long each time. body: further fields of each request; null
    leaves a field out. max_cost: what all calls of a run may cost, at `prices` per million prompt and reply tokens.
    """

    url: str
    model: str
    api_key: str = field(default="", repr=False)
    structured: StructuredOutput = "json_schema"
    scoring: Scoring | None = None
    max_tokens: int = 32
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0
    concurrency: int = 4
    body: Mapping[str, Any] = field(default_factory=dict)
    prices: tuple[float, float] = (0.0, 0.0)
    max_cost: float = math.inf


class EndpointJudge:
    """Replies of a chat model. retried: requests that were sent again. cost: of the calls made so far, at the prices.
    over_budget: whether calls were left out because `max_cost` was reached. stopped: why no more was asked where the
    endpoint failed in the middle of a run, else ""."""

    def __init__(self, settings: EndpointSettings) -> None:
        """Raises UsageError for a URL that is none or holds a password, MissingExtraError without httpx2."""
        self._settings = settings
        self._url = _completions_url(settings.url)
        self._scoring = settings.scoring
        self._model = ""
        self._failures_in_a_row = 0
        self._has_reply = self._has_verdict = False
        self.retried = 0
        self.cost = 0.0
        self.over_budget = False
        self.stopped = ""
        _httpx()

    def is_settled(self) -> bool:
        """Whether it is known how replies are read: by the settings, or by the first reply."""
        return self._scoring is not None

    @property
    def scoring(self) -> Scoring:
        """How replies are read."""
        return self._scoring or "label"

    @property
    def settings_identity(self) -> dict[str, str]:
        """All that decides the replies but how they are read, as text."""
        settings = self._settings
        body = msgspec.json.encode(dict(settings.body), order="deterministic").decode()
        return {
            "judge": "endpoint",
            "url": self._url,
            "model": settings.model,
            "structured_output": settings.structured,
            "max_tokens": str(settings.max_tokens),
            "temperature": "0",
            "body": body,
        }

    @property
    def identity(self) -> dict[str, str]:
        """All that decides what a call ends in, as text."""
        return {**self.settings_identity, "scoring": self.scoring}

    def use_scoring(self, scoring: Scoring) -> None:
        """Read replies as an earlier run did."""
        self._scoring = scoring

    def go_on_from(self, records: Iterable[CallRecord]) -> None:
        """Take replies from the model that replied before alone, and its failures for those of rows."""
        for record in records:
            self._model = self._model or record.model
            self._has_verdict = self._has_verdict or not record.failure
        self._has_reply = self._has_reply or self._has_verdict

    def settle_scoring(self, rubric: Rubric, calls: Sequence[JudgeCall]) -> list[tuple[JudgeCall, CallRecord]]:
        """Make the first calls one by one until a reply shows whether the endpoint gives log-probabilities.

        What was asked on the way comes back with its record. Raises EngineError where none of them ends in a reply.
        """
        records: list[tuple[JudgeCall, CallRecord]] = []

        async def probe(client: httpx2.AsyncClient) -> None:
            for call in calls:
                records.append((call, await self._record(client, rubric, call)))
                if self.is_settled():
                    return

        _run_async(lambda: self._with_client(probe))
        return records

    def ask(self, rubric: Rubric, calls: Sequence[JudgeCall], on_record: OnRecord) -> None:
        """Make all calls, `concurrency` at a time. Raises EngineError where the endpoint refuses the key, the model or
        the form of the request, and after
        failures in a row without any verdict: 20, or 5 where nothing came whole."""
        waiting = iter(calls)

        async def work(client: httpx2.AsyncClient) -> None:
            for call in waiting:  # shared by all workers: each call is taken once
                self.over_budget = self.cost >= self._settings.max_cost
                if self.over_budget or self.stopped:
                    return
                on_record(call, await self._record(client, rubric, call))

        async def work_all(client: httpx2.AsyncClient) -> None:
            workers = [asyncio.ensure_future(work(client)) for _ in range(self._settings.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

        _run_async(lambda: self._with_client(work_all))

    async def _with_client(self, work: Callable[[httpx2.AsyncClient], Awaitable[None]]) -> None:
        httpx2 = _httpx()
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._settings.api_key:
            headers["Authorization"] = f"Bearer {self._settings.api_key}"
        async with httpx2.AsyncClient(headers=headers, timeout=self._settings.timeout) as client:
            await work(client)

    async def _record(self, client: httpx2.AsyncClient, rubric: Rubric, call: JudgeCall) -> CallRecord:
        try:
            record = await self._reply(client, rubric, call)
        except CallError as failure:
            self._failures_in_a_row += 1
            detail = self._without_key(failure.detail)
            is_lost = not self._has_reply and failure.failure in TRANSIENT
            if self._failures_in_a_row >= (_LOST_AT_FIRST if is_lost else _IN_A_ROW):
                count = self._failures_in_a_row
                self.stopped = f"{count} judgements in a row failed, at last: {failure.failure}: {detail}"
                if not self._has_verdict:
                    is_running = "is it running, is the address right?"
                    fix = is_running if failure.failure == "no_reply" else _FORM_HINT
                    raise EngineError(f"{self._url}: {self.stopped}", fix=f"see to the endpoint; {fix}") from failure
            return CallRecord(failure=failure.failure, detail=detail)
        self._failures_in_a_row, self._has_verdict = 0, True
        return record

    async def _reply(self, client: httpx2.AsyncClient, rubric: Rubric, call: JudgeCall) -> CallRecord:
        names = rubric.by_letter(swapped=call.swapped)
        settings = self._settings
        body, content_type = await self._post_retrying(client, self.request_body(rubric, call))
        reply = decode_reply(body, content_type)
        self._add_cost(reply.usage)
        if self._scoring is None:
            self._scoring = "probability" if has_logprobs(reply) else "label"
        if self._model and reply.model != self._model:
            raise CallError("other_model", f"{reply.model!r}, before {self._model!r}")
        self._model = reply.model
        return read_verdict(reply, names, structured=settings.structured, scoring=self._scoring)

    def request_body(self, rubric: Rubric, call: JudgeCall) -> dict[str, Any]:
        """The JSON of one request."""
        settings = self._settings
        messages = render(rubric, call.item, swapped=call.swapped, reply_format=_REPLY_FORMATS[settings.structured])
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "temperature": 0,
            "max_tokens": settings.max_tokens,
            "n": 1,
            "stream": False,
        }
        if self._scoring != "label":
            body |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        if settings.structured == "json_schema":
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": _schema(list(rubric.by_letter(swapped=False))),
            }
        elif settings.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
        body |= settings.body
        return {name: value for name, value in body.items() if value is not None}

    def _add_cost(self, usage: Any) -> None:
        settings = self._settings
        counts = (None, None) if usage is None else (usage.prompt_tokens, usage.completion_tokens)
        if math.isfinite(settings.max_cost) and None in counts:
            raise EngineError(
                f"{self._url}: the reply does not say how many tokens it took, so --max-cost cannot be kept",
                fix="leave --max-cost out, and limit the rows with --sample",
            )
        self.cost += sum((count or 0) * price / 1e6 for count, price in zip(counts, settings.prices, strict=True))

    async def _post_retrying(self, client: httpx2.AsyncClient, body: Mapping[str, Any]) -> tuple[bytes, str]:
        content = msgspec.json.encode(body)
        for attempt in range(self._settings.retries + 1):
            retries = self._settings.retries if self._has_reply else min(self._settings.retries, _RETRIES_AT_FIRST)
            wait = self._settings.backoff * 2**attempt * random.uniform(0.75, 1.25)
            try:
                status, headers, reply = await self._post(client, content)
                if status == 200:
                    self._has_reply = True
                    return reply, headers.get("content-type", "")
                self._refuse(status, headers, reply)
                failure = CallError("server_error", f"status {status}: {_text(reply)}")
                wait = max(wait, _retry_after(headers.get("retry-after", "")))
            except CallError as error:
                if error.failure not in TRANSIENT:
                    raise
                failure = error
            if attempt >= retries:
                raise failure
            self.retried += 1
            await asyncio.sleep(min(wait, _LONGEST_WAIT))
        raise AssertionError("the loop returns or raises")

    async def _post(self, client: httpx2.AsyncClient, content: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body. Raises CallError where none came whole within the time-out."""
        httpx2 = _httpx()
        chunks: list[bytes] = []
        try:
            async with (
                asyncio.timeout(self._settings.timeout),  # of all of it: a server may send a byte now and then
                client.stream(
                    "POST", self._url, content=content, headers={"Content-Type": "application/json"}
                ) as response,
            ):
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise CallError("no_completion", "the body is compressed, though identity was asked for")
                async for chunk in response.aiter_raw():
                    chunks.append(chunk)
                    if sum(map(len, chunks)) > _MAX_BODY:
                        raise CallError("too_large", f"more than {_MAX_BODY:,} bytes")
                return response.status_code, response.headers, b"".join(chunks)
        except TimeoutError as error:
            raise CallError("no_reply", f"nothing whole within {self._settings.timeout:g} s") from error
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise CallError("no_reply", f"{type(error).__name__}: {error}") from error

    def _refuse(self, status: int, headers: Mapping[str, str], reply: bytes) -> None:
        """Raises EngineError for a status that no other row would change, and CallError for one of this row."""
        message = self._without_key(f"{self._url}: status {status}: {_text(reply)}")
        if 300 <= status < 400:
            target = visible(headers.get("location", "nowhere"))
            raise EngineError(
                f"{message}; it redirects to {target}", fix="give that address with --endpoint, if you trust it"
            )
        if status in _FATAL:
            fix = {404: "check --endpoint and --judge-model", 405: "check --endpoint"}.get(
                status, "name the environment variable with the right key: --api-key-env NAME"
            )
            raise EngineError(message, fix=fix)
        if status in _RETRIED:
            return
        if not self._has_verdict and status in (400, 415, 422, 501):
            raise EngineError(message, fix=_FORM_HINT)
        raise CallError("refused_request" if status < 500 else "server_error", f"status {status}: {_text(reply)}")

    def _without_key(self, message: str) -> str:
        return message.replace(self._settings.api_key, "***") if self._settings.api_key else message


def _schema(verdict_letters: list[str]) -> dict[str, Any]:
    """https://platform.openai.com/docs/guides/structured-outputs: strict needs all keys required and no others."""
    schema = {
        "type": "object",
        "properties": {"verdict": {"type": "string", "enum": verdict_letters}},
        "required": ["verdict"],
        "additionalProperties": False,
    }
    return {"name": "verdict", "strict": True, "schema": schema}


def _completions_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_http = False
    if not is_http or any(character.isspace() for character in url):
        raise UsageError(
            f"--endpoint {url!r} is no URL", fix="give the API's address: --endpoint http://localhost:8000/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "--endpoint holds a user, a password or a query, which would be written into results",
            fix="give the address alone, and the key by an environment variable: --api-key-env NAME",
        )
    return url.rstrip("/") if parts.path.rstrip("/").endswith(_PATH) else url.rstrip("/") + _PATH


def _retry_after(value: str) -> float:
    """Seconds, of the two forms that RFC 9110 knows; 0 for neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _text(reply: bytes) -> str:
    text = " ".join(reply[:2000].decode("utf-8", "replace").split())
    return visible(text[:300]) or "no text"


def _run_async(work: Callable[[], Awaitable[None]]) -> None:
    """Run to its end, in a thread of its own where the caller runs an event loop already (a notebook)."""

    async def main() -> None:
        await work()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(main())
        return
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, main()).result()


def _httpx() -> Any:
    try:
        import httpx2
    except ImportError as error:
        raise MissingExtraError("httpx2", extra="judge", needed_for="--endpoint") from error
    return httpx2
