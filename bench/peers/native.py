"""Lorica's native engine. Options: dtype, device, threads, batch_tokens, deterministic (true or false), kept (true:
the prefix cache holds what runs over other rows that begin alike computed, as from window to window of a file;
otherwise every run computes its own).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench.peers.operations import count_operations
from bench.peers.workloads import NEW_TOKENS, Item

from lorica.adapters.folder import open_adapter
from lorica.engines.base import EngineSettings
from lorica.engines.native.engine import load_native
from lorica.models.base_folder import BaseFolder
from lorica.models.compiled import library
from lorica.models.cpu import kernels
from lorica.models.families import read_decoder_config
from lorica.precision import PRECISIONS
from lorica.records import Generate, Request, Sampling, ScoreChoices


class Native:
    """The engine, with adapters loaded when a workload first names them. isa: what torch and the kernels use."""

    def __init__(self, model: Path, adapters: Path, options: dict[str, str]) -> None:
        self.isa = f"torch {torch.backends.cpu.get_cpu_capability()}, kernels {library.target() or 'none'}"
        self._arithmetic = _arithmetic(options["dtype"])
        settings = EngineSettings(
            dtype=options["dtype"],
            device=options.get("device", "cpu"),
            threads=int(options.get("threads", 0)),
            batch_tokens=int(options.get("batch_tokens", 8192)),
            deterministic=options.get("deterministic", "true") == "true",
        )
        self._engine = load_native(BaseFolder(model), settings)
        self._adapters = adapters
        self._config = read_decoder_config(model)
        self._loaded: set[str] = set()
        self._kept = options.get("kept", "false") == "true"

    def run(self, items: list[Item]) -> dict[str, Any]:
        """Results, and what had to be computed for them."""
        for name in {item.adapter for item in items} - self._loaded:
            self._engine.add_adapter(name, open_adapter(self._adapters / name))
            self._loaded.add(name)
        requests = [_request(item) for item in items]
        self._engine.clear_prefix_cache()
        if self._kept:
            others = [_request(replace(one, prompt=_with_another_end(one))) for one in items]
            for _ in range(2):  # an adapter of one row: its prompt is met first, then what is shared is computed
                self._engine.run(others)
        begun = time.perf_counter()
        outputs = self._engine.run(requests)
        failed = [output for output in outputs if output.error]
        if failed:
            raise RuntimeError(failed[0].error)
        found: dict[str, Any] = {
            "results": [list(output.logprobs or output.tokens) for output in outputs],
            "told": self._engine.info.manifest(),
            "seconds": time.perf_counter() - begun,
        }
        if not self._kept:
            self._engine.clear_prefix_cache()
            plan = self._engine.plan(requests)
            found["computed_tokens"] = plan.computed_tokens() + sum(max(0, len(one.tokens) - 1) for one in outputs)
            found["arithmetic"] = self._arithmetic
            found["operations"] = count_operations(self._config, plan)
        return found

    def judge(self, items: list[Item], texts: list[list[int]]) -> dict[str, Any]:
        """The mean log-probability of a token of these texts, one for each item."""
        requests = [
            ScoreChoices(item.id, item.prompt, (tuple(text),), item.adapter)
            for item, text in zip(items, texts, strict=True)
        ]
        outputs = self._engine.run(requests)
        return {"text_logprob": sum(output.logprobs[0] for output in outputs) / sum(map(len, texts))}


def _arithmetic(precision: str) -> str:
    """What the linear layers are multiplied in on this processor."""
    products = PRECISIONS[precision].products
    if products == "int8":
        return "int8" if kernels.has_int8_linear() else "int16"
    return products if products == "int16" or kernels.can_prepack(getattr(torch, products)) else "float32"


def _with_another_end(item: Item) -> tuple[int, ...]:
    return item.prompt[: item.shared] + item.prompt[: item.shared - 1 : -1]


def _request(item: Item) -> Request:
    if item.choices:
        return ScoreChoices(item.id, item.prompt, tuple((choice,) for choice in item.choices), item.adapter)
    return Generate(item.id, item.prompt, Sampling(max_new_tokens=NEW_TOKENS), adapter=item.adapter)


def load(model: Path, adapters: Path, options: dict[str, str]) -> Native:
    """For the worker."""
    return Native(model, adapters, options)
