"""A table of any format: names, and records with the line each starts on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

Record = tuple[int, Mapping[str, Any]]
"""(line, values by the file's own column names)"""


class Table(msgspec.Struct, frozen=True):
    """An opened table.

    names: the header's columns; for JSON the keys of the first record. line: where the header (first record)
    is. open_names: records may hold other keys than `names` (JSON). records(columns): one pass over the rows;
    formats with a header yield exactly `columns`, which must be in `names`. It can be called once.
    """

    names: tuple[str, ...]
    line: int
    open_names: bool
    records: Callable[[Sequence[str]], Iterator[Record]]
