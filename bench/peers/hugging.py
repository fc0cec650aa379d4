"""transformers + PEFT. Option `way`: one (row by row), grouped (batches of one adapter), mixed (`adapter_names`), paged
(`generate_batch`, one adapter merged into the weights); `dtype`, `device`, `threads`, `batch` (rows).

As an expert would: rows of similar length together, left padding only to the longest of a batch, no gradient, logits of
the last position alone, no cache where nothing is generated.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench.peers.workloads import NEW_TOKENS, Item, by_adapter

_PAGE, _BLOCKS, _BATCH_TOKENS = 32, 1024, 2048


class Hugging:
    """One model with all adapters of a workload."""

    def __init__(self, model: Path, adapters: Path, options: dict[str, str]) -> None:
        from transformers import AutoModelForCausalLM

        if int(options.get("threads", 0)):
            torch.set_num_threads(int(options["threads"]))
        self._way, self._batch = options["way"], int(options.get("batch", 16))
        self._adapters, self._loaded = adapters, set[str]()
        dtype = getattr(torch, options["dtype"])
        self._device = options.get("device", "cpu")
        whole = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True)
        self._model: Any = whole.to(self._device).eval()
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def run(self, items: list[Item]) -> dict[str, Any]:
        """Results of all items."""
        if self._way == "paged":
            return self._paged(items)
        self._load({item.adapter for item in items})
        results: list[list[float]] = [[] for _ in items]
        for numbers in self._batches(items):
            chosen = [items[number] for number in numbers]
            found: Sequence[Sequence[float]] = self._score(chosen) if chosen[0].choices else self._continue(chosen)
            for number, values in zip(numbers, found, strict=True):
                results[number] = list(values)
        return {"results": results}

    def _load(self, names: set[str]) -> None:
        from peft import PeftModel

        for name in sorted(names - self._loaded):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self._loaded:
                    self._model.load_adapter(self._adapters / name, adapter_name=name)
                else:
                    self._model = PeftModel.from_pretrained(self._model, self._adapters / name, adapter_name=name)
            self._loaded.add(name)
        self._model.eval()

    def _batches(self, items: list[Item]) -> list[list[int]]:
        size = 1 if self._way == "one" else self._batch
        groups = [list(range(len(items)))] if self._way == "mixed" else [numbers for _, numbers in by_adapter(items)]
        found = []
        for group in groups:
            group.sort(key=lambda number: -len(items[number].prompt))
            found += [group[at : at + size] for at in range(0, len(group), size)]
        return found

    def _given(self, items: list[Item]) -> dict[str, Any]:
        longest = max(len(item.prompt) for item in items)
        tokens = torch.zeros(len(items), longest, dtype=torch.long)
        mask = torch.zeros(len(items), longest, dtype=torch.long)
        for row, item in enumerate(items):
            tokens[row, longest - len(item.prompt) :] = torch.tensor(item.prompt)
            mask[row, longest - len(item.prompt) :] = 1
        given: dict[str, Any] = {"input_ids": tokens.to(self._device)}
        if len(items) > 1:
            given["attention_mask"] = mask.to(self._device)
        if self._way == "mixed":
            given["adapter_names"] = [item.adapter for item in items]
        else:
            self._model.set_adapter(items[0].adapter)
        return given

    def _score(self, items: list[Item]) -> list[list[float]]:
        given = self._given(items)
        if "attention_mask" in given:
            given["position_ids"] = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits = self._model(**given, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        found = logits.log_softmax(-1)
        return [found[row, list(item.choices)].tolist() for row, item in enumerate(items)]

    def _continue(self, items: list[Item]) -> list[list[int]]:
        given = self._given(items)
        width = given["input_ids"].shape[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = self._model.generate(
                **given, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True
            )
        tokens: list[list[int]] = out[:, width:].tolist()
        return tokens

    def _paged(self, items: list[Item]) -> dict[str, Any]:
        """One adapter for all rows, for it knows no others. One new token where rows are scored: no choice's score."""
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        name = items[0].adapter
        if not self._loaded:
            self._load({name})
            self._model = self._model.merge_and_unload().eval()
        assert name in self._loaded, "the adapter is merged: start another process for another one"
        new = 1 if items[0].choices else NEW_TOKENS
        outputs = self._model.generate_batch(
            inputs=[list(item.prompt) for item in items],
            generation_config=GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE,
                num_blocks=_BLOCKS,
                max_batch_tokens=_BATCH_TOKENS,
                use_cuda_graph=self._device != "cpu",
            ),
            warmup=False,
        )
        made = sum(len(output.generated_tokens) for output in outputs.values())
        if made != new * len(items):
            errors = {output.error for output in outputs.values() if output.error}
            raise RuntimeError(f"{made} tokens instead of {new * len(items)}; {errors}")
        return {"results": None}


def load(model: Path, adapters: Path, options: dict[str, str]) -> Hugging:
    """For the worker."""
    return Hugging(model, adapters, options)
