"""Every floating-point type is read as torch reads it; memory is one block; broken files are named."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lorica.adapters.arrays import LARGEST, READABLE, TensorReader, decode_floats, read_array
from lorica.adapters.header import TensorInfo, read_header
from lorica.errors import AdapterError

TORCH = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}


def write(path: Path, dtype: str, shape: tuple[int, ...], raw: bytes) -> TensorInfo:
    """A safetensors file of one tensor, and where it lies."""
    text = json.dumps({"t": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, len(raw)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw)
    return read_header(path).tensors["t"]


@pytest.mark.parametrize("dtype", TORCH)
def test_every_bit_pattern_is_read_as_torch_reads_it(dtype: str, tmp_path: Path) -> None:
    bits = np.arange(256, dtype=np.uint8) if dtype.startswith("F8") else np.arange(65536, dtype=np.uint16)
    raw = bits.tobytes()
    expected = torch.frombuffer(bytearray(raw), dtype=TORCH[dtype]).to(torch.float32).numpy()
    got = read_array(tmp_path / "w", write(tmp_path / "w", dtype, (bits.size // 2, 2), raw))
    assert got.dtype == np.float32
    assert got.shape == (bits.size // 2, 2)
    np.testing.assert_array_equal(got.ravel(), expected)
    finite = expected[np.isfinite(expected)]
    assert dtype not in LARGEST or LARGEST[dtype] == finite.max()


@pytest.mark.parametrize(("dtype", "kind"), [("F32", np.float32), ("F64", np.float64)])
def test_wide_types(dtype: str, kind: type, tmp_path: Path) -> None:
    values: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = np.array([[0.1, -2.0], [1e-30, 3e38]], kind)
    got = read_array(tmp_path / "w", write(tmp_path / "w", dtype, (2, 2), values.tobytes()))
    np.testing.assert_array_equal(got, values.astype(np.float32))


def test_what_float32_cannot_hold_is_infinite() -> None:
    assert np.isinf(decode_floats(np.frombuffer(np.array([1e300]).tobytes(), np.uint8), "F64")).all()


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F8_E5M2"])
def test_blocks_join_to_the_whole(dtype: str, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 60, 1200, dtype=np.uint8).tobytes()
    count = 1200 // {"F32": 4, "BF16": 2, "F8_E5M2": 1}[dtype]
    info = write(tmp_path / "w", dtype, (count,), raw)
    with TensorReader(tmp_path / "w") as reader:
        pieces = [block.copy() for block in reader.blocks(info, 77)]
        whole = reader.read(info)
    assert max(piece.size for piece in pieces) == 77
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_an_empty_tensor(tmp_path: Path) -> None:
    assert read_array(tmp_path / "w", write(tmp_path / "w", "F32", (0, 4), b"")).shape == (0, 4)


def test_a_type_that_is_no_float(tmp_path: Path) -> None:
    info = write(tmp_path / "w", "I32", (1,), b"abcd")
    assert "I32" not in READABLE
    with pytest.raises(AdapterError, match="I32"):
        read_array(tmp_path / "w", info)


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    info = write(tmp_path / "w", "F32", (4,), b"\0" * 16)
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-3])
    with pytest.raises(AdapterError, match="ends before"):
        read_array(tmp_path / "w", info)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="cannot be read"):
        read_array(tmp_path / "none", TensorInfo("F32", (1,), 0, 4))
