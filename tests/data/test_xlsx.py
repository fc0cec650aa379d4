"""Workbooks: read as the sheet shows them, or refused by name."""

from __future__ import annotations

import datetime
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorica.cli import main
from lorica.data.formats import open_table
from lorica.data.read import read_rows
from lorica.data.read_log import ReadLog
from lorica.data.table import TableOptions
from lorica.errors import DataError, MissingExtraError
from lorica.records import RowSchema
from lorica.tasks import load_task

openpyxl = pytest.importorskip("openpyxl", reason="needs the extra xlsx")

HEADER = ["id", "body", "rule", "label"]
ROWS = [[1, "buy, now", "no ads", 1], [2.0, 'two\nlines, "quoted"', "no ads", 0]]


def _book(path: Path, rows: list[list[Any]], change: Callable[[Any], object] = lambda book: None) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    change(book)
    book.save(path)
    return path


def _patched(path: Path, old: str, new: str) -> None:
    """Put a text in the place of another in the first sheet, as other programs write it."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = "xl/worksheets/sheet1.xml"
    assert old.encode() in parts[name], parts[name]
    parts[name] = parts[name].replace(old.encode(), new.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, data)


def _values(path: Path, options: TableOptions | None = None) -> list[list[Any]]:
    table = open_table(path, options)
    return [list(record.values()) for _, record in table.whole_records(table.names)]


def test_a_sheet_is_read_as_it_shows(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = _book(tmp_path / "t.xlsx", [HEADER, *ROWS])
    rows = list(read_rows(path, shapes))
    assert [row.id for row in rows] == ["1", "2"]
    assert [row.line for row in rows] == [2, 3]
    assert rows[1].case.values["body"] == 'two\nlines, "quoted"'  # type: ignore[attr-defined]


def test_values_are_plain(tmp_path: Path) -> None:
    day, moment = datetime.date(2024, 5, 6), datetime.datetime(2024, 5, 6, 7, 8, 9)
    cells = ["007", 7, 7.0, 7.5, 1e15, True, day, moment, datetime.time(7, 8), None, " x ", "=text"]
    header = [f"c{i}" for i in range(len(cells))]

    def as_text(book: Any) -> None:
        book.active["L2"].data_type = "s"

    path = _book(tmp_path / "t.xlsx", [header, cells], as_text)
    assert _values(path) == [
        ["007", 7, 7, 7.5, 10**15, True, "2024-05-06", "2024-05-06 07:08:09", "07:08:00", None, " x ", "=text"]
    ]


def test_empty_rows_are_passed_over_and_lines_are_those_of_the_sheet(
    tmp_path: Path, shapes: tuple[RowSchema, ...]
) -> None:
    path = _book(tmp_path / "t.xlsx", [[], HEADER, [], ROWS[0], [None, None], ROWS[1], []])
    assert [(row.id, row.line) for row in read_rows(path, shapes)] == [("1", 4), ("2", 6)]


def test_a_sheet_that_lies_about_its_size_is_read_whole(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = _book(tmp_path / "t.xlsx", [HEADER, *ROWS])
    _patched(path, '<dimension ref="A1:D3"', '<dimension ref="A1:B2"')
    assert [row.id for row in read_rows(path, shapes)] == ["1", "2"]


def test_of_several_sheets_one_is_named(tmp_path: Path) -> None:
    def more(book: Any) -> None:
        book.create_sheet("empty")
        book.create_sheet("other one").append(["id"])

    path = _book(tmp_path / "t.xlsx", [HEADER, *ROWS], more)
    with pytest.raises(DataError, match=r"2 sheets hold something: 'Sheet', 'other one'\n  -> .*data.sheet='Sheet'"):
        open_table(path)
    table = open_table(path, TableOptions(sheet="Sheet"))
    assert table.names == tuple(HEADER)
    assert "not 'empty', 'other one'" in table.notes[0]
    with pytest.raises(DataError, match=r"data.sheet=Shet: there is no such sheet\n  -> did you mean 'Sheet'"):
        open_table(path, TableOptions(sheet="Shet"))


def test_a_hidden_sheet_is_not_taken_for_the_rows(tmp_path: Path) -> None:
    def hide(book: Any) -> None:
        book.create_sheet("notes").append(["x"])
        book["notes"].sheet_state = "hidden"

    table = open_table(_book(tmp_path / "t.xlsx", [HEADER, *ROWS], hide))
    assert table.names == tuple(HEADER)
    assert "not 'notes'" in table.notes[0]


def test_formulas_have_the_value_that_was_saved_and_are_refused_without_one(
    tmp_path: Path, shapes: tuple[RowSchema, ...]
) -> None:
    path = _book(tmp_path / "t.xlsx", [HEADER, [1, '="buy"&" now"', "no ads", 1], [2, "x", "no ads", "=1-1"]])
    with pytest.raises(DataError, match=r"t.xlsx:2: the cell of the column 'body' holds a formula") as caught:
        list(read_rows(path, shapes))
    assert "data.bad_rows=skip" in str(caught.value)
    _patched(path, '<c r="B2"><f>"buy"&amp;" now"</f><v', '<c r="B2" t="str"><f>"buy"&amp;" now"</f><v>buy now</v><v')
    _patched(path, "<f>1-1</f><v></v>" if "<f>1-1</f><v></v>" in _sheet_text(path) else "<f>1-1</f><v />",
             "<f>1-1</f><v>0</v>")  # fmt: skip
    assert [row[1] for row in _values(path)] == ["buy now", "x"]
    assert _values(path)[1][3] == 0


def _sheet_text(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read("xl/worksheets/sheet1.xml").decode()


def test_a_row_of_formulas_alone_is_not_passed_over(tmp_path: Path) -> None:
    path = _book(tmp_path / "t.xlsx", [HEADER, ROWS[0], ["=1+1", '="x"', '="r"', "=0"], ROWS[1]])
    with pytest.raises(DataError, match=r"t\.xlsx:3: .*a formula whose value was not saved"):
        _values(path)


def test_errors_merged_cells_and_stray_values_are_named(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    def error(book: Any) -> None:
        book.active["C3"] = "#N/A"

    path = _book(tmp_path / "t.xlsx", [HEADER, *ROWS], error)
    with pytest.raises(DataError, match=r"t\.xlsx:3: the cell of the column 'rule' holds the error #N/A"):
        list(read_rows(path, shapes))
    log = ReadLog(skip=True)
    assert [row.id for row in read_rows(path, shapes, log=log)] == ["1"]
    path = _book(tmp_path / "t.xlsx", [HEADER, *ROWS], lambda book: book.active.merge_cells("C2:C3"))
    with pytest.raises(DataError, match="the cells C2:C3 are merged"):
        open_table(path)
    path = _book(tmp_path / "t.xlsx", [HEADER, ROWS[0], [*ROWS[1], None, "a remark"]])
    with pytest.raises(DataError, match=r"t\.xlsx:3: there is a value in the column number 6, which has no name"):
        list(read_rows(path, shapes))


def test_hidden_rows_are_read_and_named(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    def hide(book: Any) -> None:
        book.active.row_dimensions[3].hidden = True

    log = ReadLog()
    path = _book(tmp_path / "t.xlsx", [HEADER, *ROWS], hide)
    assert [row.id for row in read_rows(path, shapes, log=log)] == ["1", "2"]
    assert any("hidden in the sheet are read, too: 3" in note for note in log.notes())


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (["id", None, "body"], "column 2 of the header has no name"),
        (["id", "id"], "more than once"),
        (["Row_ID", "body", "rule"], "looks meant to be"),
    ],
)
def test_headers_are_held_to_the_rules_of_all_tables(header: list[str], part: str, tmp_path: Path) -> None:
    path = _book(tmp_path / "t.xlsx", [header, [1, "x", "r"]])
    with pytest.raises(DataError, match=part):
        list(read_rows(path, load_task("rules").schemas))


def test_what_is_no_workbook_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.xlsx"
    path.write_bytes(b"id,body\n1,x\n")
    with pytest.raises(DataError, match="the content is not a workbook"):
        open_table(path)
    path.write_bytes(_book(tmp_path / "u.xlsx", [HEADER, *ROWS]).read_bytes()[:-300])
    with pytest.raises(DataError, match="damaged or cut off"):
        open_table(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(DataError, match="damaged or cut off"):
        open_table(path)
    with pytest.raises(DataError, match="every sheet is empty"):
        open_table(_book(path, []))
    (tmp_path / "t.csv").write_text("id\n1\n")
    with pytest.raises(DataError, match="no workbook"):
        open_table(tmp_path / "t.csv", TableOptions(sheet="Sheet"))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingExtraError, match=r"'lorica\[xlsx\]'"):
        open_table(path)


def test_a_workbook_goes_through_training_inference_and_eval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [[i, f"post {i}", "No ads", i % 2] for i in range(1, 9)]
    path = _book(tmp_path / "rows.xlsx", [["row_id", "body", "rule", "rule_violation"], *rows])
    output, run_dir = tmp_path / "o.jsonl", tmp_path / "run"
    assert main(["infer", "engine=fake", "task=rules", f"input={path}", f"output={output}"]) == 0
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == [str(i) for i in range(1, 9)]
    capsys.readouterr()
    assert main(["eval", str(output), str(path), "task=rules", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 8
    assert main(["train", "task=rules", f"input={path}", f"run_dir={run_dir}", "training.epochs=1"]) == 0


def test_a_number_that_lost_its_digits_is_no_id(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    """As spreadsheet programs save 12345678901234567."""
    path = _book(tmp_path / "t.xlsx", [HEADER, [1.2345678901234568e16, "post", "no ads", 1]])
    with pytest.raises(DataError, match="too large to have kept its digits"):
        list(read_rows(path, shapes))
