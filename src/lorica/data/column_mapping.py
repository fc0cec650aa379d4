"""Which of a task's table schemas a file has, and how one of its records becomes a row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.data.column_names import (
    ID_NAMES,
    find_column,
    fold_name,
    mapping_setting,
    quoted_names,
)
from lorica.errors import ConfigError, DataError, NoTableError, RowError
from lorica.names import closest, did_you_mean, visible
from lorica.records import BuildRow, Row, RowSchema

_NEAREST = 4  # schemas that a message compares a table with
# Below this a float holds every whole number; beyond it the digits of the file are lost already.
_EXACT = 2**53


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
    for setting, names in (("columns", columns), ("constants", constants)):
        for name in names:
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
    path: Path,
    line: int,
    names: Sequence[str],
    schemas: Sequence[RowSchema],
    columns: Mapping[str, str],
    constants: Mapping[str, str],
) -> ColumnMapping:
    """The first schema whose required names are all in `names` (the header, or the first record's keys).

    Columns stand under their own name or the mapped one; constants stand in for columns. Raises DataError
    that tells what each schema lacks, for a mapped column that is not there, and for a name that is only
    nearly right.
    """
    check_mapping(schemas, columns, constants)
    columns = {name: _mapped(path, line, names, name, column) for name, column in columns.items()}
    explicit = {*columns, *constants}
    lacks: dict[str, list[str]] = {}
    for general in schemas:
        schema = _with_names(general, names)
        available = {
            n: columns.get(n) or column_of(schema, n, names)
            for n in (*schema.required, *schema.optional)
            if n not in constants
        }
        present = {name: column for name, column in available.items() if column in names}
        missing = [n for n in schema.required if n not in present and n not in constants]
        foreign = sorted(explicit.difference(schema.required, schema.optional))
        if missing or foreign:
            lacks[schema.name] = [
                *map(repr, missing),
                *(f"any use for the mapped {name!r}" for name in foreign),
            ]
            continue
        numbered = schema.id_column not in present
        spellings = _spellings(schema, schemas if numbered else ())
        mapping = ColumnMapping(
            schema, present, dict(constants), numbered, spellings, _sources(schema, present, constants)
        )
        _refuse_lookalikes(path, line, names, mapping)
        missed = [
            sibling
            for sibling in schemas
            if sibling.name in lacks and explicit <= {*sibling.required, *sibling.optional}
        ]
        _refuse_narrower(path, line, names, mapping, missed, columns.values())
        return mapping
    raise _no_schema(path, line, names, schemas, lacks, explicit)


def build_row(
    mapping: ColumnMapping, record: Mapping[str, Any], *, path: Path, line: int, number: int, memory: bool
) -> Row:
    """The row of one record. `number` counts rows from 1; `memory` rows carry line 0.

    Raises RowError for a record that no row can be made of.
    """
    schema = mapping.schema
    row_id = f"row-{number}" if mapping.numbered else _row_id(mapping, record, path, line)
    if mapping.numbered and record.get(schema.id_column) is not None:
        raise DataError(
            f"this record has a value for {schema.id_column!r}, the first one had none",
            path=path,
            line=line,
            fix="give every record an id, or none",
        )
    values = row_values(mapping, record)
    for name in schema.required:
        if name not in values and name != schema.id_column:
            raise _missing_value(mapping, record, name, path=path, line=line, row_id=row_id)
    if schema.id_column:
        values[schema.id_column] = row_id
    try:
        return schema.build(values, row_id, 0 if memory else line)
    except (ValueError, msgspec.ValidationError) as error:
        fix = getattr(error, "fix", "mend this row")
        raise RowError(str(error), path=path, line=line, row_id=row_id, fix=fix) from error


def row_values(mapping: ColumnMapping, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record has of the schema's names, the id left out; cells without a value are left out."""
    values: dict[str, Any] = dict(mapping.constants)
    for name, columns in mapping.sources:
        for column in columns:
            if column in record:
                if not is_blank(value := record[column]):
                    values[name] = value
                break
    return values


def _sources(
    schema: RowSchema, columns: Mapping[str, str], constants: Mapping[str, str]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    unread = {schema.id_column, *constants}
    names = (name for name in (*schema.required, *schema.optional) if name not in unread)
    return tuple((name, (columns[name],) if name in columns else schema.columns_for(name)) for name in names)


def bind_table(mapping: ColumnMapping, again: Callable[[], Iterator[Mapping[str, Any]]]) -> ColumnMapping:
    """The mapping whose rows are read as those of one table; `again` starts a pass over its records."""
    of_table = mapping.schema.of_table
    if of_table is None:
        return mapping
    build = of_table(lambda: (row_values(mapping, record) for record in again()))
    return msgspec.structs.replace(mapping, schema=msgspec.structs.replace(mapping.schema, build=build))


def gold_only(schema: RowSchema) -> RowSchema | None:
    """The schema for a table of ids and gold answers alone, which is all that evaluation reads; None where a gold
    answer means nothing without its row."""
    if not schema.gold or not schema.id_column or schema.of_columns is not None:
        return None
    absent = tuple(name for name in schema.required if name not in (schema.id_column, schema.gold))
    fillers = dict.fromkeys(absent, "-") | dict(schema.fillers)

    def filled(build: BuildRow) -> BuildRow:
        return lambda values, row_id, line: build(fillers | dict(values), row_id, line)

    def of_table(again: Callable[[], Iterator[Mapping[str, Any]]]) -> BuildRow:
        assert schema.of_table is not None
        return filled(schema.of_table(lambda: (fillers | dict(values) for values in again())))

    return msgspec.structs.replace(
        schema,
        name=f"gold of {schema.name}",
        required=(schema.id_column, schema.gold),
        optional=(*absent, *(name for name in schema.optional if name not in (schema.id_column, schema.gold))),
        build=filled(schema.build),
        of_table=None if schema.of_table is None else of_table,
    )


def column_of(schema: RowSchema, name: str, names: Collection[str]) -> str:
    """The column that holds `name`: that very one, or the first of its other names that is there."""
    return next((spelling for spelling in schema.columns_for(name) if spelling in names), name)


def is_blank(value: Any) -> bool:
    """Whether a cell holds no value: null, NaN (pandas' null), or text of nothing but white space."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and value != value)


def id_text(value: Any) -> str:
    """An id as text: text stays as it is, a whole number (7, 7.0, 7e0) becomes its digits. Raises ValueError for
    anything else."""
    if is_blank(value):
        raise ValueError("the id is missing")
    if isinstance(value, str):
        if visible(value) != value:  # only from memory: files are read as UTF-8
            raise ValueError(f"the id {value!r} holds half of a surrogate pair, which is no character")
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        if abs(value) >= _EXACT:
            raise ValueError(f"the id {value!r} is a float too large to have kept its digits")
        return str(int(value))
    raise ValueError(f"the id {value!r} is a {type(value).__name__}; ids are text or whole numbers")


def _row_id(mapping: ColumnMapping, record: Mapping[str, Any], path: Path, line: int) -> str:
    column = mapping.columns[mapping.schema.id_column]
    try:
        return id_text(record.get(column))
    except ValueError as error:
        fix = "write ids as text or whole numbers" if record.get(column) is not None else "give every row an id"
        raise RowError(f"{error} (column {column!r})", path=path, line=line, fix=fix) from error


def _missing_value(
    mapping: ColumnMapping, record: Mapping[str, Any], name: str, *, path: Path, line: int, row_id: str
) -> RowError:
    column = mapping.columns[name]
    if column in record:
        message = f"the column {column!r} is empty, and every row of a {mapping.schema.name} table needs it"
        fix = f"fill it, or remove the row; the same value for all rows: task.constants.{name}=..."
    else:
        message = f"the key {column!r} is missing, which the first record had"
        fix = did_you_mean(column, record, key=fold_name, then=f"this record's keys are: {quoted_names(record)}")
    return RowError(message, path=path, line=line, row_id=row_id, fix=fix)


def _mapped(path: Path, line: int, names: Sequence[str], name: str, column: str) -> str:
    """The column that `task.columns` names, be it in another spelling. Raises DataError for one that is not there."""
    if (match := find_column(column, names)) is not None:
        return match
    raise DataError(
        f"task.columns.{name}={column}: the file has no column {column!r}",
        path=path,
        line=line,
        fix=did_you_mean(column, names, key=fold_name, then=f"its columns are: {quoted_names(names)}"),
    )


def _spellings(schema: RowSchema, siblings: Sequence[RowSchema]) -> dict[str, str]:
    """Folded name -> name, of all that a schema reads; where its id is absent, ids of other schemas stand for it."""
    ids = (
        {*ID_NAMES, *(fold_name(sibling.id_column) for sibling in siblings)} if siblings and schema.id_column else set()
    )
    stand_ins = dict.fromkeys(ids - {""}, schema.id_column)
    names = (*schema.optional, *schema.required)
    aliases = {fold_name(column): name for name in names for column in schema.columns_for(name)}
    return stand_ins | aliases | {fold_name(name): name for name in names}


def _refuse_lookalikes(path: Path, line: int, names: Sequence[str], mapping: ColumnMapping) -> None:
    """A column ' rule', 'Rule' or 'Row_ID' would be passed over without a word where 'rule' or 'row_id' need not be
    there: refuse it."""
    taken = set(mapping.columns.values())
    for name in names:
        wanted = mapping.intended_name(name)
        if name in taken or wanted is None or wanted in mapping.columns or wanted in mapping.constants:
            continue
        raise DataError(
            f"the column {name!r} is not {wanted!r}, but looks meant to be",
            path=path,
            line=line,
            fix=f"rename it to {wanted!r}, or say so: {mapping_setting(wanted, name)}",
        )


def _refuse_narrower(
    path: Path,
    line: int,
    names: Sequence[str],
    mapping: ColumnMapping,
    missed: Sequence[RowSchema],
    mapped: Collection[str],
) -> None:
    """A table that only a spelling keeps from a schema which reads more of its columns is refused: with 'id' for 'ID'
    the annotations beside it would not be read. mapped: columns of which somebody said what they are."""
    for schema in missed:
        every = (*schema.required, *schema.optional)
        reads = {name: find_column(column_of(schema, name, names), names) for name in every}
        more = [name for name in reads.values() if name is not None and name not in mapping.columns.values()]
        off = [name for name in schema.required if reads[name] not in schema.columns_for(name)]
        if not more or not off or any(reads[name] is None or reads[name] in mapped for name in off):
            continue
        raise DataError(
            f"the column {reads[off[0]]!r} is not {off[0]!r}, but looks meant to be: with it this is a {schema.name} "
            f"table, and {quoted_names(more)} would be read, too",
            path=path,
            line=line,
            fix=f"rename it to {off[0]!r}, or say so: {mapping_setting(off[0], str(reads[off[0]]))}",
        )


def _with_names(schema: RowSchema, names: Collection[str]) -> RowSchema:
    """The schema with the names that this table has for it, where they vary."""
    return (schema.of_columns(list(names)) if schema.of_columns is not None else None) or schema


def count_matches(schema: RowSchema, names: Collection[str]) -> int:
    """How many of these columns the schema reads, those that it requires twice; 0 where it lacks one of them."""
    schema = _with_names(schema, names)
    if _lacking(schema, names):
        return 0
    return 2 * len(schema.required) + sum(column_of(schema, name, names) in names for name in schema.optional)


def _lacking(schema: RowSchema, names: Collection[str]) -> list[str]:
    return [name for name in schema.required if column_of(schema, name, names) not in names]


def _no_schema(
    path: Path,
    line: int,
    names: Sequence[str],
    schemas: Sequence[RowSchema],
    lacks: Mapping[str, Sequence[str]],
    explicit: Collection[str],
) -> DataError:
    available = [*names, *explicit]
    schemas = [_with_names(schema, names) for schema in schemas]

    def nearness(schema: RowSchema) -> tuple[int, int, bool]:
        # The schema of which most is there; of two, the one whose rows may be numbered.
        foreign = len(set(explicit).difference(schema.required, schema.optional))
        present = sum(
            find_column(column_of(schema, name, available), available) is not None for name in schema.required
        )
        return foreign, -present, schema.id_column in schema.required

    likely = sorted(schemas, key=nearness)
    lacks_text = "".join(
        f"\n     a {schema.name} table: lacks {', '.join(lacks[schema.name])}" for schema in likely[:_NEAREST]
    )
    nearest = likely[0]
    hints = []
    absent = _lacking(nearest, available)
    for name in absent:
        other_spellings = filter(None, (find_column(column, names) for column in nearest.columns_for(name)))
        close = next(other_spellings, "") or closest(name, names, key=fold_name)
        plain = f"task.columns.{name}={close or '<your column>'}"
        hint = mapping_setting(name, close) if close and not close.isidentifier() else plain
        hints.append(hint + (" (did you mean it?)" if close else ""))
    fix = "rename your columns or map them: " + ", ".join(hints) if hints else "remove the mappings that do not fit"
    if any(name != nearest.id_column for name in absent):
        fix += "; a value that is the same for every row: task.constants.NAME=..."
    message = f"the columns {quoted_names(names)} fit no table of this task:{lacks_text}"
    return NoTableError(message, path=path, line=line, fix=fix, columns=() if explicit else names)
