"""Run folders to read, without running anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lorica.metrics.bootstrap import Estimate
from lorica.runs.run_folder import RunFolder
from lorica.runs.run_record import RunFile, RunRecord

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a finished run of `eval` into tmp_path/NAME; keywords are fields of its record."""

    def make(name: str, roc_auc: float = 0.9, **changes: Any) -> Path:
        folder = tmp_path / name
        record = RunRecord(
            command="eval",
            task="rules",
            config={"lora": {"r": 8}, "model": {"path": "models/qwen3-0.6b"}, "engine": {"share_prefixes": True}},
            origins={"lora.r": "command line"},
            inputs=[
                RunFile(role="answers", path=f"{name}.csv", digest=f"sha256:{name}"),
                RunFile(role="gold", path="gold.csv", digest="sha256:gold", rows=40),
            ],
        )
        run_folder = RunFolder.create(folder, msgspec.structs.replace(record, command=changes.get("command", "eval")))
        run_folder.write_metrics({"roc_auc": Estimate(roc_auc, roc_auc - 0.05, roc_auc + 0.05, 40)}, main="roc_auc")
        run_folder.update(rows=40)
        run_folder.finish()
        values = json.loads((folder / "run.json").read_text()) | changes
        (folder / "run.json").write_text(json.dumps(msgspec.to_builtins(values)))
        return folder

    return make
