"""Adapters of the zoo: by Lorica's own training, and by PEFT with a plain AdamW loop."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import open_adapter
from lorica.admission.provenance import trained_as
from lorica.config.schema import TrainingConfig
from lorica.engines.native.engine import NativeEngine
from lorica.models.base_folder import BaseFolder
from lorica.models.weights import load_decoder
from lorica.pipeline.answer import AnswerSettings, Pipeline
from lorica.pipeline.evaluate import evaluate
from lorica.pipeline.train import TrainJob, encode_rows, train_adapter
from lorica.prompts.encoder import Encoder
from lorica.records import Row
from lorica.tasks import load_task
from lorica.tasks.base import Task, TaskSettings
from lorica.training.listeners import SilentListener

QV = ("q_proj", "v_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL = (*ATTENTION, *MLP)
_MAX_TOKENS = 200


@dataclass(frozen=True)
class Recipe:
    """How one adapter is trained. rows: how many of the training rows, drawn by the seed."""

    name: str
    seed: int
    targets: tuple[str, ...]
    rank: int
    alpha: float = 16
    rslora: bool = False
    epochs: int = 6
    rate: float = 1e-3
    dropout: float = 0.05
    rows: int = 300
    origin: str = "lorica"


RECIPES = (
    Recipe("qv-r8-s0", 0, QV, 8),
    Recipe("attention-r16-s1", 1, ATTENTION, 16, alpha=32),
    Recipe("all-r8-s2", 2, ALL, 8),
    Recipe("mlp-r4-s3", 3, MLP, 4),
    Recipe("all-r32-rslora-s4", 4, ALL, 32, rslora=True, rate=5e-4, dropout=0.0, rows=400),
)
PEFT_RECIPES = (
    Recipe("peft-qv-r8-s10", 10, QV, 8, origin="peft", dropout=0.1),
    Recipe("peft-all-r16-s11", 11, ALL, 16, alpha=32, origin="peft", dropout=0.05, rate=5e-4),
)


def task() -> Task:
    """The task that the zoo's adapters are trained on."""
    return load_task("rules", TaskSettings())


def train_zoo_adapter(base: Path, recipe: Recipe, pool: Sequence[Row], folder: Path) -> None:
    """Train one adapter and leave a PEFT folder."""
    chosen = random.Random(recipe.seed).sample(list(pool), min(recipe.rows, len(pool)))
    if recipe.origin == "peft":
        _by_peft(base, recipe, chosen, folder)
    else:
        _by_lorica(base, recipe, chosen, folder)


def auc(base: Path, folder: Path | None, held: Sequence[Row]) -> float:
    """ROC-AUC of the held-out rows with an adapter, or of the bare base."""
    engine = NativeEngine(load_decoder(BaseFolder(base), dtype=torch.float32))
    if folder is not None:
        engine.add_adapter("zoo", open_adapter(folder))
    settings = AnswerSettings(fixed_adapter="zoo" if folder is not None else "", fallback="base")
    pipeline = Pipeline(task(), Encoder.load(base), engine, ["zoo"] if folder is not None else [], settings)
    answers = {answer.id: answer for answer in pipeline.answer(held)}
    return float(evaluate(task(), held, answers).metrics["roc_auc"].value)


def _by_lorica(base: Path, recipe: Recipe, rows: Sequence[Row], folder: Path) -> None:
    adapter = AdapterConfig(
        base_model_name_or_path=base.name,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        use_rslora=recipe.rslora,
        target_modules=sorted(recipe.targets),
    )
    settings = TrainingConfig(
        epochs=recipe.epochs,
        batch_size=16,
        gradient_accumulation_steps=1,
        learning_rate=recipe.rate,
        seed=recipe.seed,
        eval_steps=1000,
        save_steps=100_000,
        val_ratio=0.0,
        max_seq_length=_MAX_TOKENS,
    )
    encoder = Encoder.load(base)
    train_adapter(
        TrainJob("zoo", rows, "zoo", folder),
        task=task(),
        encoder=encoder,
        decoder=load_decoder(BaseFolder(base), dtype=torch.float32),
        adapter=adapter,
        settings=settings,
        truncate="middle",
        provenance=trained_as(task(), encoder, BaseFolder(base)),
        listener=SilentListener(),
    )


def _by_peft(base: Path, recipe: Recipe, rows: Sequence[Row], folder: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(recipe.seed)
    examples = encode_rows(task(), Encoder.load(base), rows, "zoo", _MAX_TOKENS, "middle")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=list(recipe.targets),
            task_type="CAUSAL_LM",
        ),
    )
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=recipe.rate)
    order = random.Random(recipe.seed)
    model.train()
    for _ in range(recipe.epochs):
        order.shuffle(examples)
        for start in range(0, len(examples), 16):
            batch = [example.encoded for example in examples[start : start + 16]]
            longest = max(len(one.tokens) for one in batch)
            tokens = torch.tensor([[*one.tokens, *[0] * (longest - len(one.tokens))] for one in batch])
            labels = torch.tensor(
                [
                    [*[-100] * one.answer_start, *one.tokens[one.answer_start :], *[-100] * (longest - len(one.tokens))]
                    for one in batch
                ]
            )
            mask = torch.tensor([[1] * len(one.tokens) + [0] * (longest - len(one.tokens)) for one in batch])
            model(input_ids=tokens, attention_mask=mask, labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    model.save_pretrained(folder)


def shortened(recipe: Recipe, **changes: object) -> Recipe:
    """A recipe with some fields changed."""
    return replace(recipe, **changes)  # type: ignore[arg-type]
