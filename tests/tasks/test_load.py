"""The table of tasks, and what every task promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lorica
from lorica.data.read import rows_from_memory
from lorica.errors import ConfigError
from lorica.metrics.metric_table import METRICS
from lorica.records import Row
from lorica.tasks import TASKS, load_task
from lorica.tasks.base import TaskSettings

RECORDS: dict[str, dict[str, Any]] = {
    "rules": {"body": "Buy pills", "rule": "No ads", "rule_violation": "1"},
    "mcq": {"question": "2 + 2?", "options": ["3", "4"], "answer": "B"},
    "saq": {"question": "Capital of Peru?", "answer": "Lima"},
    "qa": {"question": "Capital of Peru?", "answer": "Lima.", "subject": "geography"},
}


def row_of(name: str) -> Row:
    return rows_from_memory([RECORDS[name]], load_task(name).schemas)[0]


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_renders_targets_and_names_known_metrics(name: str) -> None:
    task = load_task(name)
    row = row_of(name)
    assert task.name == name
    assert [m.role for m in task.render(row)][-1] == "user"
    assert task.target(row) in {"Yes", "B", "Lima", "Lima."}
    assert task.text(row)
    assert set(task.metric_names) <= set(METRICS)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_row_of_another_task_is_refused(name: str) -> None:
    other = row_of("mcq" if name != "mcq" else "rules")
    with pytest.raises(TypeError, match="row-1"):
        load_task(name).render(other)


@pytest.mark.parametrize("name", list(TASKS))
def test_no_target_without_gold(name: str) -> None:
    record = {k: v for k, v in RECORDS[name].items() if k not in ("answer", "rule_violation")}
    task = load_task(name)
    (row,) = rows_from_memory([record], task.schemas)
    assert row.gold is None
    with pytest.raises(ValueError, match="nothing to train on"):
        task.target(row)


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"(?s)'rule'.*did you mean 'rules'"):
        load_task("rule")
    with pytest.raises(ConfigError, match=r"(?s)method='vote'.*'choice' or 'generate'"):
        load_task("rules", TaskSettings(method="vote"))
    with pytest.raises(ConfigError, match=r"(?s)style='plain'.*'saq'.*leave task.style empty"):
        load_task("saq", TaskSettings(style="plain"))


def test_only_the_task_asked_for_is_imported() -> None:
    code = (
        "import sys; from lorica.tasks import load_task; from lorica.tasks.base import TaskSettings\n"
        "load_task('saq'); print([m for m in sys.modules if m in "
        "('lorica.tasks.mcq', 'lorica.tasks.rules', 'torch', 'numpy')])"
    )
    source = str(Path(lorica.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source}, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
