"""The engine of encoder classifiers: a base under several heads by name, and whole classifiers beside it.

It answers `ScoreChoices` with two choices, label 1 first and label 0 second as tasks have them, by the
log-probabilities of the two labels; the tokens of the choices are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from lorica.adapters.classifier_folder import ClassifierFolder, head_rows
from lorica.adapters.folder import MORE_THAN_PAIRS, AdapterFolder
from lorica.adapters.member import Member
from lorica.adapters.tensor_names import parse_tensor_name
from lorica.encoder_families import EncoderFamily, is_of_module
from lorica.engine_table import SEGMENTS
from lorica.engines.base import (
    EngineInfo,
    EngineSettings,
    OnDone,
    OnOutputs,
    as_lora,
    check_adapters,
    failed,
    find_request_problem,
    is_new,
    resolve_device,
    unknown_adapter,
)
from lorica.engines.batch_timer import BatchTimer
from lorica.engines.peft_adapters import PeftAdapters
from lorica.errors import AdapterError, EngineError
from lorica.models.base_folder import BaseFolder
from lorica.models.classifiers import (
    base_family,
    check_finite,
    classify,
    label_logprobs,
    load_classifier,
    new_classifier,
)
from lorica.prompts.encoder import Encoder
from lorica.records import Output, Request, ScoreChoices

_BROKEN = "the classifier's output is not a number (NaN or infinite): weights or precision are broken"
_NO_TEXT = "an encoder classifier writes no text: set task.method=choice, or use a decoder"
_TWO_LABELS = "a classifier has two labels and was asked to choose between {count}: it answers task=rules"
_UNKNOWN = math.log(0.5)
# Stand-ins, where only the prompt is to be checked.
_TWO_CHOICES = ((0,), (0,))


class EncoderEngine:
    """AutoModelForSequenceClassification with PEFT adapters. Nothing is downloaded, no code of a folder is run.

    A base without a head answers for itself, too: to it both labels are as likely, which is what an adapter's effect is
    measured against.
    """

    def __init__(self, base: BaseFolder, settings: EngineSettings) -> None:
        """Raises ModelError for a base that is no encoder, EngineError for a precision that its family overflows in."""
        self._base, self._settings = base, settings
        self._family = base_family(base)
        self._dtype_name = _dtype_name(self._family, settings)
        self._device = resolve_device(settings.device)
        self._separator = _separator(base)
        # Logits of the head and its modules that adapters bring -> the base with such adapters: what one brings whole
        # another may change by LoRA, which PEFT does not do to one module. It stays for the next such adapter.
        self._under_heads: dict[tuple[int, tuple[str, ...]], PeftAdapters] = {}
        self._adapters: dict[str, PeftAdapters] = {}
        # By name; None: the base's own, where it has a head.
        self._classifiers: dict[str | None, Any] = {None: self._load(base)} if base.has_head else {}
        self._digests: dict[str, str] = {}
        self._timer = BatchTimer()
        # Alone, a row is multiplied the same whatever else is asked; a GPU is made for batches.
        self._alone = settings.deterministic and self._device == "cpu"

    def add_adapter(self, name: str, adapter: Member) -> None:
        """Load an adapter of the base, or a whole classifier, under a name; the same one again changes nothing.

        Raises AdapterError for one without a head, with weights that are not numbers, or made for another base, and
        EngineError when another one has the name.
        """
        if not is_new(name, adapter, self._digests):
            return
        if isinstance(adapter, ClassifierFolder):
            self._check_same_tokens(adapter)
            self._free_unused()
            self._classifiers[name] = self._load(BaseFolder(adapter.path))
        else:
            self._add_lora(name, as_lora(adapter))
        self._digests[name] = adapter.digest

    def _add_lora(self, name: str, adapter: AdapterFolder) -> None:
        adapter.check_applied(MORE_THAN_PAIRS)
        shapes, location_text = _saved_shapes(adapter), str(adapter.path)
        logits = head_rows(self._family, shapes, location_text)
        brought = tuple(module for module in self._family.head if any(is_of_module(path, module) for path in shapes))
        adapted = self._under_heads.get((logits, brought))
        if adapted is None or (adapted.damage and not self._is_used(adapted)):
            self._free_unused()
            dtype = getattr(torch, self._dtype_name)
            classifier = new_classifier(self._base, [str(number) for number in range(logits)], dtype, seed=0)
            # Random numbers are never used. By default PEFT saves the logits alone, and leaves the pooler to the base.
            head_rows(self._family, shapes, location_text, needed=classifier.random)
            adapted = self._under_heads[logits, brought] = PeftAdapters(classifier.model.to(self._device).eval())
        if adapter.config.task_type not in ("SEQ_CLS", None):
            raise AdapterError(
                f"{adapter.path}: its task_type is {adapter.config.task_type!r}, and an encoder classifies",
                fix='write "task_type": "SEQ_CLS" into adapter_config.json, or use the base that it was trained on',
            )
        adapted.add(name, adapter)
        try:
            check_finite(adapted.parameters(name), str(adapter.path))
        except AdapterError:
            adapted.remove(name)
            raise
        self._adapters[name] = adapted

    def _free_unused(self) -> None:
        """Before another model is loaded, free those that no adapter is on any more."""
        self._under_heads = {head: adapted for head, adapted in self._under_heads.items() if self._is_used(adapted)}

    def _is_used(self, adapted: PeftAdapters) -> bool:
        return adapted in self._adapters.values()

    def _load(self, folder: BaseFolder) -> Any:
        return load_classifier(folder, getattr(torch, self._dtype_name)).to(self._device)

    def _check_same_tokens(self, classifier: ClassifierFolder) -> None:
        """Prompts are written in the base's tokens, and cut to its positions. Raises AdapterError for a classifier with
        other tokens, or fewer positions."""
        positions, of_base = BaseFolder(classifier.path).max_positions, self._base.max_positions
        if positions is not None and (of_base is None or positions < of_base):
            raise AdapterError(
                f"{classifier.path}: sees {positions} tokens at once, and {self._base.path} {of_base}",
                fix=f"use the base that it was trained on, or model.path={classifier.path}",
            )
        for key in ("model_type", "vocab_size"):
            if classifier.config.get(key) != self._base.config.get(key):
                raise AdapterError(
                    f"{classifier.path}: is a classifier of another base: its {key} is {classifier.config.get(key)!r}, "
                    f"that of {self._base.path} {self._base.config.get(key)!r}",
                    fix=f"use the base that it was trained on, or model.path={classifier.path}",
                )
        if (classifier.path / "tokenizer.json").is_file():
            own, tokens_of_base = (
                Encoder.load(folder, chat_template=SEGMENTS, model_config=config).tokenizer_digest
                for folder, config in ((classifier.path, classifier.config), (self._base.path, self._base.config))
            )
            if own != tokens_of_base:
                raise AdapterError(
                    f"{classifier.path}: has another tokenizer than {self._base.path}",
                    fix=f"use the base that it was trained on, or model.path={classifier.path}",
                )

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter or a classifier and free its memory. Raises EngineError for one that was never added."""
        if self._digests.pop(name, None) is None:
            raise unknown_adapter(name, self._digests)
        if name in self._adapters:
            self._adapters.pop(name).remove(name)
        self._classifiers.pop(name, None)

    @property
    def info(self) -> EngineInfo:
        """What decides the results and the speed."""
        import transformers

        return EngineInfo(
            name="encoder",
            family=self._family.model_type,
            dtype=self._dtype_name,
            device=self._device,
            threads=torch.get_num_threads(),
            batch_tokens=self._settings.batch_tokens,
            deterministic=self._alone,
            versions={"torch": str(torch.__version__), "transformers": str(transformers.__version__)},
            batch_invariant=(ScoreChoices,) if self._alone else (),
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
        outputs: dict[int, Output] = {}

        def finish(finished: Mapping[int, Output]) -> None:
            outputs.update(finished)
            if on_outputs is not None and finished:
                on_outputs(list(finished.items()))
            if on_done is not None:
                on_done(len(finished))

        without_model = {index: self._without_model(request) for index, request in enumerate(requests)}
        finish({index: output for index, output in without_model.items() if output is not None})
        groups: dict[str | None, list[int]] = {}
        for index, request in enumerate(requests):
            if index not in outputs:
                groups.setdefault(request.adapter, []).append(index)
        for adapter_name, members in groups.items():
            adapted = self._adapters.get(adapter_name or "")
            with nullcontext() if adapted is None else adapted.using(adapter_name):
                model = self._classifiers[adapter_name] if adapted is None else adapted.model
                for batch in self._batches(requests, members):
                    with self._timer.batch({requests[index].id: len(requests[index].prompt) for index in batch}):
                        batch_outputs = self._score(model, [requests[index] for index in batch])
                    finish(dict(zip(batch, batch_outputs, strict=True)))
        return [outputs[index] for index in range(len(requests))]

    def _without_model(self, request: Request) -> Output | None:
        """The output of a request that needs no forward pass."""
        if not isinstance(request, ScoreChoices):
            return failed(request, _NO_TEXT)
        if len(request.choices) != len(_TWO_CHOICES):
            return failed(request, _TWO_LABELS.format(count=len(request.choices)))
        problem = find_request_problem(
            ScoreChoices(request.id, request.prompt, _TWO_CHOICES),
            vocab_size=self._base.vocabulary_size or 1 << 62,
            max_positions=self._base.max_positions or 1 << 62,
        )
        if problem:
            return failed(request, problem)
        if request.adapter is None and None not in self._classifiers:
            return Output(id=request.id, logprobs=(_UNKNOWN, _UNKNOWN))
        return None

    def _batches(self, requests: Sequence[Request], members: Sequence[int]) -> Iterator[list[int]]:
        """Rows of similar length together, so that padding is small and within the budget; or each alone."""
        batch: list[int] = []
        for index in sorted(members, key=lambda index: (-len(requests[index].prompt), index)):
            padded_tokens = len(requests[batch[0]].prompt) * (len(batch) + 1) if batch else 0
            if batch and (self._alone or padded_tokens > self._settings.batch_tokens):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _score(self, model: Any, requests: Sequence[Request]) -> list[Output]:
        logits = classify(model, [request.prompt for request in requests], separator=self._separator)
        outputs = []
        for request, (label_0, label_1) in zip(requests, label_logprobs(logits.double()).tolist(), strict=True):
            finite = math.isfinite(label_0) and math.isfinite(label_1)
            outputs.append(Output(id=request.id, logprobs=(label_1, label_0)) if finite else failed(request, _BROKEN))
        return outputs


def _saved_shapes(adapter: AdapterFolder) -> dict[str, tuple[int, ...]]:
    """Dotted path in the base -> shape of the whole parameters that an adapter brings."""
    parsed = {name: parse_tensor_name(name) for name in adapter.tensors}
    return {
        f"{tensor_name.module}.{tensor_name.leaf}": adapter.tensors[name].shape
        for name, tensor_name in parsed.items()
        if tensor_name.parameter == "saved"
    }


def _dtype_name(family: EncoderFamily, settings: EngineSettings) -> str:
    dtype_name = family.dtypes[0] if settings.dtype == "auto" else settings.dtype
    if dtype_name not in family.dtypes:
        raise EngineError(
            f"{family.model_type} is not computed in {dtype_name}, in which it overflows; allowed: "
            f"{', '.join(family.dtypes)}",
            fix=f"model.dtype={family.dtypes[0]}",
        )
    if settings.load_in_4bit or settings.device_map:
        raise EngineError(
            "engine=encoder computes on one device and without quantized weights: model.load_in_4bit and "
            "model.device_map do not go with it",
            fix="leave them out",
        )
    return dtype_name


def _separator(base: BaseFolder) -> int:
    """The id between segments, where the model tells them apart; -1, which is no token, where it does not."""
    if int(base.config.get("type_vocab_size") or 0) < 2:
        return -1
    return Encoder.load(base.path, chat_template=SEGMENTS, model_config=base.config).end_of_turn


def load_encoder(base: BaseFolder, settings: EngineSettings) -> EncoderEngine:
    """The factory for `load_engine`."""
    if settings.threads > 0:
        torch.set_num_threads(settings.threads)
    return EncoderEngine(base, settings)
