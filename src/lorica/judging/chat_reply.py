"""A chat completion to a verdict: strictly, so that what is no verdict is a counted failure and never a guess.

Format: https://platform.openai.com/docs/api-reference/chat/object, which vLLM, llama.cpp's server and Ollama follow.
Some of them ignore `response_format` or `logprobs` without a word; both show here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from lorica.judging.calls import CallError, CallRecord, Scoring, from_logprobs

StructuredOutput = Literal["json_schema", "json_object", "none"]
"""How the endpoint is held to the form of a verdict; `none` asks for the letter as plain text."""

_SHOWN = 120  # characters of a reply in a message
_VALUE = re.compile(r'\{\s*"verdict"\s*:\s*"')
_VERDICT_KEY = re.compile(r'"verdict"\s*:')
_AROUND_LETTER = ' ":}\n'  # what a token may hold beside the letter
_EXTRA_TOKENS_TEXT = 64  # characters of end-of-turn tokens that some servers list beyond the content


class _TopLogprob(msgspec.Struct):
    token: str
    logprob: float


class _TokenLogprob(_TopLogprob):
    top_logprobs: list[_TopLogprob] = []


class _Logprobs(msgspec.Struct):
    content: list[_TokenLogprob] | None = None


class _ReplyMessage(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct):
    message: _ReplyMessage
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class ChatReply(msgspec.Struct):
    """The fields of a chat completion that a verdict is read from."""

    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None
    error: Any = None


class _LetterReply(msgspec.Struct, forbid_unknown_fields=True):
    verdict: str


# Of several servers and proxies; what else they call a finished reply (stop, eos, null) is left alone.
_BROKEN_OFF = frozenset({"error", "abort", "aborted", "cancelled", "insufficient_system_resource"})
_TOO_LONG = frozenset({"length", "max_tokens", "model_length"})
_SAME_LOGPROB = 0.01  # a token's own log-probability, and that of its entry among the alternatives


def decode_reply(body: bytes, content_type: str) -> ChatReply:
    """The completion in a response of status 200. Raises CallError for anything else, and for one that holds no
    single finished text."""
    if "text/event-stream" in content_type:
        raise CallError("no_completion", "a stream of events, though stream=false was asked for")
    if not body.strip():
        raise CallError("no_completion", "an empty body")
    try:
        reply = msgspec.json.decode(body, type=ChatReply)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = f"{error}: {_excerpt(body.decode('utf-8', 'replace'))}"
        raise CallError("no_completion", f"{content_type or 'no content type'}, {problem}") from error
    if len(reply.choices) != 1:
        raise CallError("no_completion", f"{len(reply.choices)} choices, and one was asked for")
    choice = reply.choices[0]
    if reply.error:
        raise CallError("no_completion", f"an error beside the choices: {_excerpt(str(reply.error))}")
    if choice.finish_reason in _BROKEN_OFF:
        raise CallError("no_completion", f"finish_reason {choice.finish_reason}")
    if choice.message.refusal:
        raise CallError("refusal", _excerpt(choice.message.refusal))
    if choice.finish_reason == "content_filter":
        raise CallError("refusal", "finish_reason content_filter")
    if choice.message.tool_calls:
        raise CallError("no_verdict", "a tool call, though no tool was offered")
    if choice.finish_reason in _TOO_LONG:
        fix = "raise --max-tokens where the model thinks before it replies"
        raise CallError(
            "cut_off", f"finish_reason {choice.finish_reason} after {_excerpt(choice.message.content or '')}; {fix}"
        )
    if not choice.message.content:
        raise CallError("no_verdict", "no content")
    return reply


def has_logprobs(reply: ChatReply) -> bool:
    """Whether the reply lists log-probabilities of its tokens, with alternatives."""
    logprobs = reply.choices[0].logprobs
    return logprobs is not None and any(token.top_logprobs for token in logprobs.content or ())


def read_verdict(
    reply: ChatReply, names: Mapping[str, str], *, structured: StructuredOutput, scoring: Scoring
) -> CallRecord:
    """The verdict in a completion. names: letter -> label. Raises CallError for a text that is none, to the letter,
    and where probabilities are asked for and not usable."""
    content = reply.choices[0].message.content or ""
    letter = _letter(content, names, structured)
    mass = None
    if scoring == "label":
        probabilities = {name: float(letter_of == letter) for letter_of, name in names.items()}
    else:
        probabilities, mass = _probabilities(reply, content, letter, names, structured)
    usage = reply.usage or _Usage()
    return CallRecord(
        probabilities=probabilities,
        label_mass=mass,
        model=reply.model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _letter(content: str, names: Collection[str], structured: StructuredOutput) -> str:
    letter = content.strip()
    if structured != "none":
        try:
            letter = msgspec.json.decode(content, type=_LetterReply).verdict
        except (msgspec.DecodeError, RecursionError) as error:
            raise CallError("no_verdict", f"{error}: {_excerpt(content)}") from error
        if len(_VERDICT_KEY.findall(content)) > 1:
            raise CallError("no_verdict", f"more than one verdict: {_excerpt(content)}")
    if letter not in names:
        raise CallError("no_verdict", f"{_excerpt(letter)} is none of {', '.join(names)}")
    return letter


def _probabilities(
    reply: ChatReply, content: str, letter: str, names: Mapping[str, str], structured: StructuredOutput
) -> tuple[dict[str, float], float]:
    logprobs = reply.choices[0].logprobs
    if logprobs is None or not logprobs.content:
        raise CallError("no_probabilities", "the reply has no logprobs")
    token = _token_at(logprobs.content, content, _letter_position(content, structured))
    if any(
        entry.token == token.token and not abs(entry.logprob - token.logprob) <= _SAME_LOGPROB
        for entry in token.top_logprobs
    ):
        raise CallError("no_probabilities", f"the token {token.token!r} has two log-probabilities")
    by_letter: dict[str, float] = {}
    for spelling, logprob in {entry.token: entry.logprob for entry in (*token.top_logprobs, token)}.items():
        candidate = spelling.strip(_AROUND_LETTER)
        if candidate in names:
            by_letter[candidate] = float(np.logaddexp(by_letter.get(candidate, -math.inf), logprob))
    if letter not in by_letter:
        raise CallError("no_probabilities", f"the token of the verdict {letter} is {token.token!r}")
    try:
        return from_logprobs(by_letter, names)
    except ValueError as error:
        raise CallError("no_probabilities", str(error)) from error


def _letter_position(content: str, structured: StructuredOutput) -> int:
    if structured == "none":
        return len(content) - len(content.lstrip())
    value_start = _VALUE.search(content)
    if value_start is None:
        raise CallError("no_probabilities", f"the verdict is spelled with escapes: {_excerpt(content)}")
    return value_start.end()


def _token_at(tokens: list[_TokenLogprob], content: str, position: int) -> _TokenLogprob:
    """The token that holds the character at `position` of the content. Raises CallError where the tokens do not spell
    the content."""
    spelled = "".join(token.token for token in tokens)
    offset = spelled.find(content)
    if offset < 0 or len(spelled) - len(content) > _EXTRA_TOKENS_TEXT:
        raise CallError("no_probabilities", f"the tokens spell {_excerpt(spelled)}, the content {_excerpt(content)}")
    end = 0
    for token in tokens:
        end += len(token.token)
        if end > position + offset:
            return token
    raise CallError("no_probabilities", "no token holds the verdict")


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
