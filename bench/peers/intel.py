"""OpenVINO GenAI's continuous batching. Options: cache, threads, cells (GiB of keys and values), dtype and kept (how
it computes, and stores keys and values: bf16, f32; kept also u8, its own default).

As an expert would: prefix caching, the shared prefix of an adapter computed before its rows (in whole blocks: from
a part of one it goes on wrongly), dynamic split-fuse, all rows of an adapter together (a call takes one set of adapters
for all its rows). It tells the scores of the tokens it picks but not of given choices, so it takes part where text is
made.

The model is converted by optimum-intel, once, without compressing its weights; adapters are read as PEFT stores them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from bench.peers.workloads import NEW_TOKENS, Item, by_adapter

_BATCH, _ROWS, _BLOCK = 2048, 64, 32
_SCALE = 32 / 16  # alpha over rank of every adapter of the bench: the safetensors file does not hold it


class OpenVino:
    """A pipeline with the adapters of the workload, which become part of it when it is made."""

    def __init__(self, model: Path, adapters: Path, options: dict[str, str]) -> None:
        self._folder = _convert(model, Path(options["cache"]) / "openvino" / model.name)
        self._folders, self._adapters = adapters, dict[str, Any]()
        self._options = options
        self._pipe: Any = None

    def _fresh(self) -> None:
        """An empty prefix cache, which nothing else gives: or the second round would be answered out of the first."""
        options = self._options
        self._pipe = None
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = int(options.get("cells", 1))
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs = _BATCH, _ROWS
        scheduler.enable_prefix_caching = scheduler.dynamic_split_fuse = True
        kept = genai.AdapterConfig([(one, 0.0) for one in self._adapters.values()])
        self._pipe = genai.ContinuousBatchingPipeline(
            self._folder,
            scheduler,
            "CPU",
            {
                "adapters": kept,
                "INFERENCE_NUM_THREADS": int(options.get("threads", 0)) or 2,
                "INFERENCE_PRECISION_HINT": options.get("dtype", "bf16"),
                "KV_CACHE_PRECISION": options.get("kept", "bf16"),
            },
        )

    def run(self, items: list[Item]) -> dict[str, Any]:
        """New tokens of all items."""
        if items[0].choices:
            raise RuntimeError("it gives no scores of choices")
        for name in {item.adapter for item in items} - set(self._adapters):
            self._adapters[name] = genai.Adapter(self._folders / name / "adapter_model.safetensors")
        self._fresh()
        results: list[list[int]] = [[] for _ in items]
        begun = time.perf_counter()
        for name, numbers in by_adapter(items):
            first = items[numbers[0]]
            self._ask(name, [first.prompt[: first.shared // _BLOCK * _BLOCK]], 1)
            found = self._ask(name, [items[number].prompt for number in numbers], NEW_TOKENS)
            for number, tokens in zip(numbers, found, strict=True):
                results[number] = tokens
        return {"results": results, "seconds": time.perf_counter() - begun}

    def _ask(self, adapter: str, prompts: list[tuple[int, ...]], new: int) -> list[list[int]]:
        wanted = genai.GenerationConfig()
        wanted.max_new_tokens = wanted.min_new_tokens = new
        wanted.set_eos_token_id(0)  # ignored, but a model without one is refused
        wanted.ignore_eos, wanted.do_sample = True, False
        wanted.adapters = genai.AdapterConfig(self._adapters[adapter], float(self._options.get("scale", _SCALE)))
        given = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        answers = self._pipe.generate(given, [wanted] * len(given))
        return [list(answer.m_generation_ids[0]) for answer in answers]


def _convert(model: Path, folder: Path) -> Path:
    if not folder.exists():
        from optimum.intel import OVModelForCausalLM

        part = folder.with_suffix(".part")
        OVModelForCausalLM.from_pretrained(model, export=True, load_in_8bit=False, compile=False).save_pretrained(part)
        part.rename(folder)
    return folder


def load(model: Path, adapters: Path, options: dict[str, str]) -> OpenVino:
    """For the worker."""
    return OpenVino(model, adapters, options)
