"""L200-L249: the values of the tensors. L250-L299: adapters that equal one another."""

from __future__ import annotations

from lorica.vetting.codes.base import Code

NUMBERS: dict[str, Code] = {}
