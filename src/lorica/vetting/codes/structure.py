"""L100-L149: names, shapes and the config against each other."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

STRUCTURE: dict[str, Code] = {}
