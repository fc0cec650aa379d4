"""Probes: every task has enough of them, and rows and plain token ids can be probes, too."""

from __future__ import annotations

import pytest
from tests.passports import BASE

from lorica.admission.probes import number_probes, row_probes, shipped_probes
from lorica.models.base_folder import BaseFolder
from lorica.prompts.encoder import Encoder
from lorica.tasks import TASKS, load_task
from lorica.tasks.base import TaskSettings


@pytest.mark.parametrize("task", [*TASKS, None])
def test_every_task_has_probes(task: str | None) -> None:
    encoder = Encoder.load(BASE)
    styles = ("plain", "structured", "contrastive") if task == "rules" else ("",)
    for style in styles:
        asked = None if task is None else load_task(task, TaskSettings(style=style))
        probes = shipped_probes(asked, encoder, BaseFolder(BASE))
        assert len(probes) >= 30
        assert len({probe.prompt for probe in probes}) == len(probes)
        assert all(len(probe.choices) >= 2 for probe in probes)


@pytest.mark.parametrize("method", ["choice", "generate"])
def test_rows_can_be_probes(method: str) -> None:
    from lorica.data.read import rows_from_memory

    task = load_task("rules", TaskSettings(method=method))
    rows = rows_from_memory([{"body": "post", "rule": "be kind", "rule_violation": "1"}], task.schemas)
    (probe,) = row_probes(task, rows, Encoder.load(BASE), BaseFolder(BASE))
    assert probe.texts == (("Yes", "No") if method == "choice" else ("1.0", "0.0", "0.5"))


def test_probes_of_numbers_need_no_tokenizer() -> None:
    probes = number_probes(BaseFolder(BASE))
    assert len({probe.prompt for probe in probes}) == len(probes) >= 8
