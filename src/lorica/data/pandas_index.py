"""The index of a data frame that pandas stores beside the columns of a table: as a range, without values."""

from __future__ import annotations

import json
from collections.abc import Mapping


def range_indexes(metadata: Mapping[bytes, bytes] | None) -> dict[str, range]:
    """Name -> values of each index with a name that the metadata of an Arrow or Parquet schema hold as a range."""
    try:
        entries = json.loads((metadata or {})[b"pandas"])["index_columns"]
        ranges = [entry for entry in entries if isinstance(entry, dict) and entry.get("kind") == "range"]
        return {
            str(entry["name"]): range(entry["start"], entry["stop"], entry["step"])
            for entry in ranges
            if entry["name"] is not None
        }
    except (KeyError, ValueError, TypeError):
        return {}
