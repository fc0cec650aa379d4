"""The passport's canaries in an engine, as findings."""

from __future__ import annotations

from lorica.adapters.member import open_member
from lorica.adapters.passport import PASSPORT_NAME
from lorica.adapters.raw_adapter import RawAdapter
from lorica.admission.canaries import CanaryOutcome, CanaryResult, describe_result, run_canaries
from lorica.engines.base import Engine
from lorica.errors import LoricaError
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import shown

_CODES: dict[CanaryOutcome, str] = {
    "reproduced": "L374",
    "faint": "L375",
    "not_applied": "L370",
    "other_base": "L371",
    "other_adapter": "L372",
    "failed": "L373",
}


def check_canaries(specimen: RawAdapter, engine: Engine, name: str = "") -> list[Finding]:
    """Ask the canaries of base and adapter in this engine. Nothing without a readable passport.

    name: the adapter's name in the engine, to which it is added where it is not there (`specimen.name` if empty).
    """
    passport = specimen.passport
    if passport is None or not passport.canaries.items:
        return []
    adapter_name = name or specimen.name
    try:
        engine.add_adapter(adapter_name, open_member(specimen.folder))
        canary_result = run_canaries(engine, adapter_name, passport.canaries)
    except LoricaError as error:
        # The folder may be where an archive was unpacked, which is nowhere by the time this is read.
        message = error.message.replace(str(specimen.folder), specimen.name)
        return [finding("L376", shown(message, 200), file=PASSPORT_NAME)]
    return [canary_finding(canary_result, len(passport.canaries.items))]


def canary_finding(canary_result: CanaryResult, canary_count: int) -> Finding:
    """One trial of `canary_count` canaries as a finding."""
    actual = describe_result(canary_result)
    if canary_result.ok:
        actual = f"{canary_count} canaries: {actual}"
    elif actual != canary_result.problem:
        actual = f"{canary_result.problem}; {actual}"
    expected = "" if canary_result.ok else "the log-probabilities of the passport"
    measured = ("largest", "allowed", "base_largest", "effect", "odd", "dtype")
    facts = {"reading": canary_result.outcome} | {figure: getattr(canary_result, figure) for figure in measured}
    return finding(_CODES[canary_result.outcome], actual, expected=expected, file=PASSPORT_NAME, facts=facts)
