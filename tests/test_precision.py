"""One table of precisions: what the configuration names, models compute in and the gate allows for."""

from __future__ import annotations

import pytest

from lorica.precision import DTYPE_NAMES, PRECISIONS, coarser, precision_of


def test_every_dtype_of_the_configuration_has_a_row_and_nf4_is_the_only_other() -> None:
    assert {*DTYPE_NAMES, "nf4"} == set(PRECISIONS)
    untrainable = {name for name, row in PRECISIONS.items() if not row.trainable}
    assert untrainable == {"int16", "int8", "int8-weights", "int4-weights", "gguf"}
    assert {name for name, row in PRECISIONS.items() if not row.quantized} == {"float32", "bfloat16", "float16"}


@pytest.mark.parametrize("name", ["auto", "float8_e4m3fn", ""])
def test_what_has_no_row_gets_the_limits_of_bfloat16_and_the_tolerance_of_the_coarsest(name: str) -> None:
    assert precision_of(name) is PRECISIONS["bfloat16"]
    assert coarser(name, "float32") == "nf4"


def test_the_coarser_of_two_precisions_counts() -> None:
    assert coarser("float32", "int8") == coarser("int8", "float32") == "int8"
    assert coarser("float16", "float16") == "float16"
