"""Every kind, in the order of the table."""

from __future__ import annotations

from tools.fault_kinds import (
    bases,
    behaviour,
    field_base,
    field_files,
    field_numbers,
    files,
    healthy,
    structure,
    wild_asking,
    wild_base,
    wild_files,
    wild_numbers,
)
from tools.fault_kinds.case import Kind

SEEN: tuple[Kind, ...] = (*files.KINDS, *structure.KINDS, *bases.KINDS, *behaviour.KINDS)
WILD: tuple[Kind, ...] = (*wild_files.KINDS, *wild_base.KINDS, *wild_numbers.KINDS, *wild_asking.KINDS)
UNSEEN: tuple[Kind, ...] = (*field_files.KINDS, *field_numbers.KINDS, *field_base.KINDS, *WILD)
HEALTHY: tuple[Kind, ...] = healthy.KINDS
KINDS: tuple[Kind, ...] = (*SEEN, *UNSEEN, *HEALTHY)
