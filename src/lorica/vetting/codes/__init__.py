"""Every finding's code, by the room that makes it. A code's meaning never changes; retired numbers stay unused."""

from __future__ import annotations

from lorica.vetting.codes.alignment import ALIGNMENT
from lorica.vetting.codes.base import Code, Severity
from lorica.vetting.codes.behaviour import BEHAVIOUR
from lorica.vetting.codes.claims import CLAIMS
from lorica.vetting.codes.files import FILES
from lorica.vetting.codes.fit import FIT
from lorica.vetting.codes.numbers import NUMBERS
from lorica.vetting.codes.passport import PASSPORT
from lorica.vetting.codes.structure import STRUCTURE

__all__ = ["CODES", "Code", "Severity"]

CODES: dict[str, Code] = {
    **FILES,
    **STRUCTURE,
    **CLAIMS,
    **FIT,
    **NUMBERS,
    **ALIGNMENT,
    **PASSPORT,
    **BEHAVIOUR,
}
