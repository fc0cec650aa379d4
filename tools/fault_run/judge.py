"""What `lorica check`, `lorica diagnose` and PEFT say of one case. Bases are loaded once and shared."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from lorica.engines.base import EngineSettings
from lorica.errors import LoricaError
from lorica.records import Row
from lorica.tasks.base import TaskSettings
from lorica.vetting.base_checks import BaseChecker
from lorica.vetting.batch import examine_all
from lorica.vetting.diagnosis import DiagnosisInputs, diagnose
from lorica.vetting.diagnosis.posterior import posteriors
from lorica.vetting.files.sources import find_sources
from lorica.vetting.findings import Finding, finding_codes, judge
from lorica.vetting.levels import Examination
from lorica.vetting.measure.model_session import ModelSession, SessionSettings
from lorica.vetting.score_columns import read_scores
from lorica.vetting.score_findings import check_scores
from tools import zoo
from tools.fault_kinds.case import Case, Kind
from tools.fault_run.harm import auc, harmless
from tools.fault_run.peft_column import load_with_peft

Key = TypeVar("Key")
Made = TypeVar("Made")
SHOWN = 6  # hypotheses kept in the log


class Judge:
    """Judges cases one after the other. rows: how many held-out rows each is asked."""

    def __init__(self, rows: int) -> None:
        self._rows: tuple[Row, ...] = tuple(zoo.rows()[1][:rows])
        self._before: dict[tuple[Path, str], float | None] = {}
        self._benches: dict[tuple[Path, str, bool, int], BaseChecker] = {}
        self._places: dict[tuple[Path, str, bool], ModelSession] = {}

    def judge(self, kind: Kind, case: Case, causes: frozenset[str]) -> dict[str, Any]:
        """One case's part of its entry in the log."""
        return {
            "check": _timed(lambda: self._check(kind, case, causes)),
            "diagnosis": _timed(lambda: self._diagnose(kind, case)),
            "peft": _timed(lambda: load_with_peft(case.path, case.base)),
        }

    def harm(self, kind: Kind, case: Case, used: zoo.AdapterInfo | None) -> dict[str, Any]:
        """The AUC before and after a fault of behaviour."""
        if kind.level != "behaviour" or kind.healthy or case.answers is not None:
            return {}
        before = None
        if used is not None or case.sound is not None:
            folder, style = case.sound or (used.folder if used is not None else Path(), "")
            base = case.base if used is None else zoo.root() / "bases" / used.base
            if (folder, style) not in self._before:
                self._before[folder, style] = auc(base, folder, self._rows, style)
            before = self._before[folder, style]
        after = auc(case.base, case.path, self._rows, case.style)
        return {"auc_before": before, "auc": after, "harmless": harmless(before, after)}

    def _check(self, kind: Kind, case: Case, causes: frozenset[str]) -> dict[str, Any]:
        try:
            with ExitStack() as stack:
                found = examine_all(find_sources([case.path]), stack, jobs=1)
                tops = {"files": (), "base": (3, 4), "behaviour": (4,)}[kind.level]
                unable: tuple[str, ...] = ()
                for top in tops:
                    tried = [self._bench(case, kind, top).run(each) for each in found]
                    unable = tried[0][1].unable
                    if top == tops[-1] or tried[0][0].verdict.status == "rejected":
                        found = [each for each, _ in tried]
                        break
                return self._told(found, case, causes) | {"unable": list(unable)}
        except LoricaError as error:
            return {"status": "unchecked", "caught": "refused", "said": str(error)[:300], "findings": []}

    def _told(self, found: list[Examination], case: Case, causes: frozenset[str]) -> dict[str, Any]:
        verdict = found[0].verdict
        findings = [*verdict.findings, *self._scores(case)]
        status = judge("", "", findings, found[0].ran, readable=verdict.status != "unchecked").status
        return {"status": status, "caught": caught(status, findings, causes), "findings": _short(findings)}

    def _scores(self, case: Case) -> list[Finding]:
        if case.answers is None:
            return []
        gold = {row.id: row.gold for row in self._rows if isinstance(row.gold, int)}
        return check_scores(read_scores(case.answers, gold=gold))[1]

    def _diagnose(self, kind: Kind, case: Case) -> dict[str, Any]:
        asked = kind.level == "behaviour"
        base = None if kind.level == "files" else case.base
        inputs = DiagnosisInputs(
            base=base,
            rows=self._rows if asked else (),
            answers=case.answers,
            session=None if base is None else self._session(case, asked),
            rows_file="held_out.csv" if asked else "",
        )
        try:
            diagnosis = diagnose(case.path, inputs)
        except LoricaError as error:
            return {"causes": [], "said": str(error)[:300]}
        shares = posteriors(diagnosis.evidence)
        leading = diagnosis.hypotheses[:SHOWN]
        return {
            "causes": [hypothesis.cause for hypothesis in leading],
            "certainties": [hypothesis.certainty for hypothesis in leading],
            "posteriors": [round(shares[hypothesis.cause], 3) for hypothesis in leading],
            "for": [f"{item.direction}: {item.text[:160]}" for item in leading[0].evidence_for[:3]],
            "ran": [result.name for result in diagnosis.experiments],
            "untested": [line[:160] for line in diagnosis.untested[:3]],
        }

    def _setting(self, case: Case, asked: bool) -> SessionSettings:
        return SessionSettings(
            base=case.base,
            task="rules" if asked else "",
            task_settings=TaskSettings(style=case.style if asked else ""),
            engine_settings=EngineSettings(dtype="float32", device="cpu", threads=1),
        )

    def _session(self, case: Case, asked: bool) -> ModelSession:
        return _kept(self._places, (case.base, case.style, asked), lambda: ModelSession(self._setting(case, asked)))

    def _bench(self, case: Case, kind: Kind, top: int) -> BaseChecker:
        asked = kind.level == "behaviour"
        key = (case.base, case.style, asked, top)
        rows = self._rows if asked else None
        return _kept(self._benches, key, lambda: BaseChecker(self._setting(case, asked), rows, top=top, deep=True))


def caught(status: str, findings: list[Finding], causes: frozenset[str]) -> str:
    """rejected, warned (a warning speaks for a right cause), warned otherwise, or missed."""
    if status == "rejected":
        return "rejected"
    if status != "warnings":
        return "missed"
    warnings = [each for each in findings if each.severity == "warn"]
    return "warned" if any(causes & set(finding_codes()[each.code].causes) for each in warnings) else "warned otherwise"


def _kept(store: dict[Key, Made], key: Key, make: Callable[[], Made]) -> Made:
    if key not in store:
        if len(store) > 24:  # bases of single cases come and go
            store.pop(next(iter(store)))
        store[key] = make()
    return store[key]


def _short(findings: list[Finding]) -> list[list[str]]:
    return [[each.code, each.severity, each.seen[:200]] for each in findings if each.severity != "note"][:12]


def _timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        found = work()
    except Exception:  # a crash is a result of the bench, and stands in its log
        found = {"crash": traceback.format_exc(limit=-3)[-900:]}
    return found | {"seconds": round(time.perf_counter() - started, 2)}
