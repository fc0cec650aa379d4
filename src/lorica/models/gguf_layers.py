"""Layers of a GGUF base whose weights stay in the file's blocks, mapped, for `CpuDecoder` to take them from there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lorica.gguf.block_types import BLOCK_TYPES, BlockType, dequantize
from lorica.gguf.tensors import CheckpointTensor
from lorica.models.compiled import bindings

_NUMBERS = {block_type: number for number, block_type in BLOCK_TYPES.items()}
_ROWS_PER_BLOCK = 1024  # that are dequantized at once
_PLAIN_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class GgufWeight:
    """A weight [out, in] as ggml's blocks, as a `weight_only.QuantizedWeight`."""

    def __init__(self, stored: CheckpointTensor) -> None:
        self.block_type: BlockType = stored.tensor.block_type
        self.shape = (stored.shape[0], stored.shape[1])
        self.blocks = torch.from_numpy(stored.blocks())  # [out, bytes of a row] uint8

    def dequantize(self, first: int, out: Tensor) -> None:
        """See `QuantizedWeight`."""
        _fill(out, self.blocks[first : first + len(out)], self.block_type)

    def rows(self, row_numbers: Tensor) -> Tensor:
        """Rows [R] -> [R, in] float32."""
        rows = torch.empty(len(row_numbers), self.shape[1])
        _fill(rows, self.blocks[row_numbers], self.block_type)
        return rows

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
    weight = GgufWeight(stored)
    if weight.block_type.quantized:
        return weight.whole()
    return weight.blocks.view(_PLAIN_DTYPES[weight.block_type.name])


def _fill(out: Tensor, blocks: Tensor, block_type: BlockType) -> None:
    """blocks [n, bytes of a row] -> out [n, in]."""
    if not block_type.quantized:
        out.copy_(blocks.view(_PLAIN_DTYPES[block_type.name]))
    elif bindings.is_available():
        bindings.dequantize_blocks(blocks, out, _NUMBERS[block_type], out.numel() // block_type.weights)
    else:
        out.copy_(torch.from_numpy(dequantize(blocks.numpy(), block_type)))
