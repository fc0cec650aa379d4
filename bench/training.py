"""Tokens per second of the training loop, on the shape of the embedded model with random weights.

One key=value line per batch shape, precision and dropout.

    python bench/training.py [--threads 2] [--updates 10]
"""

from __future__ import annotations

import argparse
import random
import time

import torch

from lorica.adapters.config import AdapterConfig
from lorica.models.adapter_weights import create_lora
from lorica.models.decoder import Decoder
from lorica.models.families import DecoderConfig, read_decoder_config
from lorica.models.locate import locate_model
from lorica.records import Encoded
from lorica.training.batches import make_batch
from lorica.training.step import Learner, choose_precision, make_optimizer, update
from lorica.training.types import Example


def make_learner(shape: DecoderConfig, *, bf16: bool, dropout: float) -> Learner:
    """A fresh adapter on random weights."""
    torch.manual_seed(0)
    decoder = Decoder(shape).requires_grad_(False)
    config = AdapterConfig(
        r=16, lora_alpha=32, lora_dropout=dropout, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    lora = create_lora("bench", shape, config, seed=0)
    return Learner(
        decoder,
        lora,
        make_optimizer(lora, weight_decay=0.0),
        choose_precision(decoder, fp16=False, bf16=bf16),
        1.0,
        False,
    )


def rows(count: int, length: int, vocab_size: int) -> list[Example]:
    """Random rows of about `length` tokens, two of them to learn."""
    chance = random.Random(0)
    found = []
    for index in range(count):
        size = length + chance.randrange(-4, 5)
        tokens = tuple(chance.randrange(vocab_size) for _ in range(size))
        found.append(Example(str(index), Encoded(tokens, size - 2)))
    return found


def measure(*, bf16: bool, dropout: float, batch_size: int, length: int, updates: int, accumulation: int) -> float:
    """Tokens per second, the best of three rounds."""
    shape = read_decoder_config(locate_model("embedded:lorica_tiny", environ={}))
    learner = make_learner(shape, bf16=bf16, dropout=dropout)
    examples = rows(batch_size * accumulation, length, shape.vocab_size)
    best = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        for step in range(updates):
            batches = [
                make_batch(examples[start : start + batch_size], learner.decoder.device)
                for start in range(0, len(examples), batch_size)
            ]
            made = update(learner, batches, step=step + 1, learning_rate=1e-4, seed=step)
        best = min(best, time.perf_counter() - begun)
    return updates * made.tokens / best


def main() -> None:
    """Print one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--updates", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for batch_size, accumulation in ((16, 1), (4, 4), (64, 1)):
        for bf16 in (False, True):
            for dropout in (0.05, 0.0):
                speed = measure(
                    bf16=bf16,
                    dropout=dropout,
                    batch_size=batch_size,
                    length=60,
                    updates=max(1, arguments.updates * 16 // (batch_size * accumulation)),
                    accumulation=accumulation,
                )
                print(
                    f"bench=training threads={arguments.threads} batch_size={batch_size} accumulation={accumulation} "
                    f"length=60 precision={'bf16' if bf16 else 'fp32'} dropout={dropout} tokens_per_second={speed:.0f}"
                )


if __name__ == "__main__":
    main()
