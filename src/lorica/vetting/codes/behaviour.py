"""L400-L449: what the adapter does in its engine. L450-L479: the health of a column of scores."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

BEHAVIOUR: dict[str, Code] = {}
