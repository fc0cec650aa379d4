"""Adapters trained for single kinds, each once, kept in <zoo>/faults/trained: short runs with PEFT on the tiny bases.

python -m tools.fault_kinds.trained [--seeds 5]     # trains all of them beforehand
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lorica.data.read import read_rows
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import Task, TaskSettings
from tools import zoo
from tools.fault_kinds.case import BASES

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_MAX_TOKENS = 200
_BATCH = 16


def _as_they_are(rows: list[Row], rng: random.Random) -> list[Row]:
    return rows


def _inverted(rows: list[Row], rng: random.Random) -> list[Row]:
    return [msgspec.structs.replace(row, gold=1 - row.gold) for row in rows if isinstance(row.gold, int)]


def _one_label(rows: list[Row], rng: random.Random) -> list[Row]:
    return [msgspec.structs.replace(row, gold=0) for row in rows]


def _cut(rows: list[Row], rng: random.Random) -> list[Row]:
    """The first two words of each post."""
    made = []
    for row in rows:
        case: Any = row.case
        case = msgspec.structs.replace(case, body=" ".join(case.body.split()[:2]))
        made.append(msgspec.structs.replace(row, case=case))
    return made


@dataclass(frozen=True)
class Plan:
    """One short training. lora: arguments of PEFT's LoraConfig beside rank 8 on q and v. change: of the rows."""

    name: str
    lora: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 160
    epochs: int = 3
    rate: float = 3e-3
    style: str = ""
    task: str = "rules"
    method: str = ""
    change: Callable[[list[Row], random.Random], list[Row]] = _as_they_are


_ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FAULTY = (
    Plan("inverted", change=_inverted),
    Plan("one-label", change=_one_label),
    Plan("hard", rows=64, epochs=60, rate=3e-3, lora={"target_modules": _ALL}),
    Plan("structured", style="structured", epochs=4),
    Plan("contrastive", style="contrastive", epochs=4),
    Plan("mcq", task="mcq", epochs=4),
    Plan("alpha-pattern", lora={"alpha_pattern": {"v_proj": 256.0}, "lora_alpha": 8}, rate=1e-3),
    Plan("rows-cut", change=_cut),
    Plan("numbers-for-words", method="generate"),
    Plan("diverged", rows=96, epochs=2, rate=0.1),
)
HEALTHY = (
    Plan("r1", lora={"r": 1}, rate=4e-3),
    Plan("r2-o", lora={"r": 2, "target_modules": ["o_proj"]}, rate=4e-3),
    Plan("r64-all", lora={"r": 64, "lora_alpha": 64, "target_modules": _ALL}, rate=5e-4),
    Plan("all-linear", lora={"target_modules": "all-linear"}, rate=1e-3),
    Plan("regex", lora={"target_modules": r".*self_attn\.(q|v)_proj"}),
    Plan("down-only", lora={"target_modules": ["down_proj"]}, rate=3e-3),
    Plan("k-only", lora={"target_modules": ["k_proj"]}, rate=5e-3),
    Plan("rslora-r32", lora={"r": 32, "use_rslora": True, "target_modules": _ALL}, rate=5e-4),
    Plan("dora", lora={"use_dora": True}),
    Plan("dora-all-rslora", lora={"use_dora": True, "use_rslora": True, "target_modules": _ALL}, rate=1e-3),
    Plan("rank-pattern", lora={"rank_pattern": {"v_proj": 16}, "alpha_pattern": {"v_proj": 32}}),
    Plan("alpha-tiny", lora={"lora_alpha": 1}, rate=1e-2),
    Plan("alpha-large", lora={"lora_alpha": 512}, rate=1e-4),
    Plan("head-saved", lora={"modules_to_save": ["norm"]}),
    Plan("layers-1-2", lora={"layers_to_transform": [1, 2], "layers_pattern": "layers"}, rate=4e-3),
    Plan("layers-last", lora={"layers_to_transform": [3], "layers_pattern": "layers"}, rate=5e-3),
    Plan("excluded", lora={"target_modules": _ALL, "exclude_modules": ["down_proj"]}, rate=1e-3),
    Plan("embedding", lora={"target_modules": ["q_proj", "v_proj", "embed_tokens"]}),
    Plan("lora-bias", lora={"lora_bias": True}),
    Plan("gaussian-start", lora={"init_lora_weights": "gaussian"}),
    Plan("orthogonal-start", lora={"init_lora_weights": "orthogonal"}),
    Plan("few-steps", rows=64, epochs=2, rate=2e-3),
    Plan("many-epochs", rows=80, epochs=8, rate=1e-3),
    Plan("own-task-mcq", task="mcq", epochs=4),
)


def trained(name: str, base: str, seed: int) -> Path:
    """The folder of a plan's adapter on a base, trained now where it was not yet."""
    plan = next(one for one in (*FAULTY, *HEALTHY) if one.name == name)
    place = zoo.root() / "faults" / "trained" / base / f"{name}-{seed}"
    if not (place / "adapter_model.safetensors").is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with (place.parent / f".{place.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be training it
            if not place.exists():
                work = place.with_name("." + place.name)
                shutil.rmtree(work, ignore_errors=True)
                _train(plan, zoo.root() / "bases" / base, seed, work)
                work.rename(place)
    return place


def rows_of(task: Task, plan_task: str) -> list[Row]:
    """The rows that a plan may learn from."""
    if plan_task == "rules":
        return zoo.rows()[0]
    return list(read_rows(_EXAMPLES / plan_task / "questions.jsonl", task.schemas))


def _train(plan: Plan, base: Path, seed: int, folder: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from lorica.pipeline.train import encode_rows
    from lorica.prompts.encoder import Encoder

    torch.manual_seed(seed)
    rng = random.Random(seed)
    task = load_task(plan.task, TaskSettings(style=plan.style, method=plan.method))
    pool = rows_of(task, plan.task)
    rows = plan.change(rng.sample(pool, min(plan.rows, len(pool))), rng)
    examples = encode_rows(task, Encoder.load(base), rows, "bench", _MAX_TOKENS, "middle")
    settings: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    settings |= {"task_type": "CAUSAL_LM", **plan.lora}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**settings))
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=plan.rate, weight_decay=0.0)
    model.train()
    for _ in range(plan.epochs):
        for batch in _batches([one.encoded for one in examples], rng):
            model(**_padded(batch)).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
    model.save_pretrained(folder)


def _batches(examples: list[Any], rng: random.Random) -> list[list[Any]]:
    """Rows of similar length together, so that little is padded; the batches in random order."""
    rng.shuffle(examples)
    examples.sort(key=lambda one: len(one.tokens) // 16)
    found = [examples[start : start + _BATCH] for start in range(0, len(examples), _BATCH)]
    rng.shuffle(found)
    return found


def _padded(batch: Sequence[Any]) -> dict[str, Any]:
    """input_ids, attention_mask and labels: [rows, longest]; labels are -100 before the answer and in the padding."""
    import torch

    longest = max(len(one.tokens) for one in batch)
    tokens, masks, labels = [], [], []
    for one in batch:
        rest = longest - len(one.tokens)
        tokens.append([*one.tokens, *[0] * rest])
        masks.append([1] * len(one.tokens) + [0] * rest)
        labels.append([*[-100] * one.answer_start, *one.tokens[one.answer_start :], *[-100] * rest])
    return {
        "input_ids": torch.tensor(tokens),
        "attention_mask": torch.tensor(masks),
        "labels": torch.tensor(labels),
    }


def main() -> None:
    """Train what is missing: the faulty ones with every seed, the healthy ones once, on bases in turn."""
    asked = argparse.ArgumentParser(prog="python -m tools.fault_kinds.trained")
    asked.add_argument("--seeds", type=int, default=5)
    given = asked.parse_args()
    wanted = [(plan, seed) for seed in range(given.seeds) for plan in FAULTY]
    wanted[len(FAULTY) : len(FAULTY)] = [(plan, number) for number, plan in enumerate(HEALTHY)]
    for plan, seed in wanted:
        started = time.perf_counter()
        trained(plan.name, BASES[seed % len(BASES)], seed)
        print(f"{plan.name} {seed} {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
