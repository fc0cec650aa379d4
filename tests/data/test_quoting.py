"""Quoting and delimiters: a file that can be read in two ways is refused, and the named setting reads it."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lorica.cli import main
from lorica.data.formats import open_table
from lorica.data.quoting import AmbiguityFinder
from lorica.data.read import read_rows
from lorica.data.read_log import ReadLog
from lorica.data.table import TableOptions
from lorica.errors import DataError
from lorica.records import RowSchema

HEADER = ["id", "body", "rule", "label"]
PLAIN = [[str(i), f"post number {i}", "no ads", str(i % 2)] for i in range(100, 120)]


def _text(rows: list[list[str]], mark: str = ",", quote: bool = True) -> str:
    if not quote:
        return "".join(mark.join(row) + "\n" for row in rows)
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=mark, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read(path: Path, content: str, options: TableOptions | None = None) -> list[list[str]]:
    path.write_text(content, newline="")
    table = open_table(path, options)
    return [list(record.values()) for _, record in table.whole_records(table.names)]


def _plain(*bodies: str, quote: bool = False, mark: str = "\t") -> tuple[str, list[list[str]]]:
    """A table whose first rows have these bodies, and the rows."""
    rows = [[str(i), body, "no ads", "1"] for i, body in enumerate(bodies)] + PLAIN
    return _text([HEADER, *rows], mark, quote), rows


RAW = [
    ('"Only opened', "plain"),
    ('"Quoted" at its start only', "plain"),
    ('He said "no"', '"and" left'),
    ('"a" and "b"', '"Open', 'closed" in the middle'),
]


@pytest.mark.parametrize("bodies", RAW)
def test_a_file_of_tabs_that_only_reads_without_quotes_is_read_so_and_told(
    bodies: tuple[str, ...], tmp_path: Path, shapes: tuple[RowSchema, ...]
) -> None:
    content, rows = _plain(*bodies)
    assert _read(tmp_path / "t.tsv", content) == rows
    log = ReadLog()
    assert len(list(read_rows(tmp_path / "t.tsv", shapes, log=log))) == len(rows)
    assert any('every " is text' in note for note in log.notes()) == any(body[0] == '"' for body in bodies)
    # As commas the same is refused, for there quotes are the rule; the message names the setting that reads it.
    with pytest.raises(DataError, match=r"data\.quoting=none") if bodies[0][0] == '"' else pytest.raises(DataError):
        _read(tmp_path / "t.csv", content.replace("\t", ","))
    assert _read(tmp_path / "t.csv", content.replace("\t", ","), TableOptions(quoting="none")) == rows


TWO_WAYS = {
    "one row swallows the next": ('"Buy my boots, they said', 'The rain stopped at noon"'),
    "one row swallows many": ('"Buy my boots', *(f"text {i}" for i in range(40)), 'the end"'),
    "quotes that need not be there": ('"Quoted entirely"', "plain"),
    "an empty cell in quotes": ("x", '""'),
}


@pytest.mark.parametrize("name", TWO_WAYS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_of_tabs_that_reads_in_two_ways_is_refused(name: str, end: str, tmp_path: Path) -> None:
    content, rows = _plain(*TWO_WAYS[name])
    content = content.replace("\n", end)
    with pytest.raises(DataError, match="read in two ways") as caught:
        _read(tmp_path / "t.tsv", content)
    assert "commas" not in str(caught.value)
    for reading in ("none", "standard"):
        assert f"data.quoting={reading}" in str(caught.value)
    assert _read(tmp_path / "t.tsv", content, TableOptions(quoting="none")) == rows
    standard = list(csv.reader(io.StringIO(content, newline=""), "excel-tab"))[1:]
    assert _read(tmp_path / "t.tsv", content, TableOptions(quoting="standard")) == standard != rows


@pytest.mark.parametrize("before", [0, 20])
@pytest.mark.parametrize("lines", [2, 3, 499])
@pytest.mark.parametrize("mark", [",", ";", "|", "\t"])
def test_rows_inside_a_quoted_cell_are_refused_whatever_separates_them(
    mark: str, lines: int, before: int, tmp_path: Path
) -> None:
    swallowed = [[str(i), f"text {i}", "no ads", "0"] for i in range(lines)]
    swallowed[0][1] = '"Buy my boots'
    swallowed[-1][1] += '"'
    content = _text([HEADER, *PLAIN[:before], *swallowed, *PLAIN[before:]], mark, quote=False)
    delimiter = {",": "comma", ";": "semicolon", "|": "pipe", "\t": "tab"}[mark]
    with pytest.raises(DataError, match=f"holds {lines} lines") as caught:
        _read(tmp_path / "t.csv", content, TableOptions(delimiter=delimiter))
    assert caught.value.line == 2 + before
    rows = _read(tmp_path / "t.csv", content, TableOptions(delimiter=delimiter, quoting="none"))
    assert rows == [*PLAIN[:before], *swallowed, *PLAIN[before:]]


def test_a_damaged_quote_that_swallows_rows_is_refused_though_its_own_line_is_no_row(tmp_path: Path) -> None:
    rest = _text(PLAIN)
    content = _text([HEADER]) + '1,"Buy my boots, they said,no ads,1\n' + rest + '99,the end",no ads,0\n' + rest
    with pytest.raises(DataError, match="holds 22 lines, to line 23"):
        _read(tmp_path / "t.csv", content)


def test_a_header_that_is_quoted_in_part_excuses_nothing(tmp_path: Path) -> None:
    content = '"id, own",body,"rule, whole"\n1,"Buy my boots,r\n2,the end",r\n3,x,r\n'
    with pytest.raises(DataError, match="holds 2 lines"):
        _read(tmp_path / "t.csv", content)


def test_texts_of_several_lines_in_every_row_are_read_and_not_kept(tmp_path: Path) -> None:
    rows = [[str(i), f"Dear all,\n\nthis is letter {i},\nyours", "no ads", "1"] for i in range(200)]
    assert _read(tmp_path / "t.csv", _text([HEADER, *rows])) == rows
    finder = AmbiguityFinder(",", ["a,b\n"], ["a", "b"])
    for i in range(1000):
        assert finder.check(i, ['x,"y\n', 'z"\n'], ["x", "y\nz"]) is None
    assert len(finder._waiting) < 50


LEGITIMATE = [
    "two\nlines",
    "Hello, friend,\nI write, as promised, to you\n\nYours, me",
    'She said "no, never"\nand, then, left',
    "a list:\n1, apples\n2, pears",
    "my table:\na,b,c,d\n1,2,3,4\n5,6,7,8\n9,10,11,12\nhelp",
    'ends with a backslash\\',
    'C:\\dir\\, and "more"',
    ' "spaced"',
    "tab\there",
    "\n",
    '"',
    '""',
    ",",
    ", ,\n, ,",
]  # fmt: skip


@pytest.mark.parametrize("body", LEGITIMATE)
@pytest.mark.parametrize("at", [0, 10, 20])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_what_a_writer_quotes_is_read(body: str, at: int, mark: str, tmp_path: Path) -> None:
    rows = [*PLAIN[:at], ["7", body, "no ads", "1"], *PLAIN[at:]]
    delimiter = {",": "comma", ";": "semicolon", "\t": "tab"}[mark]
    for style in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=mark, quoting=style).writerows([HEADER, *rows])
        assert _read(tmp_path / "t.csv", text.getvalue(), TableOptions(delimiter=delimiter)) == rows


CELLS = st.text(st.sampled_from('ab1 ,\t\n"\\;'), max_size=6)


@settings(max_examples=120, deadline=None)
@example(table=[[", ", ' "']], mark=",", style=csv.QUOTE_MINIMAL)
@given(
    table=st.integers(2, 4).flatmap(
        lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=5)
    ),
    mark=st.sampled_from(",;\t"),
    style=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_what_the_standard_library_writes_is_read_exactly_or_refused_as_two_ways(
    table: list[list[str]], mark: str, style: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "oracle.csv"
    header = [f"c{i}" for i in range(len(table[0]))]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=mark, quoting=style).writerows([header, *table])  # type: ignore[arg-type]
    delimiter = {",": "comma", ";": "semicolon", "\t": "tab"}[mark]
    refused = ""
    try:
        assert _read(path, text.getvalue(), TableOptions(delimiter=delimiter)) == table
    except DataError as error:
        refused = str(error)
    # Where lines of a cell are rows, a cell is a space and a quote, or tabs leave quotes that need not be there.
    reasons = ["rows by themselves", "escaped quote", "begins with a space and a quote"]
    reasons += ["need not be there"] if mark == "\t" else []
    assert not refused or ("two ways" in refused and any(reason in refused for reason in reasons))
    assert _read(path, text.getvalue(), TableOptions(delimiter=delimiter, quoting="standard")) == table


@pytest.mark.parametrize(
    ("row", "reading", "body"),
    [
        ('1,"He said ""hi"" \\"twice\\"",r,1', "backslash", 'He said "hi" "twice"'),
        ('1,"ok \\", then",r,1', "backslash", 'ok ", then'),
        ('1, "b, c",r,1', "spaced", "b, c"),
        ('1, "b c",r,1', "spaced", "b c"),
        ('1,"b" c,r,1', "none", '"b" c'),
    ],
)
def test_other_dialects_are_refused_and_the_setting_reads_them(
    row: str, reading: str, body: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "t.csv", tmp_path / "o.jsonl"
    path.write_text(f"row_id,body,rule,rule_violation\n{row}\n")
    command = ["infer", "engine=fake", "task=rules", f"input={path}", f"output={output}"]
    assert main(command) == 3
    assert f"data.quoting={reading}" in capsys.readouterr().err
    assert main([*command, f"data.quoting={reading}"]) == 0
    table = open_table(path, TableOptions(quoting=reading))
    assert [record["body"] for _, record in table.whole_records(["body"])] == [body]


@pytest.mark.parametrize(("mark", "word"), [(";", "semicolon"), ("|", "pipe"), ("\t", "tab")])
def test_another_delimiter_is_named_and_its_setting_reads_it(
    mark: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "t.csv", tmp_path / "o.jsonl"
    path.write_text(_text([["row_id", "body", "rule"], ["1", f"a{mark} b, c", "no ads"]], mark))
    command = ["infer", "engine=fake", "task=rules", f"input={path}", f"output={output}"]
    assert main(command) == 3
    assert f"data.delimiter={word}" in capsys.readouterr().err
    assert main([*command, f"data.delimiter={word}"]) == 0
    assert len(output.read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["t.tsv", "t.csv"])
def test_a_quoted_header_with_another_delimiter_is_named(name: str, tmp_path: Path) -> None:
    for mark, word in ((",", "comma"), (";", "semicolon"), ("\t", "tab")):
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=mark, quoting=csv.QUOTE_ALL).writerows([HEADER, *PLAIN])
        if (name, word) in (("t.tsv", "tab"), ("t.csv", "comma")):
            continue
        with pytest.raises(DataError, match=f"data.delimiter={word}"):
            _read(tmp_path / name, text.getvalue())


def test_a_compressed_file_of_tabs_that_is_cut_off_is_one_error(tmp_path: Path) -> None:
    content, _ = _plain(*(f"text {i * 7919 % 10007}" for i in range(5000)))
    path = tmp_path / "t.tsv.gz"
    path.write_bytes(gzip.compress(content.encode())[:-2000])
    with pytest.raises(DataError, match="the gzip stream is cut off"):
        open_table(path)


@pytest.mark.parametrize("note", ["sep=,", "sep=;", "SEP=,"])
def test_a_note_to_a_spreadsheet_program_is_no_header(note: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a note to a spreadsheet program"):
        _read(tmp_path / "t.csv", f"{note}\nid,body\n1,x\n")


JOINED = "id,body,rule\n1,x,r\n"


@pytest.mark.parametrize(
    ("second", "part", "kept"),
    [
        (JOINED.replace("1", "2"), "the header stands here once more", ["1", "2"]),
        ("\ufeff" + JOINED.replace("1", "2"), "the header stands here once more", ["1", "2"]),
        ("\ufeff2,y,r\n", "begins with a byte order mark", ["1"]),
        ("rule,id,body\nr,2,y\n", "another header", None),
        ("body,rule,extra\nr,2,y\n", "another header", None),
    ],
)
def test_joined_files_are_noticed(
    second: str, part: str, kept: list[str] | None, tmp_path: Path, shapes: tuple[RowSchema, ...]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(JOINED + second)
    with pytest.raises(DataError, match=part) as caught:
        list(read_rows(path, shapes))
    assert caught.value.line == 3
    log = ReadLog(skip=True)
    if kept is None:
        with pytest.raises(DataError, match=part):
            list(read_rows(path, shapes, log=log))
    else:
        assert [row.id for row in read_rows(path, shapes, log=log)] == kept
        assert [bad.line for bad in log.skipped] == [3]


def test_a_file_joined_without_a_line_break_is_refused(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(JOINED.rstrip() + JOINED)
    with pytest.raises(DataError, match=r"t.csv:2: 5 cells where the header has 3"):
        list(read_rows(path, shapes))


def test_rows_swallowed_by_a_ragged_one_are_not_left_out(tmp_path: Path, shapes: tuple[RowSchema, ...]) -> None:
    path = tmp_path / "t.csv"
    path.write_text('id,body,rule\n1,"x,r\n2,y,r\n3,z",a,b,r\n4,w,r\n')
    with pytest.raises(DataError, match="holds 3 lines of which 1 are as wide as the header"):
        list(read_rows(path, shapes, log=ReadLog(skip=True)))
