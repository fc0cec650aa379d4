"""On every kind of the fault bench: `check` and `diagnose` report the same numbers of one adapter.

Kinds that a small adapter on a small base can have are built on those, the others on the zoo, where it is there.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.vetting.diagnosis.test_measured import shared_records
from tools.fault_kinds.all_kinds import KINDS
from tools.fault_kinds.bundle import Bundle, read_bundle
from tools.fault_kinds.case import BASES, Case, Kind, Site

from lorica.errors import LoricaError
from lorica.records import Row
from lorica.tasks.base import TaskSettings
from lorica.vetting.base_checks import check_behaviour
from lorica.vetting.batch import examine_all
from lorica.vetting.diagnosis import DiagnosisInputs, diagnose
from lorica.vetting.files.sources import find_sources
from lorica.vetting.measure.model_session import ModelSession, SessionSettings
from tools import zoo

MAX_ROWS = 24


class SmallSite(Site):
    """A site whose healthy adapter is the fixture's."""

    def __init__(self, place: Path, adapter: Path, base: Path) -> None:
        super().__init__(0, place)
        self._adapter, self._base = adapter, base

    def start(self, *, targets: int = 1, bases: tuple[str, ...] = ()) -> tuple[Bundle, Path]:
        """The adapter and its base."""
        return read_bundle(self._adapter), self._base


class SharedSessions:
    """Sessions by what they are asked, so that a base that many kinds share is loaded and scored once."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[Path, str], ModelSession] = {}

    def session(self, base: Path, style: str) -> ModelSession:
        """The session of a base and a prompt style."""
        key = base, style
        if key not in self._sessions:
            settings = SessionSettings(base, task="rules", task_settings=TaskSettings(style=style))
            self._sessions[key] = ModelSession(settings)
        return self._sessions[key]


@pytest.fixture(scope="module")
def sessions() -> SharedSessions:
    return SharedSessions()


def build_case(kind: Kind, place: Path, adapter: Path, base: Path) -> Case:
    small_place, zoo_place = place / "small", place / "zoo"
    small_place.mkdir()
    zoo_place.mkdir()
    try:
        return kind.build(SmallSite(small_place, adapter, base))
    except Exception:  # it asks for a sibling, a relative or another base: those are the zoo's
        if not set(BASES) <= {info.base for info in zoo.adapters()}:
            pytest.skip("needs the zoo: python -m tools.zoo")
        return kind.build(Site(0, zoo_place))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_check_and_diagnosis_report_the_same_numbers(
    kind: Kind,
    trained: Path,
    bases: tuple[Path, Path],
    held_out: tuple[Row, ...],
    sessions: SharedSessions,
    tmp_path: Path,
) -> None:
    case = build_case(kind, tmp_path, trained, bases[0])
    with ExitStack() as stack:
        (examination,) = examine_all(find_sources([case.path]), stack, jobs=1)
        specimen, layout = examination.specimen, examination.layout
        if examination.verdict.status == "rejected" or specimen is None or layout is None or not case.base.is_dir():
            return  # `check` asks it nothing
        session, rows = sessions.session(case.base, case.style), held_out[:MAX_ROWS]
        try:
            checked, _ = check_behaviour(specimen, layout, session, rows)
        except LoricaError:  # a base that cannot be asked
            return
        diagnosed = diagnose(case.path, DiagnosisInputs(base=case.base, rows=rows, session=session)).measured
    if checked.n and diagnosed is not None and diagnosed.n:
        assert "divergence" in shared_records(diagnosed, checked)
