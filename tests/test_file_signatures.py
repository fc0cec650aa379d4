"""Files are recognised by what other programs write, and no text is taken for one of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import zipfile
from pathlib import Path

import pytest

from lorica.file_signatures import HEAD_BYTES, Content, recognise

TEXT = "id,text\n1,caf\u00e9\n"


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", TEXT)
    return file.getvalue()


WRITTEN = {
    Content.ZIP: [_zip()],
    Content.GZIP: [gzip.compress(b"x")],
    Content.BZIP2: [bz2.compress(b"x", level) for level in (1, 9)],
    Content.XZ: [lzma.compress(b"x")],
    Content.PICKLE: [pickle.dumps({"a": 1}, protocol) for protocol in range(2, 6)],
    Content.UTF16: [TEXT.encode("utf-16"), b"\xfe\xff" + TEXT.encode("utf-16-be")],
    Content.UTF32: [TEXT.encode("utf-32"), b"\0\0\xfe\xff" + TEXT.encode("utf-32-be")],
    Content.HTML: [b"<!DOCTYPE html><p>", b"\n <HTML lang=en>"],
}


@pytest.mark.parametrize("content", WRITTEN)
def test_what_the_standard_library_writes(content: Content) -> None:
    assert [recognise(raw[:HEAD_BYTES]) for raw in WRITTEN[content]] == [content] * len(WRITTEN[content])


def test_a_database(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    database = sqlite3.connect(path)
    database.execute("create table t (x)")
    database.commit()
    database.close()
    assert recognise(path.read_bytes()[:HEAD_BYTES]) is Content.SQLITE


@pytest.mark.parametrize("rows", [0, 3])
def test_parquet_and_arrow(rows: int, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    from pyarrow import feather, parquet

    table = pyarrow.table({"a": list(range(rows))})
    parquet.write_table(table, tmp_path / "p")
    feather.write_feather(table, tmp_path / "f")
    found = [recognise((tmp_path / name).read_bytes()[:HEAD_BYTES]) for name in "pf"]
    assert found == [Content.PARQUET, Content.ARROW]


@pytest.mark.parametrize(
    "first", ["PAR1,PAR2", "bzh_id,text", "BZh9,text", "GGUF,size", "ARROW1,ARROW2", "%PDF,text", "7z,id", "", TEXT]
)
def test_a_table_may_begin_with_any_word(first: str) -> None:
    assert recognise(first.encode()) is None
