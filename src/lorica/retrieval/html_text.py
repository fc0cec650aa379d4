"""The text of an HTML page by the standard library's parser: no scripts, no styles, blocks as paragraphs."""

from __future__ import annotations

import codecs
import gzip
import re
from html.parser import HTMLParser
from pathlib import Path

from lorica.retrieval.clean_text import UnreadableError

_SILENT = frozenset({"script", "style", "template", "svg", "noscript", "head", "iframe", "object", "select"})
_PARAGRAPHS = re.compile(r"article|blockquote|div|dl|figure|h[1-6]|ol|p|pre|section|table|ul")
_LINES = re.compile(r"address|aside|br|d[dt]|details|fig\w+|footer|form|header|hr|li|main|nav|summary|t\w+")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{2,40})""", re.IGNORECASE)
# Codecs that only decode text; Python has others, which decompress, under the same names' table.
_CODECS = re.compile(
    r"(iso8859-\d+|cp125\d|koi8-[ru]|gb2312|gbk|gb18030|big5|euc_jp|euc_kr|shift_jis|cp932|utf-8|ascii)\Z"
)


def read_html(path: Path) -> tuple[str, str]:
    """(title, text) of a page, also with .gz. Raises UnreadableError."""
    raw_bytes = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        raw_bytes = gzip.decompress(raw_bytes)
    if raw_bytes.startswith((b"%PDF-", b"PK\x03\x04", b"\x89PNG", b"\x1f\x8b")) or b"\0" in raw_bytes[:1024]:
        raise UnreadableError("the suffix says HTML, the content is binary", "name the file what it is", 1)
    return html_to_text(_decode(raw_bytes))


def html_to_text(page: str) -> tuple[str, str]:
    """(title, text) of the source of a page, also of one that breaks off, nests badly or holds no tag."""
    reader = _TextReader()
    reader.feed(page)
    reader.close()
    return " ".join("".join(reader.title).split()), "".join(reader.text)


class _TextReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.text: list[str] = []
        self._silent: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = True
        if tag == "body":  # whatever was left open above it
            self._silent.clear()
            self._in_title = False
        if tag in _SILENT:
            self._silent.append(tag)
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if tag in self._silent:
            while self._silent.pop() != tag:
                pass
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._in_title and not {"svg", "script", "style"} & set(self._silent[-8:]):
            self.title.append(data)
        elif not self._silent:
            self.text.append(data)

    def _break(self, tag: str) -> None:
        if self._silent:
            return
        if _PARAGRAPHS.fullmatch(tag):
            self.text.append("\n\n")
        elif _LINES.fullmatch(tag):
            self.text.append("\n")


def _decode(raw_bytes: bytes) -> str:
    if raw_bytes.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw_bytes.decode("utf-16", "strict")
    try:
        return raw_bytes.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        declared = _CHARSET.search(raw_bytes[:4096])
        name = declared[1].decode("ascii") if declared else ""
        try:
            codec = codecs.lookup(name).name if name else ""
            if _CODECS.fullmatch(codec):
                return raw_bytes.decode(codec)
        except (LookupError, UnicodeDecodeError):
            pass
        line = raw_bytes.count(b"\n", 0, error.start) + 1
        claim = f", and it says it is {name!r}" if name else " and it names no charset"
        message = f"byte 0x{raw_bytes[error.start]:02X} at byte {error.start} of the file is not UTF-8{claim}"
        raise UnreadableError(message, "convert it: iconv -f WINDOWS-1252 -t UTF-8", line) from None
