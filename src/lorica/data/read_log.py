"""What a reading of a file did not hand on: columns that nothing reads, and rows that were left out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.data.column_mapping import ColumnMapping
from lorica.data.column_names import looks_like_id, quoted_names
from lorica.data.late_columns import LateKeys
from lorica.data.table import Table
from lorica.data.write import atomic_file
from lorica.errors import RowError
from lorica.names import listed, visible_values
from lorica.records import Row

_MOST_FILES = 3  # that a note names


class BadRow(msgspec.Struct, frozen=True):
    """A row that was left out: where it stands, its id where it could be read, and why."""

    file: str
    line: int | None
    id: str | None
    reason: str


class ReadLog:
    """Takes what one or several readings leave out. skip: rows that cannot be used are left out, not raised. unsaid:
    notes of rows that are not kept."""

    def __init__(self, *, skip: bool = False, unsaid: Collection[str] = ()) -> None:
        self.skip = skip
        self.unsaid = unsaid
        self.skipped: list[BadRow] = []
        self.remarks: list[str] = []
        self._files: dict[str, tuple[ColumnMapping, LateKeys]] = {}
        self._noted: dict[tuple[str, str], tuple[str, int]] = {}
        self._returned: set[object] = set()

    def start_file(self, mapping: ColumnMapping, table: Table) -> LateKeys:
        """Begin with a file."""
        late_keys = LateKeys(mapping, table)
        self._files[str(table.path)] = (mapping, late_keys)
        return late_keys

    @property
    def schema_names(self) -> set[str]:
        """The names of the schemas that the files were read in."""
        return {mapping.schema.name for mapping, _ in self._files.values()}

    def add_notes(self, table_path: Path, row: Row) -> None:
        """Keep what a row says of its reading: each thing once a file, with its first row and how many say it."""
        for row_note in row.notes:
            if row_note in self.unsaid:
                continue
            location = f"{table_path}:{row.line} (row {row.id!r})" if row.line else f"row {row.id!r}"
            first_location, row_count = self._noted.get((str(table_path), row_note), (location, 0))
            self._noted[str(table_path), row_note] = (first_location, row_count + 1)

    def skip_or_raise(self, row_error: RowError) -> None:
        """Keep the error of a row that is left out, or raise it."""
        if not self.skip:
            raise row_error
        self.skipped.append(BadRow(str(row_error.path), row_error.line, row_error.row_id, row_error.reason))

    def forget_skipped(self) -> None:
        """Drop the rows that were left out, so that those of the next reading are told as its own."""
        self.skipped.clear()
        self._returned.discard("skipped")

    def unused(self) -> dict[str, list[str]]:
        """File -> its columns that nothing reads, of files that have some."""
        return {name: list(late_keys.names) for name, (_, late_keys) in self._files.items() if late_keys.names}

    def new_notes(self) -> list[str]:
        """The notes that no earlier call returned; one whose count of rows has grown is not new."""
        new_by_subject = {subject: note for subject, note in self._notes().items() if subject not in self._returned}
        self._returned.update(new_by_subject)
        return list(new_by_subject.values())

    def notes(self) -> list[str]:
        """A sentence for each thing that a person should know, with what to do."""
        return list(self._notes().values())

    def _notes(self) -> dict[object, str]:
        """What a note is about -> its sentence."""
        notes: dict[object, str] = {remark: remark for remark in self.remarks}
        for file_and_note, (location, count) in self._noted.items():
            notes[file_and_note] = f"{location}: {file_and_note[1]}" + (f" ({count} such rows)" if count > 1 else "")
        files_by_note: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for file_name, column_names in self.unused().items():
            note = self._unused_note(self._files[file_name][0], column_names)
            files_by_note.setdefault((note, tuple(column_names)), []).append(file_name)
        for (note, columns), file_names in files_by_note.items():
            notes[*file_names, *columns] = f"{listed(file_names, _MOST_FILES)}: {note}"
        if self.skipped:
            first_bad = self.skipped[0]
            location = f"{first_bad.file}:{first_bad.line}" + (
                f" (row {first_bad.id!r})" if first_bad.id is not None else ""
            )
            notes["skipped"] = (
                f"rows left out (data.bad_rows=skip): {len(self.skipped)}, first {location}: {first_bad.reason}"
            )
        return notes

    def _unused_note(self, mapping: ColumnMapping, column_names: Sequence[str]) -> str:
        wanted = mapping.schema.id_column
        id_columns = [column_name for column_name in column_names if looks_like_id(column_name)]
        numbered = (
            f"; the rows are numbered row-1, row-2, ... (task.columns.{wanted}={id_columns[0]} takes their ids)"
            if mapping.numbered and wanted and id_columns
            else ""
        )
        return f"not read: {quoted_names(column_names)}{numbered}"

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "unused_columns": self.unused(),
            "skipped_rows": len(self.skipped),
            "notes": self.notes(),
        }

    def digests(self) -> dict[str, str]:
        """What is not read of the files as texts, for records that hold texts alone; empty where all is read."""
        unused = visible_values(self.unused())
        columns = {"unused_columns": json.dumps(unused, ensure_ascii=False, sort_keys=True)} if unused else {}
        return columns | ({"skipped_rows": str(len(self.skipped))} if self.skipped else {})


def write_skipped(path: Path, rows: Iterable[BadRow]) -> bool:
    """Write the rows that were left out as JSON lines, and whether there are any; without any no file stays there."""
    json_lines = [json.dumps(visible_values(msgspec.structs.asdict(row)), ensure_ascii=False) for row in rows]
    if not json_lines:
        path.unlink(missing_ok=True)
        return False
    with atomic_file(path) as skipped_file:
        skipped_file.write("".join(json_line + "\n" for json_line in json_lines).encode())
    return True
