"""What a code is."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["reject", "warn", "note"]


class Code(msgspec.Struct, frozen=True):
    """One kind of finding. severity: unless the check knows better. title: what it means, one line, for the docs.

    fix: what to do unless the check knows better. causes: keys of `lorica.vetting.causes` it speaks for.
    """

    severity: Severity
    title: str
    fix: str = ""
    causes: tuple[str, ...] = ()
