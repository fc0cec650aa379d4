"""What the compiled kernels are worth against torch's operators, and how near their attention comes to the products.

    python bench/compiled_kernels.py [--dtype float32] [--rounds 15]

On a processor with more than AVX2, `LORICA_CPU_TARGET=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
MKL_ENABLE_INSTRUCTIONS=AVX2` in the environment holds both sides to it. Each figure is the median of paired ratios,
torch's processor time over the kernels', one thread, at the shape of Qwen2.5-0.5B: attention behind a shared prefix
(against torch's batch-invariant and its faster one) and of decode steps, LoRA, what lies between products; then scores
and texts of a model of that shape with four layers; in bfloat16 on a processor with AMX also products, of a prompt and
of a decode step (against oneDNN's prepacked ones). `prefill_share` is attention's rate as a part of that of a large
product of torch in float32. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from bench.peers.material import read_shape  # noqa: E402
from torch import Tensor  # noqa: E402

from lorica.engines.native.attention.batch_invariant import BatchInvariantAttention  # noqa: E402
from lorica.engines.native.attention.compiled import CompiledAttention, CompiledDecodeAttention  # noqa: E402
from lorica.engines.native.attention.prefix_merge import PrefixMergeAttention, PrefixMergeDecodeAttention  # noqa: E402
from lorica.engines.native.engine import NativeEngine  # noqa: E402
from lorica.engines.native.kv_cache import KVCache  # noqa: E402
from lorica.engines.native.packed_batch import PackedSequence, Prefix, pack_sequences  # noqa: E402
from lorica.models.allocator import keep_buffers  # noqa: E402
from lorica.models.batched_lora import BatchedLora, CompiledLora  # noqa: E402
from lorica.models.compiled import amx, bindings, library  # noqa: E402
from lorica.models.cpu import kernels, ops  # noqa: E402
from lorica.models.cpu.cpu_decoder import CpuDecoder  # noqa: E402
from lorica.models.cpu.ops import FusedRmsNorm  # noqa: E402
from lorica.models.decoder import Decoder, RmsNorm  # noqa: E402
from lorica.models.lora import LoraPair, LoraSpan, LoraWeights  # noqa: E402
from lorica.records import Generate, Request, Sampling, ScoreChoices  # noqa: E402

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INTERMEDIATE = 14, 2, 64, 896, 4864
ROWS, PREFIX, SUFFIX = 16, 350, 60
CPU = torch.device("cpu")

Run = Callable[[], object]


def paired(torch_run: Run, compiled_run: Run, rounds: int) -> tuple[float, float]:
    """The median ratio of torch's time to the kernels', in alternating order, and the kernels' best time."""
    for warm_up in (torch_run, compiled_run):
        warm_up()
    ratios, seconds = [], []
    for number in range(rounds):
        taken = {}
        for run in (torch_run, compiled_run) if number % 2 else (compiled_run, torch_run):
            start = time.process_time()
            run()
            taken[run] = time.process_time() - start
        ratios.append(taken[torch_run] / taken[compiled_run])
        seconds.append(taken[compiled_run])
    return statistics.median(ratios), min(seconds)


def states(dtype: torch.dtype, *shape: int) -> Tensor:
    """Noise."""
    return torch.randn(*shape).to(dtype)


def prefill(dtype: torch.dtype) -> tuple[Run, Run, Run]:
    """Attention of rows behind a shared prefix: batch-invariant by torch, merged by torch, compiled."""
    keys, values = ([states(dtype, PREFIX, KV_HEADS, HEAD_DIM).transpose(0, 1)] for _ in range(2))
    prefix = Prefix(None, 0, PREFIX, keys, values)
    batch = pack_sequences([PackedSequence((1,) * SUFFIX, prefix)] * ROWS, CPU)
    tensors = [states(dtype, ROWS * SUFFIX, heads, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    tiled = BatchInvariantAttention(batch, windows=(None,), heads=(HEADS, KV_HEADS), dtype=dtype)
    merged = PrefixMergeAttention(batch, windows=(None,), dtype=dtype)
    compiled = CompiledAttention(batch, windows=(None,))
    return (
        partial(tiled.attend, 0, *tensors), partial(merged.attend, 0, *tensors), partial(compiled.attend, 0, *tensors)
    )  # fmt: skip


def decode(dtype: torch.dtype) -> tuple[Run, Run]:
    """A decode step of rows with cache slots of their own."""
    config: Any = SimpleNamespace(kv_heads=KV_HEADS, head_dim=HEAD_DIM, layers=1)
    cache = KVCache(config, dtype, CPU, max_tokens=2 * ROWS * PREFIX)
    cache.reserve(ROWS, PREFIX + 1)
    for slot in range(ROWS):
        cache.write(0, slot, *(states(dtype, PREFIX, KV_HEADS, HEAD_DIM) for _ in range(2)))
    tensors = [states(dtype, ROWS, heads, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    layout: Any = (cache, range(ROWS), [PREFIX] * ROWS, [None] * ROWS)
    attentions = [make(*layout, windows=(None,)) for make in (PrefixMergeDecodeAttention, CompiledDecodeAttention)]
    torch_run, compiled_run = (partial(attention.attend, 0, *tensors) for attention in attentions)
    return torch_run, compiled_run


def lora(dtype: torch.dtype, spans: Sequence[tuple[int, int]]) -> tuple[Run, Run]:
    """Adapters of rank 16 on query, key and value."""
    widths, paths = (HIDDEN, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM), ("q", "k", "v")

    def pair(width: int) -> LoraPair:
        return LoraPair(states(dtype, 16, HIDDEN) / 30, states(dtype, width, 16), 0.01)

    adapters = [
        LoraWeights(str(start), {path: pair(width) for path, width in zip(paths, widths, strict=True)})
        for start, _ in spans
    ]
    lora_spans = [LoraSpan(adapter, *span) for adapter, span in zip(adapters, spans, strict=True)]
    x, y = states(dtype, spans[-1][1], HIDDEN), states(dtype, spans[-1][1], sum(widths))
    batched = BatchedLora(lora_spans, len(x), group_adapters=False, dtype=dtype)
    return partial(batched.add, paths, widths, x, y), partial(CompiledLora(lora_spans, dtype).add, paths, widths, x, y)


def between(dtype: torch.dtype) -> dict[str, tuple[Run, Run]]:
    """Residual sum with norm, and the gate, of a block of rows."""
    x, added = states(dtype, 256, HIDDEN), states(dtype, 256, HIDDEN) * 1e-6
    gate, up = states(dtype, 256, INTERMEDIATE), states(dtype, 256, INTERMEDIATE)
    norms = [FusedRmsNorm(RmsNorm(HIDDEN, 1e-6), dtype, compiled=compiled) for compiled in (False, True)]
    norm_runs = [partial(norm.add_and_norm, x, added) for norm in norms]
    gate_runs = [partial(ops.silu_and_mul, gate, up, compiled=compiled) for compiled in (False, True)]
    return {"norm": (norm_runs[0], norm_runs[1]), "gate": (gate_runs[0], gate_runs[1])}


def tile_products() -> dict[str, tuple[Run, Run]]:
    """The largest products of a layer by AMX's tiles."""
    runs: dict[str, tuple[Run, Run]] = {}
    for name, inputs, outputs in (("wide", HIDDEN, INTERMEDIATE), ("deep", INTERMEDIATE, HIDDEN)):
        weight = states(torch.bfloat16, outputs, inputs)
        prepacked, panels = kernels.prepack(weight), amx.pack(weight)
        for rows in (2048, ROWS):
            x = states(torch.bfloat16, rows, inputs)
            runs[f"{name}_product_{rows}"] = (
                partial(kernels.prepacked_linear, x, prepacked, None), partial(amx.multiply, x, panels, None)
            )  # fmt: skip
    return runs


def engines(dtype: torch.dtype) -> list[NativeEngine]:
    """A model of four layers without and with the kernels."""
    config = replace(read_shape("qwen2.5-0.5b"), layers=4, windows=(None,) * 4, vocab_size=1024)
    made = []
    usual = bindings.supports_head_dim
    for fits in (lambda head_dim: False, usual):
        bindings.supports_head_dim = fits
        torch.manual_seed(0)
        decoder = Decoder(config).eval().requires_grad_(False)
        for weight in decoder.parameters():
            torch.nn.init.normal_(weight, std=0.02)
        made.append(NativeEngine(CpuDecoder(decoder.to(dtype), str(dtype).removeprefix("torch."))))
    return made


def whole_runs(dtype: torch.dtype) -> dict[str, tuple[Run, Run]]:
    """Scoring of rows with shared prefixes, and texts."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1024, (count,), generator=generator).tolist())

    prefix = tokens(PREFIX)
    scored: list[Request] = [ScoreChoices(str(i), prefix + tokens(SUFFIX), ((1,), (2,))) for i in range(2 * ROWS)]
    texts: list[Request] = [Generate(str(i), prefix + tokens(8), Sampling(max_new_tokens=48)) for i in range(2 * ROWS)]

    def run(engine: NativeEngine, requests: list[Request]) -> None:
        engine.clear_prefix_cache()
        engine.run(requests)

    without, compiled = engines(dtype)
    return {
        name: (partial(run, without, requests), partial(run, compiled, requests))
        for name, requests in (("score", scored), ("texts", texts))
    }


def product_rate(rounds: int) -> float:
    """Operations a second of a large product in float32."""
    a, b = torch.randn(1024, 896), torch.randn(896, 1024)
    _, seconds = paired(partial(torch.mm, a, b), partial(torch.mm, a, b), rounds)
    return 2.0 * 1024 * 896 * 1024 / seconds


def main() -> None:
    """Measure all, print a line each and one of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    if library.why_unavailable():
        sys.exit(f"no compiled kernels: {library.why_unavailable()}")
    torch.set_num_threads(1)
    keep_buffers()
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    figures = [f"bench=compiled_kernels target={library.target()} dtype={arguments.dtype}"]
    with torch.inference_mode():
        tiled, merged, compiled = prefill(dtype)
        seconds = paired(tiled, compiled, arguments.rounds)[1]
        operations = 4.0 * ROWS * SUFFIX * (PREFIX + SUFFIX / 2) * HEADS * HEAD_DIM
        figures.append(f"prefill_share={operations / seconds / product_rate(arguments.rounds):.2f}")
        pairs = {
            "prefill": (tiled, compiled), "merged_prefill": (merged, compiled), "decode": decode(dtype),
            "lora": lora(dtype, [(0, 128), (128, 256)]), "decode_lora": lora(dtype, [(i, i + 1) for i in range(ROWS)]),
            **between(dtype), **whole_runs(dtype),
            **(tile_products() if dtype == torch.bfloat16 and amx.is_available() else {}),
        }  # fmt: skip
        for name, runs in pairs.items():
            ratio, seconds = paired(*runs, arguments.rounds)
            print(f"{name}: {ratio:.2f} times as fast as torch's operators, {seconds * 1e6:.0f} us", flush=True)
            figures.append(f"{name}_ratio={ratio:.2f}")
    print(" ".join(figures))


if __name__ == "__main__":
    main()
