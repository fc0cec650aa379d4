"""The block types of ggml that are read, and their values as float32.

A tensor's row is a sequence of blocks: 32 or 256 weights as codes of few bits, with float16 scales. The layouts are
those of https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h, the sums those of ggml's reference
(`dequantize_row_*`), to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class BlockType(msgspec.Struct, frozen=True):
    """One of ggml's tensor types: `weights` weights in `size` bytes."""

    name: str
    weights: int
    size: int

    @property
    def quantized(self) -> bool:
        """Whether weights are codes with scales."""
        return self.weights > 1

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of so many weights, a multiple of `weights`."""
        return width // self.weights * self.size


BLOCK_TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    30: BlockType("BF16", 1, 2),
}
"""By the number that a file has for them."""

UNREAD_TYPES = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
"""Names of types that are refused, for the message."""

_SUB_BLOCKS = 8  # of a 256-weight block of Q4_K and Q5_K, each with a scale and a minimum of 6 bits


def dequantize(blocks: Blocks, block_type: BlockType) -> Floats:
    """blocks [n, bytes of a row] uint8 -> [n, width] float32; of F32 a view of the same memory."""
    row_count = len(blocks)
    if not block_type.quantized:
        return _plain_values(blocks, block_type.name)
    single_blocks = np.ascontiguousarray(blocks).reshape(-1, block_type.size)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not a number stays so, and is seen where it matters
        return _DEQUANTIZERS[block_type.name](single_blocks).reshape(row_count, -1)


def _plain_values(blocks: Blocks, type_name: str) -> Floats:
    if type_name == "F32":
        return blocks.view("<f4")
    if type_name == "F16":
        return blocks.view("<f2").astype(np.float32)
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _half_floats(blocks: Blocks, start: int) -> Floats:
    """[n, 1] the float16 at byte `start` of each block."""
    return blocks[:, start : start + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: Blocks) -> Blocks:
    """[n, 16] -> [n, 32]: the lower halves of the bytes, then the upper ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(blocks: Blocks, start: int) -> Blocks:
    """[n, 32] each 16 or 0, of the 32 bits at byte `start`."""
    fifth: Blocks = np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") * np.uint8(16)
    return fifth


def _q4_0(blocks: Blocks) -> Floats:
    return _half_floats(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Blocks) -> Floats:
    return _half_floats(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half_floats(blocks, 2)


def _q5_0(blocks: Blocks) -> Floats:
    codes = (_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)).astype(np.float32)
    return _half_floats(blocks, 0) * (codes - 16)


def _q5_1(blocks: Blocks) -> Floats:
    codes = (_nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)).astype(np.float32)
    return _half_floats(blocks, 0) * codes + _half_floats(blocks, 2)


def _q8_0(blocks: Blocks) -> Floats:
    return _half_floats(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _sub_scales(blocks: Blocks) -> tuple[Floats, Floats]:
    """Scales and minima [n, 8, 1] of Q4_K and Q5_K: 16 numbers of 6 bits in the 12 bytes behind two float16.

    Bytes 0..4 hold four scales and the upper bits of four more, 4..8 likewise minima, 8..12 the lower bits of both.
    """
    packed = blocks[:, 4:16].reshape(-1, 3, 4)
    scale_bytes, minimum_bytes, low_bits = packed[:, 0], packed[:, 1], packed[:, 2]
    scales = np.concatenate([scale_bytes & 63, (low_bits & 15) | ((scale_bytes >> 2) & 48)], axis=1)
    minima = np.concatenate([minimum_bytes & 63, (low_bits >> 4) | ((minimum_bytes >> 2) & 48)], axis=1)
    scale_floats, minimum_floats = (codes.astype(np.float32)[:, :, None] for codes in (scales, minima))
    return _half_floats(blocks, 0)[:, :, None] * scale_floats, _half_floats(blocks, 2)[:, :, None] * minimum_floats


def _sub_nibbles(packed: Blocks) -> Blocks:
    """[n, 128] -> [n, 8, 32]: 32 bytes hold two sub-blocks, the first in their lower halves."""
    pairs = packed.reshape(-1, _SUB_BLOCKS // 2, 1, 32)
    return np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(-1, _SUB_BLOCKS, 32)


def _q4_k(blocks: Blocks) -> Floats:
    scales, minima = _sub_scales(blocks)
    return scales * _sub_nibbles(blocks[:, 16:]).astype(np.float32) - minima


def _q5_k(blocks: Blocks) -> Floats:
    scales, minima = _sub_scales(blocks)
    # Bit i of 32 bytes is the fifth bit of sub-block i.
    fifth = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little").swapaxes(1, 2) << 4
    return scales * (_sub_nibbles(blocks[:, 48:]) | fifth).astype(np.float32) - minima


def _q6_k(blocks: Blocks) -> Floats:
    # Twice 128 weights: 64 bytes with the lower four bits, 32 with the upper two; a scale for each 16 weights.
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low_codes = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    high_codes = (high >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3
    codes = (low_codes | (high_codes << 4)).astype(np.float32) - 32
    scales = _half_floats(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    values: Floats = scales[:, :, None] * codes.reshape(-1, 16, 16)
    return values


_DEQUANTIZERS: dict[str, Callable[[Blocks], Floats]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
