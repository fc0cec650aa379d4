"""What `auto` chooses is a pure function of hardware, rates and size; so is what is told of slow choices."""

from __future__ import annotations

import math

import msgspec
import pytest

from lorica.hardware import Accelerator, Hardware
from lorica.precision_choice import (
    Rates,
    for_accelerator,
    for_answers,
    for_training,
    slow_answers,
    slow_training,
)

GIB = 1 << 30
AVX2 = Hardware("EPYC", "x86_64", ("avx2",), cores=2, memory_bytes=24 * GIB)
ZEN5 = Hardware("EPYC", "x86_64", ("avx2", "avx512", "avx512_vnni", "avx512_bf16"), cores=2, memory_bytes=24 * GIB)

# As measured on two cores of Zen 5, and of the same held to AVX2 by the environment.
ZEN5_RATES = Rates(
    prompts={"float32": 244, "float16": 26, "bfloat16": 468, "int8-weights": 404, "int8": 577, "int4-weights": 400},
    steps={"float32": 203, "float16": 26, "bfloat16": 318, "int8-weights": 173, "int8": 235, "int4-weights": 162},
    training={"float32": 104, "float16": 26, "bfloat16": 421},
    memory=37,
)
AVX2_RATES = Rates(
    prompts={"float32": 124, "float16": 25, "bfloat16": 25, "int8-weights": 96, "int8": 156, "int4-weights": 72},
    steps={"float32": 104, "float16": 26, "bfloat16": 26, "int8-weights": 62, "int8": 151, "int4-weights": 25},
    training={"float32": 106, "float16": 25, "bfloat16": 25},
    memory=34,
)
# bfloat16 stored, multiplied in float32 by kernels that read half the bytes.
WIDENED = msgspec.structs.replace(
    AVX2_RATES,
    prompts={**AVX2_RATES.prompts, "bfloat16": 122},
    steps={**AVX2_RATES.steps, "bfloat16": 104},
    memory=10,
)
SIZES = [6_000_000, 135_000_000, 500_000_000]


@pytest.mark.parametrize("parameters", SIZES)
def test_answers_take_bfloat16_where_it_is_multiplied_and_float32_elsewhere(parameters: int) -> None:
    assert for_answers(ZEN5, ZEN5_RATES, parameters).dtype == "bfloat16"
    assert for_answers(AVX2, AVX2_RATES, parameters).dtype == "float32"
    assert "no faster" in for_answers(AVX2, AVX2_RATES, parameters).reason


def test_answers_take_int16_where_only_whole_numbers_are_multiplied_fast() -> None:
    rates = msgspec.structs.replace(
        AVX2_RATES, prompts={**AVX2_RATES.prompts, "int16": 207}, steps={**AVX2_RATES.steps, "int16": 188}
    )
    choice = for_answers(AVX2, rates, 135_000_000)
    assert choice.dtype == "int16"
    assert "1.3 times as fast as float32" in choice.reason
    assert for_answers(AVX2, rates, 135_000_000, native=False).dtype == "float32"  # torch's own layers have none


def test_answers_take_half_the_bytes_where_memory_is_what_holds_decoding_up() -> None:
    assert for_answers(AVX2, WIDENED, 500_000_000).dtype == "bfloat16"


@pytest.mark.parametrize(("int16", "bfloat16"), [((416, 331), (455, 281)), ((422, 321), (424, 260))])
def test_bfloat16_is_taken_where_int16_is_slower_by_its_states(
    int16: tuple[float, float], bfloat16: tuple[float, float]
) -> None:
    """Rates measured on Zen 5, where int16 took 1.15 (prompts) and 1.25 times (decoding) as long at 0.5 B."""
    rates = Rates(
        prompts={"float32": 231, "int16": int16[0], "bfloat16": bfloat16[0]},
        steps={"float32": 181, "int16": int16[1], "bfloat16": bfloat16[1]},
        training=ZEN5_RATES.training,
        memory=37,
    )
    assert for_answers(ZEN5, rates, 500_000_000).dtype == "bfloat16"


@pytest.mark.parametrize("int8", [100.0, 1e6])
def test_auto_is_never_coarser_than_bfloat16(int8: float) -> None:
    rates = msgspec.structs.replace(
        ZEN5_RATES, prompts={**ZEN5_RATES.prompts, "int8": int8}, steps={**ZEN5_RATES.steps, "int8": int8}
    )
    assert for_answers(ZEN5, rates, 500_000_000).dtype == "bfloat16"


@pytest.mark.parametrize(("gain", "is_more_exact"), [(1.05, True), (1.4, False)])
def test_the_more_exact_one_is_taken_within_a_tenth(gain: float, is_more_exact: bool) -> None:
    rates = msgspec.structs.replace(
        AVX2_RATES,
        prompts={**AVX2_RATES.prompts, "int16": 124 * gain},
        steps={**AVX2_RATES.steps, "int16": 104 * gain},
        memory=1e4,
        training={"float32": 100, "bfloat16": 100 * gain},
    )
    assert for_answers(AVX2, rates, 1000).dtype == ("float32" if is_more_exact else "int16")
    in_torch = "float32" if is_more_exact else "bfloat16"
    assert for_answers(ZEN5, rates, 1000, native=False).dtype == in_torch
    assert for_training(ZEN5, rates, 1000).products == in_torch


def test_a_base_that_does_not_fit_in_float32_is_held_in_bfloat16() -> None:
    eight_billion = 8_000_000_000
    assert for_answers(AVX2, AVX2_RATES, eight_billion).dtype == "bfloat16"
    assert "does not fit" in for_answers(AVX2, AVX2_RATES, eight_billion).reason
    unknown = msgspec.convert({**vars(AVX2), "memory_bytes": 0}, Hardware)
    assert for_answers(unknown, AVX2_RATES, eight_billion).dtype == "float32"
    assert for_answers(AVX2, AVX2_RATES, 10**12).dtype == "bfloat16"


@pytest.mark.parametrize("parameters", SIZES)
def test_training_multiplies_in_what_is_fast_and_stores_small_bases_exactly(parameters: int) -> None:
    fast, slow = for_training(ZEN5, ZEN5_RATES, parameters), for_training(AVX2, AVX2_RATES, parameters)
    assert (fast.weights, fast.products) == ("float32", "bfloat16")
    assert (slow.weights, slow.products) == ("float32", "float32")
    assert "no instructions for bfloat16" in slow.reason


@pytest.mark.parametrize(
    ("hardware", "weights", "products"),
    [(ZEN5, "float32", "float32"), (ZEN5, "bfloat16", "bfloat16"), (AVX2, "bfloat16", "float32"),
     (ZEN5, "float16", "float32"), (AVX2, "float16", "float32")],
)  # fmt: skip
def test_training_holds_the_base_as_it_is_told(hardware: Hardware, weights: str, products: str) -> None:
    choice = for_training(hardware, ZEN5_RATES if hardware is ZEN5 else AVX2_RATES, 500_000_000, weights)
    assert (choice.weights, choice.products) == (weights, products)
    assert for_training(hardware, AVX2_RATES, 2_000_000_000).weights == "bfloat16"


def test_flags_are_confirmed_by_what_was_measured() -> None:
    """A processor that has the instructions, and a library that does not use them."""
    assert for_training(ZEN5, AVX2_RATES, 1000).products == "float32"
    assert for_answers(ZEN5, AVX2_RATES, 1000).dtype == "float32"


def test_gpus_before_ampere_get_float16() -> None:
    turing, ampere = Accelerator("T4", (7, 5), 16 * GIB), Accelerator("A100", (8, 0), 40 * GIB)
    old, new = (msgspec.convert({**vars(ZEN5), "accelerator": gpu}, Hardware) for gpu in (turing, ampere))
    assert for_accelerator(new).dtype == "bfloat16"
    assert for_accelerator(old).dtype == "float16"
    assert "T4 (compute capability 7.5)" in for_accelerator(old).reason


@pytest.mark.parametrize(
    ("hardware", "rates", "dtype", "advised"),
    [
        (AVX2, AVX2_RATES, "bfloat16", "float32"),
        (AVX2, AVX2_RATES, "float16", "float32"),
        (AVX2, AVX2_RATES, "int4-weights", "int8"),
        (AVX2, AVX2_RATES, "int8", ""),
        (AVX2, AVX2_RATES, "float32", ""),
        (ZEN5, ZEN5_RATES, "float16", "float32"),
        (ZEN5, ZEN5_RATES, "bfloat16", ""),
        (ZEN5, ZEN5_RATES, "int8-weights", ""),
        (ZEN5, ZEN5_RATES, "float32", ""),
    ],
)
def test_a_slow_choice_is_told_with_what_is_no_less_exact(
    hardware: Hardware, rates: Rates, dtype: str, advised: str
) -> None:
    advice = slow_answers(hardware, rates, 500_000_000, dtype)
    assert bool(advice) == bool(advised)
    assert advice.endswith(f"set model.dtype={advised}" if advised else "")
    assert "\n" not in advice


def test_what_does_not_fit_is_not_advised() -> None:
    assert "float32" not in slow_answers(AVX2, AVX2_RATES, 8_000_000_000, "bfloat16")


def test_slow_training_is_told() -> None:
    advice = slow_training(AVX2, AVX2_RATES, "bfloat16")
    assert "training.bf16=true is about 4 times as slow here" in advice
    assert "no instructions for bfloat16" in advice
    assert slow_training(ZEN5, ZEN5_RATES, "bfloat16") == ""


@pytest.mark.parametrize(
    "change",
    [{"memory": 0.0}, {"memory": math.inf}, {"prompts": {"float32": 1.0}}, {"steps": {}},
     {"training": {"float32": 1.0, "bfloat16": -1.0}}],
)  # fmt: skip
def test_what_cannot_be_rates_is_told_apart(change: dict[str, object]) -> None:
    assert ZEN5_RATES.plausible()
    assert not msgspec.structs.replace(ZEN5_RATES, **change).plausible()
