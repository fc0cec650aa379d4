"""The index of a data frame that pandas stores beside the columns of a table: as a range, without values."""

from __future__ import annotations

import json
from collections.abc import Mapping


def range_indexes(metadata: Mapping[bytes, bytes] | None) -> dict[str, range]:
    """Name -> values of each index with a name that the metadata of an Arrow or Parquet schema hold as a range."""
    try:
        entries = json.loads((metadata or {})[b"pandas"])["index_columns"]
        range_entries = [entry for entry in entries if isinstance(entry, dict) and entry.get("kind") == "range"]
        return {
            str(index_entry["name"]): range(index_entry["start"], index_entry["stop"], index_entry["step"])
            for index_entry in range_entries
            if index_entry["name"] is not None
        }
    except (KeyError, ValueError, TypeError):
        return {}
