"""Whether the one adapter of a run is merged into the base's weights: what that gains, costs and changes.

Unmerged, adapters cost 3 to 5% of prefill and about 10% of decode steps (rank 16 on query, key, value and output);
merging costs repacking and a few rows scored twice, and rounds W + B A once more: docs/design/engines.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import msgspec

from lorica.engines.native.scheduler import make_plan
from lorica.errors import EngineError
from lorica.precision import precision_of
from lorica.records import Generate, Output, Request, ScoreChoices

Merge = Literal["auto", "never", "always"]

MIN_TOKENS = 16384
"""Tokens that a run must read and write before merging gains what it costs."""

_PROBES = 4
_PROBE_TOKENS = 4  # of a generated text

Run = Callable[[Sequence[Request]], Sequence[Output]]


def single_adapter(uses: Collection[str | None]) -> str | None:
    """The adapter that answers all rows, if there is one."""
    return next(iter(uses)) if len(uses) == 1 else None


def reason_not_to_merge(
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
        return "outputs are batch-invariant, the same to the last bit in every file, and merging would change them"
    tokens = expected_tokens(sample, total, batch_tokens=batch_tokens)
    if tokens < MIN_TOKENS:
        return f"about {tokens} tokens are too few to gain what merging costs"
    return ""


def expected_tokens(sample: Sequence[Request], total: int, *, batch_tokens: int) -> int:
    """Tokens that the run reads, by the plan of its first requests, and at most writes."""
    valid = [request for request in sample if request.prompt]
    plan = make_plan(valid, batch_tokens=batch_tokens)
    written = sum(request.sampling.max_new_tokens for request in valid if isinstance(request, Generate))
    return (plan.computed_tokens() + written) * total // max(1, len(sample))


def make_probes(sample: Sequence[Request], run: Run) -> list[ScoreChoices]:
    """The sample's first requests as choices to score with merged and unmerged weights; of a `Generate` the first
    tokens of its present text.
    """
    valid = [request for request in sample if request.prompt]
    requests = [_shortened(request) for request in valid[:_PROBES]]
    probes: list[ScoreChoices] = []
    for request, output in zip(requests, run(requests), strict=True):
        choices = request.choices if isinstance(request, ScoreChoices) else (output.tokens,)
        if not output.error and choices[0]:
            probes.append(ScoreChoices(request.id, request.prompt, choices, request.adapter))
    return probes


def _shortened(request: Request) -> Request:
    if isinstance(request, ScoreChoices):
        return request
    max_new_tokens = min(_PROBE_TOKENS, request.sampling.max_new_tokens)
    sampling = msgspec.structs.replace(request.sampling, max_new_tokens=max_new_tokens)
    return msgspec.structs.replace(request, sampling=sampling, stop_tokens=())


def mean_difference(before: Sequence[Output], after: Sequence[Output]) -> float:
    """The mean absolute difference of log-probabilities; NaN where any is, or none can be compared."""
    differences = [
        abs(unmerged - merged)
        for old, new in zip(before, after, strict=True)
        for unmerged, merged in zip(old.logprobs, new.logprobs or [float("nan")] * len(old.logprobs), strict=True)
    ]
    return sum(differences) / len(differences) if differences else float("nan")


def is_within_tolerance(difference: float, precision: str) -> bool:
    """Whether merging may stay; NaN may not."""
    return difference <= precision_of(precision).merge_limit


def describe_mix(uses: Mapping[str | None, int]) -> str:
    """For a person: a run that several adapters answer."""
    names = sorted(name or "the base" for name in uses)
    return f"{', '.join(names[:4])}{' and more' if len(names) > 4 else ''} answer in turn"
