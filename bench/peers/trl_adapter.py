"""TRL + PEFT as a user would run them: trains an adapter on rows that are encoded already. Needs no Lorica.

    PYTHON_OF_TRL bench/peers/trl_adapter.py JOB.json

The job: base (a folder), out, threads, rows ([tokens, where the answer starts] each), lora (arguments of LoraConfig)
and training (of SFTConfig). The adapter is left in `out`; a run that was stopped goes on from its last checkpoint.
Prints the seconds of training, and the tokens of all rows in all passes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def train(job: dict[str, Any]) -> float:
    """Train and save; the seconds it took, loading not counted."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(job["threads"])
    rows = Dataset.from_dict(
        {
            "input_ids": [tokens for tokens, _ in job["rows"]],
            "completion_mask": [[int(at >= start) for at in range(len(tokens))] for tokens, start in job["rows"]],
        }
    )
    out = Path(job["out"])
    settings = SFTConfig(
        output_dir=str(out / "checkpoints"),
        use_cpu=True,
        completion_only_loss=True,
        gradient_checkpointing=False,  # faster, and these rows are short
        max_length=None,
        report_to="none",
        save_total_limit=1,
        dataloader_pin_memory=False,
        **job["training"],
    )
    base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    trainer = SFTTrainer(
        model=base,
        args=settings,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(job["base"]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **job["lora"]),
    )
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=any(out.glob("checkpoints/checkpoint-*")))
    seconds = time.perf_counter() - started
    trainer.save_model(str(out))
    return seconds


def main() -> None:
    """Run the job that is named."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    seconds = train(job)
    tokens = sum(len(tokens) for tokens, _ in job["rows"]) * job["training"]["num_train_epochs"]
    print(json.dumps({"seconds": seconds, "tokens": tokens}))


if __name__ == "__main__":
    main()
