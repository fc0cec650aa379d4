"""Every way to spoil the weights' file has its own code, and never hides the config."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.folders import CONFIG, WEIGHTS, codes, examine, make_adapter

GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [2], "data_offsets": [8, 12]},
}
ONE = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'


def pack(header: str | bytes | dict[str, Any], body: bytes = bytes(12)) -> bytes:
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + body


def edited(name: str, **changes: Any) -> bytes:
    return pack(GOOD | {name: GOOD[name] | changes})


CASES = {
    "empty": (b"", "L020"),
    "short": (b"1234567", "L021"),
    "length overflow": (struct.pack("<Q", 2**64 - 1) + b"{}", "L022"),
    "length over the cap": (struct.pack("<Q", 2**31) + b"{}", "L022"),
    "cut within the header": (pack(GOOD)[:60], "L023"),
    "cut within the tensors": (pack(GOOD, bytes(11)), "L023"),
    "not UTF-8": (pack(b'{"\xff":{' + ONE.encode() + b"}}", bytes(4)), "L024"),
    "not JSON": (pack('{"a":', b""), "L025"),
    "byte order mark": (pack(b"\xef\xbb\xbf{}", b""), "L025"),
    "a list": (pack("[]", b""), "L025"),
    "nested": (pack('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", b""), "L026"),
    "a tensor twice": (pack('{"a":{' + ONE + '},"a":{' + ONE + "}}", bytes(4)), "L027"),
    "a field twice": (pack('{"a":{"dtype":"F32",' + ONE + "}}", bytes(4)), "L027"),
    "too many lists": (pack('{"a":[' + "[]," * 400_000 + "[]]}", b""), "L028"),
    "metadata of numbers": (pack({"__metadata__": {"x": 1}}, b""), "L029"),
    "two megabytes of metadata": (pack({"__metadata__": {"x": "y" * 2**21}}, b""), "L030"),
    "control character": (pack('{"a\\u001b[2J":{' + ONE + "}}", bytes(4)), "L031"),
    "right-to-left mark": (pack('{"a\\u202e":{' + ONE + "}}", bytes(4)), "L031"),
    "name that climbs": (pack('{"../../a":{' + ONE + "}}", bytes(4)), "L031"),
    "empty name": (pack('{"":{' + ONE + "}}", bytes(4)), "L031"),
    "lone surrogate": (pack('{"\\ud800":{' + ONE + "}}", bytes(4)), "L031"),
    "missing field": (pack('{"a":{"dtype":"F32","shape":[1]}}', bytes(4)), "L032"),
    "fraction": (edited("a", shape=[2.0, 1]), "L032"),
    "negative": (edited("a", shape=[-2, -1]), "L032"),
    "offsets reversed": (edited("a", data_offsets=[8, 0]), "L032"),
    "unknown dtype": (edited("a", dtype="F128"), "L033"),
    "shape overflow": (edited("a", shape=[2**62, 2**62]), "L034"),
    "overflow behind a zero": (edited("a", shape=[0, 2**62, 2**62]), "L034"),
    "shape against bytes": (edited("a", shape=[3, 1]), "L035"),
    "overlap": (edited("b", data_offsets=[4, 8]), "L036"),
    "hole": (pack(GOOD | {"b": GOOD["b"] | {"data_offsets": [9, 13]}}, bytes(13)), "L037"),
    "trailing": (pack(GOOD, bytes(13)), "L038"),
    "no tensor": (pack("{}", b""), "L039"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "L010"),
    "zip": (b"PK\x03\x04" + bytes(100), "L011"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "L011"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(100), "L011"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "L011"),
    "web page": (b"<!DOCTYPE html><html>" + bytes(100), "L011"),
    "pickle": (pickle.dumps({"a": 1}), "L012"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_spoilt_weights(case: str, tmp_path: Path) -> None:
    raw, code = CASES[case]
    folder = make_adapter(tmp_path / "adapter")
    (folder / WEIGHTS).write_bytes(raw)
    specimen, findings = examine(folder)
    assert codes(findings) == [code]
    assert specimen is not None
    assert specimen.config is not None
    assert (specimen.header is None) == (code != "L039")
    (found,) = findings
    assert found.file == WEIGHTS
    assert found.seen.isprintable()
    assert str(tmp_path) not in found.seen


def test_a_header_over_the_cap_that_the_file_does_hold(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    length = 16 * 1024 * 1024 + 8
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", length) + b"{}")
        file.truncate(8 + length)  # a sparse file
    assert codes(examine(folder)[1]) == ["L040"]


def test_more_tensors_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorica.adapters.header.MAX_TENSORS", 1)
    assert codes(examine(make_adapter(tmp_path / "adapter"))[1]) == ["L028"]


def test_spoilt_weights_and_config_are_both_named(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    (folder / WEIGHTS).write_bytes(b"")
    (folder / CONFIG).write_bytes(b"[]")
    specimen, findings = examine(folder)
    assert specimen is None
    assert codes(findings) == ["L020", "L054"]
