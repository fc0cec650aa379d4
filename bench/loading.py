"""How long a base and an adapter take to load, and what each adapter holds in memory.

    python bench/loading.py [--shape qwen2.5-0.5b] [--dtype bfloat16] [--rounds 5] [--adapters 32] [--cache FOLDER]

Every round is a fresh process, its files in the page cache: the imports (torch's, mostly) and the loading of the base
are timed apart, then each adapter (rank 16 on query, key, value and output, stored in float32); the first answer lies
between and is not counted. Memory per adapter, as a part of its file: what its tensors hold, and how much the process
grows over all adapters but the first (its own pages; the allocator gives back what is free before each look). Medians
over the rounds; the last line is `key=value`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lorica.adapters.folder import open_adapter
from lorica.models.base_folder import BaseFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Make the material, run the rounds, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen2.5-0.5b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "lorica-bench")
    parser.add_argument("--once", action="store_true", help="one round, in this process")
    given = parser.parse_args()
    if given.once:
        print(json.dumps(once(given)))
        return
    prepare(given)
    rounds = [
        json.loads(
            subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--once"], check=True, capture_output=True, text=True
            ).stdout.splitlines()[-1]
        )
        for _ in range(given.rounds)
    ]
    figures = {key: f"{statistics.median(each[key] for each in rounds):.4g}" for key in rounds[0]}
    figures |= {"shape": given.shape, "dtype": given.dtype, "threads": given.threads, "rounds": given.rounds}
    print(" ".join(f"{key}={value}" for key, value in figures.items()))


def prepare(given: argparse.Namespace) -> None:
    """Model and adapters on disk, and in the page cache."""
    from bench.peers import material, workloads

    model = material.make_model(given.cache, given.shape)
    folders = material.make_adapters(given.cache, given.shape, model, workloads.names(given.adapters))
    for folder in (model, *folders.values()):
        for path in folder.iterdir():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass


def once(given: argparse.Namespace) -> dict[str, float]:
    """Seconds and bytes of one process."""
    started, used = time.perf_counter(), time.process_time()
    from bench.peers import material, workloads

    from lorica.engines.base import EngineSettings
    from lorica.engines.native.engine import load_native
    from lorica.records import ScoreChoices

    imported, used_importing = time.perf_counter(), time.process_time()
    model = material.make_model(given.cache, given.shape)
    folders = list(material.make_adapters(given.cache, given.shape, model, workloads.names(given.adapters)).values())
    engine = load_native(BaseFolder(model), EngineSettings(given.dtype, "cpu", threads=given.threads))
    ready, used_loading = time.perf_counter(), time.process_time()
    engine.run([ScoreChoices("r", (1, 2, 3), ((1,), (2,)))])
    seconds, held = [], []
    for number, folder in enumerate(folders):
        before = time.perf_counter()
        engine.add_adapter(str(number), open_adapter(folder))
        seconds.append(time.perf_counter() - before)
        held.append(resident())
    file = (folders[0] / "adapter_model.safetensors").stat().st_size
    tensors = engine._adapters["0"].parameters()
    grown = (held[-1] - held[0]) / max(1, len(folders) - 1)
    return {
        "import_s": imported - started,
        "import_cpu_s": used_importing - used,
        "base_s": ready - imported,
        "base_cpu_s": used_loading - used_importing,
        "first_adapter_ms": seconds[0] * 1e3,
        "adapter_ms": statistics.median(seconds) * 1e3,
        "adapter_file_mib": file / 2**20,
        "adapter_tensors_over_file": sum(each.untyped_storage().nbytes() for each in tensors) / file,
        "adapter_grown_over_file": grown / file,
    }


def resident() -> int:
    """Bytes of this process in memory that are its own, not pages of a file, nor free."""
    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
