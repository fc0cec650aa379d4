"""How near the native engine's arithmetic comes to what the processor can multiply, in each precision.

    python bench/arithmetic.py [--tokens 2048] [--rounds 7] [--threads 2] [--clock wall|cpu]

First each product of a layer at the shape of Qwen2.5-0.5B, in the forms in which weights can lie: torch's own, packed,
whole numbers. Then whole forward passes of a model of that shape (random weights: speed does not depend on values) over
packed sequences, without and with four rank-16 adapters. `*_share` is the part of the measured ceiling that a pass
reaches, counting the products of the linear layers and of attention only; the ceiling is the best of several large
products in the same arithmetic, measured between the passes. `--clock cpu` counts processor seconds per thread, which
other programs do not stretch. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from bench.peers.material import read_shape  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from lorica.models.cpu import kernels  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.cpu.linear import make_linear, quantize_rows, quantize_weight  # noqa: E402
from lorica.models.decoder import Decoder  # noqa: E402
from lorica.models.families import DecoderConfig  # noqa: E402
from lorica.models.lora import LoraPair, LoraSpan, LoraWeights  # noqa: E402
from lorica.models.packed_attention import PackedAttention  # noqa: E402

NAME, VOCABULARY = "qwen2.5-0.5b", 1024  # the output head is no part of the passes
LAYERS = {"qkv": (1152, 896), "o": (896, 896), "gate_up": (9728, 896), "down": (896, 4864)}
SEQUENCE = 128  # tokens: what is left of a row once its beginning is shared

Clock = Callable[[], float]


def best(run: Callable[[], object], clock: Clock, rounds: int) -> float:
    """Seconds of the fastest of some runs: everything that is slower was disturbed."""
    run()
    taken = []
    for _ in range(rounds):
        start = clock()
        run()
        taken.append(clock() - start)
    return min(taken)


def tile(shape: tuple[int, ...], seed: int) -> Tensor:
    """bfloat16 noise, drawn once and repeated: drawing half a billion numbers would take longer than the bench."""
    noise = torch.randn(65521, generator=torch.Generator().manual_seed(seed)) * 0.02
    count = int(torch.tensor(shape).prod())
    return noise.bfloat16().repeat(-(-count // len(noise)))[:count].view(shape)


def make_decoder(layers: int) -> Decoder:
    """Random bfloat16 weights."""
    with torch.device("meta"):
        decoder = Decoder(shape_of(layers))
    for seed, (name, parameter) in enumerate(decoder.named_parameters()):
        owner, _, last = name.rpartition(".")
        value = torch.ones(parameter.shape).bfloat16() if "norm" in name else tile(tuple(parameter.shape), seed)
        setattr(decoder.get_submodule(owner), last, nn.Parameter(value, requires_grad=False))
    decoder.lm_head.weight = decoder.model.embed_tokens.weight
    return decoder.eval()


def shape_of(layers: int) -> DecoderConfig:
    """The shape with fewer layers, for a short look."""
    return replace(read_shape(NAME), vocab_size=VOCABULARY, layers=layers, windows=(None,) * layers)


def make_adapter(dtype: torch.dtype, layers: int, seed: int) -> LoraWeights:
    """Rank 16 on q, k, v and o."""
    pairs = {}
    for path, (out_features, in_features) in shape_of(layers).linear_shapes().items():
        if "self_attn" in path:
            a, b = tile((16, in_features), seed), tile((out_features, 16), seed)
            pairs[path] = LoraPair(a.to(dtype), b.to(dtype), 2.0)
    return LoraWeights(str(seed), pairs)


def products(tokens: int, clock: Clock, rounds: int) -> dict[str, float]:
    """Each product of a layer in each form, relative to torch's own in bfloat16; and the shares of the ceiling."""
    found: dict[str, float] = {}
    for name, (out_features, in_features) in LAYERS.items():
        layer = nn.Linear(in_features, out_features, bias=False)
        layer.weight = nn.Parameter(tile((out_features, in_features), 1), requires_grad=False)
        x = tile((tokens, in_features), 2)
        plain = best(lambda: F.linear(x, layer.weight), clock, rounds)  # noqa: B023 - run at once
        for precision, given in (("bfloat16", x), ("int8", x.float()), ("float32", x.float())):
            product = make_linear([layer], precision)
            found[f"{name}_{precision}_vs_plain"] = plain / best(lambda: product(given), clock, rounds)  # noqa: B023
        wide = layer.weight.float()
        exact = best(lambda: F.linear(x.float(), wide), clock, rounds)  # noqa: B023
        found[f"{name}_plain_float32_vs_plain"] = plain / exact
    return found


def ceilings(clock: Clock, rounds: int) -> dict[str, float]:
    """Operations a second of the best large product in each arithmetic."""
    rates = {"bfloat16": 0.0, "int8": 0.0, "float32": 0.0}
    for rows, out_features, in_features in ((2048, 2048, 2048), (1024, 4864, 896), (1024, 896, 4864)):
        count = 2.0 * rows * out_features * in_features
        x, weight = tile((rows, in_features), 1), tile((out_features, in_features), 2)
        for dtype in (torch.bfloat16, torch.float32):
            given, name = x.to(dtype), str(dtype).removeprefix("torch.")
            wide = weight.to(dtype)
            runs: list[Callable[[], Tensor]] = [lambda: F.linear(given, wide)]  # noqa: B023 - run at once
            if kernels.can_prepack(dtype):
                packed = kernels.prepack(wide)
                runs.append(lambda: kernels.prepacked_linear(given, packed, None))  # noqa: B023
            rates[name] = max([rates[name], *(count / best(run, clock, rounds) for run in runs)])
        if kernels.has_int8_linear():
            (codes, _), (whole, scales) = quantize_rows(x), quantize_weight(weight)
            held = kernels.prepack_int8(whole)
            rate = count / best(lambda: kernels.int8_linear(codes, held, scales), clock, rounds)  # noqa: B023
            rates["int8"] = max(rates["int8"], rate)
    return rates


def operations(tokens: int, layers: int) -> tuple[float, float]:
    """Of one pass: in linear layers, and in causal attention."""
    linear = 2.0 * tokens * layers * sum(out * into for out, into in LAYERS.values())
    seen = tokens * (SEQUENCE + 1) / 2
    shape = shape_of(layers)
    return linear, 4.0 * seen * layers * shape.heads * shape.head_dim


def forward(precision: str, arguments: argparse.Namespace, clock: Clock) -> dict[str, float]:
    """Seconds of a pass, without and with adapters."""
    decoder = CpuDecoder(make_decoder(arguments.layers), precision)
    count = arguments.tokens // SEQUENCE
    tokens = torch.arange(count * SEQUENCE) % VOCABULARY
    positions = torch.arange(SEQUENCE).repeat(count)
    attention = PackedAttention([SEQUENCE] * count, decoder.config)
    share = -(-len(tokens) // 4)
    spans = [
        LoraSpan(make_adapter(decoder.dtype, arguments.layers, i), i * share, min((i + 1) * share, len(tokens)))
        for i in range(4)
    ]
    read = torch.arange(SEQUENCE - 1, len(tokens), SEQUENCE)

    def timed(lora: list[LoraSpan]) -> float:
        return best(
            lambda: decoder.hidden(tokens, positions, attention, lora, output_rows=read), clock, arguments.rounds
        )

    return {"bare": timed([]), "lora": timed(spans)}


@contextmanager
def quiet_threads(threads: int) -> Iterator[None]:
    """So many threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield
    torch.set_num_threads(before)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "int8", "float32"])
    arguments = parser.parse_args()

    def clock() -> float:
        return time.perf_counter() if arguments.clock == "wall" else time.process_time() / arguments.threads

    with quiet_threads(arguments.threads), torch.inference_mode():
        told = products(min(arguments.tokens, 1024), clock, arguments.rounds)
        linear, attended = operations(arguments.tokens // SEQUENCE * SEQUENCE, arguments.layers)
        # The last layer goes on with one position of each sequence.
        rest = 1 - LAYERS["qkv"][0] * LAYERS["qkv"][1] / sum(out * into for out, into in LAYERS.values())
        linear *= 1 - rest * (1 - 1 / SEQUENCE) / arguments.layers
        for precision in arguments.precisions:
            before = ceilings(clock, arguments.rounds)
            taken = forward(precision, arguments, clock)
            after = ceilings(clock, arguments.rounds)
            top = {name: max(rate, after[name]) for name, rate in before.items()}
            # Attention is computed in bfloat16 where the linear layers are in int8.
            aside = top["bfloat16" if precision == "int8" else precision]
            ideal = linear / top[precision] + attended / aside
            told[f"{precision}_ceiling_gops"] = top[precision] / 1e9
            told[f"{precision}_forward_share_of_ceiling"] = ideal / taken["bare"]
            told[f"{precision}_forward_share_with_lora"] = ideal / taken["lora"]
            told[f"{precision}_tokens_per_s"] = arguments.tokens / taken["lora"]
    settings = f"threads={arguments.threads} clock={arguments.clock} tokens={arguments.tokens}"
    print(" ".join(f"{name}={value:.3g}" for name, value in told.items()), settings)


if __name__ == "__main__":
    main()
