"""Whether a fault does any harm: the AUC of what is left, beside the healthy adapter's on the same rows.

Nothing here looks at a check. A fault of the behaviour level that leaves the AUC where it was is no fault of behaviour:
its case is shown, and counts in no figure of recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lorica.adapters.folder import open_adapter
from lorica.engines.native.engine import NativeEngine
from lorica.errors import LoricaError
from lorica.models.base_folder import BaseFolder
from lorica.models.weights import load_decoder
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.pipeline.evaluate import evaluate
from lorica.prompts.encoder import Encoder
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import TaskSettings

HARMLESS = 0.02  # of AUC


def auc(base: Path, folder: Path, rows: Sequence[Row], style: str) -> float | None:
    """ROC-AUC of an adapter on labelled rows; None where the native engine does not take it."""
    task = load_task("rules", TaskSettings(style=style))
    try:
        engine = NativeEngine(load_decoder(BaseFolder(base), dtype=torch.float32))
        engine.add_adapter("case", open_adapter(folder))
        settings = AnswerSettings(fixed_adapter="case", fallback="base")
        pipeline = Pipeline(task, Encoder.load(base), engine, ["case"], settings)
        answers = {answer.id: answer for answer in pipeline.answer(rows)}
        return round(float(evaluate(task, rows, answers).metrics["roc_auc"].value), 4)
    except (LoricaError, ValueError):
        return None


def harmless(before: float | None, after: float | None) -> bool:
    """Whether the AUC is where it was. What is not known is harm."""
    return before is not None and after is not None and after > before - HARMLESS
