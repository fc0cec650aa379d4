"""Every kind, in the order of the table."""

from __future__ import annotations

from bench.fault_kinds import bases, behaviour, field_base, field_files, field_numbers, files, healthy, structure
from bench.fault_kinds.case import Kind

SEEN: tuple[Kind, ...] = (*files.KINDS, *structure.KINDS, *bases.KINDS, *behaviour.KINDS)
UNSEEN: tuple[Kind, ...] = (*field_files.KINDS, *field_numbers.KINDS, *field_base.KINDS)
HEALTHY: tuple[Kind, ...] = healthy.KINDS
KINDS: tuple[Kind, ...] = (*SEEN, *UNSEEN, *HEALTHY)
