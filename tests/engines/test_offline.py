"""The transformers engine says nothing on the screen and never reaches for the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers.utils import logging

from lorica.models.offline import offline

# A process of its own: what libraries print at their import is printed once.
SCRIPT = """
import sys
from pathlib import Path
sys.modules["kernels"] = None  # as it is where the package is not installed
calls = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, args: event in calls and print("NETWORK", event))
from lorica.adapters.folder import open_adapter
from lorica.engines.base import EngineSettings
from lorica.engines.transformers import TransformersEngine
from lorica.models.base_folder import BaseFolder
from lorica.records import ScoreChoices, Generate, Sampling
engine = TransformersEngine(BaseFolder(Path(sys.argv[1])), EngineSettings(dtype="float32", device="cpu"))
engine.add_adapter("one", open_adapter(Path(sys.argv[2])))
outputs = engine.run([ScoreChoices("a", (1, 2), ((1,),), "one"), Generate("b", (1, 2), Sampling(2))])
print([output.error for output in outputs])
"""


@pytest.mark.slow
def test_nothing_is_printed_and_nobody_is_called(benches: Callable[[str], Any], tmp_path: Path) -> None:
    bench = benches("gemma")
    adapter = tmp_path / "adapter"
    shutil.copytree(bench.adapters["algebra"], adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "organisation/a-base-on-the-hub"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(bench.base), str(adapter)],
        env=environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["['', '']"], "")


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_within_the_block_the_hub_is_out_of_reach_and_afterwards_all_is_as_before(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before == "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if before is not None:
        monkeypatch.setenv("HF_HUB_OFFLINE", before)
    drawing = logging.is_progress_bar_enabled()
    with offline():
        assert not logging.is_progress_bar_enabled()
        with pytest.raises(OfflineModeIsEnabled):
            get_session().get("https://hub.invalid/model")
    assert (before == "1") is constants.HF_HUB_OFFLINE
    assert os.environ.get("HF_HUB_OFFLINE") == before
    assert logging.is_progress_bar_enabled() is drawing


def test_progress_bars_that_were_off_stay_off() -> None:
    logging.disable_progress_bar()
    try:
        with offline():
            pass
        assert not logging.is_progress_bar_enabled()
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.enable_progress_bar()
