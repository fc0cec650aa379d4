"""Layers of a GGUF base whose weights stay in the file's blocks, mapped, for `CpuDecoder` to take them from there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lorica.gguf.block_types import BLOCK_TYPES, BlockType, dequantize
from lorica.gguf.tensors import CheckpointTensor
from lorica.models.compiled import bindings
from lorica.models.compiled.block_products import BlockRows

_NUMBERS = {block_type: number for number, block_type in BLOCK_TYPES.items()}
_ROWS_PER_BLOCK = 1024  # that are dequantized at once
_PLAIN_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PLAIN_TYPES = {
    _PLAIN_DTYPES[block_type.name]: block_type for block_type in BLOCK_TYPES.values() if not block_type.quantized
}


class GgufWeight:
    """A weight [out, in] as ggml's blocks, or as numbers of one of the plain types."""

    def __init__(self, blocks: Tensor, block_type: BlockType, order: Tensor | None = None) -> None:
        """blocks: [out, bytes of a row] uint8. order: [out] see `BlockRows`."""
        self.block_type = block_type
        self.block_rows = BlockRows(blocks, _NUMBERS[block_type], block_type.weights, block_type.size, order)
        self.shape = (blocks.shape[0], blocks.shape[1] // block_type.size * block_type.weights)

    @classmethod
    def mapped(cls, stored: CheckpointTensor) -> GgufWeight:
        """A matrix of a file, whose blocks stay there."""
        order = stored.row_order()
        return cls(
            torch.from_numpy(stored.blocks()),
            stored.tensor.block_type,
            None if order is None else torch.from_numpy(order),
        )

    @classmethod
    def plain(cls, weight: Tensor) -> GgufWeight:
        """A weight [out, in] in float32, float16 or bfloat16, as a block type."""
        return cls(weight.contiguous().view(torch.uint8), _PLAIN_TYPES[weight.dtype])

    def columns(self, columns: slice) -> GgufWeight:
        """The weights of some outputs, where rows lie in order."""
        assert self.block_rows.order is None
        return GgufWeight(self.block_rows.blocks[columns], self.block_type)

    def dequantize(self, first: int, out: Tensor) -> None:
        """Fill out [n, in] with the rows first .. first + n."""
        _fill(out, self._stored_rows(slice(first, first + len(out))), self.block_type)

    def rows(self, row_numbers: Tensor) -> Tensor:
        """Rows [R] -> [R, in] float32."""
        rows = torch.empty(len(row_numbers), self.shape[1])
        _fill(rows, self._stored_rows(row_numbers), self.block_type)
        return rows

    def _stored_rows(self, rows: Tensor | slice) -> Tensor:
        blocks, order = self.block_rows.blocks, self.block_rows.order
        return blocks[rows if order is None else order[rows]]

    def whole(self) -> Tensor:
        """[out, in] float32."""
        weight = torch.empty(self.shape)
        for first in range(0, self.shape[0], _ROWS_PER_BLOCK):
            self.dequantize(first, weight[first : first + _ROWS_PER_BLOCK])
        return weight


class GgufLinear(nn.Module):
    """In the place of a `nn.Linear`; `weight` is dequantized each time it is asked for, and not kept."""

    def __init__(self, quantized: GgufWeight, *, bias: bool) -> None:
        super().__init__()
        self.quantized = quantized
        self.bias = nn.Parameter(torch.empty(quantized.shape[0], device="meta")) if bias else None

    @property
    def weight(self) -> Tensor:
        """[out, in] float32."""
        return self.quantized.whole()


class GgufEmbedding(nn.Module):
    """In the place of a `nn.Embedding`; rows are dequantized where they are looked up."""

    def __init__(self, quantized: GgufWeight) -> None:
        super().__init__()
        self.quantized = quantized

    @property
    def weight(self) -> Tensor:
        """[vocabulary, hidden] float32."""
        return self.quantized.whole()

    def __getitem__(self, tokens: Tensor) -> Tensor:
        """The rows of tokens [T] -> [T, hidden] float32."""
        return self.quantized.rows(tokens)


def read_tensor(stored: CheckpointTensor) -> Tensor:
    """A tensor in its shape: in the file's own dtype where that is a floating point number, else dequantized."""
    if len(stored.shape) == 1:
        return torch.from_numpy(stored.values())
    weight = GgufWeight.mapped(stored)
    if weight.block_type.quantized:
        return weight.whole()
    rows = weight.block_rows.blocks.view(_PLAIN_DTYPES[weight.block_type.name])
    return rows if weight.block_rows.order is None else rows[weight.block_rows.order]


def _fill(out: Tensor, blocks: Tensor, block_type: BlockType) -> None:
    """blocks [n, bytes of a row] -> out [n, in]."""
    if not block_type.quantized:
        out.copy_(blocks.view(_PLAIN_DTYPES[block_type.name]))
    elif bindings.is_available():
        bindings.dequantize_blocks(blocks, out, _NUMBERS[block_type], out.numel() // block_type.weights)
    else:
        out.copy_(torch.from_numpy(dequantize(blocks.numpy(), block_type)))
