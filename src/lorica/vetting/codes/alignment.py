"""L320-L339: do the adapter's input directions belong to this base model?"""

from __future__ import annotations

from lorica.vetting.codes.base import Code

ALIGNMENT: dict[str, Code] = {}
