"""One question to a judge and what came of it, by the digest of all that decides it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from lorica.judging.rubrics import JudgeItem, Rubric

Scoring = Literal["probability", "label"]
"""How a judge's replies are read: as the probability of each label, or as the label that it named."""


class JudgeCall(msgspec.Struct, frozen=True):
    """An item in one order. repetition: 0, or 1 where it is asked again to see whether the verdict stays."""

    item: JudgeItem
    swapped: bool = False
    repetition: int = 0

    def digest(self, rubric: Rubric, identity: Mapping[str, str]) -> str:
        """sha256 of question, reference, answers, rubric, order, and the judge with its settings."""
        content = (msgspec.to_builtins(self), rubric.digest, sorted(identity.items()))
        return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


class CallRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a call.

    probabilities: label -> its share, 0 or 1 each where the judge named a label; empty for a failed call, of which
    `failure` is a key of `FAILURES` and `detail` says more. label_mass: the probability, over all tokens that were
    shown, of any of the letters. model: what the endpoint says answered. Tokens are the endpoint's count, None where it
    gives none.
    """

    probabilities: dict[str, float] = {}
    failure: str = ""
    detail: str = ""
    label_mass: float | None = None
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


FAILURES = {
    "no_reply": "no reply: refused, reset, or longer than the time-out",
    "server_error": "the server was overloaded or had an error of its own",
    "refused_request": "the server refused the request",
    "no_completion": "the reply is no chat completion",
    "too_large": "the reply is larger than any verdict",
    "refusal": "the model refused, or a filter stopped it",
    "cut_off": "the reply ended before the verdict",
    "no_verdict": "the reply is no verdict of the rubric",
    "no_probabilities": "the reply lacks usable log-probabilities, by which this run is scored",
    "other_model": "another model replied than before",
    "prompt": "the item does not fit the judge's prompt",
    "engine": "the engine could not score the prompt",
}
"""What may go wrong with one call, in words."""

TRANSIENT = frozenset({"no_reply", "server_error"})
"""Failures that are not journaled: a later run asks again."""


class CallError(Exception):
    """One call that ended without a verdict: a key of `FAILURES`, with what was got."""

    def __init__(self, failure: str, detail: str) -> None:
        super().__init__(f"{FAILURES[failure]}: {detail}")
        self.failure, self.detail = failure, detail

    def record(self) -> CallRecord:
        """The failure as it is journaled."""
        return CallRecord(failure=self.failure, detail=self.detail)


OnRecord = Callable[[JudgeCall, CallRecord], None]
"""Receives each call as it ends, before another is begun in its place."""


class Judge(Protocol):
    """Whoever replies to calls."""

    @property
    def scoring(self) -> Scoring:
        """How replies are read in this run."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """All that decides its replies besides the call and the rubric, as text."""
        ...

    def ask(self, rubric: Rubric, calls: Sequence[JudgeCall], on_record: OnRecord) -> None:
        """Make all calls. Raises EngineError where it cannot go on; what had ended before was handed on."""
        ...


def from_logprobs(logprobs: Mapping[str, float], names: Mapping[str, str]) -> tuple[dict[str, float], float]:
    """Label -> probability, and the mass of all letters, from letter -> natural-log probability.

    names: letter -> label. A letter without a log-probability has the probability 0. Raises ValueError where nothing is
    left to share out.
    """
    if any(math.isnan(logprob) or logprob > 1e-3 for logprob in logprobs.values()):
        raise ValueError(f"a log-probability is no number up to 0: {dict(logprobs)}")
    shares = {names[letter]: math.exp(logprobs.get(letter, -math.inf)) for letter in names}
    mass = sum(shares.values())
    if not mass > 0:
        raise ValueError("no letter has any probability")
    return {name: share / mass for name, share in shares.items()}, min(mass, 1.0)
