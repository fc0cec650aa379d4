"""Canaries: a few prompts whose log-probabilities tell an applied adapter from any other state of an engine."""

from __future__ import annotations

import math
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
    name: str,
    probes: Sequence[Probe],
    *,
    kind: Literal["probes", "numbers", "rows"] = "probes",
    count: int = FEWEST_CANARIES,
) -> CanaryFacts:
    """The probes in which base and adapter `name` (known to the engine) differ most, with what both say to them.

    No group gives more than its share while others have probes left. Equal engines give equal canaries. Raises
    AdapterError when fewer than `count` probes could be answered.
    """
    requests = [
        _request(probe.id, probe.prompt, probe.choices, adapter) for adapter in (None, name) for probe in probes
    ]
    outputs = engine.run(requests)
    half = len(probes)
    answered = [
        (probe, base, adapter)
        for probe, base, adapter in zip(probes, outputs[:half], outputs[half:], strict=True)
        if _has_finite_scores(base) and _has_finite_scores(adapter)
    ]
    if len(answered) < count:
        problem = next(
            (output.error for output in outputs if not _has_finite_scores(output) and output.error), "no finite numbers"
        )
        raise AdapterError(
            f"adapter {name!r}: {len(answered)} of {half} probes could be answered, and {count} are needed: {problem}",
            fix="check the adapter with `lorica check`",
        )
    chosen = _choose_diverse(answered, count)
    items = tuple(_make_canary(probe, base, adapter) for probe, base, adapter in chosen)
    info = engine.info
    return CanaryFacts(
        engine=info.name,
        dtype=info.dtype,
        device=info.device,
        kind=kind,
        gap=max(abs(choice.adapter - choice.base) for canary in items for choice in canary.choices),
        tolerance=dict(TOLERANCE),
        items=items,
    )


def canary_requests(facts: CanaryFacts, adapter: str | None) -> list[ScoreChoices]:
    """What an engine is asked, in the order of the canaries; adapter None asks the base."""
    return [
        _request(item.id, item.prompt, tuple(choice.tokens for choice in item.choices), adapter) for item in facts.items
    ]


def run_canaries(engine: Engine, name: str, facts: CanaryFacts) -> CanaryResult:
    """Ask base and adapter `name`, which the engine knows, and compare."""
    outputs = engine.run([*canary_requests(facts, None), *canary_requests(facts, name)])
    half = len(facts.items)
    return compare_with_passport(facts, outputs[:half], outputs[half:], dtype=engine.info.dtype)


def compare_with_passport(
    facts: CanaryFacts, base: Sequence[Output], adapter: Sequence[Output], *, dtype: str
) -> CanaryResult:
    """Outputs of `canary_requests` for base and adapter against what the passport expects.

    An adapter passes when its log-probabilities and the base's are within tolerance, and its effect (the shift from
    base to adapter) is the expected one and not merely small. The tolerances are Lorica's own: those that a passport
    states are for other tools, and no file may widen what is accepted here.
    """
    precision = coarser(facts.dtype, dtype)
    if not any(item.choices for item in facts.items):
        return CanaryResult("failed", dtype=precision, problem="the passport has no canaries, so it proves nothing")
    broken = next((output for output in (*base, *adapter) if not _has_finite_scores(output)), None)
    if broken is not None:
        return CanaryResult(
            "failed", dtype=precision, problem=f"canary {broken.id}: {broken.error or 'no finite number'}"
        )
    choices = [(item.id, choice) for item in facts.items for choice in item.choices]
    measured_base = [value for output in base for value in output.logprobs]
    measured = [value for output in adapter for value in output.logprobs]
    tolerance, faint_effect = TOLERANCE[precision], PRECISIONS[precision].faint_effect
    excess = [
        _tolerance_ratio(value, choice.adapter, tolerance) for value, (_, choice) in zip(measured, choices, strict=True)
    ]
    base_excess = [
        _tolerance_ratio(value, choice.base, tolerance)
        for value, (_, choice) in zip(measured_base, choices, strict=True)
    ]
    at = max(range(len(choices)), key=excess.__getitem__)
    where, worst = choices[at]
    shift = [after - before for before, after in zip(measured_base, measured, strict=True)]
    wanted = [choice.adapter - choice.base for _, choice in choices]
    strength = _rms(wanted)
    effect = sum(a * b for a, b in zip(shift, wanted, strict=True)) / sum(b * b for b in wanted) if strength else 1.0
    odd = _rms([a - b for a, b in zip(shift, wanted, strict=True)]) / strength if strength else 0.0
    faint = strength < faint_effect
    result = CanaryResult(
        outcome="faint" if faint else "reproduced",
        largest=abs(measured[at] - worst.adapter),
        allowed=tolerance.absolute + tolerance.relative * abs(worst.adapter),
        base_largest=max(abs(value - choice.base) for value, (_, choice) in zip(measured_base, choices, strict=True)),
        worst=f"{where} {ascii(worst.text)[:40]}",
        measured=measured[at],
        expected=worst.adapter,
        effect=effect,
        strength=strength,
        odd=odd,
        dtype=precision,
    )
    other_base = max(base_excess) > 1
    within = excess[at] <= 1 and not other_base
    # Even a faint adapter moves some last digit, unless it is far below what the precision can show.
    unmoved = not any(shift) and strength > faint_effect / 10
    if within and not unmoved and (faint or odd <= _MOST_ODD):
        return result
    return _explain_failure(result, silent=_rms(shift) < _NOTHING * strength, other_base=other_base)


def _explain_failure(result: CanaryResult, *, silent: bool, other_base: bool) -> CanaryResult:
    # On another base of random weights an adapter hardly moves anything, though it is applied.
    if silent and not other_base:
        why = "the engine answers as the base alone does: the adapter is not applied"
        return replace(result, outcome="not_applied", problem=why)
    if other_base:
        why = (
            f"the base itself answers otherwise (largest difference {result.base_largest:.3g}): "
            "this is another base model than the passport's"
        )
        return replace(result, outcome="other_base", problem=why)
    why = (
        f"the base answers as it should and the adapter does not: its effect is {result.effect:.2g} times the "
        f"expected, and what else it does is {result.odd:.2g} of that ({_MOST_ODD:.2g} allowed in {result.dtype})"
    )
    return replace(result, outcome="other_adapter", problem=why)


def describe_result(result: CanaryResult) -> str:
    """The figures of a result in one line."""
    if result.outcome == "failed":
        return result.problem
    return (
        f"largest difference {result.largest:.3g} at {result.worst} (log-probability {result.measured:.4f}, expected "
        f"{result.expected:.4f}; {result.allowed:.3g} allowed in {result.dtype})"
    )


def _request(
    name: str, prompt: tuple[int, ...], choices: tuple[tuple[int, ...], ...], adapter: str | None
) -> ScoreChoices:
    return ScoreChoices(name, prompt, choices, adapter)


def _has_finite_scores(output: Output) -> bool:
    return bool(output.logprobs) and not output.error and all(-1e30 < value < _BOUNDED for value in output.logprobs)


def _choose_diverse(answered: Sequence[tuple[Probe, Output, Output]], count: int) -> list[tuple[Probe, Output, Output]]:
    """The `count` probes in which base and adapter differ most, in the order of the probes."""
    share = math.ceil(count / max(1, len({probe.group for probe, _, _ in answered}))) + 1
    order = sorted(range(len(answered)), key=lambda index: (-_largest_shift(answered[index]), index))
    taken: list[int] = []
    used: dict[str, int] = {}
    for index in order:
        group = answered[index][0].group
        if len(taken) < count and used.get(group, 0) < share:
            taken.append(index)
            used[group] = used.get(group, 0) + 1
    taken += [index for index in order if index not in taken][: count - len(taken)]
    return [answered[index] for index in sorted(taken)]


def _largest_shift(measured: tuple[Probe, Output, Output]) -> float:
    _, base, adapter = measured
    return max(abs(a - b) for a, b in zip(adapter.logprobs, base.logprobs, strict=True))


def _make_canary(probe: Probe, base: Output, adapter: Output) -> Canary:
    return Canary(
        id=probe.id,
        prompt=probe.prompt,
        messages=tuple(CanaryMessage(role=message.role, content=message.content) for message in probe.messages),
        choices=tuple(
            CanaryChoice(text=text, tokens=tokens, base=_nine_digits(before), adapter=_nine_digits(after))
            for text, tokens, before, after in zip(
                probe.texts, probe.choices, base.logprobs, adapter.logprobs, strict=True
            )
        ),
    )


def _nine_digits(value: float) -> float:
    """Nine significant digits: all that float32 holds."""
    return float(f"{value:.9g}")


def _tolerance_ratio(measured: float, expected: float, tolerance: Tolerance) -> float:
    """The difference as a multiple of what is allowed."""
    return abs(measured - expected) / (tolerance.absolute + tolerance.relative * abs(expected))


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values)) if values else 0.0
