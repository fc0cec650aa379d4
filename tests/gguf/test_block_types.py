"""Every block type against ggml's own reference in numpy, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from lorica.gguf.block_types import BLOCK_TYPES, BlockType, dequantize

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize(
    ("number", "block_type"), BLOCK_TYPES.items(), ids=[block_type.name for block_type in BLOCK_TYPES.values()]
)
def test_values_are_those_of_ggml(number: int, block_type: BlockType) -> None:
    quantization_type = gguf.GGMLQuantizationType(number)
    assert (block_type.name, (block_type.weights, block_type.size)) == (
        quantization_type.name,
        gguf.GGML_QUANT_SIZES[quantization_type],
    )
    # Any bytes are blocks: every code, every scale, infinite ones and NaN among them.
    blocks = np.random.default_rng(number).integers(0, 256, (37, block_type.row_bytes(1024)), dtype=np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = gguf.quants.dequantize(blocks, quantization_type)
    values = dequantize(blocks, block_type)
    assert values.dtype == np.float32
    assert values.shape == (37, 1024)
    assert np.array_equal(values, expected, equal_nan=True)
    assert np.array_equal(np.signbit(values), np.signbit(expected))


def test_a_slice_of_rows_has_the_values_of_the_whole() -> None:
    block_type = BLOCK_TYPES[12]
    blocks = np.random.default_rng(0).integers(0, 100, (9, block_type.row_bytes(512)), dtype=np.uint8)
    assert np.array_equal(dequantize(blocks[3:7], block_type), dequantize(blocks, block_type)[3:7])
