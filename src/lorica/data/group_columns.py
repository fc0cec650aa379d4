"""Columns to group metrics by: read along with the rows, though no `Row` holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.data.column_names import fold_name, quoted_names
from lorica.data.formats import open_table
from lorica.data.table import TableOptions
from lorica.errors import DataError
from lorica.names import did_you_mean
from lorica.records import BuildRow, Row, RowSchema

EMPTY = "(empty)"
"""What a row without a value is grouped under."""


class GroupColumns:
    """Reads columns along with rows in its `schemas`. values: column -> row id -> text, EMPTY for none."""

    def __init__(self, schemas: Sequence[RowSchema], columns: Sequence[str]) -> None:
        self.values: dict[str, dict[str, str]] = {column: {} for column in columns}
        self.schemas = tuple(self._reading_columns(schema) for schema in schemas)

    def _reading_columns(self, schema: RowSchema) -> RowSchema:
        extra_columns = [column for column in self.values if column not in (*schema.required, *schema.optional)]
        of_table = schema.of_table
        return msgspec.structs.replace(
            schema,
            optional=(*schema.optional, *extra_columns),
            build=self._recording(schema.build),
            of_table=None if of_table is None else lambda start_pass: self._recording(of_table(start_pass)),
        )

    def _recording(self, build_row: BuildRow) -> BuildRow:
        def record_and_build(values: Mapping[str, Any], row_id: str, line_number: int) -> Row:
            for column_name, texts_by_row in self.values.items():
                texts_by_row[row_id] = _text(values.get(column_name, "")) or EMPTY
            return build_row(values, row_id, line_number)

        return record_and_build

    def check(self, table_path: Path, options: TableOptions | None = None) -> None:
        """Once all rows were read. Raises DataError for a column in which no row has a value."""
        for name, texts_by_row in self.values.items():
            if any(cell_text != EMPTY for cell_text in texts_by_row.values()):
                continue
            column_names = open_table(table_path, options).names
            problem = "is empty in every row" if name in column_names else "is not in the file"
            fix = did_you_mean(name, column_names, key=fold_name, then=f"its columns are: {quoted_names(column_names)}")
            raise DataError(f"the column {name!r} {problem}", path=table_path, fix=fix)


def _text(cell_value: object) -> str:
    """As CSV has it; 1990.0 is the 1990 of a column with gaps."""
    return str(int(cell_value) if isinstance(cell_value, float) and cell_value.is_integer() else cell_value).strip()
