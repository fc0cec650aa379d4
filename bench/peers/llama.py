"""llama.cpp through llama-cpp-python's low-level interface.

Options: kind (bf16, f16, q8_0, q4_0, q4_k_m), cache, threads; batch (tokens), flash (on, off), unified (true, false),
lora (f32, bf16: how the adapter's file is stored).

As an expert would: the shared prefix is decoded once per adapter and its cells are given to every row
(`llama_memory_seq_cp`), rows are decoded together in batches, logits only where they are read, a scored row's cells
freed at once so that the next batch does not walk over them, all rows decoded together, one adapter at a time (a
context applies an adapter to all its rows). Quantised files come from llama.cpp's own quantiser, out of the bfloat16
one, and its repacking of them for the processor is on.
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

_CELLS, _OWN_CELLS, _SEQUENCES = 32768, 640, 64
_TYPES = {
    "f16": ll.LLAMA_FTYPE_MOSTLY_F16,
    "q8_0": ll.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": ll.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k_m": ll.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
_ERROR = 4  # GGML_LOG_LEVEL_ERROR
Logits = np.ndarray[Any, np.dtype[np.float32]]
Token = tuple[int, int, int, bool]  # token, position, sequence, whether its logits are read

_told: list[str] = []


def _keep(level: int, text: bytes, data: object) -> None:
    """Keep what went wrong, drop thousands of lines of the rest."""
    del data
    if level == _ERROR:
        _told.append(text.decode(errors="replace").strip())


_log: Any = ll.llama_log_callback(_keep)


class Llama:
    """A context with one adapter at a time. isa: what llama.cpp says that it uses."""

    def __init__(self, model: Path, adapters: Path, options: dict[str, str]) -> None:
        self.isa = ll.llama_print_system_info().decode()
        ll.llama_log_set(_log, ctypes.c_void_p())
        ll.llama_backend_init()
        threads = int(options.get("threads", 0)) or 2
        self._files, self._folders, self._base = Path(options["cache"]) / "gguf", adapters, model
        self._lora = options.get("lora", "f32")
        path = self._file(options["kind"], threads)
        given = ll.llama_model_default_params()
        given.n_gpu_layers = 0
        self._model = ll.llama_model_load_from_file(str(path).encode(), given)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {path}: {_told[-3:]}")
        self._size = int(options.get("batch", 512))
        wanted = ll.llama_context_default_params()
        wanted.n_batch = wanted.n_ubatch = self._size
        wanted.n_seq_max = _SEQUENCES + 1
        wanted.n_threads = wanted.n_threads_batch = threads
        wanted.kv_unified = options.get("unified", "true") == "true"
        wanted.n_ctx = _CELLS if wanted.kv_unified else _OWN_CELLS * (_SEQUENCES + 1)
        on = options.get("flash", "on") == "on"
        wanted.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED if on else ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = ll.llama_init_from_model(self._model, wanted)
        if not self._context:
            raise RuntimeError(f"llama.cpp makes no context: {_told[-3:]}")
        self._memory = ll.llama_get_memory(self._context)
        self._vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self._model))
        self._adapters: dict[str, Any] = {}
        self._batch = ll.llama_batch_init(self._size, 0, 1)

    def run(self, items: list[Item]) -> dict[str, Any]:
        """Results of all items."""
        results: list[list[float] | list[int]] = [[] for _ in items]
        for name, numbers in by_adapter(items):
            self._use(name)
            ll.llama_memory_clear(self._memory, False)
            shared = items[numbers[0]].shared
            self._decode([(token, at, 0, False) for at, token in enumerate(items[numbers[0]].prompt[:shared])])
            numbers.sort(key=lambda number: -len(items[number].prompt))
            if items[numbers[0]].choices:
                for rows in self._packed(items, numbers):
                    for number, logits in zip(rows, self._read(items, rows), strict=True):
                        results[number] = _score(logits, items[number].choices)
                    self._free(len(rows))
            else:
                for at in range(0, len(numbers), _SEQUENCES):
                    self._continue(items, numbers[at : at + _SEQUENCES], results)
        return {"results": results}

    def _packed(self, items: list[Item], numbers: list[int]) -> list[list[int]]:
        """Rows in groups that one batch holds."""
        groups: list[list[int]] = []
        room = 0
        for number in numbers:
            own = len(items[number].prompt) - items[number].shared
            if not groups or own > room or len(groups[-1]) == _SEQUENCES:
                groups.append([])
                room = self._size
            groups[-1].append(number)
            room -= own
        return groups

    def _read(self, items: list[Item], rows: list[int], first: int = 1) -> list[Logits]:
        """Decode the rows' suffixes as sequences from `first` on; the logits of their last tokens."""
        waiting: list[Token] = []
        for sequence, number in enumerate(rows, first):
            item = items[number]
            ll.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            last = len(item.prompt) - 1
            waiting += [(item.prompt[at], at, sequence, at == last) for at in range(item.shared, last + 1)]
        return self._decode(waiting)

    def _continue(self, items: list[Item], numbers: list[int], results: list[Any]) -> None:
        first = 1
        for rows in self._packed(items, numbers):
            for number, logits in zip(rows, self._read(items, rows, first), strict=True):
                results[number] = [int(logits.argmax())]
            first += len(rows)
        for step in range(NEW_TOKENS - 1):
            given = [
                (results[number][-1], len(items[number].prompt) + step, sequence, True)
                for sequence, number in enumerate(numbers, 1)
            ]
            for number, logits in zip(numbers, self._decode(given), strict=True):
                results[number].append(int(logits.argmax()))
        self._free(len(numbers))

    def _free(self, rows: int) -> None:
        for sequence in range(1, rows + 1):
            ll.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _decode(self, tokens: list[Token]) -> list[Logits]:
        """The logits that are read, in the order of the tokens; valid until the next call only if copied, so copied."""
        found: list[Logits] = []
        batch = self._batch
        for start in range(0, len(tokens), self._size):
            part = tokens[start : start + self._size]
            batch.n_tokens = len(part)
            for at, (token, position, sequence, read) in enumerate(part):
                batch.token[at], batch.pos[at], batch.logits[at] = token, position, read
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
            if ll.llama_decode(self._context, batch):
                raise RuntimeError(f"llama_decode failed: {_told[-3:]}")
            for at, (*_, read) in enumerate(part):
                if read:
                    pointer = ll.llama_get_logits_ith(self._context, at)
                    found.append(np.ctypeslib.as_array(pointer, shape=(self._vocab,)).copy())
        return found

    def _file(self, kind: str, threads: int) -> Path:
        """The model's GGUF file, made unless it is there."""
        plain = write_model(self._base, self._files / f"{self._base.name}-bf16.gguf")
        path = self._files / f"{self._base.name}-{kind}.gguf"
        if not path.exists():
            given = ll.llama_model_quantize_default_params()
            given.ftype, given.nthread = _TYPES[kind], threads
            part = path.with_suffix(".part")
            if ll.llama_model_quantize(str(plain).encode(), str(part).encode(), ctypes.byref(given)):
                raise RuntimeError(f"llama.cpp does not quantise {plain} to {kind}: {_told[-3:]}")
            part.rename(path)
        return path

    def _use(self, name: str) -> None:
        if name not in self._adapters:
            path = self._files / f"{self._folders.name}-{name}-{self._lora}.gguf"
            write_adapter(self._folders / name, self._base, path, self._lora)
            self._adapters[name] = ll.llama_adapter_lora_init(self._model, str(path).encode())
            if not self._adapters[name]:
                raise RuntimeError(f"llama.cpp does not load the adapter {path}: {_told[-3:]}")
        kind = type(self._adapters[name])
        one, scale = (kind * 1)(self._adapters[name]), (ctypes.c_float * 1)(1.0)
        if ll.llama_set_adapters_lora(self._context, one, 1, scale):
            raise RuntimeError(f"llama.cpp does not take the adapter {name}: {_told[-3:]}")


def _score(logits: Logits, choices: tuple[int, ...]) -> list[float]:
    highest = float(logits.max())
    total = highest + math.log(float(np.exp(logits - highest, dtype=np.float64).sum()))
    return [float(logits[choice]) - total for choice in choices]


def load(model: Path, adapters: Path, options: dict[str, str]) -> Llama:
    """For the worker."""
    return Llama(model, adapters, options)
