"""What computing shared prefixes once is worth: the native engine with and without it, alternating in one process.

    python bench/prefix_sharing.py [--rows 200] [--rounds 5]

The shape is that of the embedded model; weights, adapters and tokens are random, which changes no speed. Every adapter
has a beginning of its own that its rows share. Scores of both sides are compared first. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from lorica.adapters.config import AdapterConfig
from lorica.adapters.folder import open_adapter, save_adapter
from lorica.engines.native.engine import NativeEngine
from lorica.models.adapter_weights import create_lora
from lorica.models.decoder import Decoder
from lorica.models.families import DecoderConfig, read_decoder_config
from lorica.models.locate import locate_model
from lorica.records import Request, ScoreChoices

ADAPTERS = ("a", "b", "c", "d")


def make_decoder() -> Decoder:
    """Random weights at the embedded model's shape."""
    torch.manual_seed(0)
    shape = read_decoder_config(locate_model("embedded:lorica_tiny", environ={}))
    decoder = Decoder(shape).requires_grad_(False).eval()
    for weight in decoder.parameters():
        if weight.dim() > 1:  # torch's own start would make logits of hundreds, and rounding errors to match
            weight.normal_(std=0.04)
    return decoder


def make_adapter(folder: Path, config: DecoderConfig, seed: int) -> Path:
    """A random rank-16 adapter on q, k, v and o."""
    adapter = AdapterConfig(
        peft_type="LORA", r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    weights = create_lora("bench", config, adapter, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for pair in weights.pairs.values():
        pair.b = torch.randn(pair.b.shape, generator=generator) * 0.02
    tensors = {name: ("F32", tuple(t.shape), _bytes(t)) for name, t in weights.to_tensors().items()}
    save_adapter(folder, adapter, tensors)
    return folder


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def make_requests(rows: int, shared: int, own: int, vocab_size: int) -> list[Request]:
    """Two-choice rows, adapters interleaved."""
    rng = random.Random(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocab_size) for _ in range(count))

    starts = {name: some(shared) for name in ADAPTERS}
    names = [ADAPTERS[i % len(ADAPTERS)] for i in range(rows)]
    return [ScoreChoices(f"r{i}", starts[name] + some(own), ((11,), (12,)), name) for i, name in enumerate(names)]


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--shared", type=int, default=200, help="tokens in an adapter's shared prefix")
    parser.add_argument("--own", type=int, default=40, help="tokens of a row's own")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    decoder = make_decoder()
    requests = make_requests(arguments.rows, arguments.shared, arguments.own, decoder.config.vocab_size)
    engines: dict[bool, NativeEngine] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for share in (True, False):
            engines[share] = NativeEngine(decoder, batch_tokens=arguments.batch_tokens, share_prefixes=share)
            for seed, name in enumerate(ADAPTERS):
                place = folder / name
                if not place.exists():
                    make_adapter(place, decoder.config, seed)
                engines[share].add_adapter(name, open_adapter(place))

    scores = {share: [output.logprobs for output in engine.run(requests)] for share, engine in engines.items()}
    apart = max(abs(x - y) for a, b in zip(scores[True], scores[False], strict=True) for x, y in zip(a, b, strict=True))
    print(f"largest difference between the scores of both sides: {apart:.1e}")
    if apart > 1e-5:
        raise SystemExit("the two sides do not give the same scores; no speed is reported")

    times: dict[bool, list[float]] = {True: [], False: []}
    worked: dict[bool, list[float]] = {True: [], False: []}  # processor seconds: what other programs cannot stretch
    for number in range(arguments.rounds):
        for share in (True, False) if number % 2 == 0 else (False, True):
            engines[share].clear_prefix_cache()
            start, busy = time.perf_counter(), time.process_time()
            engines[share].run(requests)
            times[share].append(time.perf_counter() - start)
            worked[share].append(time.process_time() - busy)
    speed = {share: arguments.rows / statistics.median(found) for share, found in times.items()}
    ratio, cpu_ratio = (
        statistics.median(slow / fast for slow, fast in zip(taken[False], taken[True], strict=True))
        for taken in (times, worked)
    )
    cpu = {share: arguments.rows / statistics.median(found) for share, found in worked.items()}
    engines[True].clear_prefix_cache()
    tokens = {share: engine.plan(requests).computed_tokens() for share, engine in engines.items()}
    print(
        f"ratio={ratio:.2f} rows_per_s_shared={speed[True]:.1f} rows_per_s_alone={speed[False]:.1f} "
        f"cpu_ratio={cpu_ratio:.2f} rows_per_cpu_s_shared={cpu[True]:.1f} rows_per_cpu_s_alone={cpu[False]:.1f} "
        f"tokens_shared={tokens[True]} tokens_alone={tokens[False]} threads={torch.get_num_threads()} "
        f"max_difference={apart:.1e}"
    )


if __name__ == "__main__":
    main()
