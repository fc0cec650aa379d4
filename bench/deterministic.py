"""Are a row's scores the same to the last bit, whatever stands beside it, and what does that cost?

    python bench/deterministic.py [--dtype float32] [--permutations 20] [--rounds 5]

The embedded model, rows of the base and of two adapters with shared prefixes on two levels: random permutations x
budgets of 512, 1024 and 4096 tokens x one thread and two, each compared with the first. The price is the time of the
same rows with `deterministic` on over that with it off, alternating, median of the rounds. The last line is
`key=value`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from bench.prefix_sharing import make_adapter  # noqa: E402

from lorica.adapters.folder import open_adapter  # noqa: E402
from lorica.engines.base import EngineSettings  # noqa: E402
from lorica.engines.native.engine import NativeEngine, load_native  # noqa: E402
from lorica.models.base_folder import BaseFolder  # noqa: E402
from lorica.models.families import read_decoder_config  # noqa: E402
from lorica.models.locate import locate_model  # noqa: E402
from lorica.records import Request, ScoreChoices  # noqa: E402

BUDGETS = (512, 1024, 4096)


def make_requests(rows: int) -> list[Request]:
    """Two levels of shared prefixes for the base and two adapters; choices of one token and of several."""
    rng = random.Random(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(6144) for _ in range(count))

    names = (None, "a", "b")
    first, second = {name: some(120) for name in names}, {name: some(45) for name in names}
    choices = (((11,), (12,)), ((5, 6, 7), (5, 9), (8,)))
    return [
        ScoreChoices(
            f"r{i}", first[name] + (second[name] if i % 4 else ()) + some(rng.randrange(5, 90)), choices[i % 2], name
        )
        for i, name in enumerate(names[i % 3] for i in range(rows))
    ]


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--permutations", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    base = locate_model("embedded:lorica_tiny", environ={})
    requests = make_requests(given.rows)
    with tempfile.TemporaryDirectory() as temporary:
        places = {name: Path(temporary) / name for name in "ab"}
        for seed, place in enumerate(places.values()):
            make_adapter(place, read_decoder_config(base), seed)

        def engine(budget: int, *, deterministic: bool) -> NativeEngine:
            settings = EngineSettings(dtype=given.dtype, device="cpu", batch_tokens=budget, deterministic=deterministic)
            made = load_native(BaseFolder(base), settings)
            for name, place in places.items():
                made.add_adapter(name, open_adapter(place))
            return made

        engines = {budget: engine(budget, deterministic=True) for budget in BUDGETS}
        free = engine(4096, deterministic=False)
    right = {output.id: output for output in engines[4096].run(requests)}
    runs = differing = 0
    for number in range(given.permutations):
        shuffled = random.Random(number).sample(requests, len(requests))
        for one in engines.values():
            for threads in (1, 2):
                torch.set_num_threads(threads)
                runs += 1
                if number % 2:  # the other half goes on with the beginnings of the runs before
                    one.clear_prefix_cache()
                differing += one.run(shuffled) != [right[request.id] for request in shuffled]
    print(f"{runs} runs, of which {differing} differ")
    torch.set_num_threads(1)
    ratios = []
    for number in range(given.rounds):
        taken = {}
        for one in (engines[4096], free)[:: 1 if number % 2 else -1]:
            one.clear_prefix_cache()
            begun = time.perf_counter()
            one.run(requests)
            taken[one is free] = time.perf_counter() - begun
        ratios.append(taken[False] / taken[True])
    print(
        f"bench=deterministic dtype={given.dtype} runs={runs} differing={differing} "
        f"price={statistics.median(ratios):.3f} threads=1,2"
    )


if __name__ == "__main__":
    main()
