"""What every engine is: requests in, outputs in the same order out. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from lorica.adapters.folder import AdapterFolder
from lorica.adapters.member import Member
from lorica.config.schema import EngineConfig, InferenceConfig, Merge, ModelConfig
from lorica.engines.batch_timer import BatchTimer
from lorica.errors import AdapterError, EngineError
from lorica.models.base_folder import BaseFolder
from lorica.names import did_you_mean
from lorica.records import Generate, Output, Request, ScoreChoices

NOT_A_NUMBER = "the model's output is not a number (NaN): weights or precision are broken"

OnDone = Callable[[int], None]
OnOutputs = Callable[[Sequence[tuple[int, Output]]], None]
"""Receives (index of the request, its output) of what was just finished, before anything else is begun."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is, what decides its results and its speed, and what it can do.

    None: this engine has no such thing, and its manifest does not mention it.
    """

    name: str
    """As `load_engine` knows it."""

    family: str | None = None
    """Model family of the base."""

    dtype: str = "float32"
    """Precision in which the base is computed."""

    device: str = ""
    threads: int | None = None
    batch_tokens: int | None = None
    share_prefixes: bool | None = None
    deterministic: bool | None = None

    kernels: str | None = None
    """What computes norms, rotary embedding, activation and attention: the target of the compiled kernels, or torch."""

    attention: str | None = None
    """The attention backend."""

    merged: str | None = None
    """The adapter that is part of the weights, "" for none; None for an engine that never merges."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version of what computes."""

    batch_invariant: tuple[type[Request], ...] = ()
    """The kinds of requests whose outputs are the same to the last bit whatever else is in the batch."""

    restores_base: bool = True
    """Whether the base is as it was after an adapter is removed."""

    runs_model: bool = True
    """False for an engine that makes its outputs up: no adapter can prove itself there, nothing but its name counts."""

    def is_batch_invariant(self, request: Request) -> bool:
        """Whether this request gets the same output to the last bit whatever else is in the batch."""
        return isinstance(request, self.batch_invariant)

    def manifest(self) -> dict[str, str]:
        """What decides results and speed, as text."""
        if not self.runs_model:
            return {"engine": self.name}
        facts = {
            "engine": self.name,
            "family": self.family,
            "dtype": self.dtype,
            "device": self.device,
            "threads": self.threads,
            "batch_tokens": self.batch_tokens,
            "share_prefixes": self.share_prefixes,
            "deterministic": self.deterministic,
            "kernels": self.kernels,
            "attention": self.attention,
            "merged": "none" if self.merged == "" else self.merged,
            **self.versions,
        }
        return {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in facts.items()
            if value is not None
        }


class Engine(Protocol):
    """One base model and any number of adapters by name."""

    @property
    def info(self) -> EngineInfo:
        """What it is and can do, as of now."""
        ...

    def add_adapter(self, name: str, adapter: Member) -> None:
        """Make an opened adapter, or another member, known. Raises AdapterError for one that cannot be used, or asks
        for what this engine does not apply; EngineError for a taken name.
        """
        ...

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory. Raises EngineError for one that was never added."""
        ...

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """Answer all requests; outputs are in their order. on_done(n): n more requests are answered. on_outputs is
        given outputs as they are finished; an engine may leave that out whose requests are not batch-invariant.

        A request that cannot be answered alone fails alone, as `Output(error=...)`. Raises EngineError for an
        adapter that was never added.
        """
        ...


Decode = Callable[[Sequence[int]], str]
"""Generated token ids -> their text."""


@runtime_checkable
class StopStringEngine(Protocol):
    """An engine that ends a text as soon as it holds one of its request's stop strings; others generate on, and the
    text is cut afterwards."""

    def set_detokenizer(self, decode: Decode) -> None:
        """Tell the engine how token ids become text: without that it knows no strings."""
        ...


@runtime_checkable
class TimedEngine(Protocol):
    """An engine that measures how long each of its batches takes."""

    def set_timer(self, timer: BatchTimer) -> None:
        """Measure the batches of later runs with this timer. It changes no output."""
        ...

    def clear_prefix_cache(self) -> None:
        """Drop what earlier runs computed of prompts, so that the next run does and measures all of its own work."""
        ...


@runtime_checkable
class BatchSizedEngine(Protocol):
    """An engine whose batches may be made larger or smaller while its model stays loaded."""

    def set_batch_tokens(self, batch_tokens: int) -> None:
        """Compute later runs in batches of so many tokens, as if it had been loaded with them."""
        ...


@dataclass(frozen=True)
class MergeDecision:
    """Whether an adapter is part of the weights, and why, for a person; reason "" where there was nothing to decide."""

    merged: bool
    reason: str


@runtime_checkable
class MergingEngine(Protocol):
    """An engine that may make an adapter part of the weights."""

    def maybe_merge(self, uses: Mapping[str | None, int], sample: Sequence[Request]) -> MergeDecision:
        """Decide for a run of `uses[adapter]` requests, of which `sample` are the first, and do it.

        A later request to another adapter than the merged one gets the unmerged base back first.
        """
        ...


@dataclass(frozen=True)
class EngineSettings:
    """How an engine loads and computes: the keys of these names in `config.schema`, which says what each means.

    Here `dtype` "auto" is the precision in which the model's files have the weights; commands decide it before.
    """

    dtype: str = ModelConfig.dtype
    device: str = ModelConfig.device
    device_map: str = ModelConfig.device_map
    load_in_4bit: bool = ModelConfig.load_in_4bit
    batch_tokens: int = InferenceConfig.batch_tokens
    threads: int = EngineConfig.threads
    share_prefixes: bool = EngineConfig.share_prefixes
    deterministic: bool = EngineConfig.deterministic
    merge: Merge = EngineConfig.merge


def resolve_device(device: str) -> str:
    """The device that `auto` stands for: the GPU where there is one, else the CPU. Raises ModelError for a device that
    this machine lacks."""
    import torch

    if device != "auto":
        from lorica.models.device import find_device

        return str(find_device(device))

    return "cuda" if torch.cuda.is_available() else "cpu"


EngineFactory = Callable[[BaseFolder, EngineSettings], Engine]
"""The signature of the factories in `lorica.engine_table.ENGINES`."""


def check_adapters(requests: Sequence[Request], adapter_names: Collection[str]) -> None:
    """Raise EngineError for the first request whose adapter is not known."""
    for request in requests:
        name = request.adapter
        if name is not None and name not in adapter_names:
            available_names = ", ".join(sorted(adapter_names)) or "none"
            raise EngineError(
                f"request {request.id!r} asks for the adapter {name!r}; this engine has: {available_names}",
                fix=did_you_mean(name, adapter_names, otherwise="add the adapter to the engine before running"),
            )


def is_new(name: str, adapter: Member, digests: Mapping[str, str]) -> bool:
    """Whether no adapter has this name yet. digests: of those that are there, by name. Raises EngineError where another
    one has it."""
    if digests.get(name, adapter.digest) != adapter.digest:
        raise EngineError(f"the adapter name {name!r} is taken by another adapter than {adapter.path}")
    return name not in digests


def as_lora(adapter: Member) -> AdapterFolder:
    """The adapter of a base model that a member is. Raises AdapterError for a member that is a model of its own."""
    if isinstance(adapter, AdapterFolder):
        return adapter
    raise AdapterError(
        f"{adapter.path}: is a model of its own and no adapter of a decoder",
        fix="name the model that it was trained with, such as model=minilm or model=tfidf; of a list of several kinds "
        "choose one with adapters.use=NAME",
    )


def unknown_adapter(name: str, adapter_names: Collection[str]) -> EngineError:
    """The error for an adapter to remove that was never added."""
    return EngineError(
        f"there is no adapter {name!r} to remove; this engine has: {', '.join(sorted(adapter_names)) or 'none'}"
    )


def find_request_problem(request: Request, *, vocab_size: int, max_positions: int) -> str:
    """Why this request cannot be answered by a model of this size, or "" when it can.

    max_positions: tokens the model can see at once, prompt and choice together.
    """
    if not request.prompt:
        return "the prompt has no tokens"
    positions_needed = len(request.prompt)
    token_sequences = [request.prompt]
    if isinstance(request, ScoreChoices):
        if not request.choices:
            return "there are no choices"
        if not all(request.choices):
            return f"choice {[bool(c) for c in request.choices].index(False)} has no tokens"
        token_sequences += request.choices
        # The last token of a choice is predicted, never read.
        positions_needed += max(map(len, request.choices)) - 1
    if positions_needed > max_positions:
        return f"needs {positions_needed} positions, the model has {max_positions}"
    for token_id in (edge for token_ids in token_sequences for edge in (min(token_ids), max(token_ids))):
        if not 0 <= token_id < vocab_size:
            return f"token {token_id} is outside the model's vocabulary of {vocab_size}"
    return ""


def output_without_model(request: Request, *, vocab_size: int, max_positions: int) -> Output | None:
    """The output of a request that needs no forward pass: one that cannot be answered, or asks for no token."""
    problem = find_request_problem(request, vocab_size=vocab_size, max_positions=max_positions)
    if problem:
        return failed(request, problem)
    if isinstance(request, Generate) and request.sampling.max_new_tokens < 1:
        return Output(id=request.id, finish="length")
    return None


def failed(request: Request, problem: str) -> Output:
    """The output of a request that could not be answered."""
    return Output(id=request.id, finish="error", error=problem)


def scored(request: ScoreChoices, logprobs: Sequence[float]) -> Output:
    """The output of a request whose choices have these log-probabilities."""
    if any(map(math.isnan, logprobs)):
        return failed(request, NOT_A_NUMBER)
    return Output(id=request.id, logprobs=tuple(logprobs))


def max_new_tokens_for(request: Generate, max_positions: int) -> int:
    """How many new tokens this request may get: its own limit, or what the model's positions leave.

    The last new token is predicted, never read, so it needs no position.
    """
    return min(request.sampling.max_new_tokens, max_positions - len(request.prompt) + 1)
