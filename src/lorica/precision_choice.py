"""Which precision suits a machine: what `auto` chooses to answer and to train in, and which choices are slow there.

Pure functions of the hardware, its measured rates and the size of the base. Two things are chosen: how weights are
stored and in what they are multiplied; a precision of `precision.PRECISIONS` is the former, and what a machine
multiplies it in follows from its instruction sets.

`auto` is never coarser than bfloat16. On a real base (SmolLM2-135M-Instruct, `bench/precision.py`) a log-probability is
0.01 nats off in the mean in int16, 0.06 in bfloat16, 0.13 in int8-weights, 0.43 in int8 and 1.0 in int4-weights: what
is faster only by being wrong is for a person to choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from lorica.hardware import Hardware
from lorica.precision import PRECISIONS

PROMPT_TOKENS = 128
"""Tokens of the products that stand for prompts and for training."""

DECODED_ROWS = 16
"""Rows of the products that stand for decode steps."""

ENOUGH = 1.1
"""`auto` takes the most exact precision that is at most so many times as slow as the fastest it may take."""

SLOW = 2.0
"""An explicit choice that is more than so many times as slow as one no less exact is told."""

SMALL = 1 << 29
"""Parameters of a base that is held in float32 where adapters are trained and examined: exact numbers prove more."""

# What is no product (attention, norms, activations) takes so many times as long as the products in float32, per token
# of a prompt and of a decode step; where states are bfloat16 and are multiplied as such, a share of it. Measured end to
# end at the shapes of SmolLM2-135M and Qwen2.5-0.5B (`bench/auto_precision.py`, Zen 5; on AVX2 within a third).
_PROMPT_REST, _STEP_REST, _HALF_STATES = 0.1, 1.2, 0.6
_ALLOWED = ("float32", "int16", "bfloat16")  # by auto, from exact to coarse; torch's own layers have no int16
_MEMORY_SHARE = 0.6  # of the machine, for the weights: a base that would take more is held in less


class Rates(msgspec.Struct, frozen=True):
    """How fast one thread computes. prompts, steps: precision -> 10^9 operations a second of a layer of the native
    engine, for `PROMPT_TOKENS` and `DECODED_ROWS`. training: the same of torch's own layer, for `PROMPT_TOKENS`.
    memory: 10^9 bytes a second that it reads.
    """

    prompts: dict[str, float]
    steps: dict[str, float]
    training: dict[str, float]
    memory: float

    def plausible(self) -> bool:
        """Whether these can be rates: all there is to see in a file from elsewhere."""
        tables = (self.prompts, self.steps, self.training)
        numbers = [self.memory, *(rate for table in tables for rate in table.values())]
        return all({"float32", "bfloat16"} <= table.keys() for table in tables) and all(
            math.isfinite(number) and number > 0 for number in numbers
        )


@dataclass(frozen=True)
class Choice:
    """A precision of the base, and why."""

    dtype: str
    reason: str


@dataclass(frozen=True)
class TrainingChoice:
    """How the frozen base is stored and multiplied in training, dtypes of torch; and why."""

    weights: str
    products: str
    reason: str


def for_answers(hardware: Hardware, rates: Rates, parameters: int, *, native: bool = True) -> Choice:
    """What `auto` is on the processor. parameters: of the base. native: by the native engine, or by torch's layers."""
    measured = rates.prompts.keys() & rates.steps.keys() if native else rates.training.keys()
    fitting = [name for name in _ALLOWED if name in measured and _fits(hardware, name, parameters)]
    if not fitting:
        return Choice("bfloat16", "the base does not fit into the memory in float32")
    times = {name: _times(hardware, rates, name, native=native) for name in fitting}
    fastest = [min(time) for time in zip(*times.values(), strict=True)]
    slowness = {name: max(own / best for own, best in zip(time, fastest, strict=True)) for name, time in times.items()}
    dtype = next((name for name in fitting if slowness[name] <= ENOUGH), min(slowness, key=slowness.__getitem__))
    if "float32" not in fitting:
        return Choice(dtype, "the base does not fit into the memory in float32")
    seconds = {name: sum(time) for name, time in times.items()}
    if dtype != "float32":
        return Choice(dtype, f"{seconds['float32'] / seconds[dtype]:.1f} times as fast as float32 here")
    rival = min((name for name in fitting if name != dtype), key=seconds.__getitem__)
    return Choice(dtype, f"exact, and {rival} is {_as_fast(seconds[dtype] / seconds[rival])} here")


def for_training(hardware: Hardware, rates: Rates, parameters: int, weights: str = "auto") -> TrainingChoice:
    """What is trained in on the processor where neither `training.bf16` nor `training.fp16` is set.

    weights: `model.dtype`; float32 stays float32, and float16 is multiplied in float32, since it overflows.
    """
    if weights in ("float32", "float16"):
        return TrainingChoice(weights, "float32", f"model.dtype={weights} says so")
    if weights == "auto":
        weights = "float32" if parameters <= SMALL else "bfloat16"
    ratio = rates.training["bfloat16"] / rates.training["float32"]
    if hardware.multiplies("bfloat16") and ratio > ENOUGH:
        return TrainingChoice(weights, "bfloat16", f"{ratio:.1f} times as fast as float32 here")
    slow_words = "this processor has no instructions for bfloat16"
    reason = f"exact, and bfloat16 is {_as_fast(ratio)} here" if hardware.multiplies("bfloat16") else slow_words
    return TrainingChoice(weights, "float32", reason)


def for_accelerator(hardware: Hardware) -> Choice:
    """What `auto` is on a GPU."""
    accelerator = hardware.accelerator
    if accelerator is None or accelerator.multiplies("bfloat16"):
        return Choice("bfloat16", "GPUs multiply it fastest, with the range of float32")
    major, minor = accelerator.capability
    return Choice("float16", f"{accelerator.name} (compute capability {major}.{minor}) does not multiply bfloat16")


def slow_answers(hardware: Hardware, rates: Rates, parameters: int, dtype: str, *, native: bool = True) -> str:
    """One line where `model.dtype` is more than twice as slow as a precision that is no less exact; else ""."""
    names = list(PRECISIONS)
    if dtype not in (rates.prompts if native else rates.training):
        return ""
    time = sum(_times(hardware, rates, dtype, native=native))
    candidates = {
        name: sum(_times(hardware, rates, name, native=native))
        for name in names[names.index(dtype) + 1 :]
        if name in (rates.prompts if native else rates.training) and _fits(hardware, name, parameters)
    }
    fastest = min(candidates, key=candidates.__getitem__, default=dtype)
    if time <= SLOW * candidates.get(fastest, time):
        return ""
    return (
        f"model.dtype={dtype} is about {time / candidates[fastest]:.1f} times as slow here as {fastest}, which is no "
        f"less exact{_why_slow(hardware, dtype)}: set model.dtype={fastest}"
    )


def slow_training(hardware: Hardware, rates: Rates, products: str) -> str:
    """One line where `training.bf16` is more than twice as slow as float32 on the processor; else ""."""
    ratio = rates.training["float32"] / rates.training.get(products, math.inf)
    if ratio <= SLOW:
        return ""
    return (
        f"training.bf16=true is about {ratio:.0f} times as slow here as float32{_why_slow(hardware, products)}: leave "
        "it out, and what is fast here is taken"
    )


def _times(hardware: Hardware, rates: Rates, name: str, *, native: bool) -> tuple[float, ...]:
    """Nanoseconds for a weight and a token of a prompt, and of a decode step that reads its weights from memory."""
    if not native:
        return (2 / rates.training[name],)
    has_half_states = PRECISIONS[name].states == "bfloat16" and hardware.multiplies("bfloat16")
    rest = _HALF_STATES if has_half_states else 1.0
    prompt = 2 / rates.prompts[name] + rest * _PROMPT_REST * 2 / rates.prompts["float32"]
    step = max(2 / rates.steps[name], PRECISIONS[name].bytes_per_weight / (DECODED_ROWS * rates.memory))
    return prompt, step + rest * _STEP_REST * 2 / rates.steps["float32"]


def _fits(hardware: Hardware, name: str, parameters: int) -> bool:
    needed = parameters * PRECISIONS[name].bytes_per_weight
    return not hardware.memory_bytes or needed <= _MEMORY_SHARE * hardware.memory_bytes


def _why_slow(hardware: Hardware, dtype: str) -> str:
    if dtype not in ("bfloat16", "float16", "int8") or hardware.multiplies(dtype):
        return ""
    return f" (this processor has no instructions for {dtype})"


def _as_fast(ratio: float) -> str:
    return "no faster" if ratio <= 1 else f"only {ratio:.2f} times as fast"
