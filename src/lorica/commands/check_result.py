"""What `lorica check` and `lorica.check` give: every adapter with its verdict, and the order in which to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lorica.vetting.findings import EXIT_CODES, Finding, Status, Verdict
from lorica.vetting.levels import Examination
from lorica.vetting.ranking import Standing, rank

if TYPE_CHECKING:
    from lorica.vetting.base_checks import BaseCheckResult  # loads torch, which the levels on files do without


@dataclass(frozen=True)
class AdapterCheck:
    """One adapter among those that were checked.

    examination: all that is known of it. on_base: what trying it on the base model gave, None without a base. rank: in
    the ranking, from 1. above: why it stands above the next one, "" for the last.
    """

    examination: Examination
    on_base: BaseCheckResult | None
    rank: int
    above: str

    @property
    def name(self) -> str:
        """The adapter's name, different from those of the others."""
        return self.examination.source.name

    @cached_property
    def verdict(self) -> Verdict:
        """What its findings add up to, level by level."""
        return self.examination.verdict

    @property
    def status(self) -> Status:
        """`trusted`, `warnings`, `rejected` or `unchecked`."""
        return self.verdict.status

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, the gravest first."""
        return self.verdict.findings


@dataclass(frozen=True)
class CheckResult:
    """adapters: in the order in which they were found. not_checked: folders that were not looked into."""

    adapters: tuple[AdapterCheck, ...]
    not_checked: tuple[Path, ...] = ()

    @cached_property
    def ranked(self) -> tuple[AdapterCheck, ...]:
        """The adapters, the one to trust first at the beginning."""
        return tuple(sorted(self.adapters, key=lambda adapter: adapter.rank))

    @property
    def exit_code(self) -> int:
        """The exit code of `lorica check`: 0 trusted, 10 warnings, 11 rejected, 12 unchecked; the worst counts."""
        return max(EXIT_CODES[adapter.status] for adapter in self.adapters)

    @property
    def runs(self) -> list[tuple[str, list[str]]]:
        """The training runs of which there are several checkpoints: the run, and names in the order of their steps."""
        findings = (finding for adapter in self.adapters for finding in adapter.examination.findings)
        sequences = (finding.facts for finding in findings if finding.code == "L256")
        return list(
            {tuple(run_facts["members"]): (run_facts["run"], run_facts["members"]) for run_facts in sequences}.values()
        )


def rank_adapters(
    examinations: Sequence[Examination],
    on_base: Sequence[BaseCheckResult | None],
    not_checked: Sequence[Path],
) -> CheckResult:
    """The result of a check. on_base: [n], of the same adapters as `examinations`."""
    standings = [
        Standing(
            verdict=examination.verdict,
            gain=None if base_result is None else base_result.gain,
            metric=None if base_result is None else base_result.metric,
        )
        for examination, base_result in zip(examinations, on_base, strict=True)
    ]
    ranking = {ranked_adapter.name: ranked_adapter for ranked_adapter in rank(standings)}
    adapters = (
        AdapterCheck(examination, base_result, ranking[adapter_name].position, ranking[adapter_name].above)
        for examination, base_result in zip(examinations, on_base, strict=True)
        for adapter_name in (examination.source.name,)
    )
    return CheckResult(tuple(adapters), tuple(not_checked))
