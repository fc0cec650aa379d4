"""A decoder small enough to train in a test, and rows for it; also run as a script by the test that kills it."""

from __future__ import annotations

import random
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tests.shapes import TINY

from lorica.adapters.config import AdapterConfig
from lorica.config.schema import TrainingConfig
from lorica.models.decoder import Decoder
from lorica.models.families import DecoderConfig
from lorica.records import Encoded
from lorica.training.batches import TrainingBatch
from lorica.training.listeners import SilentListener
from lorica.training.loop import train
from lorica.training.lora_decoder import LoraDecoder
from lorica.training.step import Learner, make_optimizer
from lorica.training.types import Example, StepReport, TrainResult

LORA = AdapterConfig(
    r=4,
    lora_alpha=8,
    lora_dropout=0.1,
    target_modules=["q_proj", "v_proj", "down_proj"],
    base_model_name_or_path="tiny/base",
)
KILLED = TrainingConfig(
    epochs=6,
    batch_size=3,
    gradient_accumulation_steps=2,
    learning_rate=5e-3,
    logging_steps=3,
    save_steps=2,
    eval_steps=5,
    seed=7,
    weight_decay=0.01,
)


def tiny_decoder(shape: DecoderConfig = TINY) -> Decoder:
    """Random weights, large enough that the base is far from uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(shape)
        with torch.no_grad():
            for parameter in decoder.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.15)
    return decoder.requires_grad_(False)


def lora_learner(trainable: LoraDecoder, *, max_grad_norm: float = 0.0) -> Learner[TrainingBatch]:
    """A learner of an adapter, without weight decay."""
    return Learner(trainable, make_optimizer(trainable.tensors(), weight_decay=0.0), max_grad_norm)


def of(learner: Learner[TrainingBatch]) -> LoraDecoder:
    """What a learner of an adapter changes."""
    assert isinstance(learner.trainable, LoraDecoder)
    return learner.trainable


def rows(count: int, *, seed: int = 0, prefix: str = "row", instruction: int = 0) -> list[Example]:
    """Rows whose answer is a function of the first token: learnable. Lengths and answer lengths differ.

    instruction: tokens that stand before the rows, the same for all.
    """
    chance = random.Random(seed)
    found = []
    for index in range(count):
        prompt = [chance.randrange(8, 64) for _ in range(chance.randrange(3, 16))]
        answer = [prompt[0] % 4] * chance.randrange(1, 4)
        prompt = [*range(8, 8 + instruction), *prompt]
        found.append(Example(f"{prefix}-{index}", Encoded((*prompt, *answer), len(prompt))))
    return found


class Recorder(SilentListener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.evaluations: list[tuple[int, float, bool]] = []
        self.notes: list[str] = []
        self.closings = 0

    def stepped(self, report: StepReport) -> None:
        self.steps.append(report)

    def evaluated(self, step: int, loss: float, best: bool) -> None:
        self.evaluations.append((step, loss, best))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def closed(self) -> None:
        self.closings += 1


def run(
    folder: Path,
    settings: TrainingConfig,
    *,
    listener: SilentListener | None = None,
    examples: list[Example] | None = None,
    validation: list[Example] | None = None,
    config: AdapterConfig = LORA,
) -> TrainResult:
    """Train on the tiny decoder."""
    return train(
        LoraDecoder.create("tiny", tiny_decoder(), config, settings),
        rows(20) if examples is None else examples,
        rows(7, seed=1, prefix="held") if validation is None else validation,
        settings,
        folder,
        adapter_name="tiny",
        listener=listener or SilentListener(),
        digests={"base": "sha256:tiny"},
    )


def run_shared(
    folder: Path,
    settings: TrainingConfig,
    *,
    listener: SilentListener | None = None,
    examples: list[Example] | None = None,
    config: AdapterConfig = LORA,
) -> TrainResult:
    """Train on rows that share their beginning."""
    examples = examples or rows(20, instruction=6)
    validation = rows(7, seed=1, prefix="held", instruction=6)
    return run(folder, settings, listener=listener, examples=examples, validation=validation, config=config)


class _Speaker(SilentListener):
    """Tells the parent process how far it is."""

    def stepped(self, report: StepReport) -> None:
        print(report.step, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_shared(Path(sys.argv[1]), TrainingConfig(**{**asdict(KILLED), "resume": True}), listener=_Speaker())
