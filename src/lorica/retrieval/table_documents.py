"""Rows of a table (JSONL, JSON, CSV, Parquet, workbook) as documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lorica.data.column_mapping import id_text, is_blank
from lorica.data.column_names import find_column, fold_name, quoted_names
from lorica.data.formats import open_unconfigured
from lorica.data.table import Table
from lorica.errors import CellError, RowError
from lorica.names import did_you_mean

COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("text", "content", "body", "passage", "context", "document", "paragraph"),
    "id": ("id", "doc_id", "passage_id", "document_id", "module", "source", "url"),
    "title": ("title", "heading", "headline", "name"),
    "tags": ("tags", "tag", "keywords", "categories", "category", "topics"),
}
"""What a column holds -> what it may be called, the first that is there; `--column text=NAME` names another."""

_OWN_IDS = {"id", "docid", "passageid", "documentid"}  # of the row alone: two rows of one are a mistake


class RawDocument(msgspec.Struct, frozen=True):
    """A document as it was read. source: a row's id, "" where it has none. line: of a row in its file, 0 for a file
    that is one document."""

    text: str
    source: str = ""
    line: int = 0
    title: str = ""
    tags: tuple[str, ...] = ()


def read_table(path: Path, columns: Mapping[str, str], on_bad_row: Callable[[RowError], None]) -> Iterator[RawDocument]:
    """The rows of a table as documents.

    columns: of `COLUMNS`' keys, the file's own column names. on_bad_row: is told of a row that cannot be used, and
    raises the error or leaves the row out. Raises DataError."""
    table = open_unconfigured(path)
    named = _match_columns(table, table.names, columns)
    lines_of_ids: dict[str, int] = {}
    matched: dict[tuple[str, ...], dict[str, str]] = {table.names: named}
    for line, record in table.records(table.names if not table.open_names else ()):
        try:
            if isinstance(record, RowError):
                raise record
            keys = tuple(record)
            if table.open_names and keys not in matched:
                matched[keys] = _match_columns(table, keys, columns, first=named)
            document = _document(line, record, matched.get(keys, named))
            if fold_name(named.get("id", "")) in _OWN_IDS and document.source:
                first = lines_of_ids.setdefault(document.source, line)
                if first != line:
                    fix = "give every row an id of its own, or name another column: --column id=NAME"
                    raise CellError(f"the id {document.source!r} is that of line {first}, too", fix=fix)
        except CellError as error:
            on_bad_row(RowError(str(error), path=path, line=line, fix=error.fix))
        except RowError as error:
            on_bad_row(error)
        else:
            yield document


def _match_columns(
    table: Table, names: tuple[str, ...], columns: Mapping[str, str], *, first: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What a column holds -> its name in the file. first: of the first record, where this is a later one."""
    matched = {}
    for role, spellings in COLUMNS.items():
        wanted = (columns[role],) if role in columns else spellings
        name = next((column for spelling in wanted if (column := find_column(spelling, names)) is not None), None)
        if name is not None:
            matched[role] = name
        elif role in columns and first is None:
            raise table.error(
                f"--column {role}={columns[role]}: the file has no such column",
                fix=did_you_mean(columns[role], names, key=fold_name, then=f"its columns are: {quoted_names(names)}"),
            )
    if "text" not in matched and first is None:
        message = f"no column holds the text of the documents; the columns are: {quoted_names(names)}"
        raise table.error(message, fix="name it: --column text=NAME")
    if "text" not in matched:
        raise CellError(f"the key {(first or {})['text']!r} is missing, which the first record had", fix="")
    return matched


def _document(line: int, record: Mapping[str, Any], named: Mapping[str, str]) -> RawDocument:
    text = record.get(named["text"])
    if is_blank(text):
        raise CellError(f"the column {named['text']!r} is empty", fix="fill it, or remove the row")
    if not isinstance(text, str):
        message = f"the column {named['text']!r} holds a {type(text).__name__}, not a text"
        raise CellError(message, fix="write the text in quotes")
    source = ""
    identity = record.get(named["id"]) if "id" in named else None
    if not is_blank(identity):
        try:
            source = id_text(identity)
        except ValueError as error:
            raise CellError(str(error), fix="write ids as text or whole numbers") from error
    title = record.get(named.get("title", ""), "")
    title = title.strip() if isinstance(title, str) else "" if title is None else str(title)
    tags = parse_tags(record.get(named["tags"])) if "tags" in named else ()
    if tags is None:
        message = f"the column {named['tags']!r} holds {str(record.get(named['tags']))[:60]!r}"
        raise CellError(message, fix='write tags as a list of texts, {"name": "value"}, or "a, b"')
    return RawDocument(text, source, line, title, tags)


def parse_tags(value: Any) -> tuple[str, ...] | None:
    """Tags as a cell has them: a list, a mapping, or texts with commas between; None for anything else."""
    if is_blank(value):
        return ()
    if isinstance(value, Mapping):
        value = [f"{name}={tag}" for name, tag in value.items() if isinstance(tag, str | int | float)]
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple) or not all(isinstance(tag, str | int) for tag in value):
        return None
    return tuple(sorted({str(tag).strip() for tag in value} - {""}))
