"""Whether a run's one adapter becomes part of the weights: what it gains, what it costs, how exact it is.

Adapters cost 3 to 5% of reading prompts and about 10% of the steps of generation (rank 16 on query, key, value and
output); merging costs repacking and a few rows asked again, and rounds W + B A once more: docs/engines.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import msgspec

from lorica.engines.native.scheduler import make_plan
from lorica.errors import EngineError
from lorica.precision import precision_of
from lorica.records import Choose, Generate, Output, Request

Merge = Literal["auto", "never", "always"]

MIN_TOKENS = 16384
"""Tokens that a run must read and write before merging gains what it costs."""

_PROBES = 4
_PROBE_TOKENS = 4  # of a text

Run = Callable[[Sequence[Request]], Sequence[Output]]


def one_adapter(uses: Collection[str | None]) -> str | None:
    """The adapter that answers everything, if there is one."""
    return next(iter(uses)) if len(uses) == 1 else None


def why_not(
    setting: str,
    precision: str,
    sample: Sequence[Request],
    total: int,
    *,
    batch_tokens: int,
    batch_invariant: tuple[type[Request], ...],
) -> str:
    """Why a run with one adapter is not merged, or "" when it is. Nothing here depends on the moment, so that a resumed
    run decides alike.

    sample: its first requests; total: how many there are. Raises EngineError for an unknown setting.
    """
    if setting not in ("auto", "never", "always"):
        raise EngineError(f"merge={setting!r} is none of auto, never, always", fix="choose one of these")
    if setting != "auto":
        return "" if setting == "always" else "engine.merge=never"
    if not precision_of(precision).merges_by_default:
        return f"{precision} rounds the merged weights anew, which only engine.merge=always asks for"
    if not sample or any(isinstance(request, batch_invariant) for request in sample):
        return "a row gets the same to the last bit in any company, merged or not merged it would not"
    tokens = expected_tokens(sample, total, batch_tokens=batch_tokens)
    if tokens < MIN_TOKENS:
        return f"about {tokens} tokens are too few to gain what merging costs"
    return ""


def expected_tokens(sample: Sequence[Request], total: int, *, batch_tokens: int) -> int:
    """What the run reads, by the plan of its first requests, and at most writes."""
    able = [request for request in sample if request.prompt]
    plan = make_plan(able, batch_tokens=batch_tokens)
    written = sum(request.sampling.max_new_tokens for request in able if isinstance(request, Generate))
    return (plan.computed_tokens() + written) * total // max(1, len(sample))


def probes(sample: Sequence[Request], run: Run) -> list[Choose]:
    """The sample's first requests as questions of which merged and unmerged weights must say the same. Of a text its
    first tokens, as they are now.
    """
    chosen = [request for request in sample if request.prompt][:_PROBES]
    short = [
        msgspec.structs.replace(
            request,
            sampling=msgspec.structs.replace(
                request.sampling, max_new_tokens=min(_PROBE_TOKENS, request.sampling.max_new_tokens)
            ),
            stop_tokens=(),
        )
        if isinstance(request, Generate)
        else request
        for request in chosen
    ]
    asked: list[Choose] = []
    for request, output in zip(short, run(short), strict=True):
        choices = request.choices if isinstance(request, Choose) else (output.tokens,)
        if not output.error and choices[0]:
            asked.append(Choose(request.id, request.prompt, choices, request.adapter))
    return asked


def mean_difference(before: Sequence[Output], after: Sequence[Output]) -> float:
    """Of log-probabilities, per choice; NaN where any is, or none can be compared."""
    apart = [
        abs(one - other)
        for old, new in zip(before, after, strict=True)
        for one, other in zip(old.logprobs, new.logprobs or [float("nan")] * len(old.logprobs), strict=True)
    ]
    return sum(apart) / len(apart) if apart else float("nan")


def exact_enough(difference: float, precision: str) -> bool:
    """Whether merging may stay; NaN may not."""
    return difference <= precision_of(precision).merge_limit


def told(uses: Mapping[str | None, int]) -> str:
    """For a run that no single adapter answers."""
    names = sorted(name or "the base" for name in uses)
    return f"{', '.join(names[:4])}{' and more' if len(names) > 4 else ''} answer in turn"
