"""L340-L369: the passport. L370-L379: its canaries in an engine."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

PASSPORT: dict[str, Code] = {}
