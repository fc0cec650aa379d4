"""The engine for any architecture of transformers and PEFT: slower, padded, one adapter at a time, same answers."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lorica.adapters.folder import MORE_THAN_PAIRS
from lorica.adapters.member import Member
from lorica.engines.base import (
    EngineInfo,
    EngineSettings,
    OnDone,
    OnOutputs,
    as_lora,
    check_adapters,
    is_new,
    max_new_tokens_for,
    output_without_model,
    resolve_device,
    scored,
    unknown_adapter,
)
from lorica.engines.batch_timer import BatchTimer
from lorica.engines.peft_adapters import PeftAdapters
from lorica.errors import EngineError, MissingExtraError
from lorica.models.allocator import keep_buffers
from lorica.models.base_folder import BaseFolder
from lorica.models.offline import import_bitsandbytes_offline, offline
from lorica.models.transformers_models import load_causal
from lorica.precision import precision_of
from lorica.records import Generate, Output, Request, ScoreChoices


class TransformersEngine:
    """AutoModelForCausalLM with PEFT adapters. Nothing is downloaded and no code of a model folder is run."""

    def __init__(self, base: BaseFolder, settings: EngineSettings) -> None:
        self._adapters = PeftAdapters(_load(base.path, settings))
        self._settings = settings
        self._digests: dict[str, str] = {}
        self._timer = BatchTimer()
        config = self._model.config.get_text_config()
        self._vocab_size = int(self._model.get_input_embeddings().num_embeddings)
        self._max_positions = int(getattr(config, "max_position_embeddings", None) or 1 << 62)
        self._accepted = frozenset(inspect.signature(self._model.forward).parameters)

    @property
    def _model(self) -> Any:
        return self._adapters.model

    def add_adapter(self, name: str, adapter: Member) -> None:
        """Load an adapter under a name; the same adapter again changes nothing.

        Raises AdapterError for one that cannot be used or that PEFT would apply only in part, EngineError when another
        adapter has the name, MissingExtraError without PEFT.
        """
        lora = as_lora(adapter)
        lora.check_applied(MORE_THAN_PAIRS)
        if not is_new(name, lora, self._digests):
            return
        self._adapters.add(name, lora)
        self._digests[name] = lora.digest

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory. Raises EngineError for one that was never added."""
        if self._digests.pop(name, None) is None:
            raise unknown_adapter(name, self._digests)
        self._adapters.remove(name)

    @property
    def info(self) -> EngineInfo:
        """What decides the results and the speed. PEFT leaves its wrappers in the base where an adapter replaced whole
        modules.
        """
        import transformers

        return EngineInfo(
            name="transformers",
            family=str(self._model.config.model_type),
            dtype="nf4" if self._settings.load_in_4bit else str(self._model.dtype).removeprefix("torch."),
            device=str(self._model.device),
            threads=torch.get_num_threads(),
            batch_tokens=self._settings.batch_tokens,
            versions={"torch": str(torch.__version__), "transformers": str(transformers.__version__)},
            restores_base=False,
        )

    def set_timer(self, timer: BatchTimer) -> None:
        """See `TimedEngine`."""
        self._timer = timer

    def clear_prefix_cache(self) -> None:
        """There is none."""

    @torch.inference_mode()
    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """Answer all requests in their order; see `Engine.run`."""
        check_adapters(requests, self._digests)
        outputs: list[Output | None] = [None] * len(requests)
        groups: dict[tuple[object, ...], list[int]] = {}
        for request_index, request in enumerate(requests):
            outputs[request_index] = output_without_model(
                request, vocab_size=self._vocab_size, max_positions=self._max_positions
            )
            if outputs[request_index] is None:
                groups.setdefault(self._batch_key(request), []).append(request_index)
        for group_members in groups.values():
            with self._adapters.using(requests[group_members[0]].adapter):
                for request_batch in self._batches(requests, group_members):
                    batch = [requests[request_index] for request_index in request_batch]
                    with self._timer.batch({request.id: _sequence_length(request) for request in batch}):
                        batch_outputs = self._answer(batch)
                    for request_index, output in zip(request_batch, batch_outputs, strict=True):
                        outputs[request_index] = output
                    if on_done is not None:
                        on_done(len(request_batch))
        if on_done is not None:
            on_done(len(requests) - sum(map(len, groups.values())))
        return cast(list[Output], outputs)

    def _batch_key(self, request: Request) -> tuple[object, ...]:
        """Requests with the same key may share a batch."""
        if isinstance(request, ScoreChoices):
            return (request.adapter,)
        # A sampled row is a batch of its own: transformers has one random stream for all rows of a batch.
        batch_alone = request.id if _is_sampled(request) else ""
        max_new_tokens = max_new_tokens_for(request, self._max_positions)
        return (request.adapter, request.sampling, request.stop_tokens, max_new_tokens, batch_alone)

    def _batches(self, requests: Sequence[Request], group_members: Sequence[int]) -> Iterator[list[int]]:
        """Rows of similar length together, so that padding is small and within the budget."""
        request_batch: list[int] = []
        for request_index in sorted(group_members, key=lambda i: (-_sequence_length(requests[i]), i)):
            padded_length = _sequence_length(requests[request_batch[0]] if request_batch else requests[request_index])
            sequence_count = sum(_sequence_count(requests[i]) for i in [*request_batch, request_index])
            if request_batch and padded_length * sequence_count > self._settings.batch_tokens:
                yield request_batch
                request_batch = []
            request_batch.append(request_index)
        if request_batch:
            yield request_batch

    def _answer(self, requests: Sequence[Request]) -> list[Output]:
        if isinstance(requests[0], ScoreChoices):
            return self._score(cast(Sequence[ScoreChoices], requests))
        return self._generate(cast(Sequence[Generate], requests))

    def _score(self, requests: Sequence[ScoreChoices]) -> list[Output]:
        sequences: dict[tuple[int, tuple[int, ...]], int] = {}
        for row_index, request in enumerate(requests):
            for choice in request.choices:
                sequences.setdefault((row_index, choice[:-1]), len(sequences))
        token_ids, attention_mask = self._pad(
            [requests[row_index].prompt + continuation for row_index, continuation in sequences]
        )
        # Only the ends of the sequences are scored.
        kept_positions = 1 + max(len(continuation) for _, continuation in sequences)
        arguments: dict[str, Any] = {"input_ids": token_ids, "attention_mask": attention_mask}
        if "position_ids" in self._accepted:
            arguments["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        if "logits_to_keep" in self._accepted:
            arguments["logits_to_keep"] = kept_positions
        logits = self._model(**arguments, use_cache=False).logits[:, -kept_positions:].float()
        scores = logits.log_softmax(dim=-1)
        outputs = []
        for row_index, request in enumerate(requests):
            logprobs = []
            for choice in request.choices:
                choice_scores = scores[sequences[row_index, choice[:-1]], -len(choice) :]
                picked = choice_scores.gather(1, torch.tensor(choice, device=choice_scores.device)[:, None])
                logprobs.append(float(picked.double().sum()))
            outputs.append(scored(request, logprobs))
        return outputs

    def _generate(self, requests: Sequence[Generate]) -> list[Output]:
        from transformers import GenerationConfig

        first_request = requests[0]
        sampling = first_request.sampling
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens_for(first_request, self._max_positions),
            "do_sample": _is_sampled(first_request),
            "repetition_penalty": sampling.repetition_penalty,
            "eos_token_id": [token for token in first_request.stop_tokens if token < self._vocab_size] or None,
            "pad_token_id": 0,
        }
        if settings["eos_token_id"] and sampling.min_new_tokens:
            settings["min_new_tokens"] = min(sampling.min_new_tokens, settings["max_new_tokens"])
        if _is_sampled(first_request):
            settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        token_ids, attention_mask = self._pad([request.prompt for request in requests])
        devices = [token_ids.device] if token_ids.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_seed(first_request))
            generated = self._model.generate(
                input_ids=token_ids, attention_mask=attention_mask, generation_config=GenerationConfig(**settings)
            )
        new_tokens = generated[:, token_ids.shape[1] :].tolist()
        return [_truncate_at_stop(request, token_row) for request, token_row in zip(requests, new_tokens, strict=True)]

    def _pad(self, sequences: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Left-padded tokens and their mask, both [B, L]."""
        longest = max(map(len, sequences))
        device = self._model.device
        token_ids = torch.tensor([(0,) * (longest - len(row)) + row for row in sequences], device=device)
        attention_mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in sequences], device=device)
        return token_ids, attention_mask


def _is_sampled(request: Generate) -> bool:
    return request.sampling.do_sample and request.sampling.temperature > 0


def _seed(request: Generate) -> int:
    text = f"{request.sampling.seed}:{request.id}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _sequence_length(request: Request) -> int:
    if isinstance(request, ScoreChoices):
        return len(request.prompt) + max(map(len, request.choices)) - 1
    return len(request.prompt) + request.sampling.max_new_tokens


def _sequence_count(request: Request) -> int:
    return len({choice[:-1] for choice in request.choices}) if isinstance(request, ScoreChoices) else 1


def _truncate_at_stop(request: Generate, token_ids: Sequence[int]) -> Output:
    for position, token in enumerate(token_ids):
        if token in request.stop_tokens:
            return Output(id=request.id, tokens=tuple(token_ids[:position]), finish="stop")
    return Output(id=request.id, tokens=tuple(token_ids), finish="length")


def _load(folder: Path, settings: EngineSettings) -> Any:
    try:
        from transformers import GenerationConfig
    except ImportError as error:
        raise MissingExtraError("transformers", extra="local", needed_for="engine=transformers") from error
    keep_buffers()
    dtype_name, device = settings.dtype, resolve_device(settings.device)
    if precision_of(dtype_name).quantized:
        raise EngineError(f"the transformers engine does not compute in {dtype_name}", fix="use engine=native")
    options: dict[str, Any] = {"dtype": dtype_name if dtype_name == "auto" else getattr(torch, dtype_name)}
    if settings.load_in_4bit:
        options["quantization_config"] = _four_bits(dtype_name)
    options["device_map"] = settings.device_map or (device if settings.load_in_4bit else None)
    with offline():
        model = load_causal(folder, options)
    # The folder's defaults (temperature, stop tokens) must not mix with the request's.
    model.generation_config = GenerationConfig()
    if options["device_map"] is None:
        model = model.to(device)
    return model.eval()


def _four_bits(dtype_name: str) -> Any:
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", extra="quant", needed_for="model.load_in_4bit")
    import_bitsandbytes_offline()
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if dtype_name == "auto" else getattr(torch, dtype_name)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def load_transformers(base: BaseFolder, settings: EngineSettings) -> TransformersEngine:
    """The factory for `load_engine`."""
    if settings.threads > 0:
        torch.set_num_threads(settings.threads)
    return TransformersEngine(base, settings)
