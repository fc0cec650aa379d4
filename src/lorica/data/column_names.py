"""Column names as people write them: which spellings are one name, and how to map one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lorica.names import listed, subject_key

ID_NAMES = frozenset({"id", "rowid", "questionid", "mcqid", "qid"})
"""Folded names of columns that hold a row's own id in the tables of some task."""

_NUMBER = re.compile(r"\s*[-+]?[0-9]+(?:[.,][0-9]+)?\s*")
_PERHAPS_IDS = frozenset({"uid", "uuid", "guid", "index", "idx", "key", "number", "nr", "no"})

_MOST_LISTED = 20


def fold_name(name: str) -> str:
    """A name without what spellings of one name differ in: all that `subject_key` evens out, and separators.

    `Row_ID`, `rowId`, `row id` and `row_id` with a byte order mark or a no-break space are all "rowid".
    """
    return "".join(filter(str.isalnum, subject_key(name)))


def looks_like_id(column_name: str) -> bool:
    """Whether a column may hold ids, by its name alone: `uid`, `index`, `post_id`, `commentId`."""
    folded = fold_name(column_name)
    return folded in ID_NAMES | _PERHAPS_IDS or column_name.rstrip().endswith(("_id", " id", "-id", "ID", "Id", "_ID"))


def is_unlikely_name(name: str) -> bool:
    """Whether a cell of a header is rather a value: a number, or a sentence."""
    return bool(_NUMBER.fullmatch(name)) or len(name.split()) > 4 or name.rstrip().endswith(("?", ".", "!"))


def mapping_setting(wanted: str, column_name: str) -> str:
    """The override that reads `wanted` from the column `column_name`, to be copied into a shell.

    Of a name with characters that cannot be seen the visible rest is written, by which the column is found as well.
    """
    visible = (
        column_name
        if column_name.isprintable() and "\u00a0" not in column_name
        else " ".join(visible_text(column_name).split())
    )
    quote_mark = '"' if "'" in visible else "'"
    return f"task.columns.{wanted}={quote_mark}{visible}{quote_mark}"


def visible_text(name: str) -> str:
    """The characters of a name that can be seen; white space of every kind is a space."""
    return "".join(" " if char.isspace() else char for char in name if char.isspace() or char.isprintable()).strip()


def quoted_names(column_names: Iterable[str]) -> str:
    """Names for a message; of many the first."""
    return listed(map(repr, column_names), _MOST_LISTED)


def find_column(wanted_column: str, column_names: Iterable[str]) -> str | None:
    """The name in the file that somebody means who writes `wanted_column`: that very one, or the only one in another
    spelling."""
    column_names = list(column_names)
    if wanted_column in column_names:
        return wanted_column
    same_spelling = [name for name in column_names if fold_name(name) == fold_name(wanted_column) != ""]
    return same_spelling[0] if len(same_spelling) == 1 else None
