"""On the fault bench's kinds of behaviour: `check` and `diagnose` report the same numbers of one adapter."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.vetting.diagnosis.test_measured import shared_records
from tools.fault_kinds import behaviour
from tools.fault_kinds.case import BASES, Kind, Site
from tools.fault_run.judge import Judge

from lorica.vetting.batch import examine_all
from lorica.vetting.diagnosis import DiagnosisInputs, diagnose
from lorica.vetting.files.sources import find_sources
from tools import zoo


@pytest.mark.parametrize("kind", behaviour.KINDS, ids=lambda kind: kind.name)
def test_check_and_diagnosis_report_the_same_numbers(kind: Kind, tmp_path: Path) -> None:
    if not set(BASES) <= {adapter.base for adapter in zoo.adapters()}:
        pytest.skip("needs the zoo: python -m tools.zoo")
    case, judge = kind.build(Site(0, tmp_path)), Judge(128)
    with ExitStack() as stack:
        (examination,) = examine_all(find_sources([case.path]), stack, jobs=1)
        _, checked = judge._bench(case, kind, 4).run(examination)
    session = judge._session(case, True)
    diagnosed = diagnose(case.path, DiagnosisInputs(base=case.base, rows=judge._rows, session=session)).measured
    if checked.behaviour is not None and diagnosed is not None:  # a rejected adapter is not asked
        shared_records(diagnosed, checked.behaviour)
