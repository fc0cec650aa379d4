"""A run that its listener ends keeps its state, and goes on to the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.tiny import KILLED, Recorder, run

from lorica.training.types import TrainingStopped


class Impatient(Recorder):
    """Ends a run after so many updates."""

    def __init__(self, last_step: int) -> None:
        super().__init__()
        self.last_step = last_step

    def stop_reason(self) -> str:
        return "enough" if self.steps and self.steps[-1].step >= self.last_step else ""


@pytest.mark.parametrize("last_step", [1, 5])  # between two checkpoints; at an evaluation
def test_it_goes_on_exactly(tmp_path: Path, last_step: int) -> None:
    whole = run(tmp_path / "whole", KILLED)
    listener = Impatient(last_step)
    with pytest.raises(TrainingStopped, match="enough"):
        run(tmp_path / "stopped", KILLED, listener=listener)
    assert listener.steps[-1].step == last_step
    assert listener.closings == 1
    assert not (tmp_path / "stopped" / "adapter_config.json").exists()
    result = run(tmp_path / "stopped", replace(KILLED, resume=True))
    assert (result.steps, result.best_step) == (whole.steps, whole.best_step)
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_the_last_update_is_published_all_the_same(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", KILLED)
    result = run(tmp_path / "stopped", KILLED, listener=Impatient(whole.steps))
    assert result.steps == whole.steps
