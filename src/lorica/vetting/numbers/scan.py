"""One pass over an adapter's tensors: what their values are like, and what two halves of a pair are enough to know.

The update of a module is never formed: of A [r, in] and B [out, r] only A A^T and B^T B [r, r] and two projections
[r, 16] are kept, and everything in `module_updates` and `sketch` follows from those.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from lorica.adapters.arrays import BLOCK_VALUES, LARGEST, READABLE, Floats, TensorReader, decode_floats
from lorica.adapters.header import TensorInfo
from lorica.adapters.tensor_map import LoraModule, TensorMap
from lorica.vetting.numbers.sketch import probes
from lorica.vetting.wording import some

SAMPLES = 256
# A factor above this size, or of this rank, is scanned for broken values only; none is known.
MAX_FACTOR_VALUES = 16 * 1024 * 1024
MAX_RANK = 512
# Shorter stretches of zeros are not looked for: 8-bit types flush many small values to zero.
ZERO_RUN_BYTES = 1024
_ONE_THREAD = 2**18
# Stretches of one value are looked for in pieces of so many values.
EQUAL_RUN = 128


class TensorFacts(msgspec.Struct, eq=False):
    """What is known of a tensor's values. side: of a pair, "" for other tensors. embedding: of an embedding's pair.
    largest: of the finite values, in size. sample: SAMPLES values spread over it.

    zero_run: (first value, values) of the longest stretch of zeros at least ZERO_RUN_BYTES long, else (0, 0);
    zero_tail: zeros that end the tensor. equal_run: values of the longest stretch of one other value, if it is long.
    """

    name: str
    info: TensorInfo
    side: Literal["", "a", "b"] = ""
    embedding: bool = False
    digest: bytes = b""
    count: int = 0
    nans: int = 0
    infinities: int = 0
    zeros: int = 0
    saturated: int = 0
    largest: float = 0.0
    constant: bool = False
    readable: bool = True
    zero_run: tuple[int, int] = (0, 0)
    equal_run: int = 0
    zero_tail: int = 0
    sample: Floats | None = None

    @property
    def broken(self) -> bool:
        """Whether it holds values that are no numbers."""
        return self.nans + self.infinities > 0

    @property
    def is_zero(self) -> bool:
        """Whether it has values, and all of them are zero."""
        return self.count > 0 and self.zeros == self.count

    @property
    def value_bytes(self) -> int:
        """Bytes of one value. It has at least one."""
        return (self.info.stop - self.info.start) // self.count


def in_tensors(tensors: Sequence[TensorFacts], tensor_count: int, unit: str = "tensors") -> str:
    """ "in 3 of 12 tensors, first base_model.model.layers.0.self_attn.q_proj.lora_A.weight"."""
    return f"in {some([tensor.name for tensor in tensors], tensor_count, unit)}"


class FactorProducts(msgspec.Struct):
    """What is kept of one factor. gram: [r, r]. image: [r, 16], its projection. sums: [r], over the other axis.
    width: length of the other axis.
    """

    gram: npt.NDArray[np.float32]
    image: npt.NDArray[np.float32]
    sums: npt.NDArray[np.float32]
    width: int


def scan(
    weights: Path, tensor_map: TensorMap, on_pair: Callable[[LoraModule, FactorProducts, FactorProducts], None]
) -> dict[str, TensorFacts]:
    """Read every tensor once: facts by tensor name, in the file's order.

    on_pair: called with a module and its halves A and B as soon as both are read, so that few are held at a time.
    Raises AdapterError when the file cannot be read to its end.
    """
    owners = {tensor_name: module for module in tensor_map.modules.values() for tensor_name in (module.a, module.b)}
    modules = {tensor_name: module for module in tensor_map.pairs for tensor_name in (module.a, module.b)}
    tensor_facts: dict[str, TensorFacts] = {}
    waiting: dict[str, FactorProducts] = {}
    with TensorReader(weights) as reader, np.errstate(all="ignore"):
        for tensor_name, tensor_info in tensor_map.tensors.items():
            tensor = TensorFacts(tensor_name, tensor_info, readable=tensor_info.dtype in READABLE)
            if (owner := owners.get(tensor_name)) is not None:
                tensor.side = "a" if tensor_name == owner.a else "b"
                tensor.embedding = owner.embedding
            tensor_facts[tensor_name] = tensor
            products = _read_tensor(reader, tensor)
            if products is None or tensor_name not in modules:
                continue
            module = modules[tensor_name]
            partner = waiting.pop(module.b if tensor.side == "a" else module.a, None)
            if partner is None:
                waiting[tensor_name] = products
            else:
                on_pair(module, *((products, partner) if tensor.side == "a" else (partner, products)))
    return tensor_facts


def _read_tensor(reader: TensorReader, tensor_facts: TensorFacts) -> FactorProducts | None:
    """Fill in what its values say; the products of a factor."""
    tensor_info = tensor_facts.info
    look_for_runs = tensor_facts.side != "" and not tensor_facts.embedding
    digest = hashlib.sha256(f"{tensor_info.dtype}{list(tensor_info.shape)}".encode())
    products = None
    at_once = tensor_info.stop - tensor_info.start <= 4 * MAX_FACTOR_VALUES and tensor_facts.side != ""
    lowest, highest = np.inf, -np.inf
    for raw_block in reader.raw_blocks(tensor_info, MAX_FACTOR_VALUES if at_once else BLOCK_VALUES):
        digest.update(raw_block.data)
        if not tensor_facts.readable:
            continue
        values = decode_floats(raw_block, tensor_info.dtype)
        block_minimum, block_maximum = _look(values, tensor_facts)
        lowest, highest = min(lowest, block_minimum), max(highest, block_maximum)
        if tensor_facts.sample is None:
            tensor_facts.sample = values[_spread(values.size)]
        if look_for_runs and tensor_facts.zeros > 16 and at_once:
            shortest_run = max(1, ZERO_RUN_BYTES * values.size // raw_block.size)
            tensor_facts.zero_run, tensor_facts.zero_tail = _zero_runs(values, shortest_run)
        if look_for_runs and at_once:
            tensor_facts.equal_run = _equal_run(values)
        if at_once and not tensor_facts.broken and values.size == tensor_facts.count:
            products = _factor_products(values, tensor_info.shape, tensor_facts.side)
    tensor_facts.digest = digest.digest()
    tensor_facts.largest = max(abs(lowest), abs(highest)) if tensor_facts.count else 0.0
    tensor_facts.constant = tensor_facts.count > 1 and lowest == highest and not tensor_facts.broken
    return products


def _look(values: Floats, tensor_facts: TensorFacts) -> tuple[float, float]:
    """Count what is in a block; its smallest and largest finite value."""
    tensor_facts.count += values.size
    tensor_facts.zeros += values.size - int(np.count_nonzero(values))
    minimum, maximum = float(values.min()), float(values.max())
    if not (np.isfinite(minimum) and np.isfinite(maximum)):
        is_nan, is_infinite = np.isnan(values), np.isinf(values)
        tensor_facts.nans += int(np.count_nonzero(is_nan))
        tensor_facts.infinities += int(np.count_nonzero(is_infinite))
        finite = values[~(is_nan | is_infinite)]
        minimum, maximum = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    largest_value = LARGEST.get(tensor_facts.info.dtype, np.inf)
    if max(abs(minimum), abs(maximum)) >= largest_value:
        tensor_facts.saturated += int(np.count_nonzero(np.abs(values) == np.float32(largest_value)))
    return minimum, maximum


@functools.lru_cache(maxsize=64)
def _spread(value_count: int) -> npt.NDArray[np.int64]:
    # An odd step, so that no column of a matrix of even width is left out.
    return np.arange(SAMPLES) * (max(value_count // SAMPLES, 1) | 1) % value_count


def _zero_runs(values: Floats, shortest: int) -> tuple[tuple[int, int], int]:
    """The longest stretch of zeros (first, length), if long enough, and how many end the tensor."""
    filled = np.flatnonzero(values)
    if not filled.size:
        return (0, values.size), values.size
    nonzero_edges = np.concatenate(([-1], filled, [values.size]))
    gap_lengths = np.diff(nonzero_edges) - 1
    longest = int(gap_lengths.argmax())
    longest_run = (int(nonzero_edges[longest]) + 1, int(gap_lengths[longest]))
    return (longest_run if longest_run[1] >= shortest else (0, 0)), int(gap_lengths[-1])


def _equal_run(values: Floats) -> int:
    """About how many values in a row are one and the same, not zero; 0 where fewer than EQUAL_RUN are."""
    chunks = values[: values.size // EQUAL_RUN * EQUAL_RUN].reshape(-1, EQUAL_RUN)
    # A stretch twice as long fills a whole piece; the first two values already tell most pieces apart.
    suspects = np.flatnonzero((chunks[:, 0] == chunks[:, 1]) & (chunks[:, 0] == chunks[:, -1]) & (chunks[:, 0] != 0))
    equal_chunks = [chunk for chunk in suspects.tolist() if (chunks[chunk] == chunks[chunk, 0]).all()]
    return len(equal_chunks) * EQUAL_RUN


def _products(matrix: Floats, columns: Floats) -> tuple[Floats, Floats]:
    """matrix [r, n], columns [n, 17] -> matrix matrix^T [r, r] and matrix columns [r, 17], summed over pieces of n.

    OpenBLAS hands products of more than 2^18 multiplications to its threads, and on busy cores those cost a hundred
    times what they save; numpy multiplies a stack of smaller ones without leaving its loop.
    """
    rank, width = matrix.shape
    chunk_size = _ONE_THREAD // (rank * max(rank, columns.shape[1]))
    if chunk_size >= width or chunk_size < 16:
        return matrix @ matrix.T, matrix @ columns
    chunked = width // chunk_size * chunk_size
    chunks = matrix[:, :chunked].reshape(rank, -1, chunk_size).transpose(1, 0, 2)
    remainder, tail = matrix[:, chunked:], columns[chunked:]
    gram = (chunks @ chunks.transpose(0, 2, 1)).sum(axis=0) + remainder @ remainder.T
    projected = (chunks @ columns[:chunked].reshape(-1, chunk_size, columns.shape[1])).sum(axis=0) + remainder @ tail
    return gram, projected


def _factor_products(values: Floats, shape: tuple[int, ...], factor_side: str) -> FactorProducts | None:
    """The products of one factor; None for what is no matrix or too large."""
    if len(shape) < 2 or not values.size:
        return None
    matrix = values.reshape(shape[0], -1)
    if factor_side == "b":
        if len(shape) > 2 and matrix.shape[1] != shape[1]:
            return None
        matrix = matrix.T
    rank, width = matrix.shape
    if rank > MAX_RANK:
        return None
    gram, projected = _products(matrix, probes(width))
    if not np.isfinite(gram.trace()):
        return None  # sizes beyond float32's square root; the tensor's own finding says so
    return FactorProducts(gram=gram, image=projected[:, :-1], sums=projected[:, -1], width=width)
