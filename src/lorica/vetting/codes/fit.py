"""L300-L319: do the tensors' shapes fit the base model, and is it the base the adapter names?"""

from __future__ import annotations

from lorica.vetting.codes.base import Code

FIT: dict[str, Code] = {}
