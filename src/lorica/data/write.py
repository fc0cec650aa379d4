"""Answers to files and back. A result file is either whole or not there: it is written aside, synced, then renamed."""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import io
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, cast

from lorica.data.answers import (
    ANSWER_COLUMNS,
    encode_answer,
    from_cells,
    from_record,
    from_values,
    to_answer,
    to_cells,
    to_values,
    written_columns,
)
from lorica.data.column_mapping import id_text
from lorica.data.column_names import fold_name
from lorica.data.files import file_format
from lorica.data.formats import open_unconfigured
from lorica.data.ids import refuse_duplicates
from lorica.data.parquet_table import load_pyarrow
from lorica.data.table import TableOptions
from lorica.errors import DataError
from lorica.names import did_you_mean
from lorica.records import Answer

_KINDS = ("csv", "jsonl", "parquet")
_ALLOWED = ".jsonl, .csv (each also with .gz) or .parquet"
_ROW_GROUP = 8192
_PREPARE: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "csv": from_cells,
    "tsv": from_cells,
    "parquet": from_values,
}
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_OWN = TableOptions(quoting="standard")  # what this module writes is quoted by the standard


@contextlib.contextmanager
def csv_writer(binary_file: BinaryIO) -> Iterator[Any]:
    """The writer of `csv` for rows of a file in UTF-8, which stays open: it belongs to the caller."""
    text_stream = io.TextIOWrapper(binary_file, encoding="utf-8", newline="")
    try:
        yield csv.writer(text_stream, lineterminator="\n")
        text_stream.flush()
    finally:
        text_stream.detach()


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[BinaryIO]:
    """A binary file to write to, which becomes `path` when the block ends, and is removed when the block fails.

    It lies in the folder of `path` (made if missing), is fsynced, then renamed over `path`; a link is
    followed. Raises DataError when the place cannot be written, is no file's, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary(target)
    try:
        _refuse_no_file(target, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        binary_file = temporary.open("xb")
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", path=path, fix="choose another place") from error
    try:
        with binary_file:
            yield binary_file
            binary_file.flush()
            os.fsync(binary_file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise DataError(f"cannot be written ({error.strerror})", path=path, fix="free some space") from error
        raise


def _refuse_no_file(target: Path, user_path: Path | str) -> None:
    """A file is renamed over its place: what is no file there, or is being written by others, would be lost."""
    if target.is_dir():
        raise DataError("this is a folder, not a file", path=user_path, fix="name a file in it")
    if not target.exists():
        return
    if not target.is_file():
        raise DataError("this is a pipe or a device, not a file", path=user_path, fix="name a file")
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), target.stat()):
                fix = "name another file; --json writes the result to standard output"
                raise DataError("a standard stream of this command is this file", path=user_path, fix=fix)


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def sync_folder(folder: Path) -> None:
    """Make renames, creations and removals in `folder` outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(path: Path | str) -> None:
    """Raise DataError unless this is the name of a result file whose place can be written, so that a long run does
    not fail at its end; MissingExtraError for Parquet without pyarrow. Nothing is left behind."""
    _check_name(Path(path))
    check_place(path)


def check_place(path: Path | str) -> None:
    """Raise DataError unless a file can be written here. Nothing is left behind."""
    target = Path(os.path.realpath(path))
    folder = target.parent
    try:
        _refuse_no_file(target, path)
        while not folder.exists():
            folder = folder.parent  # what is missing would be made inside this one
        # A name of the same length as the real temporary one, so that too long a name is found as well.
        probe_file = folder / _temporary(target).name
        with probe_file.open("xb"):
            pass
        probe_file.unlink()
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror})", path=path, fix="choose another place") from error


def _check_name(output_path: Path) -> None:
    try:
        table_format = file_format(output_path).format
    except DataError:
        table_format = None
    if table_format not in _KINDS or output_path.name.lower().endswith((".ndjson", ".ndjson.gz")):
        raise DataError("not the suffix of a result file", path=output_path, fix=f"use one of {_ALLOWED}")
    if table_format == "parquet":
        load_pyarrow(output_path, "the result file")


def write_answers(
    path: Path | str, answers: Iterable[Answer], *, csv_guard: bool = True, optional_columns: Collection[str] = ()
) -> int:
    """Write answers in their order to .jsonl, .csv (each also .gz) or .parquet; returns how many. Atomic;
    streams. csv_guard: whether a CSV cell that a spreadsheet would run is spelled so that it is shown instead.
    optional_columns: those of `CALIBRATION_COLUMNS` and `PASSAGE_COLUMNS` that CSV and Parquet get.

    The same answers give the same bytes. Raises DataError for another suffix, an answer with a score that is
    not finite, or a place that cannot be written.
    """
    output_path = Path(path)
    _check_name(output_path)
    output_format = file_format(output_path)
    columns = written_columns(optional_columns)
    with atomic_file(output_path) as binary_file:
        if output_format.format == "parquet":
            return _write_parquet(output_path, binary_file, answers, columns)
        write_csv = partial(_write_csv, guard=csv_guard, columns=columns)
        write_format = write_csv if output_format.format == "csv" else _write_lines
        if not output_format.gzipped:
            return write_format(output_path, binary_file, answers)
        # No name and no time in the gzip header: equal answers give equal bytes.
        with gzip.GzipFile(filename="", fileobj=binary_file, mode="wb", mtime=0) as gzip_file:
            return write_format(output_path, cast(BinaryIO, gzip_file), answers)


def read_answers(path: Path | str, *, id_names: Collection[str] = ()) -> Iterator[Answer]:
    """The answers of a table that `write_answers` wrote, or that has some of its columns: `id` at least, which may also
    bear one of `id_names`, in any spelling.

    Raises DataError, with the line, for unknown columns, values of the wrong type and ids used twice.
    """
    answers_path = Path(path)
    id_spellings = set(map(fold_name, ("id", *id_names)))
    numbered_answers = refuse_duplicates(
        _read(answers_path, id_spellings),
        key=lambda numbered_answer: (numbered_answer[1].id, numbered_answer[0]),
        again=lambda: _read(answers_path, id_spellings),
        path=answers_path,
    )
    first_answer = next(numbered_answers, None)
    if first_answer is None:
        raise DataError("the file has a header and no answers", path=answers_path, line=1, fix="check how it was made")
    return chain([first_answer[1]], (answer for _, answer in numbered_answers))


def _read(answers_path: Path, id_spellings: Collection[str]) -> Iterator[tuple[int, Answer]]:
    table_format = file_format(answers_path)
    table = open_unconfigured(answers_path, _OWN if table_format.format == "csv" else None)
    prepare = _PREPARE.get(table_format.format, from_record)
    answer_columns = _answer_columns(answers_path, table.line, table.names, id_spellings)
    for line_number, record in table.whole_records(table.names):
        if table.open_names:
            answer_columns = _answer_columns(answers_path, line_number, tuple(record), id_spellings)
        values = {answer_columns[column_name]: cell_value for column_name, cell_value in record.items()}
        try:
            values = prepare(values)
            values["id"] = id_text(values.get("id"))
            yield line_number, to_answer(values)
        except ValueError as error:
            row_id = str(values["id"]) if values.get("id") else None
            fix = (
                "write finite numbers for scores, texts for answers, and nothing (in JSON null) for what a row lacks; "
            )
            fix += "docs/rows.md lists the columns of a result file and what they hold"
            raise DataError(str(error), path=answers_path, line=line_number, row_id=row_id, fix=fix) from error


def _answer_columns(
    answers_path: Path, line: int, column_names: Sequence[str], id_spellings: Collection[str]
) -> dict[str, str]:
    """The file's name of a column -> the result file's."""
    columns = {name: "id" if fold_name(name) in id_spellings else name for name in column_names}
    for column_name, column in columns.items():
        if column not in ANSWER_COLUMNS:
            raise DataError(
                f"{column_name!r} is no column of a result file",
                path=answers_path,
                line=line,
                fix=did_you_mean(
                    column_name,
                    ANSWER_COLUMNS,
                    key=fold_name,
                    then="rename it to 'answer' if it holds the answers, to 'score' if it holds the scores, else "
                    f"remove it; the columns are: {', '.join(ANSWER_COLUMNS)}",
                ),
            )
    id_columns = [column_name for column_name, column in columns.items() if column == "id"]
    if not id_columns:
        raise DataError("no column 'id'", path=answers_path, line=line, fix="every answer carries the id of its row")
    if len(id_columns) > 1:
        listed = " and ".join(map(repr, id_columns))
        fix = "keep the one that the rows have"
        raise DataError(f"{listed} may both hold the ids", path=answers_path, line=line, fix=fix)
    return columns


def _unwritable(output_path: Path, answer: Answer, value_error: ValueError) -> DataError:
    return DataError(f"this answer cannot be written: {value_error}", path=output_path, row_id=answer.id)


def _write_lines(output_path: Path, binary_file: BinaryIO, answers: Iterable[Answer]) -> int:
    answer_count = 0
    for answer in answers:
        try:
            binary_file.write(encode_answer(answer))
        except ValueError as error:
            raise _unwritable(output_path, answer, error) from error
        answer_count += 1
    return answer_count


def _write_csv(
    output_path: Path, binary_file: BinaryIO, answers: Iterable[Answer], *, guard: bool, columns: Sequence[str]
) -> int:
    answer_count = 0
    written_cells = itemgetter(*map(ANSWER_COLUMNS.index, columns))
    with csv_writer(binary_file) as writer:
        writer.writerow(columns)
        for answer in answers:
            try:
                writer.writerow(written_cells(to_cells(answer, guard=guard)))
            except ValueError as error:
                raise _unwritable(output_path, answer, error) from error
            answer_count += 1
    return answer_count


def _write_parquet(output_path: Path, binary_file: BinaryIO, answers: Iterable[Answer], columns: Sequence[str]) -> int:
    pyarrow, parquet = load_pyarrow(output_path, "writing")
    text_type, integer_type = pyarrow.string(), pyarrow.int64()
    passage_type = pyarrow.struct(
        {
            "id": text_type,
            "source": text_type,
            "score": pyarrow.float64(),
            "digest": text_type,
            "dropped_tokens": integer_type,
        }
    )
    all_columns = pyarrow.schema(
        [
            pyarrow.field("id", text_type, nullable=False),
            pyarrow.field("answer", text_type),
            pyarrow.field("score", pyarrow.float64()),
            pyarrow.field("scores", pyarrow.map_(text_type, pyarrow.float64())),
            pyarrow.field("adapter", text_type, nullable=False),
            pyarrow.field("route", text_type, nullable=False),
            pyarrow.field("stage", text_type, nullable=False),
            pyarrow.field("retries", integer_type, nullable=False),
            pyarrow.field("dropped_tokens", integer_type, nullable=False),
            pyarrow.field("flags", pyarrow.list_(text_type), nullable=False),
            pyarrow.field("raw", text_type),
            pyarrow.field("problem", text_type),
            pyarrow.field("choice_mass", pyarrow.float64()),
            pyarrow.field("calibration", text_type, nullable=False),
            pyarrow.field("raw_score", pyarrow.float64()),
            pyarrow.field("raw_scores", pyarrow.map_(text_type, pyarrow.float64())),
            pyarrow.field("passages", pyarrow.list_(passage_type)),
            pyarrow.field("dropped_passages", integer_type, nullable=False),
        ]
    )
    schema = pyarrow.schema([all_columns.field(column_name) for column_name in columns])
    answer_count = 0
    pending: list[dict[str, Any]] = []
    with parquet.ParquetWriter(binary_file, schema) as writer:
        for answer in answers:
            try:
                pending.append(to_values(answer))
            except ValueError as error:
                raise _unwritable(output_path, answer, error) from error
            if len(pending) == _ROW_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(pending, schema))
                answer_count += len(pending)
                pending.clear()
        if pending:
            writer.write_table(pyarrow.Table.from_pylist(pending, schema))
    return answer_count + len(pending)
