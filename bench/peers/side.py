"""A peer's process, seen from the bench."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
_ON_A_GPU = ("native", "transformers", "ceiling")


class Side:
    """One peer with its options. needs: the module that its interpreter must have. works: how those it does begin."""

    def __init__(self, name: str, python: str, command: list[str], *, needs: str = "", works: str = "w") -> None:
        self.name, self.ready, self.isa = name, 0.0, ""
        self._python, self._command, self._needs, self._works = python, command, needs, works
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Load the peer; returns why it cannot be, or ""."""
        if not self._python:
            return "not installed, or not on this device: no interpreter was named for it"
        if self._needs and not self._installed():
            return f"not installed: {self._needs}"
        self._process = subprocess.Popen(
            [self._python, str(WORKER), *self._command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | self._preloaded(),
        )
        told = self._read()
        self.ready, self.isa = told.get("ready", 0.0), told.get("isa", "")
        return str(told.get("error", ""))

    def does(self, work: str) -> bool:
        """Whether the peer takes part in a workload."""
        return work.startswith(tuple(self._works.split(",")))

    def ask(self, work: str, rows: int, texts: list[list[int]] | None = None) -> dict[str, Any]:
        """Run a workload; with texts, judge these instead."""
        assert self._process is not None
        assert self._process.stdin is not None
        print(json.dumps({"work": work, "rows": rows, "texts": texts}), file=self._process.stdin, flush=True)
        return self._read()

    def stop(self) -> None:
        """End the process."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()

    def _preloaded(self) -> dict[str, str]:
        """vLLM asks for Intel's OpenMP before all else; its package puts it beside the interpreter."""
        library = Path(self._python).parent.parent / "lib" / "libiomp5.so"
        return {"LD_PRELOAD": str(library)} if self._needs == "vllm" and library.exists() else {}

    def _installed(self) -> bool:
        if self._python == sys.executable:
            return importlib.util.find_spec(self._needs) is not None
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({self._needs!r}) is None)"
        return subprocess.run([self._python, "-c", code], check=False).returncode == 0

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"its process ended with {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer


def known_sides(model: Path, adapters: Path, given: argparse.Namespace) -> list[Side]:
    """All sides that were asked for, in the order in which they are run."""
    here, threads = sys.executable, f"threads={given.threads}"

    def side(name: str, peer: str, *options: str, python: str = here, needs: str = "", works: str = "w") -> Side:
        command = [peer, str(model), str(adapters), threads, f"device={given.device}", *options]
        here_too = given.device == "cpu" or peer in _ON_A_GPU
        return Side(name, python if here_too else "", command, needs=needs, works=works)

    found = [
        side("native-fp32", "native", "dtype=float32"),
        side("native-bf16", "native", "dtype=bfloat16"),
        side("native-bf16-free", "native", "dtype=bfloat16", "deterministic=false"),
        side("native-bf16-kept", "native", "dtype=bfloat16", "kept=true"),
        side("native-int16", "native", "dtype=int16"),
        side("native-int8", "native", "dtype=int8"),
        side("native-int8-weights", "native", "dtype=int8-weights"),
        side("native-int4-weights", "native", "dtype=int4-weights"),
        side("peft-one-bf16", "transformers", "way=one", "dtype=bfloat16", needs="peft", works="w1,w2,w3"),
        side("peft-grouped-bf16", "transformers", "way=grouped", "dtype=bfloat16", needs="peft", works="w1,w2,w3"),
        side("peft-grouped-fp32", "transformers", "way=grouped", "dtype=float32", needs="peft", works="w1,w2,w3"),
        side("peft-mixed-bf16", "transformers", "way=mixed", "dtype=bfloat16", needs="peft"),
        side("paged-bf16", "transformers", "way=paged", "dtype=bfloat16", needs="peft", works="w1,w2,w3"),
    ]
    for kind in ("bf16", "f16", "q8_0", "q4_0", "q4_k_m"):
        found.append(
            side(
                f"llama-{kind}", "llama", f"kind={kind}", f"cache={given.cache}", python=given.llama, needs="llama_cpp"
            )
        )
    found += [
        side("vllm-bf16", "vllm", python=given.vllm, needs="vllm"),
        side(
            "openvino-bf16",
            "openvino",
            f"cache={given.cache}",
            python=given.openvino,
            needs="openvino_genai",
            works="w3",
        ),
        side("ceiling", "ceiling"),
    ]
    wanted = set(given.sides.split(",")) - {""}
    return [one for one in found if not wanted or one.name in wanted]
