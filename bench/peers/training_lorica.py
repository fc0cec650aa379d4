"""`bench/training.py`'s worker for Lorica's loop: trains one adapter, and waits for leave after every update.

    python bench/peers/training_lorica.py JOB.json

Runs on whatever `lorica` PYTHONPATH names, an earlier one too. After each update it says {"step", "loss", "seconds",
"tokens", "peak_mib"} and goes on when a line comes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lorica.adapters.config import AdapterConfig
from lorica.config.schema import TrainingConfig
from lorica.models.base_folder import BaseFolder
from lorica.models.weights import load_decoder
from lorica.records import Encoded
from lorica.training.listeners import SilentListener
from lorica.training.loop import train
from lorica.training.lora_decoder import LoraDecoder
from lorica.training.types import Example, StepReport


class PausingListener(SilentListener):
    """Reports each update to the bench and pauses until it answers."""

    def __init__(self, output: Any) -> None:
        self._output = output
        self._start = 0.0

    def started(self, adapter_name: str, completed_steps: int, total_steps: int) -> None:
        """Wait for the first update's turn."""
        self._pause({"ready": True})

    def stepped(self, report: StepReport) -> None:
        """Say what the update took."""
        seconds = time.perf_counter() - self._start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._pause({"step": report.step, "loss": report.loss, "seconds": seconds, "peak_mib": peak})

    def _pause(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._output, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        self._start = time.perf_counter()


def main() -> None:
    """Train as the job says."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    base = BaseFolder(Path(job["model"]))
    decoder = load_decoder(base, dtype=torch.bfloat16 if job["variant"] == "bf16-base" else torch.float32)
    rows = [
        Example(str(index), Encoded(tuple(tokens), answer_start))
        for index, (tokens, answer_start) in enumerate(job["rows"])
    ]
    settings = TrainingConfig(
        epochs=1,
        batch_size=job["batch_size"],
        gradient_accumulation_steps=job["accumulation"],
        learning_rate=job["learning_rate"],
        warmup_ratio=job["warmup_ratio"],
        scheduler=job["scheduler"],
        val_ratio=0.0,
        max_grad_norm=1.0,
        seed=job["seed"],
        bf16=job["variant"] == "bf16",
        gradient_checkpointing=job["checkpointing"],
    )
    adapter = AdapterConfig(
        r=job["rank"], lora_alpha=job["alpha"], lora_dropout=job["dropout"], target_modules=job["targets"]
    )
    with tempfile.TemporaryDirectory() as folder:
        train(
            LoraDecoder.create("bench", decoder, adapter, settings), rows, [], settings, Path(folder) / "bench",
            adapter_name="bench", listener=PausingListener(output),
        )  # fmt: skip


if __name__ == "__main__":
    main()
