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

    columns: name a schema expects -> name in the file. constants: name a schema expects -> one value for every
    row. The header (JSON: the first record) decides the schema: the first whose required names are all there.
    options: how the file is laid out, where that is to be said.
    log: learns what is not read, and with `log.skip` takes the rows that cannot be used instead of an error.
    check: raises ValueError for a row that the caller cannot use.
    The file's head is read, and mistakes in it raised, by this call; the other rows are checked as they are
    taken. Raises DataError, ConfigError (a mapping that no schema knows) and MissingExtraError (Parquet
    without pyarrow).
    """
    file = Path(path)
    return _checked_rows(file, lambda: open_table(file, options), schemas, columns, constants, log or ReadLog(), check)


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
    table = plain_records(records, _MEMORY)
    if not table:
        return []

    def reopen() -> Table:
        return Table(tuple(table[0]), 1, open_names=True, records=lambda _: enumerate(table, 1), in_memory=True)

    return list(_checked_rows(_MEMORY, reopen, schemas, columns, constants, log or ReadLog(), None))


def _checked_rows(
    path: Path,
    reopen: Callable[[], Table],
    schemas: Sequence[RowSchema],
    columns: Mapping[str, str],
    constants: Mapping[str, str],
    log: ReadLog,
    check: Callable[[Row], object] | None,
) -> Iterator[Row]:
    """The rows of a table; `reopen` starts another pass over it."""
    skipped_before = len(log.skipped)  # of other files
    table = reopen()
    with _perhaps_no_header(table, schemas):
        mapping = map_columns(path, table.line, table.names, schemas, columns, constants)
    mapping = bind_table(mapping, lambda: _records(reopen(), mapping))
    log.remarks += table.notes
    late = log.start_file(path, mapping, table.names)
    numbered = refuse_duplicates(
        _rows(path, table, mapping, late, check, log.skip_or_raise),
        key=lambda item: (item[1].id, item[0]),
        again=lambda: _rows(path, reopen(), mapping, late, check, _drop),
        path=path,
        unit="by record" if table.in_memory else "on line",
    )
    rows = _noted((row for _, row in numbered), path, log)
    first = next(rows, None)
    if first is None and len(log.skipped) > skipped_before:
        bad = log.skipped[skipped_before]
        raise DataError(
            f"every row was left out (data.bad_rows=skip); the first because: {bad.reason}",
            path=path,
            line=bad.line,
            row_id=bad.id,
            fix="mend the rows, or how they are read (task.columns, task.positive_labels, ...)",
        )
    if first is None:
        raise DataError("the file has a header and no rows", path=path, line=table.line, fix="check how it was made")
    return chain([first], rows)


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
    used = list(dict.fromkeys(mapping.columns.values()))
    return (record for _, record in table.records(used) if not isinstance(record, RowError))


def _noted(rows: Iterator[Row], path: Path, log: ReadLog) -> Iterator[Row]:
    for row in rows:
        log.add_notes(path, row)
        yield row


def _drop(error: RowError) -> None:
    """Ignore the error: the first pass has reported it."""


def _rows(
    path: Path,
    table: Table,
    mapping: ColumnMapping,
    late: LateKeys,
    check: Callable[[Row], object] | None,
    take: Callable[[RowError], None],
) -> Iterator[tuple[int, Row]]:
    """(line, row) of each record that is one; `take` gets the errors of the others, and may raise."""
    used = list(dict.fromkeys(mapping.columns.values()))
    for number, (line, record) in enumerate(table.records(used), 1):
        try:
            if isinstance(record, RowError):
                raise record
            if table.open_names:
                late.check(record, path=path, line=line)
            row = build_row(mapping, record, path=path, line=line, number=number, memory=table.in_memory)
            if check is not None:
                _checked(check, row, path, partial(_gold_elsewhere, mapping, late, number))
        except RowError as error:
            take(error)
        else:
            yield line, row


def _checked(check: Callable[[Row], object], row: Row, path: Path, unread: Callable[[], str]) -> None:
    try:
        check(row)
    except ValueError as error:
        fix = getattr(error, "fix", "give the row an answer")
        if row.gold is None and row.gold_problem is None:
            fix += unread()
        raise RowError(str(error), path=path, line=row.line, row_id=row.id, fix=fix) from error


def _gold_elsewhere(mapping: ColumnMapping, late: LateKeys, number: int) -> str:
    """What else helps against a row without an answer, where a column that is not read may hold the answers: no column
    is known for them, or it is empty from the first row on."""
    gold = mapping.schema.gold
    if not gold or not late.names or (gold in mapping.columns and number > 1):
        return ""
    how = mapping_setting(gold, late.names[0]) if len(late.names) == 1 else f"task.columns.{gold}=<your column>"
    return f", or say which column holds the answers: {how} (not read: {quoted_names(late.names)})"
