"""Rows from users' files, streamed and checked: every mistake is refused with its file, line and remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lorica.data.column_mapping import ColumnMapping, bind_table, build_row, check_mapping, map_columns
from lorica.data.column_names import fold_name, is_unlikely_name, mapping_setting, quoted_names
from lorica.data.formats import open_table
from lorica.data.ids import refuse_duplicates
from lorica.data.late_columns import LateKeys
from lorica.data.plain import plain_records
from lorica.data.read_log import ReadLog
from lorica.data.table import Table, TableOptions
from lorica.errors import DataError, NoTableError, RowError
from lorica.names import closest
from lorica.records import Row, RowSchema

_NONE: Mapping[str, str] = MappingProxyType({})
_MEMORY = Path("<memory>")


def read_rows(
    path: Path | str,
    schemas: Sequence[RowSchema],
    *,
    columns: Mapping[str, str] = _NONE,
    constants: Mapping[str, str] = _NONE,
    options: TableOptions | None = None,
    log: ReadLog | None = None,
    check: Callable[[Row], object] | None = None,
) -> Iterator[Row]:
    """The rows of a CSV, TSV, JSONL, JSON or Parquet file or a workbook, in its order, with memory that does not
    grow with it.

    columns: name a schema expects -> name in the file. constants: name a schema expects -> one value for every row. The
    header (JSON: the first record) decides the schema: the first whose required names are all there. options: how the
    file is laid out, where that is to be said. log: learns what is not read, and with `log.skip` takes the rows that
    cannot be used instead of an error. check: raises ValueError for a row that the caller cannot use. The file's head
    is read, and mistakes in it raised, by this call; the other rows are checked as they are taken. Raises DataError,
    ConfigError (a mapping that no schema knows) and MissingExtraError (Parquet without pyarrow).
    """
    table_path = Path(path)
    return _checked_rows(lambda: open_table(table_path, options), schemas, columns, constants, log or ReadLog(), check)


def rows_from_memory(
    records: Any,
    schemas: Sequence[RowSchema],
    *,
    columns: Mapping[str, str] = _NONE,
    constants: Mapping[str, str] = _NONE,
    log: ReadLog | None = None,
) -> list[Row]:
    """Rows of dictionaries, under the same rules as a JSONL file of them; rows carry line 0.

    records: anything that yields mappings (a list, a generator, a dataset), or a data frame or table (pandas, polars,
    pyarrow), whose index is no column; see `plain_records` for their values. log: as for `read_rows`.
    Raises DataError, with the record's number (from 1) in the place of the line, and ConfigError.
    """
    check_mapping(schemas, columns, constants)
    plain_rows = plain_records(records, _MEMORY)
    if not plain_rows:
        return []

    def reopen() -> Table:
        return Table(_MEMORY, tuple(plain_rows[0]), 1, True, records=lambda _: enumerate(plain_rows, 1), in_memory=True)

    return list(_checked_rows(reopen, schemas, columns, constants, log or ReadLog(), None))


def _checked_rows(
    reopen: Callable[[], Table],
    schemas: Sequence[RowSchema],
    columns: Mapping[str, str],
    constants: Mapping[str, str],
    read_log: ReadLog,
    check_row: Callable[[Row], object] | None,
) -> Iterator[Row]:
    """The rows of a table; `reopen` starts another pass over it."""
    skipped_before = len(read_log.skipped)  # of other files
    table = reopen()
    columns = _columns_to_find(table, schemas, columns, read_log)
    with _perhaps_no_header(table, schemas):
        mapping = map_columns(table, schemas, columns, constants)
    mapping = bind_table(mapping, lambda: _records(reopen(), mapping))
    read_log.remarks += table.notes
    late_keys = read_log.start_file(mapping, table)
    numbered_rows = refuse_duplicates(
        _rows(table, mapping, late_keys, check_row, read_log.skip_or_raise),
        key=lambda numbered_row: (numbered_row[1].id, numbered_row[0]),
        again=lambda: _rows(reopen(), mapping, late_keys, check_row, _drop),
        path=table.path,
        unit="by record" if table.in_memory else "on line",
    )
    rows = _noted((row for _, row in numbered_rows), table.path, read_log)
    first_row = next(rows, None)
    if first_row is None and len(read_log.skipped) > skipped_before:
        first_skipped = read_log.skipped[skipped_before]
        message = f"every row was left out (data.bad_rows=skip); the first because: {first_skipped.reason}"
        fix = "mend the rows, or how they are read (task.columns, task.positive_labels, ...)"
        raise DataError(message, path=table.path, line=first_skipped.line, row_id=first_skipped.id, fix=fix)
    if first_row is None:
        raise table.error("the file has a header and no rows", fix="check how it was made")
    return chain([first_row], rows)


def _columns_to_find(
    table: Table, schemas: Sequence[RowSchema], columns: Mapping[str, str], read_log: ReadLog
) -> dict[str, str]:
    """The mapping without the column of right answers where a table has neither it nor one like it, and no schema
    requires it: what maps training rows maps rows to come as well. That is told."""
    required_names = {name for schema in schemas for name in schema.required}
    gold_names = {schema.gold for schema in schemas} - required_names
    columns_to_find = dict(columns)
    for name, column in columns.items():
        if name in gold_names and not closest(column, table.names, key=fold_name):
            del columns_to_find[name]
            read_log.remarks.append(
                f"{table.path}: no column {column!r} (task.columns.{name}): read as rows without right answers"
            )
    return columns_to_find


@contextmanager
def _perhaps_no_header(table: Table, schemas: Sequence[RowSchema]) -> Iterator[None]:
    """Of a header that looks like a row, or in which no name is known: say so. A mapping would lose the row."""
    try:
        yield
    except NoTableError as error:
        known_names = {fold_name(name) for schema in schemas for name in (*schema.required, *schema.optional)}
        if not table.open_names and (
            any(map(is_unlikely_name, table.names)) or known_names.isdisjoint(map(fold_name, table.names))
        ):
            error.fix = f"if this line is a row, put a line with the columns' names above it; otherwise {error.fix}"
        raise


def _records(table: Table, mapping: ColumnMapping) -> Iterator[Mapping[str, Any]]:
    """The records that can be read, for a look at the whole table."""
    read_columns = list(dict.fromkeys(mapping.columns.values()))
    return (record for _, record in table.records(read_columns) if not isinstance(record, RowError))


def _noted(rows: Iterator[Row], table_path: Path, read_log: ReadLog) -> Iterator[Row]:
    for row in rows:
        read_log.add_notes(table_path, row)
        yield row


def _drop(error: RowError) -> None:
    """Ignore the error: the first pass has reported it."""


def _rows(
    table: Table,
    mapping: ColumnMapping,
    late_keys: LateKeys,
    check_row: Callable[[Row], object] | None,
    handle_error: Callable[[RowError], None],
) -> Iterator[tuple[int, Row]]:
    """(line, row) of each record that is one; `handle_error` gets the errors of the others, and may raise."""
    read_columns = list(dict.fromkeys(mapping.columns.values()))
    for row_number, (line_number, record) in enumerate(table.records(read_columns), 1):
        try:
            if isinstance(record, RowError):
                raise record
            if table.open_names:
                late_keys.check(record, line_number)
            row = build_row(mapping, record, table, line_number, row_number)
            if check_row is not None:
                _checked(check_row, row, table.path, partial(_gold_elsewhere, mapping, late_keys, row_number))
        except RowError as error:
            handle_error(error)
        else:
            yield line_number, row


def _checked(check_row: Callable[[Row], object], row: Row, table_path: Path, unread: Callable[[], str]) -> None:
    try:
        check_row(row)
    except ValueError as error:
        fix = getattr(error, "fix", "give the row an answer")
        if row.gold is None and row.gold_problem is None:
            fix += unread()
        raise RowError(str(error), path=table_path, line=row.line, row_id=row.id, fix=fix) from error


def _gold_elsewhere(mapping: ColumnMapping, keys: LateKeys, row_number: int) -> str:
    """What else helps against a row without an answer, where a column that is not read may hold the answers: no column
    is known for them, or it is empty from the first row on."""
    gold_name = mapping.schema.gold
    if not gold_name or not keys.names or (gold_name in mapping.columns and row_number > 1):
        return ""
    gold_setting = (
        mapping_setting(gold_name, keys.names[0]) if len(keys.names) == 1 else f"task.columns.{gold_name}=<your column>"
    )
    return f", or say which column holds the answers: {gold_setting} (not read: {quoted_names(keys.names)})"
