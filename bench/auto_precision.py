"""`auto` beside every precision, to answer and to train, for three sizes of base: is what it chooses fast here?

    python bench/auto_precision.py [--shapes lorica-tiny,smollm2-135m,qwen2.5-0.5b] [--parts prompts,decode,train]
                                   [--rows N] [--rounds 3] [--threads N] [--cache FOLDER] [--smoke]

Weights are random at a model's real shape. prompts: rows that share 150 tokens and have 50 to 150 of their own are
scored; decode: 16 rows get 32 tokens each; train: updates of 8 rows of 120 tokens. All sides of a part are loaded, run
once unseen, and then in turns; one that is more than 6 times as slow as float32 at first keeps its first figure. `auto`
is the side that it chooses: `auto_over_best` is its time over that of the fastest which it may choose (no coarser than
bfloat16), the median over rounds, so 1 where it is right; `auto_over_any` over the fastest of all. The last line is
`key=value`.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from bench.peers import material  # noqa: E402

from lorica.adapters.config import AdapterConfig  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native.engine import load_native  # noqa: E402
from lorica.hardware import this_machine  # noqa: E402
from lorica.models.adapter_weights import create_lora  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.cpu.rates import measured_rates  # noqa: E402
from lorica.models.upcast import multiply_in_float32  # noqa: E402
from lorica.models.weights import DTYPES, load_decoder  # noqa: E402
from lorica.precision import DTYPE_NAMES  # noqa: E402
from lorica.precision_choice import for_answers, for_training  # noqa: E402
from lorica.records import Encoded, Generate, Request, Sampling, ScoreChoices  # noqa: E402
from lorica.training.batches import make_batch  # noqa: E402
from lorica.training.lora_decoder import LoraDecoder  # noqa: E402
from lorica.training.step import Learner, make_optimizer, update  # noqa: E402
from lorica.training.trainable import choose_precision  # noqa: E402
from lorica.training.types import Example  # noqa: E402

ALLOWED = ("float32", "float16", "bfloat16")
HOPELESS = 6.0
TRAINED = ("float32", "float32-as-bfloat16", "bfloat16", "bfloat16-as-float32")

Work = Callable[[], object]


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    sets = "+".join(this_machine().instruction_sets)
    figures = {"bench": "auto_precision", "threads": str(arguments.threads), "instructions": sets}
    for shape in arguments.shapes.split(","):
        base = BaseFolder(material.make_model(arguments.cache, shape))
        parameters = sum(file.stat().st_size for file in base.weight_files) // 2
        for part in arguments.parts.split(","):
            if part == "train":
                choice = for_training(this_machine(), measured_rates(), parameters)
                chosen = choice.weights
                if choice.products != choice.weights:
                    chosen += f"-as-{choice.products}"
                sides = {name: partial(learn, base, name) for name in TRAINED}
            else:
                chosen = for_answers(this_machine(), measured_rates(), parameters).dtype
                sides = {name: partial(answer, base, name, part, arguments) for name in DTYPE_NAMES if name != "gguf"}
            key = f"{shape}_{part}".replace("-", "_").replace(".", "_")
            figures |= {f"{key}_{name}": value for name, value in compare(sides, chosen, arguments.rounds).items()}
            print(key, {name: value for name, value in figures.items() if name.startswith(key)})
    print(" ".join(f"{name}={value}" for name, value in figures.items()))


def parse_arguments() -> argparse.Namespace:
    """The command line, with what --smoke implies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=f"{material.EMBEDDED},smollm2-135m,qwen2.5-0.5b")
    parser.add_argument("--parts", default="prompts,decode,train")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "lorica-bench")
    parser.add_argument("--smoke", action="store_true", help="the embedded model, few rows, one round")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.rows, arguments.rounds = material.EMBEDDED, 4, 1
    return arguments


def compare(sides: Mapping[str, Callable[[], Work]], chosen: str, rounds: int) -> dict[str, str]:
    """Load all sides, run them in turns; returns the figures of a part."""
    works: dict[str, Work] = {}
    seconds: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    for name in sorted(sides, key=lambda name: name != "float32"):
        work = sides[name]()
        work()
        first[name] = timed(work)
        if first[name] <= HOPELESS * first["float32"] or name == chosen:
            works[name] = work
    for _ in range(rounds):
        for name, work in works.items():
            seconds.setdefault(name, []).append(timed(work))
    figures = {"auto": chosen}
    for name in sides:
        figures[f"{name}_s"] = f"{statistics.median(seconds.get(name, [first[name]])):.4f}"
    for label, names in (
        ("over_best", [name for name in works if name.partition("-as-")[0] in ALLOWED]),
        ("over_any", list(works)),
    ):
        ratios = [own / min(seconds[name][number] for name in names) for number, own in enumerate(seconds[chosen])]
        figures[f"auto_{label}"] = f"{statistics.median(ratios):.3f}"
    return figures


def timed(work: Work) -> float:
    """Seconds of wall time."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def answer(base: BaseFolder, dtype: str, part: str, arguments: argparse.Namespace) -> Work:
    """An engine in one precision, with the rows to answer."""
    engine = load_native(base, EngineSettings(dtype=dtype, device="cpu", threads=arguments.threads))
    chance, vocabulary = random.Random(0), base.decoder_config.vocab_size

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(vocabulary) for _ in range(count))

    prefix, requests = tokens(150), list[Request]()
    for number in range(arguments.rows if part == "prompts" else 16):
        if part == "prompts":
            prompt = prefix + tokens(chance.randint(50, 150))
            requests.append(ScoreChoices(f"row-{number}", prompt, ((5,), (9,))))
        else:
            prompt = prefix[:60] + tokens(chance.randint(20, 60))
            requests.append(Generate(f"row-{number}", prompt, Sampling(max_new_tokens=32)))

    def work() -> None:
        engine.clear_prefix_cache()
        engine.run(requests)

    return work


def learn(base: BaseFolder, name: str) -> Work:
    """Updates of an adapter on a base that is held in one dtype and multiplied in another."""
    stored, _, products = name.partition("-as-")
    decoder = load_decoder(base, dtype=DTYPES[stored])
    if products == "float32":
        decoder = multiply_in_float32(decoder)
    config = AdapterConfig(
        r=16, lora_alpha=32, lora_dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    lora = create_lora("bench", decoder.config, config, seed=0)
    precision = choose_precision(decoder.device.type, decoder.dtype, fp16=False, bf16=products == "bfloat16")
    learner = Learner(
        LoraDecoder(decoder, lora, config, precision), make_optimizer(lora.to_tensors(), weight_decay=0.0), 1.0
    )
    chance, vocabulary = random.Random(0), decoder.config.vocab_size
    rows = [
        Example(str(number), Encoded(tuple(chance.randrange(vocabulary) for _ in range(chance.randint(112, 128))), 100))
        for number in range(8)
    ]
    batches = [make_batch(rows[start : start + 4], decoder.device) for start in (0, 4)]
    return partial(update, learner, batches, step=1, learning_rate=1e-4, seed=0)


if __name__ == "__main__":
    main()
