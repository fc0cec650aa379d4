"""What a check says: findings with stable codes, and the verdict they add up to.

    L0 safe to read · L1 structure and claims · L2 numbers · L3 base · L4 behaviour

A finding's code never changes its meaning; `findings.toml` lists them all, docs/findings.md shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from lorica.errors import UNCHECKED
from lorica.vetting.finding_codes import Severity, finding_codes

LEVELS = {0: "files", 1: "structure", 2: "numbers", 3: "base", 4: "behaviour"}

Status = Literal["trusted", "warnings", "rejected", "unchecked"]
LevelResult = Literal["passed", "noted", "warned", "failed", "skipped"]

# For scripts and CI: numbers that no error has (`lorica.errors`). The highest of several adapters' counts.
EXIT_CODES: dict[Status, int] = {"trusted": 0, "warnings": 10, "rejected": 11, "unchecked": UNCHECKED}


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One observation of a check. `file` is relative to the adapter ("" when no one file is meant).

    seen, expected, fix: for people, one line each. facts: the same as numbers, for the diagnosis and for programs.
    """

    code: str
    severity: Severity
    seen: str
    expected: str = ""
    fix: str = ""
    file: str = ""
    facts: dict[str, Any] = {}

    @property
    def level(self) -> int:
        """0 to 4, from the code."""
        return int(self.code[1])

    @property
    def title(self) -> str:
        """What findings of this code have in common."""
        return finding_codes()[self.code].title


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found about one adapter. levels: level -> how it went; a level that could not run is skipped."""

    name: str
    path: str
    status: Status
    levels: dict[int, LevelResult]
    findings: tuple[Finding, ...]


def finding(
    code: str,
    seen: str,
    *,
    expected: str = "",
    fix: str = "",
    file: str = "",
    facts: Mapping[str, Any] | None = None,
    severity: Severity | None = None,
) -> Finding:
    """A finding of a listed code, with its usual severity and fix unless others are given. KeyError for another."""
    code_row = finding_codes()[code]
    return Finding(
        code=code,
        severity=severity or code_row.severity,
        seen=seen,
        expected=expected,
        fix=fix or code_row.fix,
        file=file,
        facts=dict(facts or {}),
    )


def judge(
    name: str, path: str, findings: Iterable[Finding], levels_run: Iterable[int], *, readable: bool = True
) -> Verdict:
    """The verdict over findings. levels_run: those that were carried out. readable: whether anything could be judged.

    Any `reject` rejects; else any `warn` warns. Notes never change the verdict.
    """
    ordered = tuple(sorted(findings, key=lambda finding: (_WEIGHT[finding.severity], finding.code, finding.file)))
    levels: dict[int, LevelResult] = dict.fromkeys(LEVELS, "skipped")
    for level in levels_run:
        worst = min(
            (_WEIGHT[finding.severity] for finding in ordered if finding.level == level), default=len(_RESULTS) - 1
        )
        levels[level] = _RESULTS[worst]
    severities = {finding.severity for finding in ordered}
    status: Status = "rejected" if "reject" in severities else "warnings" if "warn" in severities else "trusted"
    return Verdict(name=name, path=path, status=status if readable else "unchecked", levels=levels, findings=ordered)


_WEIGHT: dict[Severity, int] = {"reject": 0, "warn": 1, "note": 2}
_RESULTS: tuple[LevelResult, ...] = ("failed", "warned", "noted", "passed")
