"""The own header reader against the safetensors library: never more lenient, and equal where both accept."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors import deserialize as _deserialize

from lorica.adapters.header import DTYPE_BITS, MAX_HEADER_BYTES, byte_count, header_bytes, read_header
from lorica.errors import AdapterError

GOOD: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2], "data_offsets": [8, 12]},
}


def deserialize(raw: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The library's reading, or SafetensorError."""
    found: list[tuple[str, dict[str, Any]]] = _deserialize(raw)  # type: ignore[no-untyped-call]
    return found


def pack(header: str | bytes | dict[str, Any], body: bytes = bytes(12)) -> bytes:
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + body


def edited(name: str, **changes: Any) -> bytes:
    return pack(GOOD | {name: GOOD[name] | changes})


def library_accepts(raw: bytes) -> bool:
    try:
        deserialize(raw)
    except (SafetensorError, ValueError):
        return False
    return True


def test_reads_positions_counted_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(GOOD, bytes(range(12))))
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    assert list(header.tensors) == ["a", "b"]
    info = header.tensors["b"]
    assert (info.dtype, info.shape) == ("BF16", (2,))
    assert path.read_bytes()[info.start : info.stop] == bytes(range(8, 12))


ONE = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'
REFUSED = {
    "empty file": (b"", "at least 8"),
    "five bytes": (b"12345", "at least 8"),
    "length over the cap": (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "announces"),
    "length overflow": (struct.pack("<Q", 2**64 - 1) + b"{}", "announces"),
    "length over the file": (struct.pack("<Q", 100) + b"{}", "cut short"),
    "not UTF-8": (pack(b'{"\xff":{' + ONE.encode() + b"}}", bytes(4)), "UTF-8"),
    "byte order mark": (pack(b"\xef\xbb\xbf{}", b""), "begin with"),
    "a list": (pack("[]", b""), "begin with"),
    "leading space": (pack(" {}", b""), "begin with"),
    "broken JSON": (pack('{"a":', b""), "not JSON"),
    "text after the object": (pack("{} {}", b""), "not JSON"),
    "zero padding": (pack("{}\0\0", b""), "not JSON"),
    "control character": (pack('{"a\n":{' + ONE + "}}", bytes(4)), "not JSON"),
    "escaped control character": (pack('{"a\\n":{' + ONE + "}}", bytes(4)), "control"),
    "name that climbs": (pack('{"a..b":{' + ONE + "}}", bytes(4)), "'..'"),
    "metadata of two megabytes": (pack({"__metadata__": {"x": "y" * 2**21}}, b""), "__metadata__ holds 2097153 bytes"),
    "empty name": (pack('{"":{' + ONE + "}}", bytes(4)), "empty"),
    "lone surrogate": (pack('{"\\ud800":{' + ONE + "}}", bytes(4)), "surrogate"),
    "deep nesting": (pack('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", b""), "deeply"),
    "too many lists": (pack('{"a":[' + "[]," * 400_000 + "[]]}", b""), "more than"),
    "a tensor twice": (pack('{"a":{' + ONE + '},"a":{' + ONE + "}}", bytes(4)), "twice"),
    "a field twice": (pack('{"a":{"dtype":"F32",' + ONE + "}}", bytes(4)), "twice"),
    "metadata twice": (pack('{"__metadata__":{"x":"1","x":"2"}}', b""), "twice"),
    "metadata of numbers": (pack({"__metadata__": {"x": 1}}, b""), "__metadata__"),
    "metadata is null": (pack({"__metadata__": None}, b""), "__metadata__"),
    "a tensor is a list": (pack('{"a":["F32",[1],[0,4]]}', bytes(4)), "exactly"),
    "unknown field": (pack('{"a":{"x":1,' + ONE + "}}", bytes(4)), "exactly"),
    "missing field": (pack('{"a":{"dtype":"F32","shape":[1]}}', bytes(4)), "exactly"),
    "unknown dtype": (edited("a", dtype="F128"), "unknown dtype"),
    "dtype is a number": (edited("a", dtype=32), "unknown dtype"),
    "fractional dimension": (edited("a", shape=[2.0, 1]), "number"),
    "dimension is true": (edited("a", shape=[2, True]), "whole numbers"),
    "negative dimension": (edited("a", shape=[-2, -1]), "number"),
    "minus zero": (pack('{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', bytes(4)), "number"),
    "not a number": (edited("a", shape=[float("nan")]), "number"),
    "huge number": (pack('{"a":{"dtype":"F32","shape":[' + "9" * 5000 + "]}}"), "number"),
    "shape overflow": (edited("a", shape=[2**62, 2**62]), "too large"),
    "overflow hidden by a zero": (edited("a", shape=[0, 2**62, 2**62]), "too large"),
    "too many dimensions": (edited("a", shape=[1] * 17), "dimensions"),
    "shape against size": (edited("a", shape=[3, 1]), "takes 12 bytes"),
    "half a byte": (pack({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, b"1"), "takes 0.5"),
    "three offsets": (edited("a", data_offsets=[0, 8, 8]), "[start, stop]"),
    "offsets reversed": (edited("a", data_offsets=[8, 0]), "[start, stop]"),
    "overlap": (edited("b", data_offsets=[4, 8]), "overlaps"),
    "hole": (pack(GOOD | {"b": GOOD["b"] | {"data_offsets": [9, 13]}}, bytes(13)), "unused bytes"),
    "first byte unused": (pack({"b": GOOD["b"] | {"data_offsets": [1, 5]}}, bytes(5)), "unused bytes"),
    "trailing bytes": (pack(GOOD, bytes(13)), "after its last tensor"),
    "truncated": (pack(GOOD, bytes(11)), "cut short"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    "pickle": (b"\x80\x02}q\x00.", "pickle"),
    "zip": (b"PK\x03\x04" + bytes(100), "zip"),
    "GGUF": (b"GGUF\3" + bytes(100), "GGUF"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7z"),
    "web page": (b"<!DOCTYPE html><html>" + bytes(100), "an HTML page"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_with_file_and_reason(case: str, tmp_path: Path) -> None:
    raw, reason = REFUSED[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(AdapterError) as caught:
        read_header(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("length", [*(256 * protocol + 128 for protocol in range(2, 6)), 0x8B1F, 0xFEFF])
def test_a_header_whose_length_looks_like_another_format_is_read(length: int, tmp_path: Path) -> None:
    raw = pack(json.dumps(GOOD).ljust(length))
    assert deserialize(raw)
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    assert list(read_header(path).tensors) == ["a", "b"]


def test_refuses_more_tensors_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.adapters.header.MAX_TENSORS", 1)
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(GOOD))
    with pytest.raises(AdapterError, match="lists 2 tensors; allowed: 1"):
        read_header(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"x\.safetensors: cannot be read"):
        read_header(tmp_path / "x.safetensors")


def check_against_library(raw: bytes, path: Path) -> bool:
    """True when both accept and agree; fails when the own reader accepts what the library refuses."""
    path.write_bytes(raw)
    try:
        header = read_header(path)
    except AdapterError:
        return False
    assert library_accepts(raw), raw
    theirs = dict(deserialize(raw))
    assert set(theirs) == set(header.tensors)
    for name, info in header.tensors.items():
        assert theirs[name]["dtype"] == info.dtype
        assert tuple(theirs[name]["shape"]) == info.shape
        assert bytes(theirs[name]["data"]) == raw[info.start : info.stop]
    return True


MUTATIONS = [
    b"\0", b" ", b"{", b"}", b"[", b"]", b",", b":", b'"', b"-", b".", b"0", b"1", b"9", b"e",
    b"\\", b"\\u0000", b"\xff", b"\n", b"null", b"true", b"NaN", b'"a":',
    b"18446744073709551615", b"F64", b"[]", b"{}",
]  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 12), st.sampled_from(MUTATIONS)), max_size=4),
    fix_length=st.booleans(),
)
def test_mutated_files_are_never_accepted_where_the_library_refuses(
    edits: list[tuple[int, int, bytes]], fix_length: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = pack(GOOD)
    text, body = raw[8:-12], raw[-12:]
    for position, removed, inserted in edits:
        text = text[:position] + inserted + text[position + removed :]
    length = len(text) if fix_length else len(raw) - 20
    check_against_library(struct.pack("<Q", length) + text + body, tmp_path_factory.getbasetemp() / "mutated")


SMALL = st.one_of(st.integers(-1, 9), st.sampled_from([2**31, 2**63, 2**64, True, 1.0, None, "1"]))


@settings(max_examples=400, deadline=None)
@given(
    entries=st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from([*DTYPE_BITS, "F128", "f32"]),
                "shape": st.lists(SMALL, max_size=3),
                "data_offsets": st.lists(SMALL, min_size=1, max_size=3),
            }
        ),
        max_size=3,
    ),
    size=st.integers(0, 20),
)
def test_generated_headers_are_never_accepted_where_the_library_refuses(
    entries: dict[str, Any], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_against_library(pack(entries, bytes(size)), tmp_path_factory.getbasetemp() / "generated")


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@settings(max_examples=200, deadline=None)
@given(
    tensors=st.dictionaries(
        st.text(st.characters(categories=("L", "N"), include_characters="._- "), min_size=1, max_size=8).filter(
            lambda name: ".." not in name
        ),
        st.tuples(st.sampled_from(sorted(DTYPE_BITS)), SHAPES).filter(lambda t: DTYPE_BITS[t[0]] >= 8),
        max_size=5,
    )
)
def test_written_headers_are_read_back_by_both(
    tensors: dict[str, tuple[str, tuple[int, ...]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    head, order = header_bytes(tensors, {"format": "pt"})
    bodies = {name: bytes([n]) * byte_count(*tensors[name]) for n, name in enumerate(order)}
    raw = head + b"".join(bodies[name] for name in order)
    assert check_against_library(raw, tmp_path_factory.getbasetemp() / "written")
    assert dict(deserialize(raw)).keys() == tensors.keys()
    assert len(head) % 8 == 0
    for name, info in read_header(tmp_path_factory.getbasetemp() / "written").tensors.items():
        assert raw[info.start : info.stop] == bodies[name]
        assert info.start % (DTYPE_BITS[info.dtype] // 8) == 0


def test_every_dtype_has_the_librarys_size() -> None:
    for dtype, bits in DTYPE_BITS.items():
        entry = {"dtype": dtype, "shape": [8], "data_offsets": [0, bits]}
        assert library_accepts(pack({"a": entry}, bytes(bits))), dtype


def test_golden_bytes() -> None:
    head, order = header_bytes({"b": ("F16", (1,)), "a": ("F32", (2, 3))}, {"format": "pt"})
    text = (
        '{"__metadata__":{"format":"pt"},"a":{"data_offsets":[0,24],"dtype":"F32","shape":[2,3]},'
        '"b":{"data_offsets":[24,26],"dtype":"F16","shape":[1]}}'
    )
    assert head[8:].decode().rstrip() == text
    assert struct.unpack("<Q", head[:8])[0] == len(head) - 8 == 144
    assert order == ["a", "b"]
