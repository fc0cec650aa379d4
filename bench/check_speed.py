"""How long `lorica check` takes as a cold process: one adapter of 25 MB, and a folder of a thousand of 5 MB.

    python bench/check_speed.py [--many 1000] [--rounds 7]

The adapters are new random ones on q, k, v and o, written to a temporary folder (5 MB each) and removed. Memory is the
largest sum over all processes of what each holds, sampled while they run; that of a hundredth and a tenth of the
adapters stands beside it. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lorica.adapters.config import AdapterConfig
from lorica.adapters.header import header_bytes

PAGE = os.sysconf("SC_PAGE_SIZE")


def make_adapter(folder: Path, seed: int, *, hidden: int, layers: int, rank: int) -> int:
    """Write an adapter as PEFT names and starts it, B away from zero; returns the bytes of its weights."""
    draw = np.random.default_rng(seed)
    tensors: dict[str, bytes] = {}
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in range(layers):
        for kind, width in (("q", hidden), ("k", hidden // 4), ("v", hidden // 4), ("o", hidden)):
            path = f"base_model.model.model.layers.{layer}.self_attn.{kind}_proj"
            a = (draw.random((rank, hidden), np.float32) * 2 - 1) / np.float32(hidden**0.5)
            b = draw.standard_normal((width, rank), np.float32) * np.float32(5e-3)
            for half, array in (("A", a), ("B", b)):
                shapes[f"{path}.lora_{half}.weight"] = ("F32", array.shape)
                tensors[f"{path}.lora_{half}.weight"] = array.tobytes()
    head, order = header_bytes(shapes, {"format": "pt"})
    folder.mkdir(parents=True)
    weights = folder / "adapter_model.safetensors"
    with weights.open("wb") as file:
        file.writelines([head, *(tensors[name] for name in order)])
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = AdapterConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    (folder / "adapter_config.json").write_bytes(config.to_json())
    return weights.stat().st_size


def check(paths: list[Path], count: int) -> tuple[float, float, float]:
    """Run the command as a new process: seconds, processor seconds, and the most memory of it and its children in MB.

    Ends the program unless all `count` adapters were read to their last tensor: a crash is quick, and Python ends it
    with the same 1 that means "warnings".
    """
    command = [sys.executable, "-m", "lorica.cli", "check", "--json", *map(str, paths)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start, busy = time.perf_counter(), _busy()
        running = subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True)
        most = 0
        while running.poll() is None:
            most = max(most, _memory(running.pid))
            time.sleep(0.002 if time.perf_counter() - start < 1 else 0.05)
        taken, cpu = time.perf_counter() - start, _busy() - busy
        output.seek(0)
        errors.seek(0)
        _prove(output.read(), errors.read(), running.returncode, count)
    return taken, cpu, most / 1e6


def _prove(output: str, errors: str, code: int, count: int) -> None:
    """End the program unless the numbers of `count` different adapters were judged, and none was rejected."""
    try:
        found = json.loads(output)["adapters"]
    except (ValueError, KeyError):
        raise SystemExit(f"check ended with {code} and no result; no speed is reported\n{errors[-2000:]}") from None
    digests = {each["content_digest"] for each in found if each["levels"]["L2"] in ("passed", "noted", "warned")}
    if code not in (0, 1) or len(digests - {None, ""}) != count or len(found) != count:
        raise SystemExit(
            f"check ended with {code}; {len(found)} adapters, {len(digests)} of them judged and different, "
            f"not {count}; no speed is reported\n{errors[-2000:]}"
        )


def _busy() -> float:
    """Processor seconds of all that was started here and has ended: what other programs cannot stretch much."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(session: int) -> int:
    """Bytes that the processes of a session hold, shared pages counted once for each."""
    total = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session:
            total += int(fields[21]) * PAGE
    return total


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many", type=int, default=1000, help="adapters of 5 MB in the folder")
    parser.add_argument("--rounds", type=int, default=7, help="cold starts on the adapter of 25 MB")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        size = make_adapter(place / "one", 0, hidden=2048, layers=29, rank=16)
        single = [check([place / "one"], 1) for _ in range(arguments.rounds)]
        few = max(2, arguments.many // 100)
        some = max(few + 1, arguments.many // 10)
        many = max(some + 1, arguments.many)
        folders = {"few": few, "some": some - few, "many": many - some}
        seed, small = 1, 0
        for name, count in folders.items():
            for _ in range(count):
                small = make_adapter(place / name / f"a{seed}", seed, hidden=1024, layers=24, rank=8)
                seed += 1
        memory = []
        for names in (["few"], ["few", "some"], ["few", "some", "many"]):
            count = sum(folders[name] for name in names)
            seconds, cpu, held = check([place / name for name in names], count)
            memory.append(held)
            print(f"{count} adapters: {seconds:.1f} s, {cpu:.1f} processor seconds, {held:.0f} MB")
    one, one_cpu = (statistics.median(each[i] for each in single) for i in (0, 1))
    one_memory = max(each[2] for each in single)
    best = min(each[0] for each in single)
    print(
        f"one_s={one:.3f} one_best_s={best:.3f} one_cpu_s={one_cpu:.3f} one_mb={size / 1e6:.1f} "
        f"one_memory_mb={one_memory:.0f} many={many} many_s={seconds:.1f} many_cpu_s={cpu:.1f} "
        f"many_mb={small / 1e6:.1f} memory_mb_{few}={memory[0]:.0f} memory_mb_{some}={memory[1]:.0f} "
        f"memory_mb_{many}={memory[2]:.0f} cores={os.cpu_count()}"
    )


if __name__ == "__main__":
    main()
