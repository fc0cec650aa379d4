"""L150-L199: what names, cards and records claim, against each other and against the tensors."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

CLAIMS: dict[str, Code] = {}
