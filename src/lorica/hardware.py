"""What computes here: the processor's instruction sets, as far as its libraries may use them, and the accelerator.

All of it is read, not measured, so that it is the same in every process: what is computed in which arithmetic follows
from it. `models.cpu.rates` measures how fast that is. torch is imported when it is first asked.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lorica.memory_limit import memory_limit

# Instruction set -> what torch calls the flags that it needs, and the level of oneDNN that uses it (0: any).
_INSTRUCTION_SETS: dict[str, tuple[tuple[str, ...], int]] = {
    "avx2": (("avx2", "fma3", "f16c"), 1),
    "avx_vnni": (("avx_vnni",), 2),
    "avx512": (("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq"), 3),
    "avx512_vnni": (("avx512_vnni",), 4),
    "avx512_bf16": (("avx512_bf16",), 5),
    "avx512_fp16": (("avx512_fp16",), 6),
    "amx_int8": (("amx_tile", "amx_int8"), 7),
    "amx_bf16": (("amx_tile", "amx_bf16"), 7),
    "amx_fp16": (("amx_tile", "amx_fp16"), 8),
    "neon": (("neon",), 0),
    "neon_fp16": (("fp16_arith",), 0),
    "neon_bf16": (("bf16",), 0),
    "neon_dot": (("dot",), 0),
    "i8mm": (("i8mm",), 0),
    "sve": (("sve",), 0),
    "sve2": (("sve2",), 0),
    "sve_bf16": (("sve_bf16",), 0),
    "sme": (("sme",), 0),
}

# https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
_ONEDNN_LEVELS = {
    "SSE41": 0, "AVX": 0, "AVX2": 1, "AVX2_VNNI": 2, "AVX2_VNNI_2": 2, "AVX512_CORE": 3, "AVX512_CORE_VNNI": 4,
    "AVX512_CORE_BF16": 5, "AVX512_CORE_FP16": 6, "AVX10_1_512": 6, "AVX512_CORE_AMX": 7, "AVX10_1_512_AMX": 7,
}  # fmt: skip
_ONEDNN_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")

LIMITING_VARIABLES = (
    *("ATEN_CPU_CAPABILITY", *_ONEDNN_VARIABLES, "MKL_ENABLE_INSTRUCTIONS", "FBGEMM_ENABLE_INSTRUCTIONS"),
    "LORICA_CPU_TARGET",
)
"""Variables of the environment that keep a library, or Lorica's kernels, from instructions the processor has."""

# dtype of both operands -> instruction sets that multiply it; any of them will do.
_MULTIPLIED_BY = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "neon_bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "neon_fp16"),
    "int8": ("avx_vnni", "avx512_vnni", "amx_int8", "neon_dot", "i8mm"),
}

_PROCESSORS = Path("/sys/devices/system/cpu")

# The first NVIDIA GPUs whose tensor cores multiply bfloat16 (Ampere).
_BFLOAT16_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Accelerator:
    """The first CUDA device. capability: of NVIDIA's compute capabilities, (major, minor)."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int

    def multiplies(self, dtype: str) -> bool:
        """Whether products of this dtype are faster than in float32."""
        return dtype == "float16" or (dtype == "bfloat16" and self.capability >= _BFLOAT16_CAPABILITY)


@dataclass(frozen=True)
class Hardware:
    """A machine. instruction_sets: those of its processor that torch's products may use. memory_bytes: 0 where the
    system does not tell. limits: variables of the environment that keep libraries from what the processor has."""

    processor: str
    architecture: str
    instruction_sets: tuple[str, ...]
    cores: int
    memory_bytes: int
    limits: Mapping[str, str] = field(default_factory=dict)
    accelerator: Accelerator | None = None

    def multiplies(self, dtype: str) -> bool:
        """Whether the processor has instructions for products of this dtype: without them bfloat16 and float16 run as
        scalar code, many times slower than float32."""
        return dtype == "float32" or any(name in self.instruction_sets for name in _MULTIPLIED_BY[dtype])


@cache
def this_machine() -> Hardware:
    """The machine that this process runs on."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    limits = {name: os.environ[name] for name in LIMITING_VARIABLES if os.environ.get(name)}
    return Hardware(
        processor=str(capabilities.get("cpu_name") or platform.processor() or "unknown").strip(),
        architecture=str(capabilities.get("architecture") or platform.machine()),
        instruction_sets=usable_sets(capabilities, limits),
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        limits=limits,
        accelerator=_accelerator(),
    )


def usable_sets(capabilities: Mapping[str, object], limits: Mapping[str, str]) -> tuple[str, ...]:
    """The instruction sets that torch's products may use. capabilities: `torch.cpu.get_capabilities()`."""
    stated = next((limits[name] for name in _ONEDNN_VARIABLES if name in limits), "")
    highest = _ONEDNN_LEVELS.get(stated.upper(), max(level for _, level in _INSTRUCTION_SETS.values()))
    return tuple(
        name
        for name, (flags, level) in _INSTRUCTION_SETS.items()
        if level <= highest and all(capabilities.get(flag) is True for flag in flags)
    )


def usable_cores(processors: Path = _PROCESSORS) -> int:
    """Cores that this process may run on. Hardware threads of one core count once, as in torch's own number of threads:
    products are no faster with both."""
    try:
        numbers = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
    return len({_core(processors / f"cpu{number}" / "topology") for number in numbers})


def _core(topology: Path) -> str:
    """What a hardware thread's core is called: the threads it has, else the thread alone."""
    for name in ("core_cpus_list", "thread_siblings_list"):  # the older name last
        try:
            return (topology / name).read_text("ascii").strip()
        except (OSError, ValueError):
            continue
    return str(topology)


def _memory_bytes() -> int:
    """What the machine has, or what a container's limit leaves of it."""
    limit = memory_limit()
    if limit is not None:
        return limit
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _accelerator() -> Accelerator | None:
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Accelerator(properties.name, (properties.major, properties.minor), int(properties.total_memory))
