"""llama.cpp through llama-cpp-python's low-level interface. Options: kind (bf16, q8_0, q4_0), cache, threads.

As an expert would: the shared beginning is decoded once per adapter and its cells are given to every row
(`llama_memory_seq_cp`, which copies nothing), rows are decoded together in batches of up to 2048 tokens, logits only
where they are read, all rows continued together, one adapter at a time (a context applies an adapter to all its rows).
"""

from __future__ import annotations

import ctypes
import math
from pathlib import Path
from typing import Any

import llama_cpp as ll
import numpy as np
from bench.peers.gguf_files import write_adapter, write_model
from bench.peers.workloads import NEW_TOKENS, Item, by_adapter

_CELLS, _BATCH, _SEQUENCES = 32768, 2048, 64


class Llama:
    """A context with one adapter at a time."""

    def __init__(self, model: Path, adapters: Path, options: dict[str, str]) -> None:
        ll.llama_backend_init()
        files = Path(options["cache"]) / "gguf"
        self._files, self._folders, self._base = files, adapters, model
        path = write_model(model, files / f"{model.name}-{options['kind']}.gguf", options["kind"])
        given = ll.llama_model_default_params()
        given.n_gpu_layers = 0
        self._model = ll.llama_model_load_from_file(str(path).encode(), given)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        wanted = ll.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_ubatch, wanted.n_seq_max = _CELLS, _BATCH, _BATCH, _SEQUENCES + 1
        wanted.n_threads = wanted.n_threads_batch = int(options.get("threads", 0)) or 2
        if hasattr(wanted, "kv_unified"):
            wanted.kv_unified = True
        self._context = ll.llama_init_from_model(self._model, wanted)
        self._memory = ll.llama_get_memory(self._context)
        self._vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self._model))
        self._adapters: dict[str, Any] = {}
        self._batch = ll.llama_batch_init(_BATCH, 0, 1)

    def run(self, items: list[Item]) -> dict[str, Any]:
        """Results of all items."""
        results: list[list[float] | list[int]] = [[] for _ in items]
        for name, numbers in by_adapter(items):
            self._use(name)
            ll.llama_memory_clear(self._memory, True)
            shared = items[numbers[0]].shared
            self._decode([(token, at, 0, False) for at, token in enumerate(items[numbers[0]].prompt[:shared])])
            numbers.sort(key=lambda number: -len(items[number].prompt))
            for at in range(0, len(numbers), _SEQUENCES):
                self._together(items, numbers[at : at + _SEQUENCES], shared, results)
        return {"results": results}

    def _together(self, items: list[Item], numbers: list[int], shared: int, results: list[Any]) -> None:
        waiting: list[tuple[int, int, int, bool]] = []
        rows: list[int] = []

        def flush() -> None:
            for row, logits in zip(rows, self._decode(waiting), strict=True):
                item = items[numbers[row]]
                results[numbers[row]] = _score(logits, item.choices) if item.choices else [int(logits.argmax())]
            waiting.clear()
            rows.clear()

        for row, number in enumerate(numbers):
            own = items[number].prompt[shared:]
            ll.llama_memory_seq_cp(self._memory, 0, row + 1, 0, shared)
            if len(waiting) + len(own) > _BATCH:
                flush()
            waiting += [(token, shared + at, row + 1, at == len(own) - 1) for at, token in enumerate(own)]
            rows.append(row)
        flush()
        if not items[numbers[0]].choices:
            for step in range(NEW_TOKENS - 1):
                given = [
                    (results[number][-1], len(items[number].prompt) + step, row + 1, True)
                    for row, number in enumerate(numbers)
                ]
                for number, logits in zip(numbers, self._decode(given), strict=True):
                    results[number].append(int(logits.argmax()))
        for row in range(len(numbers)):
            ll.llama_memory_seq_rm(self._memory, row + 1, 0, -1)

    def _decode(self, tokens: list[tuple[int, int, int, bool]]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """(token, position, sequence, whether its logits are read) of each -> the logits that are read."""
        found = []
        for start in range(0, len(tokens), _BATCH):
            part = tokens[start : start + _BATCH]
            batch = self._batch
            batch.n_tokens = len(part)
            for at, (token, position, sequence, read) in enumerate(part):
                batch.token[at], batch.pos[at], batch.logits[at] = token, position, read
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
            if ll.llama_decode(self._context, batch):
                raise RuntimeError("llama_decode failed")
            for at, (*_, read) in enumerate(part):
                if read:
                    pointer = ll.llama_get_logits_ith(self._context, at)
                    found.append(np.ctypeslib.as_array(pointer, shape=(self._vocab,)).copy())
        return found

    def _use(self, name: str) -> None:
        if name not in self._adapters:
            path = write_adapter(self._folders / name, self._base, self._files / f"{self._folders.name}-{name}.gguf")
            self._adapters[name] = ll.llama_adapter_lora_init(self._model, str(path).encode())
            if not self._adapters[name]:
                raise RuntimeError(f"llama.cpp does not load the adapter {path}")
        if hasattr(ll, "llama_set_adapters_lora"):  # newer: the whole list at once
            kind = type(self._adapters[name])
            one, scale = (kind * 1)(self._adapters[name]), (ctypes.c_float * 1)(1.0)
            ll.llama_set_adapters_lora(self._context, one, 1, scale)
        else:
            ll.llama_clear_adapter_lora(self._context)
            ll.llama_set_adapter_lora(self._context, self._adapters[name], 1.0)


def _score(logits: np.ndarray[Any, np.dtype[np.float32]], choices: tuple[int, ...]) -> list[float]:
    highest = float(logits.max())
    total = highest + math.log(float(np.exp(logits - highest, dtype=np.float64).sum()))
    return [float(logits[choice]) - total for choice in choices]


def load(model: Path, adapters: Path, options: dict[str, str]) -> Llama:
    """For the worker."""
    return Llama(model, adapters, options)
