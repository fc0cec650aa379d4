"""Which of a task's table schemas a file has, and how one of its records becomes a row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from lorica.data.column_names import ID_NAMES, find_column, fold_name, mapping_setting, quoted_names
from lorica.data.table import Table
from lorica.errors import CellError, ConfigError, DataError, NoTableError, RowError
from lorica.names import closest, did_you_mean, visible
from lorica.records import BuildRow, Row, RowSchema

_NEAREST = 4  # schemas that a message compares a table with
EXACT = 2**53
"""Below this a float holds every whole number; beyond it the digits of the file are lost already."""


class ColumnMapping(msgspec.Struct, frozen=True):
    """A schema matched to one file. `columns` maps the schema's names to the file's, for those that the file
    has. `sources` holds the names but the id's with the columns they are read from, of which the first counts."""

    schema: RowSchema
    columns: dict[str, str]
    constants: dict[str, str]
    numbered: bool  # the file has no id column: rows are row-1, row-2, ...
    spellings: dict[str, str]  # folded spelling of a column -> the schema's name that it looks meant to be
    sources: tuple[tuple[str, tuple[str, ...]], ...]

    def intended_name(self, column: str) -> str | None:
        """The schema's name that `column`, which is not read, looks meant to be."""
        name = self.spellings.get(fold_name(column))
        return None if name is None or column in (*self.schema.columns_for(name), self.columns.get(name)) else name


def check_mapping(schemas: Sequence[RowSchema], columns: Mapping[str, str], constants: Mapping[str, str]) -> None:
    """Raise ConfigError for a mapping or constant whose name no schema knows, or that contradicts itself."""
    allowed = sorted({name for schema in schemas for name in (*schema.required, *schema.optional)})
    for setting, mapped_names in (("columns", columns), ("constants", constants)):
        for name in mapped_names:
            if name not in allowed:
                raise ConfigError(
                    f"task.{setting}.{name}: no table of this task has a value called {name!r}",
                    fix=did_you_mean(name, allowed, key=fold_name, then=f"names are: {', '.join(allowed)}"),
                )
    for name in constants:
        if name in columns:
            raise ConfigError(
                f"{name!r} is given both a column ({columns[name]!r}) and a constant ({constants[name]!r})",
                fix=f"keep one of task.columns.{name} and task.constants.{name}",
            )
        if any(name == schema.id_column for schema in schemas):
            raise ConfigError(f"task.constants.{name}: one id for every row", fix="map a column, or leave it out")


def map_columns(
    table: Table, schemas: Sequence[RowSchema], columns: Mapping[str, str], constants: Mapping[str, str]
) -> ColumnMapping:
    """The first schema whose required names are all in the table (in its header, or the first record's keys).

    Columns stand under their own name or the mapped one; constants stand in for columns. Raises DataError that tells
    what each schema lacks, for a mapped column that is not there, and for a name that is only nearly right.
    """
    check_mapping(schemas, columns, constants)
    columns = {name: _mapped(table, name, column) for name, column in columns.items()}
    explicit = {*columns, *constants}
    missing_by_schema: dict[str, list[str]] = {}
    for general in schemas:
        schema = _with_names(general, table.names)
        available = {
            name: columns.get(name) or column_of(schema, name, table.names)
            for name in (*schema.required, *schema.optional)
            if name not in constants
        }
        present = {name: column for name, column in available.items() if column in table.names}
        missing = [name for name in schema.required if name not in present and name not in constants]
        foreign = sorted(explicit.difference(schema.required, schema.optional))
        if missing or foreign:
            missing_by_schema[schema.name] = [
                *map(repr, missing),
                *(f"any use for the mapped {name!r}" for name in foreign),
            ]
            continue
        numbered = schema.id_column not in present
        spellings = _spellings(schema, schemas if numbered else ())
        mapping = ColumnMapping(
            schema, present, dict(constants), numbered, spellings, _sources(schema, present, constants)
        )
        _refuse_lookalikes(table, mapping)
        missed = [
            sibling
            for sibling in schemas
            if sibling.name in missing_by_schema and explicit <= {*sibling.required, *sibling.optional}
        ]
        _refuse_narrower(table, mapping, missed, columns.values())
        return mapping
    raise _no_schema(table, schemas, missing_by_schema, explicit)


def build_row(
    mapping: ColumnMapping, record: Mapping[str, Any], table: Table, line_number: int, row_number: int
) -> Row:
    """The row of one record. row_number: from 1. Rows from memory carry line 0.

    Raises RowError for a record that no row can be made of.
    """
    schema = mapping.schema
    row_id: str | None = None
    try:
        if len(record) > 1 and all(map(is_blank, record.values())):
            raise CellError("the row is empty", fix="remove it (programs leave such rows at the end of a sheet)")
        row_id = f"row-{row_number}" if mapping.numbered else _row_id(mapping, record)
        if mapping.numbered and record.get(schema.id_column) is not None:
            message = f"this record has a value for {schema.id_column!r}, the first one had none"
            raise DataError(message, path=table.path, line=line_number, fix="give every record an id, or none")
        values = row_values(mapping, record)
        for name in schema.required:
            if name not in values and name != schema.id_column:
                raise _missing_value(mapping, record, name)
        if schema.id_column:
            values[schema.id_column] = row_id
        return schema.build(values, row_id, 0 if table.in_memory else line_number)
    except (ValueError, msgspec.ValidationError) as error:
        fix = getattr(error, "fix", "mend this row")
        raise RowError(str(error), path=table.path, line=line_number, row_id=row_id, fix=fix) from error


def row_values(mapping: ColumnMapping, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record has of the schema's names, the id left out; cells without a value are left out."""
    values: dict[str, Any] = dict(mapping.constants)
    for value_name, columns in mapping.sources:
        for column in columns:
            if column in record:
                if not is_blank(cell_value := record[column]):
                    values[value_name] = cell_value
                break
    return values


def _sources(
    schema: RowSchema, columns: Mapping[str, str], constants: Mapping[str, str]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    unread = {schema.id_column, *constants}
    value_names = (name for name in (*schema.required, *schema.optional) if name not in unread)
    return tuple((name, (columns[name],) if name in columns else schema.columns_for(name)) for name in value_names)


def bind_table(mapping: ColumnMapping, start_pass: Callable[[], Iterator[Mapping[str, Any]]]) -> ColumnMapping:
    """The mapping whose rows are read as those of one table; `start_pass` starts a pass over its records."""
    of_table = mapping.schema.of_table
    if of_table is None:
        return mapping
    build_table_row = of_table(lambda: (row_values(mapping, record) for record in start_pass()))
    return msgspec.structs.replace(mapping, schema=msgspec.structs.replace(mapping.schema, build=build_table_row))


def gold_only(schema: RowSchema) -> RowSchema | None:
    """The schema for a table of ids and gold answers alone, which is all that evaluation reads; None where a gold
    answer means nothing without its row."""
    if not schema.gold or not schema.id_column or schema.of_columns is not None:
        return None
    absent_names = tuple(name for name in schema.required if name not in (schema.id_column, schema.gold))
    fillers = dict.fromkeys(absent_names, "-") | dict(schema.fillers)

    def filled(build_full_row: BuildRow) -> BuildRow:
        return lambda values, row_id, line_number: build_full_row(fillers | dict(values), row_id, line_number)

    def of_table(start_pass: Callable[[], Iterator[Mapping[str, Any]]]) -> BuildRow:
        assert schema.of_table is not None
        return filled(schema.of_table(lambda: (fillers | dict(values) for values in start_pass())))

    return msgspec.structs.replace(
        schema,
        name=f"gold of {schema.name}",
        required=(schema.id_column, schema.gold),
        optional=(*absent_names, *(name for name in schema.optional if name not in (schema.id_column, schema.gold))),
        build=filled(schema.build),
        of_table=None if schema.of_table is None else of_table,
    )


def column_of(schema: RowSchema, value_name: str, column_names: Collection[str]) -> str:
    """The column that holds `value_name`: that very one, or the first of its other names that is there."""
    return next((spelling for spelling in schema.columns_for(value_name) if spelling in column_names), value_name)


def is_blank(cell_value: Any) -> bool:
    """Whether a cell holds no value: null, NaN (pandas' null), or text of nothing but white space."""
    if isinstance(cell_value, str):
        return not cell_value or cell_value.isspace()
    return cell_value is None or (isinstance(cell_value, float) and cell_value != cell_value)


def id_text(cell_value: Any) -> str:
    """An id as text: text stays as it is, a whole number (7, 7.0, 7e0) becomes its digits. Raises ValueError for
    anything else."""
    if is_blank(cell_value):
        raise ValueError("the id is missing")
    if isinstance(cell_value, str):
        if visible(cell_value) != cell_value:  # only from memory: files are read as UTF-8
            raise ValueError(f"the id {cell_value!r} holds half of a surrogate pair, which is no character")
        return cell_value
    if isinstance(cell_value, int) and not isinstance(cell_value, bool):
        return str(cell_value)
    if isinstance(cell_value, float) and cell_value.is_integer():
        if abs(cell_value) >= EXACT:
            raise ValueError(f"the id {cell_value!r} is a float too large to have kept its digits")
        return str(int(cell_value))
    raise ValueError(f"the id {cell_value!r} is a {type(cell_value).__name__}; ids are text or whole numbers")


def _row_id(mapping: ColumnMapping, record: Mapping[str, Any]) -> str:
    column = mapping.columns[mapping.schema.id_column]
    try:
        return id_text(record.get(column))
    except ValueError as error:
        fix = "give every row an id" if is_blank(record.get(column)) else "write ids as text or whole numbers"
        raise CellError(f"{error} (column {column!r})", fix=fix) from error


def _missing_value(mapping: ColumnMapping, record: Mapping[str, Any], value_name: str) -> CellError:
    column = mapping.columns[value_name]
    if column in record:
        message = f"the column {column!r} is empty, and every row of a {mapping.schema.name} table needs it"
        fix = f"fill it, or remove the row; the same value for all rows: task.constants.{value_name}=..."
    else:
        message = f"the key {column!r} is missing, which the first record had"
        fix = did_you_mean(column, record, key=fold_name, then=f"this record's keys are: {quoted_names(record)}")
    return CellError(message, fix=fix)


def _mapped(table: Table, value_name: str, column_name: str) -> str:
    """The column that `task.columns` names, be it in another spelling. Raises DataError for one that is not there."""
    if (matching_column := find_column(column_name, table.names)) is not None:
        return matching_column
    raise table.error(
        f"task.columns.{value_name}={column_name}: the file has no column {column_name!r}",
        fix=did_you_mean(column_name, table.names, key=fold_name, then=f"its columns are: {quoted_names(table.names)}"),
    )


def _spellings(schema: RowSchema, siblings: Sequence[RowSchema]) -> dict[str, str]:
    """Folded name -> name, of all that a schema reads; where its id is absent, ids of other schemas stand for it."""
    id_spellings = (
        {*ID_NAMES, *(fold_name(sibling.id_column) for sibling in siblings)} if siblings and schema.id_column else set()
    )
    stand_ins = dict.fromkeys(id_spellings - {""}, schema.id_column)
    value_names = (*schema.optional, *schema.required)
    aliases = {fold_name(column): name for name in value_names for column in schema.columns_for(name)}
    return stand_ins | aliases | {fold_name(name): name for name in value_names}


def _refuse_lookalikes(table: Table, mapping: ColumnMapping) -> None:
    """A column ' rule', 'Rule' or 'Row_ID' would be passed over without a word where 'rule' or 'row_id' need not be
    there: refuse it."""
    mapped_columns = set(mapping.columns.values())
    for column_name in table.names:
        wanted = mapping.intended_name(column_name)
        if column_name in mapped_columns or wanted is None or wanted in mapping.columns or wanted in mapping.constants:
            continue
        raise table.error(
            f"the column {column_name!r} is not {wanted!r}, but looks meant to be",
            fix=f"rename it to {wanted!r}, or say so: {mapping_setting(wanted, column_name)}",
        )


def _refuse_narrower(
    table: Table, mapping: ColumnMapping, missed: Sequence[RowSchema], mapped: Collection[str]
) -> None:
    """A table that only a spelling keeps from a schema which reads more of its columns is refused: with 'id' for 'ID'
    the annotations beside it would not be read. mapped: columns of which somebody said what they are."""
    for schema in missed:
        value_names = (*schema.required, *schema.optional)
        columns_by_name = {name: find_column(column_of(schema, name, table.names), table.names) for name in value_names}
        unread_columns = [
            name for name in columns_by_name.values() if name is not None and name not in mapping.columns.values()
        ]
        misspelt = [name for name in schema.required if columns_by_name[name] not in schema.columns_for(name)]
        if (
            not unread_columns
            or not misspelt
            or any(columns_by_name[name] is None or columns_by_name[name] in mapped for name in misspelt)
        ):
            continue
        wanted, column = misspelt[0], columns_by_name[misspelt[0]]
        raise table.error(
            f"the column {column!r} is not {wanted!r}, but looks meant to be: with it this is a {schema.name} "
            f"table, and {quoted_names(unread_columns)} would be read, too",
            fix=f"rename it to {wanted!r}, or say so: {mapping_setting(wanted, str(column))}",
        )


def _with_names(schema: RowSchema, column_names: Collection[str]) -> RowSchema:
    """The schema with the names that this table has for it, where they vary."""
    return (schema.of_columns(list(column_names)) if schema.of_columns is not None else None) or schema


def count_matches(schema: RowSchema, column_names: Collection[str]) -> int:
    """How many of these columns the schema reads, those that it requires twice; 0 where it lacks one of them."""
    schema = _with_names(schema, column_names)
    if _lacking(schema, column_names):
        return 0
    return 2 * len(schema.required) + sum(
        column_of(schema, name, column_names) in column_names for name in schema.optional
    )


def _lacking(schema: RowSchema, column_names: Collection[str]) -> list[str]:
    return [name for name in schema.required if column_of(schema, name, column_names) not in column_names]


def _no_schema(
    table: Table,
    schemas: Sequence[RowSchema],
    missing_by_schema: Mapping[str, Sequence[str]],
    explicit: Collection[str],
) -> DataError:
    available = [*table.names, *explicit]
    schemas = [_with_names(schema, table.names) for schema in schemas]

    def nearness(schema: RowSchema) -> tuple[int, int, bool]:
        # The schema of which most is there; of two, the one whose rows may be numbered.
        foreign = len(set(explicit).difference(schema.required, schema.optional))
        present = sum(
            find_column(column_of(schema, name, available), available) is not None for name in schema.required
        )
        return foreign, -present, schema.id_column in schema.required

    likely = sorted(schemas, key=nearness)
    lacks_text = "".join(
        f"\n     a {schema.name} table: lacks {', '.join(missing_by_schema[schema.name])}"
        for schema in likely[:_NEAREST]
    )
    nearest = likely[0]
    hints = []
    absent_names = _lacking(nearest, available)
    for value_name in absent_names:
        other_spellings = filter(None, (find_column(column, table.names) for column in nearest.columns_for(value_name)))
        nearest_column = next(other_spellings, "") or closest(value_name, table.names, key=fold_name)
        setting = f"task.columns.{value_name}={nearest_column or '<your column>'}"
        hint = (
            mapping_setting(value_name, nearest_column)
            if nearest_column and not nearest_column.isidentifier()
            else setting
        )
        hints.append(hint + (" (did you mean it?)" if nearest_column else ""))
    fix = "rename your columns or map them: " + ", ".join(hints) if hints else "remove the mappings that do not fit"
    if any(value_name != nearest.id_column for value_name in absent_names):
        fix += "; a value that is the same for every row: task.constants.NAME=..."
    message = f"the columns {quoted_names(table.names)} fit no table of this task:{lacks_text}"
    return NoTableError(message, path=table.path, line=table.line, fix=fix, columns=() if explicit else table.names)
