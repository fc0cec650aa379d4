"""What a machine multiplies follows from its flags, and from what the environment leaves of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lorica.hardware import Accelerator, Hardware, this_machine, usable_cores, usable_sets

SAPPHIRE_RAPIDS = dict.fromkeys(
    ("avx2", "fma3", "f16c", "avx_vnni", "avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_vnni",
     "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"), True
) | {"amx_fp16": False, "cpu_name": "Xeon", "l2_cache_size": 1}  # fmt: skip


def _hardware(*sets: str) -> Hardware:
    return Hardware("any", "x86_64", sets, cores=2, memory_bytes=1 << 34)


@pytest.mark.parametrize(
    ("stated", "last"),
    [("", "amx_bf16"), ("AVX2", "avx2"), ("avx2_vnni", "avx_vnni"), ("AVX512_CORE", "avx512"),
     ("AVX512_CORE_BF16", "avx512_bf16"), ("SSE41", None), ("A_NEWER_ONE", "amx_bf16")],
)  # fmt: skip
def test_onednn_uses_what_its_variable_allows(stated: str, last: str | None) -> None:
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        sets = usable_sets(SAPPHIRE_RAPIDS, {variable: stated} if stated else {})
        assert (sets[-1] if sets else None) == last


def test_a_set_needs_all_of_its_flags() -> None:
    assert "avx512" not in usable_sets(SAPPHIRE_RAPIDS | {"avx512_vl": False}, {})
    assert usable_sets({"neon": True, "bf16": True, "dot": True}, {}) == ("neon", "neon_bf16", "neon_dot")


@pytest.mark.parametrize(
    ("sets", "multiplied"),
    [(("avx2",), {"float32"}), (("avx2", "avx_vnni"), {"float32", "int8"}), (("avx512",), {"float32"}),
     (("avx512_bf16",), {"float32", "bfloat16"}), (("amx_int8", "amx_bf16"), {"float32", "bfloat16", "int8"}),
     (("neon", "neon_fp16"), {"float32", "float16"}), (("sve_bf16", "i8mm"), {"float32", "bfloat16", "int8"})],
)  # fmt: skip
def test_what_is_multiplied(sets: tuple[str, ...], multiplied: set[str]) -> None:
    hardware = _hardware(*sets)
    assert {dtype for dtype in ("float32", "bfloat16", "float16", "int8") if hardware.multiplies(dtype)} == multiplied


def test_gpus_multiply_bfloat16_since_ampere() -> None:
    assert not Accelerator("T4", (7, 5), 1 << 34).multiplies("bfloat16")
    assert Accelerator("A100", (8, 0), 1 << 36).multiplies("bfloat16")
    assert Accelerator("T4", (7, 5), 1 << 34).multiplies("float16")


def test_this_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    this_machine.cache_clear()
    try:
        machine = this_machine()
    finally:
        this_machine.cache_clear()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.memory_bytes == 0 or machine.memory_bytes > 1 << 28
    assert machine.limits["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert machine.architecture != "x86_64" or not machine.multiplies("bfloat16")


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_threads_of_one_core_count_once(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 5}, raising=False)
    assert usable_cores(tmp_path) == 4  # of a system that does not tell
    for number, siblings in {0: "0,4", 1: "1,5", 2: "2,6", 5: "1,5"}.items():
        (tmp_path / f"cpu{number}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}" / "topology" / name).write_text(f"{siblings}\n")
    assert usable_cores(tmp_path) == 3
