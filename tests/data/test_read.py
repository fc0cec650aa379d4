"""Reading tables: every format gives the same rows; lines, ids and mappings are exact; memory stays flat."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorica.data import csv_table, json_table
from lorica.data.files import FileFormat, text_chunks
from lorica.data.formats import open_table
from lorica.data.read import read_rows, rows_from_memory
from lorica.data.read_log import ReadLog
from lorica.errors import DataError
from lorica.records import Row, RowSchema

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"

RECORDS: list[dict[str, Any]] = [
    {"id": "007", "body": 'She said "hi",\nthen left', "rule": "no ads", "label": "1", "extra": "z"},
    {"id": "7", "body": "Ünïcödé 😀 \u2028 line", "rule": " spaced ", "label": "", "extra": ""},
    {"id": "a,b", "body": "tab\there", "rule": "=1+1", "label": "0", "extra": "NA"},
]


def _csv(delimiter: str, end: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(RECORDS[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(RECORDS)
    return text.getvalue().encode()


def _parquet() -> bytes:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(RECORDS), sink)
    return sink.getvalue()


def _jsonl() -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()


FILES: dict[str, tuple[str, Callable[[], bytes], tuple[int, int, int]]] = {
    "csv": ("t.csv", lambda: _csv(",", "\n"), (2, 4, 5)),
    "csv crlf": ("t.csv", lambda: _csv(",", "\r\n"), (2, 4, 5)),
    "csv bom": ("t.CSV", lambda: b"\xef\xbb\xbf" + _csv(",", "\r\n"), (2, 4, 5)),
    "csv gz": ("t.csv.gz", lambda: gzip.compress(b"\xef\xbb\xbf" + _csv(",", "\n")), (2, 4, 5)),
    "csv blank lines": ("t.csv", lambda: _csv(",", "\n\n") + b"\n", (3, 6, 8)),
    "csv no last line end": ("t.csv", lambda: _csv(",", "\n").rstrip(), (2, 4, 5)),
    "tsv": ("t.tsv", lambda: _csv("\t", "\n"), (2, 4, 5)),
    "jsonl": ("t.jsonl", _jsonl, (1, 2, 3)),
    "jsonl bom blank": ("t.ndjson", lambda: b"\xef\xbb\xbf\n" + _jsonl().replace(b"\n", b"\r\n\n"), (2, 4, 6)),
    "jsonl gz": ("t.jsonl.gz", lambda: gzip.compress(_jsonl()), (1, 2, 3)),
    "json": ("t.json", lambda: json.dumps(RECORDS).encode(), (1, 1, 1)),
    "json indented": ("t.json", lambda: b"\xef\xbb\xbf" + json.dumps(RECORDS, indent=1).encode(), (2, 9, 16)),
    "json gz": ("t.json.gz", lambda: gzip.compress(json.dumps(RECORDS).encode()), (1, 1, 1)),
    "parquet": ("t.parquet", _parquet, (1, 2, 3)),
}


def _values(row: Row) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.structs.asdict(row.case)["values"]
    return values


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    file, content, lines = FILES[name]
    path = tmp_path / file
    path.write_bytes(content())
    rows = list(read_rows(path, shapes))
    assert [row.id for row in rows] == ["007", "7", "a,b"]
    # Empty optional cells and columns that no shape asks for are not handed on.
    wanted = [{k: v for k, v in r.items() if k != "extra" and v} for r in RECORDS]
    assert [_values(row) for row in rows] == wanted
    assert [row.gold for row in rows] == [1, None, 0]
    assert tuple(row.line for row in rows) == lines


def test_rows_from_memory_are_those_of_a_file(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(_jsonl())
    from_file = list(read_rows(path, shapes))
    assert rows_from_memory(RECORDS, shapes) == [msgspec.structs.replace(row, line=0) for row in from_file]
    assert rows_from_memory([], shapes) == []


def test_records_that_cannot_be_used_are_left_out_where_that_was_asked_for(shapes: tuple[RowSchema, ...]) -> None:
    good, bad = {"id": "a", "body": "x", "rule": "r"}, {"id": "b", "body": "x"}
    log = ReadLog(skip=True)
    assert [row.id for row in rows_from_memory([good, bad, good | {"id": "c"}], shapes, log=log)] == ["a", "c"]
    assert [(row.line, row.id) for row in log.skipped] == [(2, "b")]


def test_columns_are_mapped_and_constants_filled_in(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("key,text,body,rule\n1,x,y,z\n")
    (row,) = read_rows(path, shapes, columns={"id": "key", "body": "text"}, constants={"rule": "no ads"})
    assert _values(row) == {"id": "1", "body": "x", "rule": "no ads"}


def test_first_shape_that_fits_is_taken(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("question,answer,id,body,rule\nq,a,1,x,r\n")
    assert [row.id for row in read_rows(path, shapes)] == ["1"]
    assert [row.id for row in read_rows(path, shapes[::-1])] == ["row-1"]
    # A mapping tells which shape is meant: `post` has no use for a question.
    assert [row.id for row in read_rows(path, shapes, columns={"question": "body"})] == ["row-1"]


def test_integer_ids_become_their_text(shapes: tuple[RowSchema, ...]) -> None:
    (row,) = rows_from_memory([{"id": 10**30, "body": "x", "rule": "r"}], shapes)
    assert row.id == str(10**30)


def test_mistakes_in_the_head_are_raised_at_once_and_later_ones_when_met(
    tmp_path: Path, shapes: tuple[RowSchema, ...]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,body,rule\na,x,r\nb,x,r\nc,x\n")
    rows = read_rows(path, shapes)
    assert [next(rows).id, next(rows).id] == ["a", "b"]
    with pytest.raises(DataError, match=r"t.csv:4: 2 cells"):
        next(rows)


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(max_examples=150, deadline=None)
@given(table=st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), max_size=6)))
def test_csv_agrees_with_the_standard_library(table: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    width = len(table[0]) if table else 2
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerows([[f"c{i}" for i in range(width)], *table])
    path = tmp_path_factory.getbasetemp() / "oracle.csv"
    path.write_bytes(text.getvalue().encode())
    with path.open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    opened = open_table(path)
    records = list(opened.whole_records(opened.names))
    assert [dict(values) for _, values in records] == expected
    assert [list(values.values()) for _, values in records] == table
    # A record starts one line below the line feeds of the records before it.
    line = 2
    for (found, _), cells in zip(records, table, strict=True):
        assert found == line
        line += 1 + sum(cell.count("\n") for cell in cells)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | CELLS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELLS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    records=st.lists(st.dictionaries(CELLS, JSON_VALUES, max_size=4), min_size=1, max_size=6),
    size=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_json_arrays_agree_with_the_standard_library_at_any_chunk_size(
    records: list[dict[str, Any]],
    size: int,
    indent: int | None,
    ascii_only: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
    path = tmp_path_factory.getbasetemp() / "oracle.json"
    path.write_text(text, encoding="utf-8")

    def small_chunks(path: Path, fmt: FileFormat) -> Iterator[str]:
        return text_chunks(path, fmt, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_table, "text_chunks", small_chunks)
        read = list(json_table.read_json(path, FileFormat("json", False)).records([]))
    assert [values for _, values in read] == json.loads(text)
    lines = text.split("\n")
    assert all("{" in lines[line - 1] for line, _ in read)
    assert [line for line, _ in read] == sorted(line for line, _ in read)


def test_the_csv_limit_of_the_process_is_left_alone(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,body,rule\na," + "x" * 200_000 + ",r\n")
    before = csv.field_size_limit()
    (row,) = read_rows(path, shapes)
    assert len(_values(row)["body"]) == 200_000 > before
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_memory_does_not_grow_with_the_rows(suffix: str, tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}{suffix}"
        records = ({"id": str(i), "body": f"text {i} " * 20, "rule": "r"} for i in range(count))
        _write(path, records)
        for _ in read_rows(path, shapes):  # imports and caches
            break
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_rows(path, shapes)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(2_000), peak(12_000)
    # The set of ids: at most two slots of 8 bytes a row, and the smaller table while it grows. The texts: 200 a row.
    assert large - small < 10_000 * 40


def _write(path: Path, records: Iterator[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(list(records)), path, row_group_size=1000)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "body", "rule"])
            writer.writeheader()
            writer.writerows(records)
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(records)))
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data folder beside the repository")
def test_real_files_are_read_whole(shapes: tuple[RowSchema, ...]) -> None:
    sms = list(
        read_rows(
            SHARED / "sms_spam" / "messages.jsonl",
            shapes[:1],
            columns={"body": "text", "note": "label"},
            constants={"rule": "no unsolicited advertising", "label": "1"},
        )
    )
    assert len(sms) == len({row.id for row in sms}) == 2000
    assert {_values(row)["note"] for row in sms} == {"spam", "ham"}
    models = csv_table.read_csv(SHARED / "base_models" / "architectures.csv", FileFormat("csv", False))
    with (SHARED / "base_models" / "architectures.csv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    assert [dict(v) for _, v in models.whole_records(models.names)] == expected
