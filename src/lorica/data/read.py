"""Rows from users' files, streamed and checked: every mistake is refused with its file, line and remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lorica.data.column_names import fold, is_no_name, mapping, quoted_names
from lorica.data.formats import open_table
from lorica.data.ids import ID_FIX, refuse_duplicates
from lorica.data.late_columns import LateColumns
from lorica.data.plain import plain_records
from lorica.data.read_log import ReadLog
from lorica.data.schema import Layout, build_row, check_mapping, choose_layout, for_table
from lorica.data.table import Table, TableOptions
from lorica.errors import DataError, NoTableError, RowError
from lorica.records import Row, RowShape

_NONE: Mapping[str, str] = MappingProxyType({})
_MEMORY = Path("<memory>")


def read_rows(
    path: Path | str,
    shapes: Sequence[RowShape],
    *,
    columns: Mapping[str, str] = _NONE,
    constants: Mapping[str, str] = _NONE,
    options: TableOptions | None = None,
    log: ReadLog | None = None,
    check: Callable[[Row], object] | None = None,
) -> Iterator[Row]:
    """The rows of a CSV, TSV, JSONL, JSON or Parquet file or a workbook, in its order, with memory that does not
    grow with it.

    columns: name a shape expects -> name in the file. constants: name a shape expects -> one value for every
    row. The header (JSON: the first record) decides the shape: the first whose required names are all there.
    options: how the file is laid out, where that is to be said.
    log: learns what is not read, and with `log.skip` takes the rows that cannot be used instead of an error.
    check: raises ValueError for a row that the caller cannot use.
    The file's head is read, and mistakes in it raised, by this call; the other rows are checked as they are
    taken. Raises DataError, ConfigError (a mapping that no shape knows) and MissingExtraError (Parquet
    without pyarrow).
    """
    file = Path(path)
    log = log or ReadLog()
    earlier = len(log.skipped)  # of other files
    table = open_table(file, options)
    with _perhaps_no_header(table, shapes):
        layout = choose_layout(file, table.line, table.names, shapes, columns, constants)
    layout = for_table(layout, lambda: _records(file, options, layout))
    log.remarks += table.notes
    late = log.watch(file, layout, table.names)
    numbered = refuse_duplicates(
        _rows(file, table, layout, late, check, log.take),
        key=lambda item: (item[1].id, item[0]),
        again=lambda: _rows(file, open_table(file, options), layout, late, check, _drop),
        path=file,
    )
    rows = _noted((row for _, row in numbered), file, log)
    first = next(rows, None)
    if first is None and len(log.skipped) > earlier:
        bad = log.skipped[earlier]
        raise DataError(
            f"every row was left out (data.bad_rows=skip); the first because: {bad.reason}",
            path=file,
            line=bad.line,
            row_id=bad.id,
            fix="mend the rows, or how they are read (task.columns, task.positive_labels, ...)",
        )
    if first is None:
        raise DataError("the file has a header and no rows", path=file, line=table.line, fix="check how it was made")
    return chain([first], rows)


def rows_from_memory(
    records: Any,
    shapes: Sequence[RowShape],
    *,
    columns: Mapping[str, str] = _NONE,
    constants: Mapping[str, str] = _NONE,
    log: ReadLog | None = None,
) -> list[Row]:
    """Rows of dictionaries, under the same rules as a JSONL file of them; rows carry line 0.

    records: anything that yields mappings (a list, a generator, a dataset), or a data frame or table (pandas, polars,
    pyarrow), whose index is no column; see `plain_records` for their values. log: learns what is not read.
    Raises DataError, with the record's number (from 1) in the place of the line, and ConfigError.
    """
    check_mapping(shapes, columns, constants)
    table = plain_records(records, _MEMORY)
    rows: list[Row] = []
    first_use: dict[str, int] = {}
    layout: Layout | None = None
    log = log or ReadLog()
    for number, record in enumerate(table, 1):
        if layout is None:
            layout = choose_layout(_MEMORY, number, list(record), shapes, columns, constants)
            layout = for_table(layout, lambda: iter(table))
            late = log.watch(_MEMORY, layout, list(record))
        try:
            late.check(record, path=_MEMORY, line=number)
        except RowError as error:
            raise error.as_data_error() from None
        row = build_row(layout, record, path=_MEMORY, line=number, number=number, memory=True)
        if (earlier := first_use.setdefault(row.id, number)) != number:
            raise DataError(
                f"the id was already used by record {earlier}",
                path=_MEMORY,
                line=number,
                row_id=row.id,
                fix=ID_FIX,
            )
        log.note(_MEMORY, row)
        rows.append(row)
    return rows


@contextmanager
def _perhaps_no_header(table: Table, shapes: Sequence[RowShape]) -> Iterator[None]:
    """Of a header that looks like a row, or in which no name is known: say so. A mapping would lose the row."""
    try:
        yield
    except NoTableError as error:
        known = {fold(name) for shape in shapes for name in (*shape.required, *shape.optional)}
        if not table.open_names and (any(map(is_no_name, table.names)) or known.isdisjoint(map(fold, table.names))):
            error.fix = f"if this line is a row, put a line with the columns' names above it; otherwise {error.fix}"
        raise


def _records(path: Path, options: TableOptions | None, layout: Layout) -> Iterator[Mapping[str, Any]]:
    """The records that can be read, for a look at the whole table."""
    used = list(dict.fromkeys(layout.columns.values()))
    return (record for _, record in open_table(path, options).records(used) if not isinstance(record, RowError))


def _noted(rows: Iterator[Row], path: Path, log: ReadLog) -> Iterator[Row]:
    for row in rows:
        log.note(path, row)
        yield row


def _drop(error: RowError) -> None:
    """For a second look at rows that were told already."""


def _rows(
    path: Path,
    table: Table,
    layout: Layout,
    late: LateColumns,
    check: Callable[[Row], object] | None,
    take: Callable[[RowError], None],
) -> Iterator[tuple[int, Row]]:
    """(line, row) of each record that is one; `take` gets the errors of the others, and may raise them."""
    used = list(dict.fromkeys(layout.columns.values()))
    for number, (line, record) in enumerate(table.records(used), 1):
        try:
            if isinstance(record, RowError):
                raise record
            if table.open_names:
                late.check(record, path=path, line=line)
            row = build_row(layout, record, path=path, line=line, number=number, memory=False)
            if check is not None:
                _checked(check, row, path, partial(_gold_elsewhere, layout, late, number))
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


def _gold_elsewhere(layout: Layout, late: LateColumns, number: int) -> str:
    """What else helps against a row without an answer, where a column that is not read may hold the answers: no column
    is known for them, or it is empty from the first row on."""
    gold = layout.shape.gold
    if not gold or not late.names or (gold in layout.columns and number > 1):
        return ""
    how = mapping(gold, late.names[0]) if len(late.names) == 1 else f"task.columns.{gold}=<your column>"
    return f", or say which column holds the answers: {how} (not read: {quoted_names(late.names)})"
