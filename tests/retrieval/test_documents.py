"""Documents with something wrong: an error that names file and line, or left out and named, and the old index stays."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from tools.stored_passages import all_passages

from lorica.errors import DataError, LoricaError, MissingExtraError, RetrievalError
from lorica.retrieval import document_files, parse_documents
from lorica.retrieval.build_index import BuildOptions, BuildResult, build_index, update_index
from lorica.retrieval.index import Index
from lorica.retrieval.parse_documents import ParserProcess
from lorica.retrieval.table_documents import parse_tags

pypdf = pytest.importorskip("pypdf", reason="needs the extra kb")


def make_pdf(path: Path, *texts: str) -> None:
    """A PDF with a page for each text; without text a page is blank."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for text in texts:
        number = len(objects) + 1
        kids.append(f"{number} 0 R")
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /Resources {font} /Contents {number + 1} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    box = "/MediaBox [0 0 612 792]"
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} {box} >>"
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    path.write_text(f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}")


def encrypt_pdf(path: Path) -> None:
    make_pdf(path, "A secret.")
    writer = pypdf.PdfWriter(clone_from=path)
    writer.encrypt("word", algorithm="RC4-128")
    writer.write(path)


def write(content: bytes | str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def cut_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(b"The Rhine passes Basel. " * 500)[:60])


GOOD_ROW = '{"id": "a", "text": "The Rhine passes Basel."}\n'
DEEP = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
DEFECTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("d.txt", write(""), "d.txt:1: the file is empty"),
    "only white space": ("d.md", write(" \n\n\t\n"), "d.md: it holds no text"),
    "not UTF-8": ("d.txt", write(b"a\nb\xe4c"), r"d.txt:2: byte 0xE4 at byte 3 of the file is not UTF-8"),
    "a NUL": ("d.md", write("fine\n\nbad\0bad\n"), "d.md:3: a NUL byte at byte 9"),
    "an image named .txt": ("d.txt", write(b"\x89PNG\r\n\x1a\n" + bytes(100)), "d.txt:1: "),
    "a zip named .txt": ("d.txt", write(b"PK\x03\x04" + bytes(60)), "the content is a zip archive"),
    "a PDF named .txt": ("d.txt", write("%PDF-1.4"), "the content is a PDF document"),
    "a page named .md": ("d.md", write("<!doctype html><p>x"), "the content is an HTML page"),
    "UTF-16": ("d.txt", write("text".encode("utf-16")), "the content is UTF-16 text"),
    "a Git LFS pointer": ("d.md", write("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    "gzip cut off": ("d.txt.gz", cut_gzip, "the gzip stream is cut off"),
    "no gzip": ("d.txt.gz", write("plain"), "Not a gzipped file|is not gzip"),
    "gzip damaged": ("d.txt.gz", write(gzip.compress(b"x" * 99)[:10] + b"\xff" * 20), "the gzip stream is damaged"),
    "a page that is binary": ("d.html", write(bytes(300)), "d.html:1: the suffix says HTML, the content is binary"),
    "a page in no charset": ("d.html", write(b"<p>a\n<p>caf\xe9"), "d.html:2: byte 0xE9 at byte 11 .*names no charset"),
    "a page in a false charset": ("d.html", write(b"<meta charset=ascii><p>\xe9"), "it says it is 'ascii'"),
    "a page in the charset zlib": ("d.html", write(b"<meta charset=zlib><p>\xe9"), "it says it is 'zlib'"),
    "a page of scripts": ("d.html", write("<script>let x = 1</script><style>p {}</style>"), "it holds no text"),
    "an encrypted PDF": ("d.pdf", encrypt_pdf, "d.pdf: it is encrypted with a password"),
    "a scan": ("d.pdf", lambda path: make_pdf(path, "", ""), "d.pdf: none of its 2 pages holds text: it is a scan"),
    "no PDF": ("d.pdf", write("Hello"), "the suffix says PDF, the content is none"),
    "a damaged PDF": ("d.pdf", write(b"%PDF-1.4\n" + Random(0).randbytes(500)), "d.pdf: it is damaged"),
    "a broken line": ("d.jsonl", write(GOOD_ROW + '{"text": "x"\n'), "d.jsonl:2: not a JSON object"),
    "a line of deep JSON": ("d.jsonl", write(GOOD_ROW + DEEP), "d.jsonl:2: JSON nested too deeply"),
    "deep JSON": ("d.json", write(f"[{DEEP}]"), "d.json:1: JSON nested too deeply"),
    "JSON cut off": ("d.json", write('[{"text": "x"},'), "d.json:1: "),
    "a row without text": ("d.jsonl", write(GOOD_ROW + '{"text": " "}'), "d.jsonl:2: the column 'text' is empty"),
    "a row that lost its text": ("d.jsonl", write(GOOD_ROW + '{"id": "b"}'), "d.jsonl:2: the key 'text' is missing"),
    "a text that is a number": ("d.jsonl", write(GOOD_ROW + '{"text": 7}'), "d.jsonl:2: the column 'text' holds a int"),
    "a doubled id": ("d.jsonl", write(GOOD_ROW + GOOD_ROW), "d.jsonl:2: the id 'a' is that of line 1, too"),
    "a list as id": ("d.jsonl", write('{"id": [1], "text": "x"}'), r"d.jsonl:1: the id \[1\] is a list"),
    "tags that are none": ("d.jsonl", write('{"text": "x", "tags": 7.5}'), "d.jsonl:1: the column 'tags' holds '7.5'"),
    "half a surrogate pair": ("d.jsonl", write('{"text": "\\ud800"}'), "d.jsonl:1: half of a surrogate pair"),
    "a repeated key": ("d.jsonl", write('{"text": "x", "text": "y"}'), "d.jsonl:1: the key 'text' appears twice"),
    "NaN": ("d.jsonl", write('{"text": NaN}'), "d.jsonl:1: NaN is not JSON"),
    "no column of text": ("d.csv", write("a,b\n1,2\n"), "d.csv:1: no column holds the text of the documents"),
    "a ragged table": ("d.csv", write("id,text\n1,x\n2,y,z\n"), "d.csv:3: "),
    "a row nobody sees": ("d.jsonl", write('{"id": "a", "text": "Rhine"}\n{"text": "\\u200b"}'), "d.jsonl:2: it"),
    "no rows": ("d.jsonl", write("\n\n"), "d.jsonl:1: the file holds no rows"),
    "a line of 17 MiB": ("d.jsonl", write('{"text": "' + "x" * (17 << 20)), "d.jsonl:1: a line longer than 16 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_bad_document_is_refused_by_name_or_left_out(tmp_path: Path, defect: str) -> None:
    name, make, message = DEFECTS[defect]
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "rivers.md").write_text("The Danube flows into the Black Sea.")
    before = build_index(tmp_path / "kb", "s", [documents]).manifest.digest
    make(documents / name)
    with pytest.raises(DataError, match=message) as refused:
        update_index(tmp_path / "kb", "s", [documents])
    assert str(documents / name) in str(refused.value)
    assert str(refused.value).count("--bad-documents skip") == 1
    with Index.open(tmp_path / "kb", "s") as index:
        assert index.digest == before
    result = update_index(tmp_path / "kb", "s", [documents], BuildOptions(skip_bad=True))
    assert [Path(bad.path).name for bad in result.bad] == [name]
    with Index.open(tmp_path / "kb", "s") as index:
        assert index.query("Danube", 1)[0].source == "rivers.md"
        good_rows = ["a"] if message.startswith("d.jsonl:2") else []
        assert [passage.source for passage in index.query("Rhine", 1)] == good_rows
    # A file of which rows were left out is not taken for read when nothing may be left out any more.
    with pytest.raises(DataError, match=message):
        update_index(tmp_path / "kb", "s", [documents])


def test_paths_that_are_no_documents(tmp_path: Path, documents: Path) -> None:
    def refusal(*paths: Path) -> str:
        with pytest.raises(LoricaError) as refused:
            build_index(tmp_path / "kb", "s", paths)
        assert not (tmp_path / "kb" / "s").exists()
        return str(refused.value)

    assert "did you mean 'rivers.md'?" in refusal(documents / "river.md")
    (documents / "picture.png").write_bytes(b"x")
    assert "no document has this suffix" in refusal(documents / "picture.png")
    (tmp_path / "empty").mkdir()
    assert "holds no documents" in refusal(tmp_path / "empty")
    (tmp_path / "rivers.md").write_text("Other rivers.")
    assert "its name 'rivers.md' is that of" in refusal(documents, tmp_path / "rivers.md")
    (documents / "loop").symlink_to(documents)
    (documents / "gone.md").symlink_to(documents / "nowhere")
    (documents / ".hidden.md").write_text("Hidden.")
    os.mkfifo(documents / "pipe.txt")
    result = build_index(tmp_path / "kb", "s", [documents, documents / "rivers.md"])
    assert result.manifest.document_files == 4
    assert result.notes == ("files that are no documents, and not read: .png: 1, broken links and devices: 2",)


def test_a_decompression_bomb_is_refused_before_it_takes_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_files, "MAX_BYTES", 1 << 20)
    for name in ("bomb.jsonl.gz", "bomb.txt.gz", "bomb.html.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(b"\n" * (2 << 20), compresslevel=1))
        with pytest.raises(DataError, match="more than 1 MiB of text, when decompressed"):
            build_index(tmp_path / "kb", "s", [path])
    (tmp_path / "large.txt").write_bytes(b"x" * (2 << 20))
    with pytest.raises(DataError, match="more than 1 MiB of text"):
        build_index(tmp_path / "kb", "s", [tmp_path / "large.txt"])


def test_pages_that_nest_deeply_or_break_off_are_read(tmp_path: Path) -> None:
    pages = {
        "deep.html": "<div>" * 100_000 + "deep text",
        "open.html": "<p>open text<a href='x",
        "comment.html": "<p>before comment<!-- never closed",
        "head.html": "<head><title>The title<body><p>body text",
        "entity.html": "<p>caf&eacute; &lt;b&gt; &#x4e2d;&unknown;",
        "bad.html": "</script></p>closed text<![CDATA[x]]><!DOCTYPE>",
    }
    for name, page in pages.items():
        (tmp_path / name).write_text(page)
    (tmp_path / "old.htm").write_bytes("<meta charset='windows-1252'><p>naïve “text”".encode("cp1252"))
    build_index(tmp_path / "kb", "s", [tmp_path])
    texts = {passage.source: passage.text for passage in all_passages(tmp_path / "kb", "s")}
    assert texts["deep.html"] == "deep text"
    assert texts["open.html"].startswith("open text")
    assert texts["comment.html"].startswith("before comment")
    assert texts["entity.html"] == "café <b> 中&unknown;"
    assert texts["bad.html"].startswith("closed text")
    assert texts["old.htm"] == "naïve “text”"
    assert texts["head.html"] == "body text"


def test_a_parser_that_hangs_or_swells_is_ended_and_the_next_file_read(
    tmp_path: Path, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ParserProcess(time_limit=0.0) as parser, pytest.raises(DataError, match="was not parsed within 0 s"):
        parser.parse(documents / "deeper" / "seas.html", "html")
    monkeypatch.setattr(parse_documents, "MEMORY_LIMIT", 100 << 20)
    (tmp_path / "large.html").write_text("<p>" + "x" * (24 << 20))
    with ParserProcess() as parser:
        with pytest.raises(DataError, match="memory"):
            parser.parse(tmp_path / "large.html", "html")
        assert parser.parse(documents / "deeper" / "seas.html", "html").title == "Seas"


def test_a_pdf_is_read_with_words_joined_and_without_pypdf_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pdf(tmp_path / "d.pdf", "The Rhine passes Basel.", "It ends in the North Sea.")
    build_index(tmp_path / "kb", "s", [tmp_path / "d.pdf"])
    assert all_passages(tmp_path / "kb", "s")[0].text == "The Rhine passes Basel.\n\nIt ends in the North Sea."
    monkeypatch.setattr(ParserProcess, "_ask", lambda self, request: {"missing": "pypdf"})
    with pytest.raises(MissingExtraError, match="pypdf"):
        build_index(tmp_path / "kb", "t", [tmp_path / "d.pdf"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 4}, "a length of 4 tokens; allowed: 8 to 8192"),
        ({"length": 100, "overlap": 51}, "an overlap of 51 tokens; allowed: 0 to half"),
        ({"length": 10}, "an overlap of 40 tokens.*\n.*--overlap 5"),
        ({"columns": {"body": "x"}}, "--column body=...: allowed are text, id, title, tags"),
        ({"tags": (" a",)}, "tags .* without white space around them"),
        ({"tokenizer": "no/such"}, "--tokenizer no/such"),
        ({"columns": {"text": "bod"}}, "--column text=bod: the file has no such column.*\n.*did you mean 'body'"),
    ],
)
def test_settings_out_of_bounds_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    (tmp_path / "d.jsonl").write_text('{"key": "k", "body": "The Rhine passes Basel."}')
    with pytest.raises((RetrievalError, DataError), match=message):
        build_index(tmp_path / "kb", "s", [tmp_path / "d.jsonl"], BuildOptions(**settings))  # type: ignore[arg-type]


def test_an_index_is_no_document_of_the_next_one(tmp_path: Path) -> None:
    documents = tmp_path / "docs"
    documents.mkdir()
    (documents / "d.txt").write_text("The Rhine passes Basel.")
    (documents / "index.json").write_text('[{"text": "An index.json of somebody else."}]')
    built = build_index(documents, "s", [documents])
    assert (built.read, built.manifest.passages) == (2, 2)
    assert update_index(documents, "s", [documents]).unchanged
    again = build_index(documents, "s", [documents], force=True)
    assert again.manifest == built.manifest
    assert build_index(tmp_path, "t", [tmp_path]).manifest.passages == 2


def test_no_setting_of_rows_is_advised_for_documents(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "x"\n')
    with pytest.raises(DataError) as refused:
        build_index(tmp_path / "kb", "s", [tmp_path / "d.jsonl"])
    assert "--bad-documents skip" in refused.value.fix
    assert "data.bad_rows" not in refused.value.fix


def test_columns_are_found_by_their_names_or_named(tmp_path: Path) -> None:
    rows = [
        {"Doc ID": 7, "Content": "The Rhine.", "Headline": "Rivers", "Keywords": "a, b"},
        {"Doc ID": "8", "Content": "The Aral Sea.", "Keywords": {"chapter": 2}},
    ]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    (tmp_path / "e.csv").write_text("wort,satz\nx,Die Elbe fließt.\n")
    build_index(tmp_path / "kb", "s", [tmp_path / "d.json"])
    build_index(tmp_path / "kb", "t", [tmp_path / "e.csv"], BuildOptions(columns={"text": "satz"}))
    found = {passage.source: (passage.title, passage.tags) for passage in all_passages(tmp_path / "kb", "s")}
    assert found == {"7": ("Rivers", ("a", "b")), "8": ("", ("chapter=2",))}
    with Index.open(tmp_path / "kb", "t") as index:
        assert index.query("elbe", 1)[0].source == "e.csv#2"
    assert parse_tags(["x", 3, " "]) == ("3", "x")
    assert parse_tags(None) == ()
    assert parse_tags([["x"]]) is None


@pytest.mark.parametrize(
    ("before", "after", "content"),
    [
        ("d.csv", "d.tsv", b"text,id\nThe Rhine,1\n"),
        ("d.json", "d.jsonl", b'[{"text": "The Rhine."}]\n'),
        ("d.txt.gz", "d.txt", gzip.compress(b"The Rhine.")),
    ],
)
def test_a_file_whose_new_name_says_another_format_is_read_again(
    tmp_path: Path, before: str, after: str, content: bytes
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "rivers.md").write_text("The Danube flows into the Black Sea.")
    (documents / before).write_bytes(content)
    build_index(tmp_path / "kb", "s", [documents])
    (documents / before).rename(documents / after)

    def outcome(build: Callable[[], BuildResult]) -> object:
        try:
            return build().manifest
        except DataError as error:
            return str(error)

    updated = outcome(lambda: update_index(tmp_path / "kb", "s", [documents]))
    assert updated == outcome(lambda: build_index(tmp_path / "new", "s", [documents]))


def test_ids_that_begin_as_a_line_does_stay_ids(tmp_path: Path) -> None:
    rows = [{"id": "#2", "text": "The Rhine passes Basel."}, {"text": "The Danube passes Vienna."}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build_index(tmp_path / "kb", "s", [tmp_path / "d.jsonl"])
    (tmp_path / "e.md").write_text("The Elbe passes Dresden.")
    update_index(tmp_path / "kb", "s", [tmp_path / "d.jsonl", tmp_path / "e.md"])
    sources = {passage.text.split()[1]: passage.source for passage in all_passages(tmp_path / "kb", "s")}
    assert sources == {"Rhine": "#2", "Danube": "d.jsonl#2", "Elbe": "e.md"}
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps({"id": "#2", "text": text}) for text in "ab"))
    with pytest.raises(DataError, match="the id '#2' is that of line 1, too"):
        build_index(tmp_path / "kb", "t", [tmp_path / "d.jsonl"])


def test_names_and_tags_that_are_no_text_are_written_visibly(tmp_path: Path) -> None:
    """Bytes of a command line or a file system that are no UTF-8, as Python has them."""
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / os.fsdecode(b"caf\xe9.txt")).write_text("The Rhine passes Basel.")
    build_index(tmp_path / "kb", "s", [documents], BuildOptions(tags=("\udcff",)))
    with Index.open(tmp_path / "kb", "s") as index:
        (passage,) = index.query("Rhine", 10**30, tags=["\udcff"])
    assert (passage.source, passage.tags) == ("caf\\xe9.txt", ("\\xff",))
    with pytest.raises(RetrievalError, match="is no name of a subject"):
        build_index(tmp_path / "kb", "\udce9x", [documents])
