"""Canaries: a few prompts whose log-probabilities tell an applied adapter from any other state of an engine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lorica.adapters.passport import FEWEST_CANARIES, Canary, CanaryChoice, CanaryFacts, CanaryMessage, Tolerance
from lorica.admission.probes import Probe
from lorica.engines.base import Engine
from lorica.errors import AdapterError
from lorica.precision import PRECISIONS, coarser
from lorica.records import Output, ScoreChoices

TOLERANCE: dict[str, Tolerance] = {
    name: Tolerance(absolute=row.canary_absolute, relative=row.canary_relative) for name, row in PRECISIONS.items()
}
"""How exactly an engine of each precision reproduces log-probabilities, from coarse to exact. The coarser of two
precisions counts where the expected values were computed in another one."""
# How far the adapter's effect may be from the expected one, as a part of it. Not applied: 1. Twice as strong: 1.
_MOST_ODD = 0.5
# Up to this part of the expected effect, an adapter has none.
_NOTHING = 0.05
_BOUNDED = 1e-3  # rounding may put a log-probability a little above 0

CanaryOutcome = Literal["reproduced", "faint", "not_applied", "other_base", "other_adapter", "failed"]


@dataclass(frozen=True)
class CanaryResult:
    """How an engine answered the canaries of a passport.

    largest: the largest |seen - expected| of the adapter's log-probabilities, in nats, at canary and choice `worst`,
    where `seen` came instead of `expected`; allowed: the tolerance there. base_largest: the same of the base's.
    effect: the shift from base to adapter as a factor of the expected one (least squares): 1 as it should be, 0 not
    applied. strength: the root mean square of the expected shift, in nats. odd: that of what is left of the shift after
    taking off the expected one, as a part of it. problem: why it failed, in words, "" when admitted.
    """

    outcome: CanaryOutcome
    largest: float = 0.0
    allowed: float = 0.0
    base_largest: float = 0.0
    worst: str = ""
    measured: float = 0.0
    expected: float = 0.0
    effect: float = 1.0
    strength: float = 0.0
    odd: float = 0.0
    dtype: str = ""
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether the engine may answer under the adapter's name."""
        return self.outcome in ("reproduced", "faint")


def make_canaries(
    engine: Engine,
    adapter_name: str,
    probes: Sequence[Probe],
    *,
    canary_kind: Literal["probes", "numbers", "rows"] = "probes",
    canary_count: int = FEWEST_CANARIES,
) -> CanaryFacts:
    """The probes in which base and adapter `adapter_name` (known to the engine) differ most, with what both say to
    them.

    No group gives more than its share while others have probes left. Equal engines give equal canaries. Raises
    AdapterError when fewer than `canary_count` probes could be answered.
    """
    requests = [
        ScoreChoices(probe.id, probe.prompt, probe.choices, adapter)
        for adapter in (None, adapter_name)
        for probe in probes
    ]
    outputs = engine.run(requests)
    probe_count = len(probes)
    answered = [
        (probe, base, adapter)
        for probe, base, adapter in zip(probes, outputs[:probe_count], outputs[probe_count:], strict=True)
        if _has_finite_scores(base) and _has_finite_scores(adapter)
    ]
    if len(answered) < canary_count:
        errors = (output.error for output in outputs if not _has_finite_scores(output))
        problem = next(filter(None, errors), "no finite numbers")
        raise AdapterError(
            f"adapter {adapter_name!r}: {len(answered)} of {probe_count} probes could be answered, "
            f"and {canary_count} are needed: {problem}",
            fix="check the adapter with `lorica check`",
        )
    chosen = _choose_diverse(answered, canary_count)
    canary_items = tuple(_make_canary(probe, base, adapter) for probe, base, adapter in chosen)
    engine_info = engine.info
    return CanaryFacts(
        engine=engine_info.name,
        dtype=engine_info.dtype,
        device=engine_info.device,
        kind=canary_kind,
        gap=max(abs(choice.adapter - choice.base) for canary in canary_items for choice in canary.choices),
        tolerance=dict(TOLERANCE),
        items=canary_items,
    )


def canary_requests(canary_facts: CanaryFacts, adapter: str | None) -> list[ScoreChoices]:
    """What an engine is asked, in the order of the canaries; adapter None asks the base."""
    return [
        ScoreChoices(item.id, item.prompt, tuple(choice.tokens for choice in item.choices), adapter)
        for item in canary_facts.items
    ]


def run_canaries(engine: Engine, adapter_name: str, canary_facts: CanaryFacts) -> CanaryResult:
    """Ask base and adapter `adapter_name`, which the engine knows, and compare."""
    outputs = engine.run([*canary_requests(canary_facts, None), *canary_requests(canary_facts, adapter_name)])
    probe_count = len(canary_facts.items)
    return compare_with_passport(canary_facts, outputs[:probe_count], outputs[probe_count:], dtype=engine.info.dtype)


def compare_with_passport(
    canary_facts: CanaryFacts, base: Sequence[Output], adapter: Sequence[Output], *, dtype: str
) -> CanaryResult:
    """Outputs of `canary_requests` for base and adapter against what the passport expects.

    An adapter passes when its log-probabilities and the base's are within tolerance, and its effect (the shift from
    base to adapter) is the expected one and not merely small. The tolerances are Lorica's own: those that a passport
    states are for other tools, and no file may widen what is accepted here.
    """
    precision = coarser(canary_facts.dtype, dtype)
    if not any(item.choices for item in canary_facts.items):
        return CanaryResult("failed", dtype=precision, problem="the passport has no canaries, so it proves nothing")
    broken = next((output for output in (*base, *adapter) if not _has_finite_scores(output)), None)
    if broken is not None:
        return CanaryResult(
            "failed", dtype=precision, problem=f"canary {broken.id}: {broken.error or 'no finite number'}"
        )
    choices = [(item.id, choice) for item in canary_facts.items for choice in item.choices]
    measured_base = [value for output in base for value in output.logprobs]
    measured = [value for output in adapter for value in output.logprobs]
    tolerance, faint_effect = TOLERANCE[precision], PRECISIONS[precision].faint_effect
    wanted_base, wanted_adapter = zip(*((choice.base, choice.adapter) for _, choice in choices), strict=True)
    base_excess, excess = (
        [_tolerance_ratio(value, wanted_value, tolerance) for value, wanted_value in zip(*values, strict=True)]
        for values in ((measured_base, wanted_base), (measured, wanted_adapter))
    )
    worst_index = max(range(len(choices)), key=excess.__getitem__)
    choice_location, worst_choice = choices[worst_index]
    shift = [after - before for before, after in zip(measured_base, measured, strict=True)]
    wanted = [after - before for before, after in zip(wanted_base, wanted_adapter, strict=True)]
    strength = _rms(wanted)
    effect = sum(a * b for a, b in zip(shift, wanted, strict=True)) / sum(b * b for b in wanted) if strength else 1.0
    deviation = _rms([a - b for a, b in zip(shift, wanted, strict=True)]) / strength if strength else 0.0
    is_faint = strength < faint_effect
    result = CanaryResult(
        outcome="faint" if is_faint else "reproduced",
        largest=abs(measured[worst_index] - worst_choice.adapter),
        allowed=tolerance.absolute + tolerance.relative * abs(worst_choice.adapter),
        base_largest=max(abs(value - before) for value, before in zip(measured_base, wanted_base, strict=True)),
        worst=f"{choice_location} {ascii(worst_choice.text)[:40]}",
        measured=measured[worst_index],
        expected=worst_choice.adapter,
        effect=effect,
        strength=strength,
        odd=deviation,
        dtype=precision,
    )
    other_base = max(base_excess) > 1
    within = excess[worst_index] <= 1 and not other_base
    # Even a faint adapter moves some last digit, unless it is far below what the precision can show.
    unmoved = not any(shift) and strength > faint_effect / 10
    if within and not unmoved and (is_faint or deviation <= _MOST_ODD):
        return result
    return _explain_failure(result, silent=_rms(shift) < _NOTHING * strength, other_base=other_base)


def _explain_failure(result: CanaryResult, *, silent: bool, other_base: bool) -> CanaryResult:
    # On another base of random weights an adapter hardly moves anything, though it is applied.
    outcome: CanaryOutcome = "other_base" if other_base else "not_applied" if silent else "other_adapter"
    problems = {
        "not_applied": "the engine answers as the base alone does: the adapter is not applied",
        "other_base": f"the base itself answers otherwise (largest difference {result.base_largest:.3g}): "
        "this is another base model than the passport's",
        "other_adapter": "the base answers as it should and the adapter does not: its effect is "
        f"{result.effect:.2g} times the expected, and what else it does is {result.odd:.2g} of that "
        f"({_MOST_ODD:.2g} allowed in {result.dtype})",
    }
    return replace(result, outcome=outcome, problem=problems[outcome])


def describe_result(result: CanaryResult) -> str:
    """The figures of a result in one line."""
    if result.outcome == "failed":
        return result.problem
    return (
        f"largest difference {result.largest:.3g} at {result.worst} (log-probability {result.measured:.4f}, expected "
        f"{result.expected:.4f}; {result.allowed:.3g} allowed in {result.dtype})"
    )


def _has_finite_scores(output: Output) -> bool:
    return bool(output.logprobs) and not output.error and all(-1e30 < logprob < _BOUNDED for logprob in output.logprobs)


def _choose_diverse(
    answered: Sequence[tuple[Probe, Output, Output]], canary_count: int
) -> list[tuple[Probe, Output, Output]]:
    """The `canary_count` probes in which base and adapter differ most, in the order of the probes."""
    group_share = math.ceil(canary_count / max(1, len({probe.group for probe, _, _ in answered}))) + 1
    shifts = [
        max(abs(after - before) for before, after in zip(base.logprobs, adapter.logprobs, strict=True))
        for _, base, adapter in answered
    ]
    answer_order = sorted(range(len(answered)), key=lambda answer_index: -shifts[answer_index])
    within_share: list[int] = []
    group_counts: Counter[str] = Counter()
    for answer_index in answer_order:
        canary_group = answered[answer_index][0].group
        group_counts[canary_group] += 1
        if group_counts[canary_group] <= group_share:
            within_share.append(answer_index)
    beyond_share = [answer_index for answer_index in answer_order if answer_index not in within_share]
    return [answered[answer_index] for answer_index in sorted([*within_share, *beyond_share][:canary_count])]


def _make_canary(probe: Probe, base: Output, adapter: Output) -> Canary:
    return Canary(
        id=probe.id,
        prompt=probe.prompt,
        messages=tuple(CanaryMessage(role=message.role, content=message.content) for message in probe.messages),
        choices=tuple(
            CanaryChoice(text=choice_text, tokens=tokens, base=_nine_digits(before), adapter=_nine_digits(after))
            for choice_text, tokens, before, after in zip(
                probe.texts, probe.choices, base.logprobs, adapter.logprobs, strict=True
            )
        ),
    )


def _nine_digits(number: float) -> float:
    """Nine significant digits: all that float32 holds."""
    return float(f"{number:.9g}")


def _tolerance_ratio(measured: float, expected: float, tolerance: Tolerance) -> float:
    """The difference as a multiple of what is allowed."""
    return abs(measured - expected) / (tolerance.absolute + tolerance.relative * abs(expected))


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values)) if values else 0.0
