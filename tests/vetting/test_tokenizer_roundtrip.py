"""A base's tokenizer against its own vocabulary: sound ones write it, those that lost merges or normalise do not."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.vetting.specimens import codes

import lorica.models
from lorica.vetting.base.base_health import check_base_files
from lorica.vetting.base.tokenizer_roundtrip import MIN_ROUNDTRIP_SHARE, check_tokenizer_roundtrip, roundtrip_share

TINY = Path(lorica.models.__file__).parent / "lorica_tiny"
SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "tokenizers"
REAL = sorted(SHARED.glob("*/tokenizer.json.gz"))
MARKS: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


def changed(folder: Path, **parts: Any) -> Path:
    """The embedded base with another tokenizer. merges: the share that is left; normalizer: another one."""
    shutil.copytree(TINY, folder)
    whole = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    if "merges" in parts:
        merges = whole["model"]["merges"]
        whole["model"]["merges"] = merges[: int(len(merges) * parts["merges"])]
    else:
        whole["normalizer"] = parts["normalizer"]
    (folder / "tokenizer.json").write_text(json.dumps(whole), "utf-8")
    return folder


def test_a_sound_tokenizer_writes_its_vocabulary() -> None:
    found = roundtrip_share(TINY / "tokenizer.json")
    assert found is not None
    assert found[0] > 0.98
    assert check_tokenizer_roundtrip(TINY) == []


@pytest.mark.parametrize("parts", [{"merges": 0.1}, {"normalizer": MARKS}, {"normalizer": {**MARKS, "content": ""}}])
def test_one_that_does_not_is_named(tmp_path: Path, parts: dict[str, Any]) -> None:
    base = changed(tmp_path / "base", **parts)
    (found,) = check_tokenizer_roundtrip(base)
    assert (found.code, found.severity) == ("L318", "warn")
    assert found.facts["share"] < MIN_ROUNDTRIP_SHARE
    assert "L318" in codes(check_base_files(base))


def test_what_a_tokenizer_may_change_by_right(tmp_path: Path) -> None:
    assert check_tokenizer_roundtrip(changed(tmp_path / "base", normalizer={"type": "NFC"})) == []


@pytest.mark.skipif(not REAL, reason="the folder shared/data/tokenizers is not beside the repository")
def test_real_tokenizers_give_no_alarm(tmp_path: Path) -> None:
    judged = 0
    for path in REAL:
        folder = tmp_path / path.parent.name
        folder.mkdir()
        (folder / "tokenizer.json").write_bytes(gzip.decompress(path.read_bytes()))
        assert check_tokenizer_roundtrip(folder) == [], path.parent.name
        judged += roundtrip_share(folder / "tokenizer.json") is not None
    assert judged >= 2


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 7}, "decoder": {"type": "ByteLevel"}}'],
)
def test_a_broken_file_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    assert check_tokenizer_roundtrip(tmp_path) == []
    assert check_tokenizer_roundtrip(tmp_path / "nowhere") == []
