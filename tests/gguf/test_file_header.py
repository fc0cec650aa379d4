"""The header: what a writer wrote, and every way in which it can be wrong."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.gguf_files import gguf_bytes, text, value_bytes

from lorica.errors import ModelError
from lorica.gguf import file_header as reader
from lorica.gguf.file_header import read_header
from lorica.gguf.packed_texts import PackedTexts

PLAIN: dict[str, Any] = {
    "general.architecture": "llama",
    "a.list": ["x", "yy"],
    "a.numbers": [1, -2, 3],
    "a.flag": True,
}
TENSORS = {
    "first": ("F32", (2, 3), np.arange(6, dtype=np.float32).tobytes()),
    "second": ("Q8_0", (1, 32), bytes(34)),
}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [32, 8, 4096])
def test_what_was_written_is_read(tmp_path: Path, version: int, alignment: int) -> None:
    path = tmp_path / "model.gguf"
    metadata = PLAIN if alignment == 32 else PLAIN | {"general.alignment": alignment}
    path.write_bytes(gguf_bytes(metadata, TENSORS, version=version, alignment=alignment))
    header = read_header(path)
    assert header.version == version
    numbers = header.metadata.pop("a.numbers")
    assert isinstance(numbers, np.ndarray)
    assert numbers.tolist() == [1, -2, 3]
    texts = header.metadata.pop("a.list")
    assert isinstance(texts, PackedTexts)
    assert (list(texts), list(texts[1:]), texts[-1]) == (["x", "yy"], ["yy"], "yy")
    assert header.metadata == {key: value for key, value in metadata.items() if key not in ("a.numbers", "a.list")}
    assert {name: (tensor.block_type.name, tensor.shape) for name, tensor in header.tensors.items()} == {
        name: (type_name, shape) for name, (type_name, shape, _) in TENSORS.items()
    }
    raw = path.read_bytes()
    for name, (_, _, blocks) in TENSORS.items():
        assert raw[header.tensors[name].start : header.tensors[name].stop] == blocks
        assert header.tensors[name].start % alignment == 0


def test_what_ggmls_writer_writes_is_read_as_its_reader_reads_it(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(3)
    writer.add_float64("x.double", 0.1)
    writer.add_int8("x.small", -3)
    writer.add_uint64("x.large", 2**60)
    writer.add_array("x.texts", ["Grüße", "", "\u2581a"])
    writer.add_array("x.floats", [0.5, 1.5])
    writer.add_tensor("plain", np.ones((3, 4), np.float32))
    writer.add_tensor("packed", gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q4_0),
                      raw_dtype=gguf.GGMLQuantizationType.Q4_0)  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header, expected = read_header(path), gguf.GGUFReader(path)
    for key, value in header.metadata.items():
        texts = list(value) if isinstance(value, PackedTexts) else value
        assert (texts.tolist() if isinstance(texts, np.ndarray) else texts) == expected.fields[key].contents()
    for tensor in expected.tensors:
        ours = header.tensors[tensor.name]
        assert (ours.block_type.name, list(reversed(ours.shape))) == (tensor.tensor_type.name, tensor.shape.tolist())
        assert (ours.start, ours.stop - ours.start) == (tensor.data_offset, tensor.n_bytes)


def head(tensors: int = 0, entries: int = 0, *, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def tensor_entry(
    name: str = "t", dimensions: tuple[int, ...] = (32,), number: int = 8, offset: int = 0, *, count: int | None = None
) -> bytes:
    stated = len(dimensions) if count is None else count
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", stated, *dimensions, number, offset)


def entry(key: str, value_type: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", value_type) + raw


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "does not begin with GGUF"),
    "another format": (b"PK\x03\x04" + bytes(40), "zip archive"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "cut in its first bytes": (b"GGUF\x03\0\0\0", "cut short"),
    "version 1": (head(version=1), "version 1"),
    "version 99": (head(version=99), "version 99"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "tensors beyond number": (head(2**63), "announces 9223372036854775808 tensors"),
    "entries beyond number": (head(0, 2**64 - 1), "announces 18446744073709551615 entries"),
    "more entries than bytes": (head(0, 9), "cut short"),
    "a key of 2^63 bytes": (head(0, 1) + struct.pack("<Q", 2**63) + b"x", "a metadata key has 9223372036854775808"),
    "a key that is not UTF-8": (head(0, 1) + text(b"\xff\xfe") + bytes(99), "is not UTF-8"),
    "a text of 2^63 bytes": (head(0, 1) + entry("k", 8, struct.pack("<Q", 2**63)), "'k' has 9223372036854775808"),
    "a text beyond the end": (head(0, 1) + entry("k", 8, struct.pack("<Q", 999) + b"x"), "cut short"),
    "a key twice": (head(0, 2) + 2 * (text("k") + value_bytes(1)) + bytes(64), "'k' twice"),
    "an unknown value type": (head(0, 1) + entry("k", 77, bytes(8)), "value type 77"),
    "a flag of 2": (head(0, 1) + entry("k", 7, b"\x02"), "neither true nor false"),
    "an array of arrays": (head(0, 1) + entry("k", 9, struct.pack("<IQ", 9, 1) + bytes(64)), "array of arrays"),
    "an array of 2^63": (head(0, 1) + entry("k", 9, struct.pack("<IQ", 4, 2**63)), "9223372036854775808 elements"),
    "2^63 texts": (head(0, 1) + entry("k", 9, struct.pack("<IQ", 8, 2**63)), "strings"),
    "texts beyond the end": (head(0, 1) + entry("k", 9, struct.pack("<IQ", 8, 5) + text("a")), "cut short"),
    "an array of a text beyond the end": (
        head(0, 1) + entry("k", 9, struct.pack("<IQ", 8, 1) + struct.pack("<Q", 50) + b"ab"),
        "cut short",
    ),
    "an array of a huge text": (
        head(0, 1) + entry("k", 9, struct.pack("<IQ", 8, 1) + struct.pack("<Q", 2**62)),
        "4611686018427387904 bytes",
    ),
    "a token that is not UTF-8": (
        head(0, 1) + entry("k", 9, struct.pack("<IQ", 8, 1) + text(b"\xc0\x80")),
        "a string of 'k' is not UTF-8",
    ),
    "an array of unknown elements": (head(0, 1) + entry("k", 9, struct.pack("<IQ", 55, 1)), "value type 55"),
    "alignment 0": (head(0, 1) + text("general.alignment") + value_bytes(0), "general.alignment is 0"),
    "alignment 24": (head(0, 1) + text("general.alignment") + value_bytes(24), "general.alignment is 24"),
    "alignment 2^31": (head(0, 1) + text("general.alignment") + value_bytes(2**31), "general.alignment"),
    "alignment as text": (head(0, 1) + text("general.alignment") + value_bytes("32"), "general.alignment"),
    "no dimensions": (head(1) + tensor_entry(dimensions=()) + bytes(99), "0 dimensions"),
    "five dimensions": (head(1) + tensor_entry(dimensions=(1,) * 5) + bytes(99), "5 dimensions"),
    "2^32 - 1 dimensions": (head(1) + tensor_entry(count=2**32 - 1) + bytes(99), "4294967295 dimensions"),
    "an empty dimension": (head(1) + tensor_entry(dimensions=(32, 0)) + bytes(99), "[32, 0]"),
    "a negative dimension": (head(1) + tensor_entry(dimensions=(32, 2**64 - 1)) + bytes(99), "18446744073709551615"),
    "dimensions that overflow": (
        head(1) + tensor_entry(dimensions=(2**40, 2**40, 2**40, 2**40)) + bytes(99),
        "cut short",
    ),
    "an unknown tensor type": (head(1) + tensor_entry(number=999) + bytes(99), "type number 999"),
    "a type that is not read": (head(1) + tensor_entry(number=16) + bytes(99), "type IQ2_XXS"),
    "rows that are no whole blocks": (head(1) + tensor_entry(dimensions=(33,)) + bytes(99), "rows of 33 weights"),
    "an offset beyond the end": (head(1) + tensor_entry(offset=2**63) + bytes(99), "must be at 0"),
    "an offset that is not aligned": (head(1) + tensor_entry(offset=7) + bytes(99), "must be at 0"),
    "overlapping tensors": (head(2) + tensor_entry("a") + tensor_entry("b") + bytes(200), "'b' at offset 0"),
    "a tensor twice": (head(2) + tensor_entry() + tensor_entry() + bytes(200), "'t' twice"),
    "a tensor beyond the end": (head(1) + tensor_entry(dimensions=(32, 100)) + bytes(99), "cut short"),
    "a name with escapes": (head(1) + tensor_entry("\x1b[2J\n", number=999) + bytes(99), r"'\x1b[2J\n'"),
    "a name beyond reason": (head(1) + text("x" * 5000) + bytes(99), "a tensor's name has 5000 bytes"),
    "bytes behind the last tensor": (gguf_bytes(PLAIN, TENSORS) + bytes(77), "behind its last tensor"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    raw, reason = BROKEN[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    with pytest.raises(ModelError) as caught:
        read_header(path)
    assert str(path) in caught.value.message
    assert reason in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.fix


def test_a_file_that_ends_anywhere_is_cut_short(tmp_path: Path) -> None:
    whole, path = gguf_bytes(PLAIN, TENSORS), tmp_path / "model.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_header(path)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_never_opened(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "model.gguf")
    with pytest.raises(ModelError):
        read_header(tmp_path / "model.gguf")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(PLAIN, TENSORS))
    assert "b" not in read_header(path).metadata
    path.write_bytes(gguf_bytes(PLAIN | {"b": 1}, TENSORS))
    assert read_header(path).metadata["b"] == 1


def test_a_header_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 64)
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(PLAIN, TENSORS))
    with pytest.raises(ModelError, match="a header of more than 64 bytes"):
        read_header(path)
