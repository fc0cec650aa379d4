"""`bench/training.py`'s worker for TRL's SFTTrainer with PEFT, as `training_lorica.py`; its interpreter has them.

    python bench/peers/training_trl.py JOB.json

The job's rows come in the order in which Lorica trains on them, so that an update has the same rows on both sides.
variant: LAYOUT/PRECISION/ATTENTION, as padding_free/bf16/sdpa. LAYOUT: padded, padding_free (rows end to end), packing
(best fit into sequences of a batch's tokens). PRECISION: fp32, bf16 (autocast), bf16-base (weights, too).
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

os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class PausingCallback(TrainerCallback):  # type: ignore[misc]
    """Reports each update to the bench and pauses until it answers."""

    def __init__(self, output: Any) -> None:
        self._output = output
        self._start = self._seconds = 0.0
        self.tokens = 0

    def on_train_begin(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for the first update's turn."""
        self._pause({"ready": True})

    def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock before the trainer logs."""
        self._seconds = time.perf_counter() - self._start

    def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Say what the update took."""
        if not logs or "loss" not in logs:
            return
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        message = {"step": state.global_step, "loss": float(logs["loss"]), "seconds": self._seconds, "peak_mib": peak}
        message["tokens"], self.tokens = self.tokens, 0
        self._pause(message)

    def _pause(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._output, flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        self._start = time.perf_counter()


class CountingTrainer(SFTTrainer):  # type: ignore[misc]
    """Counts the tokens of rows, without padding."""

    counter: PausingCallback

    def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
        """One micro-batch."""
        mask = inputs.get("attention_mask")
        self.counter.tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())
        return super().training_step(model, inputs, *rest)


def configure(job: dict[str, Any], layout: str, precision: str, folder: str) -> SFTConfig:
    """The job's settings as TRL calls them."""
    lengths = [len(tokens) for tokens, _ in job["rows"]]
    per_batch = max(sum(lengths) * job["batch_size"] // len(lengths), *lengths)
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=1 if layout == "packing" else job["batch_size"],
        gradient_accumulation_steps=job["accumulation"],
        num_train_epochs=1,
        learning_rate=job["learning_rate"],
        lr_scheduler_type=job["scheduler"],
        warmup_steps=job["warmup_ratio"],
        max_grad_norm=1.0,
        weight_decay=0.0,
        seed=job["seed"],
        bf16=precision != "fp32",
        use_cpu=True,
        packing=layout == "packing",
        packing_strategy="bfd",
        padding_free=layout == "padding_free",
        max_length=per_batch if layout == "packing" else None,
        completion_only_loss=True,
        gradient_checkpointing=job["checkpointing"],
        train_sampling_strategy="sequential",
        dataloader_pin_memory=False,
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def main() -> None:
    """Train as the job says."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    disable_progress_bars()
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    layout, precision, attention = job["variant"].split("/")
    dtype = torch.bfloat16 if precision == "bf16-base" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype, attn_implementation=attention)
    rows = Dataset.from_dict(
        {
            "input_ids": [tokens for tokens, _ in job["rows"]],
            "completion_mask": [[int(i >= start) for i in range(len(tokens))] for tokens, start in job["rows"]],
        }
    )
    adapter = LoraConfig(
        r=job["rank"],
        lora_alpha=job["alpha"],
        lora_dropout=job["dropout"],
        target_modules=job["targets"],
        task_type="CAUSAL_LM",
    )
    callback = PausingCallback(output)
    with tempfile.TemporaryDirectory() as folder:
        trainer = CountingTrainer(
            model=model,
            args=configure(job, layout, precision, folder),
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(job["model"]),
            peft_config=adapter,
            callbacks=[callback],
        )
        trainer.counter = callback
        trainer.train()


if __name__ == "__main__":
    main()
